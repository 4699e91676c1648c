// The three conditional headers of a download: size, Range, the entity tag, If-None-Match and If-Range, a line each.
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/http_range.h"

enum { LINES = 4 };

// A part lies inside of the file, and asked for by its own numbers it is itself.
static void check_range(const char *value, int64_t size) {
  int64_t first = -1;
  int64_t last = -1;
  if (bq_http_range(value, size, &first, &last) != BQ_RANGE_PART) return;
  if (first < 0 || last < first || last >= size) abort();
  char again[64];
  int64_t same_first = -1;
  int64_t same_last = -1;
  (void)snprintf(again, sizeof again, "bytes=%" PRId64 "-%" PRId64, first, last);
  if (bq_http_range(again, size, &same_first, &same_last) != BQ_RANGE_PART) abort();
  if (same_first != first || same_last != last) abort();
}

// A tag is quoted and has no quote inside: then it is found wherever it stands in a list.
static void check_tags(const char *value, const char *tag) {
  size_t length = strlen(tag);
  (void)bq_http_none_match(value, tag);
  (void)bq_http_if_range(value, tag);
  if (length < 2 || tag[0] != '"' || strchr(tag + 1, '"') != tag + length - 1) return;
  char *list = bq_format("W/\"other\" ,\t%s", tag);
  if (list == NULL) return;
  if (!bq_http_none_match(tag, tag) || !bq_http_none_match(list, tag) || !bq_http_if_range(tag, tag)) abort();
  if (bq_http_if_range(list, tag)) abort();
  bq_free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = bq_strndup((const char *)data, size);
  char *lines[LINES] = {text};
  if (text == NULL) return 0;
  for (int i = 1; i < LINES; i++) {
    char *end = lines[i - 1] != NULL ? strchr(lines[i - 1], '\n') : NULL;
    if (end != NULL) *end = '\0';
    lines[i] = end != NULL ? end + 1 : NULL;
  }
  int64_t bytes = strtoll(text, NULL, 10);
  check_range(lines[1], bytes >= 0 ? bytes : 0);
  if (lines[2] != NULL) check_tags(lines[3], lines[2]);
  bq_free(text);
  return 0;
}
