// Inside of connection strings: libpq's own two forms. Only for core/base/connection_*.c.
#ifndef BQ_BASE_CONNECTION_INTERNAL_H
#define BQ_BASE_CONNECTION_INTERNAL_H

#include "base/buf.h"
#include "base/error.h"

// 1 when `text` begins with postgresql:// or postgres://.
int bq_libpq_is_uri(const char *text);

// 1 for a keyword that libpq 15 knows.
int bq_libpq_knows(const char *keyword);

// Reads the next pair of a keyword string at `*at` and moves behind it. 1: a pair, 0: the end, BQ_EINVAL: broken syntax.
// `key` and `value` are cleared first; `value` is unescaped.
int bq_libpq_next(const char **at, bq_buf *key, bq_buf *value, bq_error *err);

// Adds "key='value' " with libpq's escapes.
void bq_libpq_add(bq_buf *out, const char *key, const char *value);

// Finds what libpq would refuse with a quotation of the text: broken percent escapes, unknown parameters.
int bq_libpq_check_uri(const char *text, bq_error *err);

#endif
