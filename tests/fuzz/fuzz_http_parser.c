// The HTTP codec: a head and a chunked body read whole and byte by byte must come out alike.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "io/http_parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int same_head(const bq_http_head *a, const bq_http_head *b) {
  return memcmp(&a->method, &b->method, sizeof a->method) == 0 && memcmp(&a->path, &b->path, sizeof a->path) == 0 &&
         memcmp(&a->query, &b->query, sizeof a->query) == 0 && memcmp(&a->host, &b->host, sizeof a->host) == 0 &&
         a->minor == b->minor && a->header_count == b->header_count && a->content_length == b->content_length &&
         a->chunked == b->chunked && a->keep_alive == b->keep_alive && a->expect_continue == b->expect_continue &&
         memcmp(a->names, b->names, a->header_count * sizeof a->names[0]) == 0 &&
         memcmp(a->values, b->values, a->header_count * sizeof a->values[0]) == 0;
}

// Returns the head's length, 0 or a negative status.
static int64_t read_head(const char *bytes, size_t size) {
  static const bq_http_limits limits = {.max_line = 100, .max_header_bytes = 300, .max_headers = 8, .max_body = 4096};
  bq_http_head whole, part;
  int64_t result = bq_http_parse_head(bytes, size, &limits, &whole);
  for (size_t i = 0; i <= size && i < 1000; i++) {
    int64_t early = bq_http_parse_head(bytes, i, &limits, &part);
    if (early == 0) continue;
    if (early != result || (early > 0 && ((size_t)early != i || !same_head(&whole, &part)))) abort();
    return result;
  }
  if (result != 0) abort();
  return 0;
}

static void decode_path(const char *bytes, size_t size) {
  char *out = malloc(size + 1 + (size == 0));
  if (out == NULL) abort();
  if (bq_http_decode_path(bytes, size, out) == 0) {
    if (strlen(out) > size + (size == 0) || strstr(out, "/../") != NULL) abort();
  }
  free(out);
}

static int dechunk(const char *bytes, size_t size, size_t step, bq_buf *body, size_t *used) {
  bq_dechunk d = {0};
  int result = 0;
  for (*used = 0; *used < size && result == 0;) {
    size_t piece = size - *used < step ? size - *used : step;
    size_t consumed;
    size_t length;
    const char *data;
    result = bq_http_dechunk(&d, bytes + *used, piece, &consumed, &data, &length);
    if (consumed > piece || length > consumed || (result == 0 && consumed == 0)) abort();
    bq_buf_add(body, data, length);
    *used += consumed;
  }
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *bytes = (const char *)data;
  int64_t head = read_head(bytes, size);
  decode_path(bytes, size);
  size_t at = head > 0 ? (size_t)head : 0;
  bq_buf whole = {0};
  bq_buf split = {0};
  size_t whole_used, split_used;
  int result = dechunk(bytes + at, size - at, size + 1, &whole, &whole_used);
  if (dechunk(bytes + at, size - at, 1, &split, &split_used) != result || whole_used != split_used) abort();
  if (whole.length != split.length || (whole.length > 0 && memcmp(whole.data, split.data, whole.length) != 0)) abort();
  bq_buf_free(&whole);
  bq_buf_free(&split);
  return 0;
}
