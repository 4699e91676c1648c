// What the modules fs and archive share: an operation that works on files of the workspace, on the blocking pool.
//
// A binding checks its arguments, makes a bq_file_op (or a struct that begins with one), gives it its paths and ends
// in `return bq_file_op_yield(L, f)`. A fault found on the way is kept in `error` and raised when the fiber goes on.
#ifndef BQ_LUA_FILE_OP_H
#define BQ_LUA_FILE_OP_H

#include <lua.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/buf.h"
#include "lua/fiber.h"

typedef struct bq_file_op bq_file_op;
struct bq_file_op {
  bq_op op;
  bq_task task;
  bq_pool *pool;                             // borrowed
  void (*work)(bq_file_op *f);               // blocking pool; a failure goes to `error`
  int (*push)(bq_file_op *f, lua_State *L);  // slice thread, after success: pushes results, returns their count
  void (*release)(bq_file_op *f);            // frees what the embedding struct owns; NULL: nothing
  char *root;                                // owned: the workspace; its owner may be gone before a late end
  char *path;                                // owned: relative to root, without ".", ".." and doubled slashes
  char *other;                               // owned: a second path, or NULL
  char *text;                                // owned: bytes to be written, or NULL
  size_t text_length;
  int64_t number;                            // an integer argument: max_bytes or a mode
  bq_buf bytes;                              // a result
  size_t count;                              // of the results in `bytes` where they are a list
  atomic_int stop;                           // the fiber is being ended: long work ends early
  bq_error error;                            // code 0: none
};

// Raises `invalid` where there is no workspace, saying that `module` is for pipelines. `size` is the embedding
// struct's.
void *bq_file_op_new(lua_State *L, const char *module, size_t size, void (*work)(bq_file_op *f),
                     int (*push)(bq_file_op *f, lua_State *L));

// Puts the path into `*out` (f->path or f->other): relative to the workspace, or absolute below it.
void bq_file_op_set_path(bq_file_op *f, char **out, const char *path, size_t length);

int bq_file_op_yield(lua_State *L, bq_file_op *f);

#endif
