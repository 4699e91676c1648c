#include "lua/blocks.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/memory.h"

// Before each block of a lent state that is not in its arena.
struct bq_block_head {
  bq_block_head *next;
  bq_block_head *previous;
};

// A copy of the state's first memory, and what the lists were.
struct bq_block_image {
  size_t used;
  void *free[BQ_BLOCK_SIZES];
  size_t free_bytes;
  char bytes[]; // `used`
};

_Static_assert(sizeof(bq_block_head) % BQ_BLOCK_STEP == 0, "the block behind it is aligned");

int bq_blocks_can_lend(void) {
#ifdef __SANITIZE_ADDRESS__
  return 0;
#else
  return 1;
#endif
}

int bq_blocks_lend(bq_blocks *blocks) {
  // Pages count only when they are touched, and can be given back one by one.
  void *arena = mmap(NULL, BQ_BLOCK_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) return 0;
  blocks->arena = arena;
  return 1;
}

static int class_of(size_t size) {
  return (int)((size - 1) / BQ_BLOCK_STEP);
}

static int is_small(size_t size) {
  return size > 0 && size <= (size_t)BQ_BLOCK_STEP * BQ_BLOCK_SIZES;
}

// NULL: no room.
static void *cut(bq_blocks *blocks, size_t size) {
  if (size > BQ_BLOCK_ARENA - blocks->used) return NULL;
  size = (size + BQ_BLOCK_STEP - 1) / BQ_BLOCK_STEP * BQ_BLOCK_STEP; // as is what there is
  void *block = blocks->arena + blocks->used;
  blocks->used += size;
  return block;
}

static int is_in_arena(const bq_blocks *blocks, const void *block) {
  return (uintptr_t)block - (uintptr_t)blocks->arena < BQ_BLOCK_ARENA;
}

static bq_block_head *head_of(void *block) {
  return (bq_block_head *)block - 1;
}

static void link_other(bq_blocks *blocks, bq_block_head *head) {
  head->previous = NULL;
  head->next = blocks->others;
  if (head->next != NULL) head->next->previous = head;
  blocks->others = head;
}

static void unlink_other(bq_blocks *blocks, bq_block_head *head) {
  if (head->next != NULL) head->next->previous = head->previous;
  if (head->previous != NULL) head->previous->next = head->next;
  else blocks->others = head->next;
}

// A block of malloc's; `old` is one, or NULL.
static void *resize_other(bq_blocks *blocks, void *old, size_t size) {
  if (blocks->arena == NULL) return bq_realloc(old, size);
  if (size > SIZE_MAX - sizeof(bq_block_head)) return NULL;
  bq_block_head *head = old != NULL ? head_of(old) : NULL;
  if (head != NULL) unlink_other(blocks, head);
  bq_block_head *moved = bq_realloc(head, sizeof *moved + size);
  if (moved != NULL || head != NULL) link_other(blocks, moved != NULL ? moved : head);
  return moved != NULL ? moved + 1 : NULL;
}

static void give_other(bq_blocks *blocks, void *block) {
  if (blocks->arena == NULL) {
    bq_free(block);
    return;
  }
  unlink_other(blocks, head_of(block));
  bq_free(head_of(block));
}

static void *take(bq_blocks *blocks, size_t size) {
  void *block = NULL;
  if (!is_small(size)) {
    if (blocks->arena != NULL && !blocks->sealed) block = cut(blocks, size);
    return block != NULL ? block : resize_other(blocks, NULL, size);
  }
  int class = class_of(size);
  size = (size_t)(class + 1) * BQ_BLOCK_STEP;
  block = blocks->free[class];
  if (block != NULL) {
    memcpy(&blocks->free[class], block, sizeof(void *));
    blocks->free_bytes -= size;
    return block;
  }
  if (blocks->arena != NULL) block = cut(blocks, size);
  return block != NULL ? block : resize_other(blocks, NULL, size);
}

// Whether a free small block goes into its list, and not back to malloc.
static int is_kept(const bq_blocks *blocks, const void *block) {
  if (blocks->arena != NULL) return is_in_arena(blocks, block);
  return bq_blocks_can_lend() && blocks->free_bytes < BQ_BLOCK_SPARE;
}

void bq_blocks_give(bq_blocks *blocks, void *block, size_t size) {
  if (is_small(size) && is_kept(blocks, block)) {
    int class = class_of(size);
    memcpy(block, &blocks->free[class], sizeof(void *));
    blocks->free[class] = block;
    blocks->free_bytes += (size_t)(class + 1) * BQ_BLOCK_STEP;
  } else if (blocks->arena == NULL || !is_in_arena(blocks, block)) {
    give_other(blocks, block);
  } // else a large one of the first memory: its room is not used again
}

void *bq_blocks_resize(bq_blocks *blocks, void *old, size_t old_size, size_t size) {
  if (old == NULL) return take(blocks, size);
  int was_small = is_small(old_size);
  if (was_small && is_small(size) && class_of(old_size) == class_of(size)) return old;
  if (!was_small && !is_small(size) && !(blocks->arena != NULL && is_in_arena(blocks, old))) {
    return resize_other(blocks, old, size);
  }
  void *block = take(blocks, size);
  if (block == NULL) return NULL;
  memcpy(block, old, old_size < size ? old_size : size);
  bq_blocks_give(blocks, old, old_size);
  return block;
}

void bq_blocks_seal(bq_blocks *blocks) {
  blocks->sealed = 1;
}

int bq_blocks_make_image(bq_blocks *blocks) {
  if (blocks->arena == NULL || blocks->others != NULL) return 0; // its first memory has not found room in the arena
  bq_block_image *image = bq_realloc(NULL, sizeof *image + blocks->used);
  if (image == NULL) return 0;
  image->used = blocks->used;
  image->free_bytes = blocks->free_bytes;
  memcpy(image->free, blocks->free, sizeof image->free);
  memcpy(image->bytes, blocks->arena, blocks->used);
  blocks->image = image;
  return 1;
}

static void free_others(bq_blocks *blocks) {
  while (blocks->others != NULL) {
    bq_block_head *head = blocks->others;
    blocks->others = head->next;
    bq_free(head);
  }
}

void bq_blocks_restore(bq_blocks *blocks) {
  const bq_block_image *image = blocks->image;
  const size_t page = 64 * 1024; // a multiple of every system's
  free_others(blocks);
  size_t kept = (image->used + BQ_BLOCK_KEPT + page - 1) / page * page;
  if (blocks->used > kept) (void)madvise(blocks->arena + kept, BQ_BLOCK_ARENA - kept, MADV_DONTNEED);
  memcpy(blocks->arena, image->bytes, image->used);
  memcpy(blocks->free, image->free, sizeof blocks->free);
  blocks->used = image->used;
  blocks->free_bytes = image->free_bytes;
}

void bq_blocks_free(bq_blocks *blocks) {
  bq_free(blocks->image);
  blocks->image = NULL;
  if (blocks->arena != NULL) {
    free_others(blocks);
    (void)munmap(blocks->arena, BQ_BLOCK_ARENA);
    blocks->arena = NULL;
    return;
  }
  for (int class = 0; class < BQ_BLOCK_SIZES; class++) {
    for (void *block = blocks->free[class], *next; block != NULL; block = next) {
      memcpy(&next, block, sizeof next);
      bq_free(block);
    }
  }
}
