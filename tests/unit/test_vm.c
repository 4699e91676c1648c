// What a script can't do to a server: hold a thread, escape its end, take all memory. Each kind of endless script is
// ended by a kill and by its budget, while the loop stays alive and another vm on the same pool gets on.
#include "lua_test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LONGEST_US = 60 * 1000000 }; // budgets last longer, see hook.c
#else
enum { LONGEST_US = 5 * 1000000 };
#endif

#include "base/memory.h"

typedef struct endless {
  const char *name;
  const char *text;
} endless;

static const endless scripts[] = {
  {"plain", "while true do end"},
  {"pcall in a loop", "while true do pcall(function() while true do end end) end"},
  {"pcall that catches itself", "local function f() pcall(f) while true do pcall(f) end end f()"},
  {"xpcall handler", "xpcall(function() error('x') end, function() while true do end end) while true do end"},
  {"xpcall handler after the kill", "while true do xpcall(function() while true do end end, "
                                    "function() while true do end end) end"},
  {"gsub callback", "string.gsub(('x'):rep(100), 'x', function() while true do end end)"},
  {"pcall in a gsub callback", "string.gsub(('x'):rep(100), 'x', function() while true do pcall(function() "
                               "while true do end end) end end)"},
  {"coroutine.wrap", "while true do coroutine.wrap(function() while true do end end)() end"},
  {"coroutine.resume in a loop", "while true do coroutine.resume(coroutine.create(function() while true do end end)) "
                                 "end"},
  {"very short coroutines", "local function f(n) for _ = 1, 40 do if n > 0 then coroutine.wrap(f)(n - 1) end end end "
                            "f(12)"},
  {"sort comparator", "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function() while true do end end)"},
  {"coroutine in a sort comparator", "local t = {3, 2, 1} table.sort(t, function(a, b) return "
   "coroutine.wrap(function() "
                                     "while true do end end)() end)"},
  {"metamethods", "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x"},
  {"metamethods that call themselves", "local t = setmetatable({}, {__add = function(a, b) while true do end end, "
                                       "__eq = function() while true do end end}) return pcall(function() return t + "
                                       "t end)"},
  {"tostring", "while true do tostring(setmetatable({}, {__tostring = function() while true do end end})) end"},
  {"__close", "local t = setmetatable({}, {__close = function() while true do end end}) "
              "while true do local x <close> = t while true do end end"},
  {"nested __close", "local t = setmetatable({}, {__close = function() while true do pcall(error) end end}) "
                     "local function f(n) local x <close> = t if n > 0 then f(n - 1) end while true do end end f(100)"},
  {"close of a coroutine", "local co = coroutine.create(function() local x <close> = setmetatable({}, "
                           "{__close = function() while true do end end}) coroutine.yield() end) "
                           "coroutine.resume(co) coroutine.close(co) while true do end"},
  {"reader of load", "while true do load(function() while true do end end) end"},
  {"recursion", "local function f() return pcall(f) or pcall(f) end while true do f() end"},
  {"pattern with many ?", "local n = 40 ;(('a'):rep(n)):match(('a?'):rep(n) .. ('a'):rep(n))"},
  {"pattern with many *", "(('a'):rep(5000)):find(('.*'):rep(10) .. 'b')"},
  {"pattern with many -", "(('a'):rep(5000)):gsub(('.-'):rep(10) .. 'b', '')"},
  {"balanced pattern", "(('('):rep(2000000)):find('%b()')"},
  {"plain find in megabytes", "local s = ('a'):rep(8000000) while true do pcall(string.find, s, ('a'):rep(50) .. 'b', "
   "1, "
                              "true) end"},
  {"copies of megabytes", "local s = ('x'):rep(12000000) while true do local t = s .. s end"},
  {"copies of megabytes in a coroutine", "coroutine.wrap(function() local s = ('x'):rep(12000000) while true do "
                                         "local t = s .. s end end)()"},
  {"gmatch", "for _ in (('a'):rep(5000)):gmatch(('a-'):rep(8) .. 'b') do end"},
  {"__len of huge tables", "local t = setmetatable({}, {__len = function() return 9999999 end, __index = rawlen, "
                           "__newindex = type}) while true do pcall(table.insert, t, 1, 1) end"},
};

