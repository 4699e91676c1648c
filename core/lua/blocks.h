// The memory of one Lua state: small blocks from a list for each size, and for a state that is lent from one build to
// the next an image of what it was at first. One thread at a time, whichever touches the state.
#ifndef BQ_LUA_BLOCKS_H
#define BQ_LUA_BLOCKS_H

#include <stddef.h>

enum {
  BQ_BLOCK_STEP = 16,          // bytes between two sizes of small blocks
  BQ_BLOCK_SIZES = 32,         // so the largest small block has 512 bytes
  BQ_BLOCK_SPARE = 512 * 1024, // bytes of free small blocks kept by a state that is not lent
  BQ_BLOCK_CHUNK = 32 * 1024   // what a state that is lent cuts small blocks from
};

typedef struct bq_block_chunk bq_block_chunk;
typedef struct bq_block_large bq_block_large;
typedef struct bq_block_image bq_block_image;

typedef struct bq_blocks {
  void *free[BQ_BLOCK_SIZES]; // free small blocks; the first word is the next one
  size_t free_bytes;          // in these lists
  int lent;                   // all is cut from chunks, and given back at once
  bq_block_chunk *chunks;     // newest first
  bq_block_large *larges;     // those since the image that are larger than a small block
  bq_block_image *image;      // owned; NULL: none was made
} bq_blocks;

// Whether states can be lent at all: not under AddressSanitizer, which is to see what is used after its end.
int bq_blocks_can_lend(void);

// As lua_Alloc has it, but for size 0 (bq_blocks_give). NULL: out of memory, and the old block is as it was.
void *bq_blocks_resize(bq_blocks *blocks, void *old, size_t old_size, size_t size);
void bq_blocks_give(bq_blocks *blocks, void *block, size_t size);

// Of a lent state: keeps a copy of all that there is. 0 when there is no memory for it.
int bq_blocks_make_image(bq_blocks *blocks);
// Makes everything as it was then, at the same addresses; what came since is freed. Needs an image.
void bq_blocks_restore(bq_blocks *blocks);

// Frees all: of a lent state whatever it has, of another one the lists; its state was closed before.
void bq_blocks_free(bq_blocks *blocks);

#endif
