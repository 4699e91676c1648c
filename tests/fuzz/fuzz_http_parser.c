// The HTTP codec: a head and a chunked body read whole and byte by byte must come out alike.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "io/http_parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_BODY = 4096 };
static const bq_http_limits limits = {.max_line = 100, .max_header_bytes = 300, .max_headers = 8, .max_body = MAX_BODY};

static int same_head(const bq_http_parser *a, const bq_http_parser *b) {
  return memcmp(&a->head, &b->head, sizeof a->head) == 0 &&
         memcmp(a->fields, b->fields, a->head.field_count * sizeof a->fields[0]) == 0;
}

static void check_slice(bq_http_slice slice, int64_t length) {
  if ((int64_t)slice.at + slice.length > length) abort();
}

// Returns the head's length, 0 or a negative status.
static int64_t read_head(const char *bytes, size_t size) {
  bq_http_parser whole, part;
  memset(&whole, 0, sizeof whole);
  memset(&part, 0, sizeof part);
  int64_t result = bq_http_parse(&whole, bytes, size, &limits);
  int64_t early = 0;
  size_t i = 0;
  while (early == 0 && i < size) early = bq_http_parse(&part, bytes, ++i, &limits);
  if (early != result || (early > 0 && ((size_t)early != i || !same_head(&whole, &part)))) abort();
  if (result > 0) {
    check_slice(whole.head.method, result);
    check_slice(whole.head.path, result);
    check_slice(whole.head.query, result);
    for (unsigned j = 0; j < whole.head.field_count; j++) {
      check_slice(whole.fields[j].name, result);
      check_slice(whole.fields[j].value, result);
    }
  }
  return result;
}

static void decode_path(const char *bytes, size_t size) {
  char *out = malloc(size + 2);
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
    result = bq_http_dechunk(&d, MAX_BODY, bytes + *used, piece, &consumed, &data, &length);
    if (consumed > piece || length > consumed || (result == 0 && consumed == 0)) abort();
    bq_buf_add(body, data, length);
    if (body->length > MAX_BODY) abort();
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
