// The rehearsal's queue: the smallest due key first, as the claim statement finds it. Pure.
#ifndef BQ_QUEUE_REHEARSE_HEAP_H
#define BQ_QUEUE_REHEARSE_HEAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// A binary heap: the smallest rank on top; among equals what was added first.
typedef struct bq_heap_entry {
  int64_t rank;
  uint64_t sequence; // the heap's own
  int64_t value;     // the caller's
  uint64_t item;     // the caller's
} bq_heap_entry;

typedef struct bq_heap {
  bq_heap_entry *entries; // owned
  size_t count;
  size_t capacity;
  uint64_t added; // so far
} bq_heap;

// A zeroed bq_heap is empty. BQ_ENOMEM: nothing has changed.
int bq_heap_add(bq_heap *heap, int64_t rank, int64_t value, uint64_t item, bq_error *err) BQ_MUSTCHECK;
const bq_heap_entry *bq_heap_top(const bq_heap *heap); // NULL when empty; until the next change
void bq_heap_pop(bq_heap *heap);                       // not of an empty one
void bq_heap_free(bq_heap *heap);                      // back to the zeroed state

// What is pending: in the order of its key once its time has come. Zeroed it is empty.
typedef struct bq_due {
  bq_heap waiting; // rank: when it is due, value: its key
  bq_heap ready;   // rank: its key
} bq_due;

// `not_before_us`: not taken before; any time that has passed is fine. BQ_ENOMEM: nothing has changed.
int bq_due_add(bq_due *due, int64_t key, int64_t not_before_us, uint64_t item, bq_error *err) BQ_MUSTCHECK;

// Takes the smallest key that is due at `now_us`, a time that never goes back. 1, or 0 when nothing is; or BQ_ENOMEM.
int bq_due_take(bq_due *due, int64_t now_us, int64_t *key, uint64_t *item, bq_error *err) BQ_MUSTCHECK;

// Gives back what was taken and did not start. BQ_ENOMEM.
int bq_due_put_back(bq_due *due, int64_t key, uint64_t item, bq_error *err) BQ_MUSTCHECK;

// When something is due: INT64_MIN when something is ready, INT64_MAX when nothing is pending.
int64_t bq_due_next(const bq_due *due);
int64_t bq_due_next_later(const bq_due *due); // the same of what wasn't due yet at the last bq_due_take
void bq_due_free(bq_due *due);

#endif
