// Allocation: every allocation of the core passes through here, so that tests can fail the n-th one.
//
// All functions return NULL when memory is out; the caller reports BQ_ENOMEM. Thread-safe.
#ifndef BQ_BASE_MEMORY_H
#define BQ_BASE_MEMORY_H

#include <stddef.h>

void *bq_alloc(size_t size);                              // zeroed
void *bq_alloc_array(size_t count, size_t size);          // zeroed; NULL also on overflow
void *bq_realloc(void *old, size_t size);                 // old stays valid on NULL
void bq_free(void *ptr);                                  // NULL is fine
char *bq_strdup(const char *text);                        // NULL in, NULL out
char *bq_strndup(const char *text, size_t length);        // copies exactly `length` bytes and a NUL
char *bq_format(const char *fmt, ...) __attribute__((format(printf, 1, 2))); // owned by the caller

// How often one of these was refused memory so far: whether the system is short of it, or only what was asked for too much.
unsigned long bq_memory_refusals(void);

// Gives what is free back to the system; milliseconds when there is much of it. A malloc that can't: nothing.
void bq_memory_trim(void);

// Replaces the three primitives for a test; NULL restores malloc's. Call before any thread starts.
typedef void *(*bq_realloc_fn)(void *old, size_t size);
void bq_memory_replace(bq_realloc_fn replacement);

#endif
