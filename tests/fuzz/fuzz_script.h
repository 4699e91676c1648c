// What the targets written in Lua share: the scripts of this repository in a real script state, and a checker beside them.
//
// The checker (a file of Lua that returns a function) is called with each input as a string; an error that comes out of
// it is the find. Which lines of Lua it has reached is reported to libFuzzer as coverage, since compiled-in coverage sees
// only the interpreter. After FUZZ_MAX_STEPS instructions it gets the error "too many steps". The current directory is the repository's.
#ifndef BQ_TESTS_FUZZ_SCRIPT_H
#define BQ_TESTS_FUZZ_SCRIPT_H

#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "event/loop.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "lua/modules.h"
#include "lua/sources.h"

enum { FUZZ_COUNTERS = 1 << 14, FUZZ_MEMORY_BYTES = 256 * 1024 * 1024, FUZZ_CALL_US = 8 * 1000 * 1000, FUZZ_MAX_STEPS = 3000 * 1000,
       FUZZ_STEP = 1000 };

// The state stays and grows a little with each input, which would start a search for leaks each time.
const char *__lsan_default_options(void);
const char *__lsan_default_options(void) {
  return "detect_leaks=0";
}

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t fuzz_counters[FUZZ_COUNTERS];

static int fuzz_steps; // of this input

static inline void fuzz_count(lua_State *L, lua_Debug *ar) {
  static uint32_t previous; // edges tell more than lines
  if (ar->event == LUA_HOOKCOUNT) {
    fuzz_steps += FUZZ_STEP;
    if (fuzz_steps > FUZZ_MAX_STEPS) (void)luaL_error(L, "too many steps");
    return;
  }
  if (lua_getinfo(L, "S", ar) == 0) return;
  uint32_t here = ((uint32_t)ar->currentline * 2654435761u) ^ ((uint32_t)ar->srclen * 40503u);
  fuzz_counters[(here ^ previous) % FUZZ_COUNTERS]++;
  previous = here >> 1;
}

static inline int fuzz_sha256(lua_State *L) {
  lua_pushcfunction(L, bq_lua_sha256);
  return 1;
}

static const bq_lua_module fuzz_modules[] = {{"json", bq_lua_open_json}, {"sha256", fuzz_sha256}, {NULL, NULL}};

typedef struct fuzz_input {
  const uint8_t *data;
  size_t size;
  const char *checker; // its path, for fuzz_load
} fuzz_input;

static const char fuzz_key = 0; // registry: the loaded checker

// Argument: the fuzz_input. Inside bq_vm_call.
static inline int fuzz_load(lua_State *L) {
  const fuzz_input *input = lua_touserdata(L, 1);
  if (luaL_loadfilex(L, input->checker, "t") != LUA_OK) return lua_error(L);
  bq_script_push_env(L);
  (void)lua_setupvalue(L, -2, 1);
  lua_call(L, 0, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &fuzz_key);
  return 0;
}

// Argument: the fuzz_input. On a coroutine of its own, whose hook is ours.
static inline int fuzz_check(lua_State *L) {
  const fuzz_input *input = lua_touserdata(L, 1);
  lua_State *co = lua_newthread(L);
  int results = 0;
  lua_rawgetp(co, LUA_REGISTRYINDEX, &fuzz_key);
  lua_pushlstring(co, (const char *)input->data, input->size);
  fuzz_steps = 0;
  lua_sethook(co, fuzz_count, LUA_MASKLINE | LUA_MASKCOUNT, FUZZ_STEP);
  int status = lua_resume(co, L, 1, &results);
  if (status == LUA_OK) return 0;
  if (status == LUA_YIELD) return luaL_error(L, "the checker yields");
  luaL_traceback(L, co, lua_tostring(co, -1), 0);
  return lua_error(L);
}

static inline void fuzz_call(bq_vm *vm, lua_CFunction function, const fuzz_input *input) {
  bq_error err;
  lua_State *L = bq_vm_state(vm);
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, (void *)(uintptr_t)input);
  if (bq_vm_call(vm, L, 1, 0, &err) == 0) return;
  (void)fprintf(stderr, "%s\n", err.message);
  abort();
}

static inline bq_vm *fuzz_open(const char *checker) {
  static bq_services services;
  const bq_source_directories directories = {.share = "."};
  bq_vm_options options = {.memory_bytes = FUZZ_MEMORY_BYTES, .slice_us = FUZZ_CALL_US, .noun = "checker"};
  bq_sources *sources = NULL;
  bq_generation *generation = NULL;
  bq_vm *vm = NULL;
  bq_error err;
  if (bq_loop_new(&options.loop, &err) < 0 || bq_sources_read(&sources, &directories, &err) < 0 ||
      bq_generation_compile(&generation, sources, NULL, &err) < 0 ||
      bq_script_vm_new(&vm, &options, generation, fuzz_modules, &services, &err) < 0) {
    (void)fprintf(stderr, "%s\n", err.message);
    abort();
  }
  bq_generation_release(generation); // the vm has its own
  bq_vm_set_call_budget(vm, FUZZ_CALL_US);
  fuzz_call(vm, fuzz_load, &(fuzz_input){.checker = checker});
  return vm;
}

// The state stays for all inputs; it is the target's until the process ends.
static inline void fuzz_run(const char *checker, const uint8_t *data, size_t size) {
  static bq_vm *vm;
  if (vm == NULL) vm = fuzz_open(checker);
  fuzz_call(vm, fuzz_check, &(fuzz_input){.data = data, .size = size});
}

#endif
