// A growable byte buffer. Always NUL-terminated behind its length, so that text can be read from it.
#ifndef BQ_BASE_BUF_H
#define BQ_BASE_BUF_H

#include <stddef.h>

#include "base/error.h"

typedef struct bq_buf {
  char *data;      // owned; NULL while nothing was ever added
  size_t length;   // bytes in use
  size_t capacity; // bytes allocated
  int failed;      // an addition ran out of memory: the content is not whole
} bq_buf;

// A zeroed bq_buf is a valid empty buffer. Additions after a failure are ignored: a chain of additions
// needs one check at its end (bq_buf_check).
void bq_buf_add(bq_buf *buf, const void *bytes, size_t length);
void bq_buf_adds(bq_buf *buf, const char *text);
void bq_buf_addf(bq_buf *buf, const char *fmt, ...) BQ_PRINTF(2, 3);
void bq_buf_addc(bq_buf *buf, char c);
void bq_buf_consume(bq_buf *buf, size_t length); // removes from the front; `length` at most buf->length
void bq_buf_clear(bq_buf *buf);                  // empties it, keeps the memory
void bq_buf_free(bq_buf *buf);                   // back to the zeroed state
char *bq_buf_take(bq_buf *buf);                  // the text, now the caller's (bq_free); NULL when it failed
int bq_buf_check(const bq_buf *buf, bq_error *err) BQ_MUSTCHECK; // BQ_ENOMEM when an addition failed

#endif
