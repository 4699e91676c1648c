// What the tests of bindings share: a script vm with a workspace, services and a generation of given sources.
#ifndef BQ_TESTS_SCRIPT_TEST_H
#define BQ_TESTS_SCRIPT_TEST_H

#include "lua_test.h"

#include "base/memory.h"
#include "io/tree.h"
#include "lua/modules.h"
#include "support.h"

typedef struct bench {
  world w;
  bq_services services;
  bq_generation *generation;
  const bq_lua_module *modules;
  char *directory; // of the test; the workspace is below it
  char *workspace;
} bench;

// services->workspace has no argument of its own: it finds the bench by the vm's owner.
static inline const char *bench_workspace(lua_State *L) {
  return ((bench *)bq_vm_owner(bq_vm_of(L)))->workspace;
}

// Sources as (path, text) pairs, a NULL path at the end; NULL: none.
static inline bq_generation *bench_generation(const char *const (*files)[2]) {
  bq_sources *sources;
  bq_generation *generation;
  bq_error err;
  assert_int_equal(bq_sources_new(&sources, &err), 0);
  for (size_t i = 0; files != NULL && files[i][0] != NULL; i++) {
    assert_int_equal(bq_sources_add(sources, files[i][0], files[i][1], strlen(files[i][1]), 0, &err), 0);
  }
  assert_int_equal(bq_sources_seal(sources, &err), 0);
  if (bq_generation_compile(&generation, sources, NULL, &err) < 0) fail_msg("%s", err.message);
  return generation;
}

static inline void bench_open(bench *b, const bq_lua_module *modules, const char *const (*files)[2]) {
  memset(b, 0, sizeof *b);
  world_open(&b->w);
  b->modules = modules;
  b->generation = bench_generation(files);
  b->directory = support_make_directory();
  b->workspace = bq_format("%s/workspace", b->directory);
  bq_error err;
  assert_int_equal(bq_tree_make_path(b->workspace, &err), 0);
  b->services = (bq_services){.loop = b->w.loop, .blocking = b->w.pool, .workspace = bench_workspace};
}

static inline void bench_close(bench *b) {
  bq_generation_release(b->generation);
  world_close(&b->w);
  support_remove_directory(b->directory);
  bq_free(b->workspace);
}

static inline bq_vm *bench_vm(bench *b) {
  bq_vm *vm;
  bq_error err;
  bq_vm_options options = world_options(&b->w);
  options.owner = b;
  if (bq_script_vm_new(&vm, &options, b->generation, b->modules, &b->services, &err) < 0) fail_msg("%s", err.message);
  return vm;
}

// Starts `text` as scripts/pipelines/test.lua in the environment of the vm.
static inline void bench_start(script *s, bench *b, bq_vm *vm, const char *text) {
  bq_error err;
  lua_State *L = bq_vm_state(vm);
  memset(s, 0, sizeof *s);
  s->w = &b->w;
  b->w.running++;
  if (luaL_loadbufferx(L, text, strlen(text), "@scripts/pipelines/test.lua", "t") != LUA_OK) {
    fail_msg("%s", lua_tostring(L, -1));
  }
  bq_script_push_env(L);
  assert_non_null(lua_setupvalue(L, -2, 1));
  assert_int_equal(bq_fiber_start(&s->fiber, vm, L, 0, script_ended, s, &err), 0);
}

static inline void bench_run(script *s, bench *b, const char *text) {
  bq_vm *vm = bench_vm(b);
  bench_start(s, b, vm, text);
  world_run(&b->w);
  bq_vm_free(vm);
}

#define assert_bench_returns(b, text, expected)                                            \
  do {                                                                                     \
    script script_;                                                                        \
    bench_run(&script_, b, text);                                                          \
    if (script_.end != BQ_END_RETURNED) fail_msg("%s", script_.line);                      \
    assert_string_equal(script_.line, expected);                                           \
  } while (0)

#endif
