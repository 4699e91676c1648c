// Fibers: slices, waiting, coroutines of scripts with waiting inside, and the end of what won't end.
#include "lua_test.h"

#include <sys/resource.h>

static void returns_values(void **state) {
  (void)state;
  assert_script_returns("return 'hello'", "hello");
  assert_script_returns("sleep(0.001) return 1 + 1", "2");
}

static void tells_where_an_error_was(void **state) {
  (void)state;
  script s;
  run(&s, "local function deep()\n  error('no disk')\nend\ndeep()");
  assert_int_equal(s.end, BQ_END_ERROR);
  assert_string_equal(s.line, "scripts/pipelines/test.lua:2: no disk");
  assert_contains(s.traceback, "in local 'deep'");
  run(&s, "\nsleep(-1)");
  assert_contains(s.line, "scripts/pipelines/test.lua:2: bad argument #1 to 'sleep' (0 to 86400 seconds)");
  run(&s, "sleep(86401)");
  assert_int_equal(s.end, BQ_END_ERROR);
}

static void takes_error_values_of_any_type(void **state) {
  (void)state;
  assert_script_fails("error({message = 'said so'})", "scripts/pipelines/test.lua:1: said so");
  assert_script_fails("error(nil)", "scripts/pipelines/test.lua:1: an error value that is a nil: raise a string");
  assert_script_fails("error(12)", "scripts/pipelines/test.lua:1: 12");
  assert_script_fails("error(print)",
                      "scripts/pipelines/test.lua:1: an error value that is a function: raise a string");
  assert_script_fails("error('two\\nlines', 0)", "scripts/pipelines/test.lua:1: two lines");
  assert_script_fails("error(setmetatable({}, {__tostring = function() while true do end end}))",
                      "scripts/pipelines/test.lua:1: an error value that is a table: raise a string");
}

static void waits_inside_pcall(void **state) {
  (void)state;
  assert_script_returns("local ok, e = pcall(function() sleep(0.001) error('x', 0) end) return tostring(ok) .. e",
                        "falsex");
  assert_script_returns("local ok, a, b = pcall(function(...) sleep(0.001) return ... end, 1, 2) return a + b", "3");
  assert_script_returns("local _, e = xpcall(function(a) sleep(0.001) error(a, 0) end, function(e) return e .. '!' "
                        "end, "
                        "'x') return e", "x!");
  assert_script_returns("local t = setmetatable({}, {__index = function() sleep(0.001) return 7 end}) return t.x", "7");
  assert_script_returns("do local x <close> = setmetatable({}, {__close = function() sleep(0.001) end}) end return 1",
                        "1");
}

static void waits_inside_coroutines_of_scripts(void **state) {
  (void)state;
  assert_script_returns("local co = coroutine.wrap(function(a) sleep(0.001) local b = coroutine.yield(a + 1) "
                        "sleep(0.001) return b * 2 end) local x = co(1) sleep(0.001) return x + co(10)", "22");
  assert_script_returns("local outer = coroutine.wrap(function() local inner = coroutine.wrap(function() sleep(0.001) "
                        "coroutine.yield(1) sleep(0.001) return 2 end) coroutine.yield(inner()) "
                        "coroutine.yield(inner()) end) return outer() + outer()", "3");
  assert_script_returns("local co = coroutine.create(function() sleep(0.001) error('gone', 0) end) "
                        "local ok, e = coroutine.resume(co) return e .. coroutine.status(co)", "gonedead");
  // Computing for many slices inside a coroutine: the ends of slices pass through it unseen.
  assert_script_returns("local co = coroutine.wrap(function() for i = 1, 3 do for _ = 1, 3e6 do end "
                        "coroutine.yield(i) end end) return co() + co() + co()", "6");
}

