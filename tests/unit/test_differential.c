// What is ours of the standard library, held to stock Lua: the programs in tests/unit/differential run with the same
// random numbers in both and must say the same. In ours the slices are so short that the scheduler yields again and
// again through coroutines and sorts, and nothing may show of it.
//
// A failure names the seed; BUILDQ_SEED=n repeats it.
#include "lua_test.h"

#include <lualib.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/memory.h"

enum { SECONDS = 2, ROUNDS = 400, SLICE_US = 100 };

static char *program(const char *name, uint64_t seed) {
  char path[100];
  char *text;
  size_t length;
  bq_error err;
  (void)snprintf(path, sizeof path, "tests/unit/differential/%s.lua", name);
  if (bq_file_read(path, 1 << 20, &text, &length, &err) < 0) fail_msg("%s", err.message);
  char *whole = bq_format("return (function(...) %s\nend)(%lld, %d)", text, (long long)seed, ROUNDS);
  bq_free(text);
  assert_non_null(whole);
  return whole;
}

static char *run_stock(const char *text) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  luaL_openlibs(L);
  assert_int_equal(luaL_loadbufferx(L, text, strlen(text), "@scripts/pipelines/test.lua", "t"), LUA_OK);
  if (lua_pcall(L, 0, 1, 0) != LUA_OK) fail_msg("stock Lua: %s", lua_tostring(L, -1));
  char *said = bq_strdup(lua_tostring(L, -1));
  assert_non_null(said);
  lua_close(L);
  return said;
}

typedef struct ours {
  world *w;
  char *said; // owned
} ours;

static void ours_ended(void *arg, bq_end end, lua_State *L) {
  ours *o = arg;
  o->said = bq_strdup(luaL_tolstring(L, -1, NULL));
  if (end != BQ_END_RETURNED) fail_msg("ours: %s", o->said);
  o->w->running--;
  bq_loop_stop(o->w->loop);
}

static char *run_ours(world *w, const char *text) {
  bq_vm_options options = world_options(w);
  options.slice_us = SLICE_US;
  bq_vm *vm = vm_with(&options);
  ours o = {.w = w};
  bq_fiber *fiber;
  bq_error err;
  push_script(bq_vm_state(vm), text);
  w->running++;
  assert_int_equal(bq_fiber_start(&fiber, vm, bq_vm_state(vm), 0, ours_ended, &o, &err), 0);
  world_run(w);
  bq_vm_free(vm);
  assert_non_null(o.said);
  return o.said;
}

// Shows the first line that differs, from a little before the difference.
static void compare(const char *name, uint64_t seed, const char *stock, const char *said) {
  enum { BEFORE = 200, BEHIND = 200 };
  size_t at = 0;
  size_t line = 0;
  for (; stock[at] == said[at]; at++) {
    if (stock[at] == '\0') return;
    if (stock[at] == '\n') line = at + 1;
  }
  size_t from = at - line > BEFORE ? at - BEFORE : line;
  fail_msg("BUILDQ_SEED=%llu, %s.lua, round %d:\nstock: %.*s\nours:  %.*s", (unsigned long long)seed, name,
           atoi(stock + line), (int)(at - from) + BEHIND, stock + from, (int)(at - from) + BEHIND, said + from);
}

// For SECONDS, each time with another seed, the first of which is always the same.
static void differs_nowhere(const char *name) {
  world w;
  world_open(&w);
  const char *given = getenv("BUILDQ_SEED");
  uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : 1;
  int64_t until_us = bq_clock_mono_us() + SECONDS * 1000000ll;
  do {
    char *text = program(name, seed);
    char *stock = run_stock(text);
    char *said = run_ours(&w, text);
    compare(name, seed, stock, said);
    bq_free(text);
    bq_free(stock);
    bq_free(said);
    seed = (uint64_t)bq_clock_wall_us();
  } while (given == NULL && bq_clock_mono_us() < until_us);
  world_close(&w);
}

static void strings_do_as_in_stock_lua(void **state) {
  (void)state;
  differs_nowhere("strings");
}

static void tables_do_as_in_stock_lua(void **state) {
  (void)state;
  differs_nowhere("tables");
}

static void calls_do_as_in_stock_lua(void **state) {
  (void)state;
  differs_nowhere("calls");
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(strings_do_as_in_stock_lua),
    cmocka_unit_test(tables_do_as_in_stock_lua),
    cmocka_unit_test(calls_do_as_in_stock_lua),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
