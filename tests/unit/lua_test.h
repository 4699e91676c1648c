// What the tests of the Lua runtime share: a loop, a pool, and scripts that run as fibers until they end.
#ifndef BQ_TESTS_LUA_TEST_H
#define BQ_TESTS_LUA_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <event2/event.h>
#include <lauxlib.h>

#include "base/clock.h"
#include "lua/errors.h"
#include "lua/fiber.h"
#include "lua/libs.h"
#include "lua/stdlib.h"

typedef struct world {
  bq_loop *loop;
  bq_pool *pool;
  bq_timer *timer;   // fires every `TICK_MS`
  int ticks;         // how often it has
  int running;       // scripts that have not ended: the loop stops with the last
  int64_t longest_us; // the longest time between two ticks
  int64_t last_us;
} world;

typedef struct script {
  world *w;
  bq_fiber *fiber; // NULL after its end
  int ended;
  bq_end end;
  int results;
  char line[BQ_LINE_SIZE]; // the first result or the error as text
  char where[BQ_WHERE_SIZE];
  char traceback[2000];
} script;

enum { TICK_MS = 5 };

static inline void world_tick(void *arg) {
  world *w = arg;
  int64_t now = bq_clock_mono_us();
  if (w->ticks++ > 0 && now - w->last_us > w->longest_us) w->longest_us = now - w->last_us;
  w->last_us = now;
  bq_timer_set(w->timer, TICK_MS);
}

static inline void world_open(world *w) {
  bq_error err;
  memset(w, 0, sizeof *w);
  assert_int_equal(bq_loop_new(&w->loop, &err), 0);
  assert_int_equal(bq_pool_new(&w->pool, w->loop, "lua-test", 2, 1000, &err), 0);
  assert_int_equal(bq_timer_new(&w->timer, w->loop, world_tick, w, &err), 0);
  bq_timer_set(w->timer, TICK_MS);
}

static inline void world_close(world *w) {
  bq_timer_free(w->timer);
  bq_pool_free(w->pool);
  bq_loop_free(w->loop);
}

static inline bq_vm_options world_options(world *w) {
  return (bq_vm_options){.loop = w->loop,
                         .pool = w->pool,
                         .memory_bytes = 64u * 1024 * 1024,
                         .slice_us = 10000,
                         .cpu_us = 60 * 1000000ll};
}

static inline bq_vm *vm_with(const bq_vm_options *options) {
  bq_vm *vm;
  bq_error err;
  if (bq_vm_new(&vm, options, &err) < 0) fail_msg("%s", err.message);
  bq_vm_lend(vm);
  return vm;
}

static inline void script_ended(void *arg, bq_end end, lua_State *L) {
  script *s = arg;
  s->ended++;
  s->end = end;
  s->results = lua_gettop(L);
  (void)snprintf(s->where, sizeof s->where, "%s", bq_fiber_where(s->fiber));
  (void)snprintf(s->traceback, sizeof s->traceback, "%s", bq_fiber_traceback(s->fiber));
  s->line[0] = '\0';
  if (end != BQ_END_RETURNED) bq_lua_error_line(L, -1, s->where, s->line, sizeof s->line);
  else if (lua_gettop(L) > 0) (void)snprintf(s->line, sizeof s->line, "%s", luaL_tolstring(L, 1, NULL));
  s->fiber = NULL;
  if (--s->w->running == 0) bq_loop_stop(s->w->loop);
}

// Loads `text` as scripts/pipelines/test.lua in a fresh environment with the runtime's own functions as globals.
static inline void push_script(lua_State *L, const char *text) {
  if (luaL_loadbufferx(L, text, strlen(text), "@scripts/pipelines/test.lua", "t") != LUA_OK) (void)lua_error(L);
  bq_vm_new_env(L);
  lua_pushcfunction(L, bq_lua_sleep);
  lua_setfield(L, -2, "sleep");
  lua_pushcfunction(L, bq_lua_sha256);
  lua_setfield(L, -2, "sha256");
  lua_pushcfunction(L, bq_lua_all);
  lua_setfield(L, -2, "all");
  lua_pushcfunction(L, bq_lua_open_json);
  lua_call(L, 0, 1);
  lua_setfield(L, -2, "json");
  assert_non_null(lua_setupvalue(L, -2, 1));
}

static inline void script_start(script *s, world *w, bq_vm *vm, const char *text) {
  bq_error err;
  memset(s, 0, sizeof *s);
  s->w = w;
  w->running++;
  push_script(bq_vm_state(vm), text);
  assert_int_equal(bq_fiber_start(&s->fiber, vm, bq_vm_state(vm), 0, script_ended, s, &err), 0);
}

static inline void world_run(world *w) {
  bq_error err;
  while (w->running > 0) assert_int_equal(bq_loop_run(w->loop, &err), 0);
}

// One turn of the loop, which waits for something to happen (the timer does).
static inline int world_turn(world *w) {
  return event_base_loop(bq_loop_base(w->loop), EVLOOP_ONCE);
}

// One script in a vm of its own, from start to end.
static inline void run_with(script *s, const bq_vm_options *options, world *w, const char *text) {
  bq_vm *vm = vm_with(options);
  script_start(s, w, vm, text);
  world_run(w);
  bq_vm_free(vm);
}

static inline void run(script *s, const char *text) {
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  run_with(s, &options, &w, text);
  world_close(&w);
}

#define assert_script_returns(text, expected)                              \
  do {                                                                     \
    script script_;                                                        \
    run(&script_, text);                                                   \
    if (script_.end != BQ_END_RETURNED) fail_msg("%s", script_.line);      \
    assert_string_equal(script_.line, expected);                           \
  } while (0)

#define assert_script_fails(text, expected)                                \
  do {                                                                     \
    script script_;                                                        \
    run(&script_, text);                                                   \
    assert_int_equal(script_.end, BQ_END_ERROR);                           \
    assert_string_equal(script_.line, expected);                           \
  } while (0)

#define assert_contains(text, part)                                                     \
  do {                                                                                  \
    if (strstr(text, part) == NULL) fail_msg("\"%s\" is not in \"%s\"", part, text);    \
  } while (0)

#endif
