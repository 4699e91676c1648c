// all(): results in order, a bound on what runs at once, and one failure that ends the rest.
#include "lua_test.h"

static void gives_results_in_order(void **state) {
  (void)state;
  assert_script_returns("local r = all{function() sleep(0.02) return 'a' end, function() return 'b', 'lost' end, "
                        "function() sleep(0.01) return 'c' end} return #r .. r[1] .. r[2] .. r[3]", "3abc");
  assert_script_returns("return #all({})", "0");
  assert_script_returns("local r = all{function() end, function() return 2 end} return tostring(r[1]) .. r[2]", "nil2");
}

static void runs_side_by_side(void **state) {
  (void)state;
  int64_t began = bq_clock_mono_us();
  assert_script_returns("local fns = {} for i = 1, 200 do fns[i] = function() sleep(0.2) return i end end "
                        "local sum = 0 for _, n in ipairs(all(fns)) do sum = sum + n end return sum", "20100");
  assert_true(bq_clock_mono_us() - began < 10 * 1000000); // 40 s one after the other
}

static void keeps_to_the_limit(void **state) {
  (void)state;
  assert_script_returns("local now, most, fns = 0, 0, {} for i = 1, 12 do fns[i] = function() now = now + 1 "
                        "most = math.max(most, now) sleep(0.002) now = now - 1 end end all(fns, {limit = 3}) "
                        "return most", "3");
}

static void the_first_error_ends_the_rest(void **state) {
  (void)state;
  int64_t began = bq_clock_mono_us();
  script s;
  run(&s, "local ended, started = 0, 0\n"
          "local ok, e = pcall(all, {\n"
          "  function() local x <close> = setmetatable({}, {__close = function() ended = ended + 1 end}) sleep(600) "
          "end,\n"
          "  function() sleep(0.01) error({message = 'no compiler'}) end,\n"
          "  function() while true do pcall(sleep, 600) end end,\n"
          "  function() started = started + 1 end}, {limit = 3})\n"
          "assert(not ok and ended == 1 and started == 0)\n"
          "error(e)");
  assert_string_equal(s.line, "scripts/pipelines/test.lua:8: no compiler");
  assert_int_equal(s.end, BQ_END_ERROR);
  assert_true(bq_clock_mono_us() - began < 10 * 1000000);
}

static void nests(void **state) {
  (void)state;
  assert_script_returns("local function pair(n) if n == 0 then return 1 end local r = all{function() return pair(n - "
                        "1) "
                        "end, function() sleep(0.001) return pair(n - 1) end} return r[1] + r[2] end return pair(5)",
                        "32");
  // Inside a coroutine of the script's, too.
  assert_script_returns("return coroutine.wrap(function() local r = all{function() sleep(0.001) return 5 end} "
                        "return r[1] end)()", "5");
}

static void a_kill_reaches_the_children(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  script whole, one;
  script_start(&whole, &w, vm, "all{function() sleep(600) end, function() all{function() pcall(sleep, 600) end} end}");
  script_start(&one, &w, vm, "all{function() sleep(600) end}");
  while (w.ticks < 4) assert_true(world_turn(&w) == 0);
  bq_fiber_kill(one.fiber, "this one");
  while (one.fiber != NULL) assert_true(world_turn(&w) == 0);
  assert_non_null(whole.fiber);
  assert_int_equal(one.end, BQ_END_KILLED);
  assert_string_equal(one.line, "scripts/pipelines/test.lua:1: this one");
  bq_vm_kill(vm, "all of them");
  world_run(&w);
  assert_int_equal(whole.end, BQ_END_KILLED);
  assert_contains(whole.line, "all of them");
  bq_vm_free(vm);
  world_close(&w);
}

static void refuses_wrong_arguments(void **state) {
  (void)state;
  assert_script_fails("all({1})", "scripts/pipelines/test.lua:1: bad argument #1 to 'all' (a function expected at "
                      "index "
                                  "1, got number)");
  assert_script_fails("all({print}, {limit = 0})",
                      "scripts/pipelines/test.lua:1: bad argument #2 to 'all' (limit: 1 to 1000)");
  assert_script_fails("local t = {} for i = 1, 1001 do t[i] = print end all(t)",
                      "scripts/pipelines/test.lua:1: bad argument #1 to 'all' (more than 1000 functions)");
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(gives_results_in_order),
    cmocka_unit_test(runs_side_by_side),
    cmocka_unit_test(keeps_to_the_limit),
    cmocka_unit_test(the_first_error_ends_the_rest),
    cmocka_unit_test(nests),
    cmocka_unit_test(a_kill_reaches_the_children),
    cmocka_unit_test(refuses_wrong_arguments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
