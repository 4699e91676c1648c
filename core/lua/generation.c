#include "lua/generation.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"

struct bq_generation {
  atomic_uint references;
  bq_sources *sources; // owned
  bq_buf *chunks;      // owned; bytecode of the source of the same index, empty for templates
};

// A count for metrics only: it guards nothing, so it may be one word for the process.
static atomic_uint live;

unsigned bq_generation_live(void) {
  return atomic_load(&live);
}

static int write_chunk(lua_State *L, const void *bytes, size_t length, void *out) {
  (void)L;
  bq_buf *buf = out;
  bq_buf_add(buf, bytes, length);
  return buf->failed;
}

static int is_script(const char *path) {
  return strncmp(path, "scripts/", 8) == 0;
}

// Compiles one script into `chunk`; a fault is added to `faults` as "path:line: reason".
static void compile(lua_State *L, const bq_source *source, bq_buf *chunk, bq_buf *faults) {
  char *name = bq_format("@%s", source->path);
  if (name == NULL) {
    faults->failed = 1;
    return;
  }
  // "t": text only. Bytecode from outside could crash the interpreter.
  if (luaL_loadbufferx(L, source->text, source->length, name, "t") != LUA_OK) {
    if (faults->length > 0) bq_buf_adds(faults, "\n");
    const char *reason = lua_tostring(L, -1);
    if (reason == NULL) reason = "can't be compiled";
    // A syntax error names its place; other refusals (bytecode, no memory) don't.
    if (strncmp(reason, "scripts/", 8) != 0) bq_buf_addf(faults, "%s: ", source->path);
    bq_buf_adds(faults, reason);
  } else if (lua_dump(L, write_chunk, chunk, 0) != 0) {
    faults->failed = 1;
  }
  lua_settop(L, 0);
  bq_free(name);
}

int bq_generation_compile(bq_generation **out, bq_sources *sources, bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_buf faults = {0};
  lua_State *L = NULL;
  size_t count = bq_sources_count(sources);
  bq_generation *generation = bq_alloc(sizeof *generation);
  if (generation == NULL) {
    bq_sources_free(sources);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a generation");
  }
  atomic_init(&generation->references, 1);
  atomic_fetch_add(&live, 1);
  generation->sources = sources;
  generation->chunks = bq_alloc_array(count, sizeof generation->chunks[0]);
  L = luaL_newstate();
  if (generation->chunks == NULL || L == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a generation");
    goto cleanup;
  }
  for (size_t i = 0; i < count; i++) {
    const bq_source *source = bq_sources_at(sources, i);
    if (is_script(source->path)) compile(L, source, &generation->chunks[i], &faults);
  }
  result = bq_buf_check(&faults, err);
  if (result == 0 && faults.length > 0) result = bq_fail(err, BQ_ESCRIPT, "%s", faults.data);
  if (result == 0) {
    *out = generation;
    generation = NULL;
  }
cleanup:
  if (L != NULL) lua_close(L);
  bq_buf_free(&faults);
  bq_generation_release(generation);
  return result;
}

bq_generation *bq_generation_retain(bq_generation *generation) {
  atomic_fetch_add(&generation->references, 1);
  return generation;
}

void bq_generation_release(bq_generation *generation) {
  if (generation == NULL || atomic_fetch_sub(&generation->references, 1) > 1) return;
  if (generation->chunks != NULL) {
    for (size_t i = 0; i < bq_sources_count(generation->sources); i++) bq_buf_free(&generation->chunks[i]);
  }
  bq_free(generation->chunks);
  bq_sources_free(generation->sources);
  bq_free(generation);
  atomic_fetch_sub(&live, 1);
}

const char *bq_generation_hash(const bq_generation *generation) {
  return bq_sources_hash(generation->sources);
}

const bq_sources *bq_generation_sources(const bq_generation *generation) {
  return generation->sources;
}

int bq_generation_push_chunk(const bq_generation *generation, lua_State *L, const char *path, int env_index,
                             bq_error *err) {
  env_index = lua_absindex(L, env_index);
  const bq_source *source = bq_sources_find(generation->sources, path);
  if (source == NULL || !is_script(path)) return bq_fail(err, BQ_ENOTFOUND, "there is no script %s", path);
  const bq_buf *chunk = &generation->chunks[source - bq_sources_at(generation->sources, 0)];
  if (luaL_loadbufferx(L, chunk->data, chunk->length, path, "b") != LUA_OK) {
    lua_pop(L, 1);
    return bq_fail(err, BQ_ENOMEM, "out of memory while loading %s", path);
  }
  lua_pushvalue(L, env_index);
  (void)lua_setupvalue(L, -2, 1);
  return 0;
}
