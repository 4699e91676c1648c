#include "io/http_range.h"

#include <string.h>
#include <strings.h>

// Reads digits into `*number`, which stays at INT64_MAX for anything beyond. Returns the first byte behind them, or
// NULL when there are none.
static const char *read_number(const char *text, int64_t *number) {
  const char *start = text;
  *number = 0;
  for (; *text >= '0' && *text <= '9'; text++) {
    int digit = *text - '0';
    *number = *number > (INT64_MAX - digit) / 10 ? INT64_MAX : *number * 10 + digit;
  }
  return text > start ? text : NULL;
}

bq_range_kind bq_http_range(const char *value, int64_t size, int64_t *first, int64_t *last) {
  static const char unit[] = "bytes=";
  if (value == NULL || strncasecmp(value, unit, sizeof unit - 1) != 0) return BQ_RANGE_ALL;
  value += sizeof unit - 1;
  if (*value == '-') { // the last so many bytes
    int64_t count;
    const char *end = read_number(value + 1, &count);
    if (end == NULL || *end != '\0') return BQ_RANGE_ALL;
    if (count == 0 || size == 0) return BQ_RANGE_UNSATISFIABLE;
    *first = count < size ? size - count : 0;
    *last = size - 1;
    return BQ_RANGE_PART;
  }
  const char *end = read_number(value, first);
  if (end == NULL || *end != '-') return BQ_RANGE_ALL;
  *last = size - 1;
  if (end[1] != '\0') {
    end = read_number(end + 1, last);
    if (end == NULL || *end != '\0' || *last < *first) return BQ_RANGE_ALL;
  }
  if (*first >= size) return BQ_RANGE_UNSATISFIABLE;
  if (*last >= size) *last = size - 1;
  return BQ_RANGE_PART;
}

int bq_http_none_match(const char *value, const char *etag) {
  if (value == NULL) return 0;
  size_t length = strlen(etag);
  while (*value != '\0') {
    while (*value == ' ' || *value == '\t' || *value == ',') value++;
    if (*value == '*') return 1;
    if (strncmp(value, "W/", 2) == 0) value += 2;
    if (*value != '"') return 0;
    const char *close = strchr(value + 1, '"');
    if (close == NULL) return 0;
    if ((size_t)(close + 1 - value) == length && memcmp(value, etag, length) == 0) return 1;
    value = close + 1;
  }
  return 0;
}

int bq_http_if_range(const char *value, const char *etag) {
  return value == NULL || strcmp(value, etag) == 0;
}