static void waits_inside_a_sort(void **state) {
  (void)state;
  assert_script_returns("local t = {5, 3, 1, 4, 2, 6} table.sort(t, function(a, b) sleep(0) return a < b end) "
                        "return table.concat(t)", "123456");
  assert_script_returns("local co = coroutine.wrap(function(t) table.sort(t, function(a, b) coroutine.yield('asked') "
                        "return a < b end) return 'sorted' end) local t, n = {2, 1}, 0 "
                        "while co(t) == 'asked' do n = n + 1 end return n .. t[1] .. t[2]", "112");
  assert_script_returns("return tostring(pcall(table.sort, {3, 1, 2}, function() sleep(0) error 'x' end))", "false");
}

static void refuses_to_wait_where_it_cannot(void **state) {
  (void)state;
  script s;
  run(&s, "string.gsub('x', 'x', function() sleep(0) end)");
  assert_int_equal(s.end, BQ_END_ERROR);
  assert_contains(s.line, "can't wait here");
  // Also with a coroutine between: it could be yielded from, but not what resumed it.
  run(&s, "string.gsub('x', 'x', function() coroutine.wrap(function() sleep(0) end)() end)");
  assert_contains(s.line, "can't wait here");
  run(&s, "coroutine.yield(1)");
  assert_contains(s.line, "attempt to yield from outside a coroutine");
}

static void keeps_scripts_off_busy_coroutines(void **state) {
  (void)state;
  // The main coroutine of a fiber that waits is not another fiber's to resume or close.
  assert_script_returns(
    "local main\n"
    "local r = all({function() main = coroutine.running() sleep(0.05) return 'slept' end,\n"
    "  function() while not main do sleep(0.001) end\n"
    "    local ok, e = coroutine.resume(main, 1)\n"
    "    assert(not ok and e == 'cannot resume non-suspended coroutine', e)\n"
    "    assert(not pcall(coroutine.close, main))\n"
    "    return coroutine.status(main) end})\n"
    "return r[1] .. r[2]", "sleptnormal");
}

static void runs_coroutine_library_as_the_manual_says(void **state) {
  (void)state;
  assert_script_returns(
    "local co = coroutine.create(function(...) local n = select('#', ...) while true do n = coroutine.yield(n) end "
    "end)\n"
    "assert(coroutine.status(co) == 'suspended')\n"
    "assert(select(2, coroutine.resume(co, 1, 2, 3)) == 3)\n"
    "assert(coroutine.close(co) and coroutine.status(co) == 'dead')\n"
    "local ok, e = coroutine.resume(co) assert(not ok and e == 'cannot resume dead coroutine')\n"
    "local c, main = coroutine.running() assert(main and coroutine.status(c) == 'running')\n"
    "assert(not coroutine.isyieldable())\n"
    "coroutine.wrap(function() assert(coroutine.isyieldable() and not select(2, coroutine.running())) end)()\n"
    "local closed\n"
    "local pending = coroutine.create(function() local x <close> = setmetatable({}, {__close = function() closed = "
    "true "
    "end}) coroutine.yield() end)\n"
    "coroutine.resume(pending) coroutine.close(pending) assert(closed)\n"
    "local ok2, e2 = pcall(coroutine.wrap(function() error({1}) end)) assert(not ok2 and e2[1] == 1)\n"
    "return 'fine'", "fine");
}

static void bounds_coroutines_that_close_each_other(void **state) {
  (void)state;
  assert_script_returns(
    "local list = {}\n"
    "for i = 1, 5000 do list[i] = coroutine.create(function()\n"
    "  local x <close> = setmetatable({}, {__close = function() if list[i + 1] then coroutine.close(list[i + 1]) end "
    "end})\n"
    "  coroutine.yield() end) coroutine.resume(list[i]) end\n"
    "coroutine.close(list[1]) return 'alive'", "alive");
}

