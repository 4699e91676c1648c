// The memory of one Lua state: small blocks from a list for each size, and for a state that is lent from one build to
// the next an image of what it was at first. One thread at a time, whichever touches the state.
#ifndef BQ_LUA_BLOCKS_H
#define BQ_LUA_BLOCKS_H

#include <stddef.h>

enum {
  BQ_BLOCK_STEP = 16,             // bytes between two sizes of small blocks
  BQ_BLOCK_SIZES = 32,            // so the largest small block has 512 bytes
  BQ_BLOCK_SPARE = 512 * 1024,    // bytes of free small blocks kept by a state that is not lent
  BQ_BLOCK_ARENA = 2 * 1024 * 1024, // address space that a lent state cuts its first memory and small blocks from
  BQ_BLOCK_KEPT = 256 * 1024      // of it, what a state that waits keeps beyond its image
};

typedef struct bq_block_head bq_block_head;
typedef struct bq_block_image bq_block_image;

typedef struct bq_blocks {
  void *free[BQ_BLOCK_SIZES]; // free small blocks; the first word is the next one
  size_t free_bytes;          // in these lists
  // Of a lent state; without one, arena is NULL and everything malloc's.
  char *arena;                // owned, mapped; all of the state until bq_blocks_seal, then small blocks while there is room
  size_t used;                // bytes of it
  int sealed;
  bq_block_head *others;      // owned; blocks that are not in the arena
  bq_block_image *image;      // owned; NULL: none was made
} bq_blocks;

// Whether states can be lent at all: not under AddressSanitizer, which is to see what is used after its end.
int bq_blocks_can_lend(void);

// Makes empty blocks those of a lent state. 0: there is no memory for it.
int bq_blocks_lend(bq_blocks *blocks);

// As lua_Alloc has it, but for size 0 (bq_blocks_give). NULL: out of memory, and the old block is as it was.
void *bq_blocks_resize(bq_blocks *blocks, void *old, size_t old_size, size_t size);
void bq_blocks_give(bq_blocks *blocks, void *block, size_t size);

// The first memory of a lent state is whole: from here on large blocks come from malloc and go back to it.
void bq_blocks_seal(bq_blocks *blocks);
// Behind that: keeps a copy of all that there is. 0 when there is no memory for it.
int bq_blocks_make_image(bq_blocks *blocks);
// Makes everything as it was then, at the same addresses; what came since is freed. Needs an image.
void bq_blocks_restore(bq_blocks *blocks);

// Frees all: of a lent state whatever it has, of another one the lists; its state was closed before.
void bq_blocks_free(bq_blocks *blocks);

#endif
