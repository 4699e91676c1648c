#include "base/memory.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bq_realloc_fn reallocate = realloc;
static atomic_ulong refusals;

static void *resize(void *old, size_t size) {
  void *ptr = reallocate(old, size > 0 ? size : 1);
  if (ptr == NULL) atomic_fetch_add_explicit(&refusals, 1, memory_order_relaxed);
  return ptr;
}

void bq_memory_replace(bq_realloc_fn replacement) {
  reallocate = replacement != NULL ? replacement : realloc;
}

void *bq_alloc(size_t size) {
  void *ptr = resize(NULL, size);
  if (ptr != NULL) memset(ptr, 0, size);
  return ptr;
}

void *bq_alloc_array(size_t count, size_t size) {
  if (size != 0 && count > SIZE_MAX / size) return NULL;
  return bq_alloc(count * size);
}

void *bq_realloc(void *old, size_t size) {
  return resize(old, size);
}

void bq_free(void *ptr) {
  free(ptr);
}

char *bq_strdup(const char *text) {
  return text != NULL ? bq_strndup(text, strlen(text)) : NULL;
}

char *bq_strndup(const char *text, size_t length) {
  char *copy = bq_alloc(length + 1);
  if (copy != NULL && length > 0) memcpy(copy, text, length);
  return copy;
}

char *bq_format(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  va_list again;
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  char *text = length >= 0 ? bq_alloc((size_t)length + 1) : NULL;
  if (text != NULL) (void)vsnprintf(text, (size_t)length + 1, fmt, again);
  va_end(again);
  return text;
}

unsigned long bq_memory_refusals(void) {
  return atomic_load_explicit(&refusals, memory_order_relaxed);
}

void bq_memory_trim(void) {
#ifdef __GLIBC__
  (void)malloc_trim(0);
#endif
}