static void sleeps_ten_thousand_at_once(void **state) {
  (void)state;
  enum { COUNT = 10000 };
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  script *scripts = test_calloc(COUNT, sizeof *scripts);
  for (int i = 0; i < COUNT; i++) script_start(&scripts[i], &w, vm, "sleep(0.05) return 'up'");
  world_run(&w);
  for (int i = 0; i < COUNT; i++) assert_string_equal(scripts[i].line, "up");
  test_free(scripts);
  bq_vm_free(vm);
  world_close(&w);
}

static void a_full_pool_only_delays(void **state) {
  (void)state;
  enum { COUNT = 20 };
  world w;
  world_open(&w);
  bq_pool *narrow;
  bq_error err;
  assert_int_equal(bq_pool_new(&narrow, w.loop, "narrow", 1, 1, &err), 0);
  bq_vm_options options = world_options(&w);
  options.pool = narrow;
  bq_vm *vms[COUNT];
  script s[COUNT];
  for (int i = 0; i < COUNT; i++) {
    vms[i] = vm_with(&options);
    script_start(&s[i], &w, vms[i], "for _ = 1, 3 do for _ = 1, 1e5 do end sleep(0) end return 'through'");
  }
  world_run(&w);
  for (int i = 0; i < COUNT; i++) {
    assert_string_equal(s[i].line, "through");
    bq_vm_free(vms[i]);
  }
  bq_pool_free(narrow);
  world_close(&w);
}

static void kill_cancels_a_sleep(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  script s[3];
  script_start(&s[0], &w, vm, "pcall(sleep, 3600)\nreturn 'caught'");
  script_start(&s[1], &w, vm, "coroutine.wrap(function() pcall(pcall, sleep, 3600) end)() return 'caught'");
  script_start(&s[2], &w, vm, "return 'done'");
  int64_t began = bq_clock_mono_us();
  while (s[2].fiber != NULL || w.ticks < 3) {
    assert_int_equal(world_turn(&w), 0);
  }
  bq_vm_kill(vm, "cancelled by the customer");
  bq_vm_kill(vm, "a second reason");
  world_run(&w);
  assert_true(bq_clock_mono_us() - began < 10 * 1000000);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(s[i].end, BQ_END_KILLED);
    assert_string_equal(s[i].line, "scripts/pipelines/test.lua:1: cancelled by the customer");
  }
  assert_string_equal(bq_vm_kill_reason(vm), "cancelled by the customer");
  // Deferred functions run afterwards, with budgets of their own.
  bq_vm_unkill(vm);
  assert_null(bq_vm_kill_reason(vm));
  script_start(&s[2], &w, vm, "sleep(0.001) return 'tidied'");
  world_run(&w);
  assert_string_equal(s[2].line, "tidied");
  bq_vm_free(vm);
  world_close(&w);
}

static void kill_before_the_first_slice_runs_nothing(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  script s;
  script_start(&s, &w, vm, "return 'ran'");
  bq_fiber_kill(s.fiber, "not wanted");
  world_run(&w);
  assert_int_equal(s.end, BQ_END_KILLED);
  assert_string_equal(s.line, "not wanted");
  bq_vm_free(vm);
  world_close(&w);
}

static void free_releases_what_waits(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  script s[2];
  script_start(&s[0], &w, vm, "all{function() sleep(3600) end, function() sleep(3600) end}");
  script_start(&s[1], &w, vm, "while true do end");
  while (w.ticks < 5) assert_int_equal(world_turn(&w), 0);
  bq_vm_free(vm); // leaks and use after free are the sanitizer's to find
  while (bq_pool_pending(w.pool) > 0) assert_int_equal(world_turn(&w), 0);
  assert_int_equal(s[0].ended + s[1].ended, 0);
  world_close(&w);
}

static void note_coroutine(void *arg, bq_end end, lua_State *L) {
  lua_State **out = arg;
  assert_int_equal(end, BQ_END_RETURNED);
  *out = L;
}

