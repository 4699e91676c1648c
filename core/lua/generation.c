#include "lua/generation.h"

#include <lauxlib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"

struct bq_generation {
  atomic_uint references;
  bq_sources *sources; // owned
  bq_buf *chunks;      // owned; bytecode of the source of the same index, empty for templates
  size_t bytes;        // of sources and chunks
  bq_generation_set *set;   // borrowed, or NULL; guards the links
  bq_generation *next;
  bq_generation *previous;
};

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

// The bytecode names the path, so that must be the same too. NULL when there is none.
static const bq_buf *find_compiled(const bq_generation *like, const bq_source *source) {
  if (like == NULL) return NULL;
  const bq_source *known = bq_sources_find(like->sources, source->path);
  if (known == NULL || strcmp(known->hash, source->hash) != 0) return NULL;
  return &like->chunks[known - bq_sources_at(like->sources, 0)];
}

int bq_generation_compile(bq_generation **out, bq_sources *sources, const bq_generation *like, bq_error *err) {
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
  generation->sources = sources;
  generation->chunks = bq_alloc_array(count, sizeof generation->chunks[0]);
  L = luaL_newstate();
  if (generation->chunks == NULL || L == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a generation");
    goto cleanup;
  }
  for (size_t i = 0; i < count; i++) {
    const bq_source *source = bq_sources_at(sources, i);
    if (!is_script(source->path)) continue;
    const bq_buf *known = find_compiled(like, source);
    if (known == NULL) compile(L, source, &generation->chunks[i], &faults);
    else bq_buf_add(&generation->chunks[i], known->data, known->length);
    if (generation->chunks[i].failed) faults.failed = 1;
  }
  result = bq_buf_check(&faults, err);
  if (result == 0 && faults.length > 0) result = bq_fail(err, BQ_ESCRIPT, "%s", faults.data);
  if (result == 0) {
    for (size_t i = 0; i < count; i++) {
      generation->bytes += bq_sources_at(generation->sources, i)->length + generation->chunks[i].length;
    }
    *out = generation;
    generation = NULL;
  }
cleanup:
  if (L != NULL) lua_close(L);
  bq_buf_free(&faults);
  bq_generation_release(generation);
  return result;
}

struct bq_generation_set {
  pthread_mutex_t lock;
  bq_generation *first;
  unsigned count;
};

int bq_generation_set_new(bq_generation_set **out, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for generations");
  (void)pthread_mutex_init(&(*out)->lock, NULL);
  return 0;
}

void bq_generation_set_free(bq_generation_set *set) {
  if (set == NULL) return;
  (void)pthread_mutex_destroy(&set->lock);
  bq_free(set);
}

void bq_generation_set_add(bq_generation_set *set, bq_generation *generation) {
  (void)pthread_mutex_lock(&set->lock);
  generation->set = set;
  generation->next = set->first;
  if (set->first != NULL) set->first->previous = generation;
  set->first = generation;
  set->count++;
  (void)pthread_mutex_unlock(&set->lock);
}

static void leave(bq_generation_set *set, bq_generation *generation) {
  (void)pthread_mutex_lock(&set->lock);
  if (generation->previous != NULL) generation->previous->next = generation->next;
  else set->first = generation->next;
  if (generation->next != NULL) generation->next->previous = generation->previous;
  set->count--;
  (void)pthread_mutex_unlock(&set->lock);
}

unsigned bq_generation_set_count(bq_generation_set *set) {
  (void)pthread_mutex_lock(&set->lock);
  unsigned count = set->count;
  (void)pthread_mutex_unlock(&set->lock);
  return count;
}

void bq_generation_set_each(bq_generation_set *set, void (*each)(void *arg, const bq_generation *generation), void *arg) {
  (void)pthread_mutex_lock(&set->lock);
  for (const bq_generation *g = set->first; g != NULL; g = g->next) each(arg, g);
  (void)pthread_mutex_unlock(&set->lock);
}

// One whose last reference is gone, and that only waits for the lock to leave, is not brought back.
static int retain_living(bq_generation *generation) {
  unsigned references = atomic_load(&generation->references);
  while (references > 0) {
    if (atomic_compare_exchange_weak(&generation->references, &references, references + 1)) return 1;
  }
  return 0;
}

bq_generation *bq_generation_set_find(bq_generation_set *set, const char *hash) {
  bq_generation *found = NULL;
  (void)pthread_mutex_lock(&set->lock);
  for (bq_generation *g = set->first; g != NULL && found == NULL; g = g->next) {
    if (strcmp(bq_generation_hash(g), hash) == 0 && retain_living(g)) found = g;
  }
  (void)pthread_mutex_unlock(&set->lock);
  return found;
}

bq_generation *bq_generation_retain(bq_generation *generation) {
  atomic_fetch_add(&generation->references, 1);
  return generation;
}

void bq_generation_release(bq_generation *generation) {
  if (generation == NULL || atomic_fetch_sub(&generation->references, 1) > 1) return;
  if (generation->set != NULL) leave(generation->set, generation);
  if (generation->chunks != NULL) {
    for (size_t i = 0; i < bq_sources_count(generation->sources); i++) bq_buf_free(&generation->chunks[i]);
  }
  bq_free(generation->chunks);
  bq_sources_free(generation->sources);
  bq_free(generation);
}

const char *bq_generation_hash(const bq_generation *generation) {
  return bq_sources_hash(generation->sources);
}

size_t bq_generation_bytes(const bq_generation *generation) {
  return generation->bytes;
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
