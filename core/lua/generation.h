// A generation: an immutable snapshot of all scripts and templates, compiled once and named by its contents.
//
// Counted: whoever keeps a pointer holds a reference. Retain, release and all reads are thread-safe.
#ifndef BQ_LUA_GENERATION_H
#define BQ_LUA_GENERATION_H

#include <lua.h>
#include <stdint.h>

#include "base/error.h"
#include "lua/sources.h"

typedef struct bq_generation bq_generation;

// Compiles every script to bytecode; what `like` (borrowed, or NULL) has the same file of is taken from there. Takes
// ownership of `sources` in every case. All files that don't compile are named in `err`, a line each. CPU-bound: compute
// pool. The new generation has one reference.
int bq_generation_compile(bq_generation **out, bq_sources *sources, const bq_generation *like,
                          bq_error *err) BQ_MUSTCHECK;

bq_generation *bq_generation_retain(bq_generation *generation); // returns its argument
void bq_generation_release(bq_generation *generation);          // NULL is fine; the last one frees it

const char *bq_generation_hash(const bq_generation *generation); // 64 hexadecimal digits
const bq_sources *bq_generation_sources(const bq_generation *generation);

// Pushes the compiled chunk of "scripts/…" as a function with no upvalue set but _ENV = the table at `env_index`.
// On failure pushes nothing.
int bq_generation_push_chunk(const bq_generation *generation, lua_State *L, const char *path, int env_index,
                             bq_error *err) BQ_MUSTCHECK;

size_t bq_generation_bytes(const bq_generation *generation); // of its sources and chunks

// The generations that are alive in a server: the running one, and those that builds or requests hold. A set outlives all
// that were added to it. Thread-safe.
typedef struct bq_generation_set bq_generation_set;
int bq_generation_set_new(bq_generation_set **out, bq_error *err) BQ_MUSTCHECK;
void bq_generation_set_free(bq_generation_set *set); // NULL is fine
void bq_generation_set_add(bq_generation_set *set, bq_generation *generation); // once; it leaves when it is freed
unsigned bq_generation_set_count(bq_generation_set *set);
bq_generation *bq_generation_set_find(bq_generation_set *set, const char *hash); // retained; NULL when none is alive

// Calls `each` for every one, under the set's lock: it must not retain, release, or come back here.
void bq_generation_set_each(bq_generation_set *set, void (*each)(void *arg, const bq_generation *generation), void *arg);

#endif
