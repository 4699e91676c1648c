#include "queue/rehearse_heap.h"

#include "base/memory.h"

enum { FIRST_CAPACITY = 256 };

static int is_before(const bq_heap_entry *a, const bq_heap_entry *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->sequence < b->sequence;
}

static int make_room(bq_heap *heap, bq_error *err) {
  if (heap->count < heap->capacity) return 0;
  size_t capacity = heap->capacity > 0 ? heap->capacity * 2 : FIRST_CAPACITY;
  bq_heap_entry *entries = bq_realloc(heap->entries, capacity * sizeof *entries);
  if (entries == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a queue of %zu builds", capacity);
  heap->entries = entries;
  heap->capacity = capacity;
  return 0;
}

int bq_heap_add(bq_heap *heap, int64_t rank, int64_t value, uint64_t item, bq_error *err) {
  int result = make_room(heap, err);
  if (result < 0) return result;
  const bq_heap_entry entry = {.rank = rank, .sequence = heap->added++, .value = value, .item = item};
  size_t place = heap->count++;
  while (place > 0 && is_before(&entry, &heap->entries[(place - 1) / 2])) {
    heap->entries[place] = heap->entries[(place - 1) / 2];
    place = (place - 1) / 2;
  }
  heap->entries[place] = entry;
  return 0;
}

const bq_heap_entry *bq_heap_top(const bq_heap *heap) {
  return heap->count > 0 ? &heap->entries[0] : NULL;
}

void bq_heap_pop(bq_heap *heap) {
  const bq_heap_entry last = heap->entries[--heap->count];
  size_t place = 0;
  for (;;) {
    size_t child = 2 * place + 1;
    if (child >= heap->count) break;
    if (child + 1 < heap->count && is_before(&heap->entries[child + 1], &heap->entries[child])) child++;
    if (!is_before(&heap->entries[child], &last)) break;
    heap->entries[place] = heap->entries[child];
    place = child;
  }
  heap->entries[place] = last;
}

void bq_heap_free(bq_heap *heap) {
  bq_free(heap->entries);
  *heap = (bq_heap){0};
}

int bq_due_add(bq_due *due, int64_t key, int64_t not_before_us, uint64_t item, bq_error *err) {
  return bq_heap_add(&due->waiting, not_before_us, key, item, err);
}

int bq_due_take(bq_due *due, int64_t now_us, int64_t *key, uint64_t *item, bq_error *err) {
  for (const bq_heap_entry *top; (top = bq_heap_top(&due->waiting)) != NULL && top->rank <= now_us;) {
    int result = bq_heap_add(&due->ready, top->value, 0, top->item, err);
    if (result < 0) return result;
    bq_heap_pop(&due->waiting);
  }
  const bq_heap_entry *first = bq_heap_top(&due->ready);
  if (first == NULL) return 0;
  *key = first->rank;
  *item = first->item;
  bq_heap_pop(&due->ready);
  return 1;
}

int bq_due_put_back(bq_due *due, int64_t key, uint64_t item, bq_error *err) {
  return bq_heap_add(&due->ready, key, 0, item, err);
}

int64_t bq_due_next_later(const bq_due *due) {
  const bq_heap_entry *top = bq_heap_top(&due->waiting);
  return top != NULL ? top->rank : INT64_MAX;
}

int64_t bq_due_next(const bq_due *due) {
  return due->ready.count > 0 ? INT64_MIN : bq_due_next_later(due);
}

void bq_due_free(bq_due *due) {
  bq_heap_free(&due->waiting);
  bq_heap_free(&due->ready);
}