// `turns`: 0 kills by budget.
static void end_it(const endless *e, int by_kill) {
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  if (!by_kill) options.cpu_us = 300000;
  bq_vm *vm = vm_with(&options);
  options.cpu_us = 60 * 1000000ll;
  bq_vm *other = vm_with(&options);
  script s, good;
  script_start(&s, &w, vm, e->text);
  script_start(&good, &w, other, "for _ = 1, 20 do sleep(0.001) end return 'got on'");
  if (by_kill) {
    while (w.ticks < 8) assert_int_equal(world_turn(&w), 0);
    bq_vm_kill(vm, "stopped by a test");
  }
  int64_t began = bq_clock_mono_us();
  world_run(&w);
  int64_t took = bq_clock_mono_us() - began;
  if (s.end != BQ_END_KILLED) fail_msg("%s: ended with %d, %s", e->name, (int)s.end, s.line);
  // The other budget may come first where the script can't be interrupted, which is as good an end.
  const char *wanted = by_kill ? "stopped by a test" : "the pipeline used more than 300 ms of Lua time";
  if (strstr(s.line, wanted) == NULL) assert_contains(s.line, "where it can't be interrupted");
  assert_contains(s.line, "scripts/pipelines/test.lua:");
  assert_string_equal(good.line, "got on");
  assert_true(w.ticks > 2);
  if (took > LONGEST_US) fail_msg("%s: took %lld us to end", e->name, (long long)took);
  if (w.longest_us > 1000000) fail_msg("%s: the loop stood still for %lld us", e->name, (long long)w.longest_us);
  bq_vm_free(vm);
  bq_vm_free(other);
  world_close(&w);
}

static void endless_scripts_are_ended_by_a_kill(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) end_it(&scripts[i], 1);
}

static void endless_scripts_are_ended_by_their_budget(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) end_it(&scripts[i], 0);
}

static void a_handler_on_the_loop_is_ended_alone(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  options.pool = NULL;
  options.slice_us = 20000;
  options.cpu_us = 0;
  bq_vm *vm = vm_with(&options);
  script waits, loops, sorts;
  script_start(&waits, &w, vm, "sleep(0.1) return 'answered'");
  script_start(&loops, &w, vm, "while true do pcall(function() while true do end end) end");
  script_start(&sorts, &w, vm, "table.sort({3, 2, 1}, function() while true do end end)");
  world_run(&w);
  assert_string_equal(waits.line, "answered");
  assert_int_equal(loops.end, BQ_END_KILLED);
  assert_string_equal(loops.line,
                      "scripts/pipelines/test.lua:1: the handler computed for more than 20 ms without a pause");
  assert_int_equal(sorts.end, BQ_END_KILLED);
  assert_null(bq_vm_kill_reason(vm));
  bq_vm_free(vm);
  world_close(&w);
}

