#include "base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static int reserve(bq_buf *buf, size_t more) {
  if (buf->failed) return 0;
  if (more >= SIZE_MAX / 2 - buf->length) {
    buf->failed = 1;
    return 0;
  }
  size_t need = buf->length + more + 1;
  if (need <= buf->capacity) return 1;
  size_t capacity = buf->capacity > 0 ? buf->capacity : 64;
  while (capacity < need) capacity *= 2;
  char *grown = bq_realloc(buf->data, capacity);
  if (grown == NULL) {
    buf->failed = 1;
    return 0;
  }
  buf->data = grown;
  buf->capacity = capacity;
  return 1;
}

void bq_buf_add(bq_buf *buf, const void *bytes, size_t length) {
  if (!reserve(buf, length)) return;
  if (length > 0) memcpy(buf->data + buf->length, bytes, length);
  buf->length += length;
  buf->data[buf->length] = '\0';
}

void bq_buf_adds(bq_buf *buf, const char *text) {
  bq_buf_add(buf, text, strlen(text));
}

void bq_buf_addc(bq_buf *buf, char c) {
  bq_buf_add(buf, &c, 1);
}

void bq_buf_addf(bq_buf *buf, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  va_list again;
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  if (length < 0) {
    buf->failed = 1;
  } else if (reserve(buf, (size_t)length)) {
    (void)vsnprintf(buf->data + buf->length, (size_t)length + 1, fmt, again);
    buf->length += (size_t)length;
  }
  va_end(again);
}

void bq_buf_consume(bq_buf *buf, size_t length) {
  if (length == 0) return;
  memmove(buf->data, buf->data + length, buf->length - length + 1);
  buf->length -= length;
}

void bq_buf_clear(bq_buf *buf) {
  buf->length = 0;
  buf->failed = 0;
  if (buf->data != NULL) buf->data[0] = '\0';
}

void bq_buf_free(bq_buf *buf) {
  bq_free(buf->data);
  *buf = (bq_buf){0};
}

char *bq_buf_take(bq_buf *buf) {
  if (!buf->failed) (void)reserve(buf, 0);
  char *text = NULL;
  if (!buf->failed) {
    text = buf->data;
    text[buf->length] = '\0';
    buf->data = NULL;
  }
  bq_buf_free(buf);
  return text;
}

int bq_buf_check(const bq_buf *buf, bq_error *err) {
  return buf->failed ? bq_fail(err, BQ_ENOMEM, "out of memory") : 0;
}