// A handler on the loop; returns the coroutine that it ran in.
static lua_State *run_on_loop(bq_vm *vm, world *w, const char *text) {
  lua_State *coroutine = NULL;
  bq_fiber *fiber;
  bq_error err;
  push_script(bq_vm_state(vm), text);
  assert_int_equal(bq_fiber_start(&fiber, vm, bq_vm_state(vm), 0, note_coroutine, &coroutine, &err), 0);
  while (coroutine == NULL) assert_true(world_turn(w) >= 0);
  return coroutine;
}

static void coroutines_of_handlers_serve_others_unless_they_were_seen(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  options.pool = NULL;
  bq_vm *vm = vm_with(&options);
  lua_State *first = run_on_loop(vm, &w, "local t = {} return 1, 2, t");
  assert_ptr_equal(run_on_loop(vm, &w, "sleep(0.001) return select('#')"), first);
  assert_ptr_equal(run_on_loop(vm, &w, "return coroutine.running()"), first);
  assert_ptr_not_equal(run_on_loop(vm, &w, "return 1"), first);
  bq_vm_free(vm);
  world_close(&w);
}

// Many handlers become due in one turn of the loop. Each has its own share.
static void handlers_of_one_turn_have_budgets_of_their_own(void **state) {
  (void)state;
  enum { COUNT = 5 };
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  options.pool = NULL;
  bq_vm *vm = vm_with(&options);
  script s[COUNT];
  for (int i = 0; i < COUNT; i++) {
    script_start(&s[i], &w, vm, i % 2 == 0 ? "return 'done'" : "while true do end");
  }
  world_run(&w);
  for (int i = 0; i < COUNT; i++) assert_int_equal(s[i].end, i % 2 == 0 ? BQ_END_RETURNED : BQ_END_KILLED);
  assert_contains(s[1].line, "computed for more than 10 ms");
  bq_vm_free(vm);
  world_close(&w);
}

static void ends_scripts_without_a_watchdog_too(void **state) {
  (void)state;
  static const char *const texts[] = {
    "while true do end",
    "local c = coroutine.wrap(function() while true do end end) while true do pcall(c) end",
    "while true do coroutine.wrap(function() end)() end",
    "string.gsub('x', 'x', function() while true do end end)",
    "while true do string.find(('a'):rep(40), ('a?'):rep(40) .. ('a'):rep(40)) end",
    "table.sort({3, 1, 2}, function() while true do end end)",
  };
  struct rlimit before;
  assert_int_equal(getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const struct rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &none), 0); // no timer can be had
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  options.cpu_us = 100000;
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    script s;
    run_with(&s, &options, &w, texts[i]);
    if (s.end != BQ_END_KILLED) fail_msg("%s: %s", texts[i], s.line);
  }
  world_close(&w);
  assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &before), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(returns_values),
    cmocka_unit_test(tells_where_an_error_was),
    cmocka_unit_test(takes_error_values_of_any_type),
    cmocka_unit_test(waits_inside_pcall),
    cmocka_unit_test(waits_inside_coroutines_of_scripts),
    cmocka_unit_test(waits_inside_a_sort),
    cmocka_unit_test(refuses_to_wait_where_it_cannot),
    cmocka_unit_test(keeps_scripts_off_busy_coroutines),
    cmocka_unit_test(runs_coroutine_library_as_the_manual_says),
    cmocka_unit_test(bounds_coroutines_that_close_each_other),
    cmocka_unit_test(sleeps_ten_thousand_at_once),
    cmocka_unit_test(a_full_pool_only_delays),
    cmocka_unit_test(kill_cancels_a_sleep),
    cmocka_unit_test(kill_before_the_first_slice_runs_nothing),
    cmocka_unit_test(free_releases_what_waits),
    cmocka_unit_test(coroutines_of_handlers_serve_others_unless_they_were_seen),
    cmocka_unit_test(handlers_of_one_turn_have_budgets_of_their_own),
    cmocka_unit_test(ends_scripts_without_a_watchdog_too),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
