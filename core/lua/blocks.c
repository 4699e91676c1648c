#include "lua/blocks.h"

#include <stdint.h>
#include <string.h>

#include "base/memory.h"

struct bq_block_chunk {
  _Alignas(BQ_BLOCK_STEP) bq_block_chunk *older;
  size_t size; // bytes behind this head
  size_t used;
};

struct bq_block_large {
  bq_block_large *next;
  bq_block_large *previous;
};

// A copy of the state's first memory, and what the lists were.
struct bq_block_image {
  bq_block_chunk *chunks; // the newest then
  size_t used;            // of that one; the older ones are full
  void *free[BQ_BLOCK_SIZES];
  size_t free_bytes;
  char bytes[]; // of the chunks, newest first
};

_Static_assert(sizeof(bq_block_large) % BQ_BLOCK_STEP == 0, "the block behind it is aligned");

int bq_blocks_can_lend(void) {
#ifdef __SANITIZE_ADDRESS__
  return 0;
#else
  return 1;
#endif
}

static int class_of(size_t size) {
  return (int)((size - 1) / BQ_BLOCK_STEP);
}

static int is_small(size_t size) {
  return size > 0 && size <= (size_t)BQ_BLOCK_STEP * BQ_BLOCK_SIZES;
}

static size_t rounded(size_t size) {
  return (size + BQ_BLOCK_STEP - 1) / BQ_BLOCK_STEP * BQ_BLOCK_STEP;
}

static char *chunk_bytes(const bq_block_chunk *chunk) {
  return (char *)(uintptr_t)(chunk + 1);
}

// `size` is rounded.
static void *cut(bq_blocks *blocks, size_t size) {
  bq_block_chunk *chunk = blocks->chunks;
  if (chunk == NULL || chunk->size - chunk->used < size) {
    size_t room = size > BQ_BLOCK_CHUNK - sizeof *chunk ? size : BQ_BLOCK_CHUNK - sizeof *chunk;
    chunk = bq_realloc(NULL, sizeof *chunk + room);
    if (chunk == NULL) return NULL;
    *chunk = (bq_block_chunk){.older = blocks->chunks, .size = room};
    blocks->chunks = chunk;
  }
  void *block = chunk_bytes(chunk) + chunk->used;
  chunk->used += size;
  return block;
}

static void link_large(bq_blocks *blocks, bq_block_large *large) {
  large->previous = NULL;
  large->next = blocks->larges;
  if (large->next != NULL) large->next->previous = large;
  blocks->larges = large;
}

static void unlink_large(bq_blocks *blocks, bq_block_large *large) {
  if (large->next != NULL) large->next->previous = large->previous;
  if (large->previous != NULL) large->previous->next = large->next;
  else blocks->larges = large->next;
}

static bq_block_large *large_of(void *block) {
  return (bq_block_large *)block - 1;
}

// Whether a block that is not small lies in a chunk: it is from before the image.
static int is_first(const bq_blocks *blocks, const void *block) {
  const bq_block_chunk *chunk = blocks->image != NULL ? blocks->image->chunks : blocks->chunks;
  for (; chunk != NULL; chunk = chunk->older) {
    if ((uintptr_t)block - (uintptr_t)chunk_bytes(chunk) < chunk->size) return 1;
  }
  return 0;
}

static void *take_large(bq_blocks *blocks, size_t size) {
  if (!blocks->lent) return bq_realloc(NULL, size);
  if (blocks->image == NULL) return cut(blocks, rounded(size));
  bq_block_large *large = size < SIZE_MAX - sizeof *large ? bq_realloc(NULL, sizeof *large + size) : NULL;
  if (large == NULL) return NULL;
  link_large(blocks, large);
  return large + 1;
}

static void give_large(bq_blocks *blocks, void *block) {
  if (!blocks->lent) {
    bq_free(block);
  } else if (!is_first(blocks, block)) { // else its room is wasted until the state is as it was
    unlink_large(blocks, large_of(block));
    bq_free(large_of(block));
  }
}

static void *take(bq_blocks *blocks, size_t size) {
  if (!is_small(size)) return take_large(blocks, size);
  int class = class_of(size);
  void *block = blocks->free[class];
  size = (size_t)(class + 1) * BQ_BLOCK_STEP;
  if (block == NULL) return blocks->lent ? cut(blocks, size) : bq_realloc(NULL, size);
  memcpy(&blocks->free[class], block, sizeof(void *));
  blocks->free_bytes -= size;
  return block;
}