static void endless_allocation_is_ended(void **state) {
  (void)state;
  static const char *const texts[] = {
    "local t = {} while true do t[#t + 1] = {} end",
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do pcall(function() while true do t[#t + 1] = ('x'):rep(1000) .. #t end end) end",
    "local t = {} for i = 1, 1e9 do t[i] = coroutine.create(print) end",
    "xpcall(function() local t = {} while true do t[#t + 1] = {} end end, function() while true do end end)",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    script s;
    run(&s, texts[i]);
    assert_int_equal(s.end, BQ_END_KILLED);
#ifndef __SANITIZE_THREAD__ // many times slower, it may reach the bound on what can't be interrupted first
    assert_string_equal(s.line, "scripts/pipelines/test.lua:1: the pipeline used more than 64 MB of Lua memory");
#endif
  }
}

static void garbage_does_not_count_as_use(void **state) {
  (void)state;
  // What can't be had at all is an error like any other.
  assert_script_returns("return select(2, pcall(string.rep, 'x', 1 << 40))", "not enough memory");
  // 3 MB in use, and many times the cap in garbage.
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  options.memory_bytes = 16u * 1024 * 1024;
  script s;
  run_with(&s, &options, &w,
           "local keep = ('x'):rep(3 << 20) for _ = 1, 300 do local _ = ('y'):rep(1 << 20) end return #keep");
  world_close(&w);
  assert_string_equal(s.line, "3145728");
}

static void memory_returns_after_the_end(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  bq_vm_usage before, after;
  bq_vm_get_usage(vm, &before);
  script s;
  script_start(&s, &w, vm, "local t = {} for i = 1, 1e5 do t[i] = {i} end sleep(0) return #t");
  world_run(&w);
  assert_string_equal(s.line, "100000");
  bq_vm_get_usage(vm, &after);
  assert_true(after.memory_bytes > before.memory_bytes + 1000000);
  assert_true(after.cpu_us > 0);
  assert_true(after.slices >= 2);
  bq_vm_lend(vm);
  bq_vm_get_usage(vm, &after);
  assert_true(after.memory_bytes < before.memory_bytes + 50000);
  bq_vm_free(vm);
  world_close(&w);
}

static void calls_without_a_fiber_are_bounded(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  lua_State *L = bq_vm_state(vm);
  bq_error err;
  push_script(L, "return 1, 2");
  assert_int_equal(bq_vm_call(vm, L, 0, 1, &err), 0);
  assert_int_equal(lua_tointeger(L, -1), 1);
  lua_pop(L, 1);
  push_script(L, "local function f()\n error({}) end f()");
  assert_int_equal(bq_vm_call(vm, L, 0, 1, &err), BQ_ESCRIPT);
  assert_string_equal(err.message, "scripts/pipelines/test.lua:2: an error value that is a table: raise a string");
  push_script(L, "sleep(1)");
  assert_int_equal(bq_vm_call(vm, L, 0, 0, &err), BQ_ESCRIPT);
  assert_contains(err.message, "can't wait here");
  push_script(L, "while true do pcall(function() while true do end end) end");
  assert_int_equal(bq_vm_call(vm, L, 0, 0, &err), BQ_ESCRIPT);
  assert_contains(err.message, "scripts/pipelines/test.lua:1: the pipeline ran for more than 250 ms");
  assert_int_equal(lua_gettop(L), 0);
  bq_vm_free(vm);
  world_close(&w);
}

static long allocations_left; // until one fails; 0: it has

static void *fail_one(void *old, size_t size) {
  if (allocations_left > 0 && --allocations_left == 0) return NULL;
  return realloc(old, size);
}

static int load_script(lua_State *L) {
  push_script(L, lua_touserdata(L, 1));
  return 1;
}

static void survives_any_failed_allocation(void **state) {
  (void)state;
  static const char text[] =
    "local r = all{function() sleep(0) return json.encode(json.decode('[1,{\"a\":[]}]')) end, function() "
    "return coroutine.wrap(function() sleep(0) return ('x'):rep(100) .. sha256('') end)() end} "
    "pcall(error, 'x') xpcall(error, function(e) return e .. '!' end, 'y') error(table.concat(r))";
  int failures = 0;
  for (long n = 1; n < 3000; n++) {
    world w = {0};
    bq_error err;
    bq_vm *vm;
    script s = {.w = &w};
    assert_int_equal(bq_loop_new(&w.loop, &err), 0);
    bq_vm_options options = world_options(&w);
    options.slice_us = 10 * 1000000;
    allocations_left = n;
    bq_memory_replace(fail_one);
    if (bq_vm_new(&vm, &options, &err) == 0) {
      lua_State *L = bq_vm_state(vm);
      bq_vm_lend(vm);
      lua_pushcfunction(L, load_script);
      lua_pushlightuserdata(L, (void *)(uintptr_t)text);
      if (lua_pcall(L, 1, 1, 0) == LUA_OK && bq_fiber_start(&s.fiber, vm, L, 0, script_ended, &s, &err) == 0) {
        w.running++;
        world_run(&w);
        assert_int_equal(s.ended, 1);
        assert_int_not_equal(s.end, BQ_END_RETURNED);
      }
      bq_vm_free(vm);
    }
    bq_memory_replace(NULL);
    bq_loop_free(w.loop);
    if (allocations_left > 0) break; // none has failed: all were tried
    failures++;
  }
  assert_true(failures > 300);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(endless_scripts_are_ended_by_a_kill),
    cmocka_unit_test(endless_scripts_are_ended_by_their_budget),
    cmocka_unit_test(a_handler_on_the_loop_is_ended_alone),
    cmocka_unit_test(endless_allocation_is_ended),
    cmocka_unit_test(garbage_does_not_count_as_use),
    cmocka_unit_test(memory_returns_after_the_end),
    cmocka_unit_test(calls_without_a_fiber_are_bounded),
    cmocka_unit_test(survives_any_failed_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
