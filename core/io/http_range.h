// Range and conditional requests for files (RFC 9110, sections 13 and 14). Pure functions.
#ifndef BQ_IO_HTTP_RANGE_H
#define BQ_IO_HTTP_RANGE_H

#include <stdint.h>

typedef enum bq_range_kind {
  BQ_RANGE_ALL,          // no range, one that can't be read, or several: the whole file (section 14.2 allows it)
  BQ_RANGE_PART,         // 206
  BQ_RANGE_UNSATISFIABLE // 416
} bq_range_kind;

// Reads a Range header's value (NULL when absent) for a file of `size` bytes. For PART, `*first` and `*last` are the
// first and last byte, both inside the file.
bq_range_kind bq_http_range(const char *value, int64_t size, int64_t *first, int64_t *last);

// Whether an If-None-Match value names `etag` (quoted): weak comparison (section 13.1.2).
int bq_http_none_match(const char *value, const char *etag);

// Whether an If-Range value lets the Range stand: strong comparison (section 13.1.5). NULL value: yes. A date: no, this
// server gives none.
int bq_http_if_range(const char *value, const char *etag);

#endif