void bq_blocks_give(bq_blocks *blocks, void *block, size_t size) {
  if (!is_small(size)) {
    give_large(blocks, block);
    return;
  }
  if (!blocks->lent && (!bq_blocks_can_lend() || blocks->free_bytes >= BQ_BLOCK_SPARE)) {
    bq_free(block);
    return;
  }
  int class = class_of(size);
  memcpy(block, &blocks->free[class], sizeof(void *));
  blocks->free[class] = block;
  blocks->free_bytes += (size_t)(class + 1) * BQ_BLOCK_STEP;
}

// Both sizes are large, and the block is malloc's or behind a head.
static void *resize_large(bq_blocks *blocks, void *old, size_t size) {
  if (!blocks->lent) return bq_realloc(old, size);
  if (size > SIZE_MAX - sizeof(bq_block_large)) return NULL;
  bq_block_large *large = large_of(old);
  unlink_large(blocks, large);
  bq_block_large *moved = bq_realloc(large, sizeof *large + size);
  link_large(blocks, moved != NULL ? moved : large);
  return moved != NULL ? moved + 1 : NULL;
}

void *bq_blocks_resize(bq_blocks *blocks, void *old, size_t old_size, size_t size) {
  if (old == NULL) return take(blocks, size);
  int was_small = is_small(old_size);
  if (!was_small && !is_small(size) && !(blocks->lent && is_first(blocks, old))) {
    return resize_large(blocks, old, size);
  }
  if (was_small && is_small(size) && class_of(old_size) == class_of(size)) return old;
  void *block = take(blocks, size);
  if (block == NULL) return NULL;
  memcpy(block, old, old_size < size ? old_size : size);
  bq_blocks_give(blocks, old, old_size);
  return block;
}

int bq_blocks_make_image(bq_blocks *blocks) {
  size_t bytes = 0;
  for (const bq_block_chunk *chunk = blocks->chunks; chunk != NULL; chunk = chunk->older) bytes += chunk->used;
  bq_block_image *image = bq_realloc(NULL, sizeof *image + bytes);
  if (image == NULL) return 0;
  *image = (bq_block_image){.chunks = blocks->chunks, .used = blocks->chunks->used, .free_bytes = blocks->free_bytes};
  memcpy(image->free, blocks->free, sizeof image->free);
  char *to = image->bytes;
  for (const bq_block_chunk *chunk = blocks->chunks; chunk != NULL; chunk = chunk->older) {
    memcpy(to, chunk_bytes(chunk), chunk->used);
    to += chunk->used;
  }
  blocks->image = image;
  return 1;
}

// Of what has come since the image; without one, of everything.
static void free_newer(bq_blocks *blocks) {
  const bq_block_chunk *kept = blocks->image != NULL ? blocks->image->chunks : NULL;
  while (blocks->larges != NULL) {
    bq_block_large *large = blocks->larges;
    blocks->larges = large->next;
    bq_free(large);
  }
  while (blocks->chunks != kept) {
    bq_block_chunk *chunk = blocks->chunks;
    blocks->chunks = chunk->older;
    bq_free(chunk);
  }
}

void bq_blocks_restore(bq_blocks *blocks) {
  const bq_block_image *image = blocks->image;
  free_newer(blocks);
  blocks->chunks->used = image->used;
  const char *from = image->bytes;
  for (bq_block_chunk *chunk = blocks->chunks; chunk != NULL; chunk = chunk->older) {
    memcpy(chunk_bytes(chunk), from, chunk->used);
    from += chunk->used;
  }
  memcpy(blocks->free, image->free, sizeof blocks->free);
  blocks->free_bytes = image->free_bytes;
}

void bq_blocks_free(bq_blocks *blocks) {
  bq_free(blocks->image);
  blocks->image = NULL;
  if (blocks->lent) {
    free_newer(blocks);
    return;
  }
  for (int class = 0; class < BQ_BLOCK_SIZES; class++) {
    for (void *block = blocks->free[class], *next; block != NULL; block = next) {
      memcpy(&next, block, sizeof next);
      bq_free(block);
    }
  }
}
