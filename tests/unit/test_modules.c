// require: what scripts reach, once for each vm, and nothing of another's.
#include "script_test.h"

static int open_answer(lua_State *L) {
  lua_newtable(L);
  lua_pushinteger(L, 42);
  lua_setfield(L, -2, "value");
  return 1;
}

static int answer(lua_State *L) {
  lua_pushinteger(L, 43);
  return 1;
}

static int open_function(lua_State *L) {
  lua_pushcfunction(L, answer);
  return 1;
}

static const bq_lua_module modules[] = {{"answer", open_answer}, {"ask", open_function}, {NULL, NULL}};

static const char *const files[][2] = {
    {"scripts/lib/counter.lua", "local n = 0 return {next = function() n = n + 1 return n end, name = ...}"},
    {"scripts/lib/deep/inner.lua", "return {counter = require 'counter'}"},
    {"scripts/lib/nothing.lua", "shared = 'set'"},
    {"scripts/lib/one.lua", "return require 'two'"},
    {"scripts/lib/two.lua", "return require 'one'"},
    {"scripts/lib/broken.lua", "local x = nil\nreturn x.y"},
    {"scripts/lib/waits.lua", "return {coroutine.wrap(function() coroutine.yield(1) end)()}"},
    {NULL, NULL}};

static int setup(void **state) {
  bench *b = bq_alloc(sizeof *b);
  bench_open(b, modules, files);
  *state = b;
  return 0;
}

static int teardown(void **state) {
  bench_close(*state);
  bq_free(*state);
  return 0;
}

static void gives_buildq(void **state) {
  assert_bench_returns(*state, "local q = require 'buildq' return q.answer.value + q.ask() .. tostring(q.none)",
                       "85nil");
  assert_bench_returns(*state, "return tostring(rawequal(require 'buildq', require 'buildq'))", "true");
}

static void gives_libraries_once(void **state) {
  assert_bench_returns(*state, "local c = require 'counter' c.next() return c.name "
                               ".. require('deep.inner').counter.next()",
                       "counter2");
  assert_bench_returns(*state, "return tostring(require 'nothing') .. tostring(require 'nothing') .. shared",
                       "truetrueset");
}

static void expect_fault(bench *b, const char *text, const char *part) {
  script s;
  bench_run(&s, b, text);
  assert_int_equal(s.end, BQ_END_ERROR);
  assert_contains(s.line, part);
}

static void says_what_cannot_be_required(void **state) {
  expect_fault(*state, "require 'none'", "there is no module none: neither buildq nor scripts/lib/none.lua");
  expect_fault(*state, "require 'one'", "the module one requires itself");
  expect_fault(*state, "require 'broken'", "scripts/lib/broken.lua:2: ");
  static const char *const names[] = {"", "../pipelines/x", "a..b", ".a", "a.", "a/b", "/etc/passwd", "a\\0b"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char *text = bq_format("require '%s'", names[i]);
    script s;
    bench_run(&s, *state, text);
    assert_int_equal(s.end, BQ_END_ERROR);
    bq_free(text);
  }
}

static void locks_its_modules(void **state) {
  expect_fault(*state, "require('buildq').answer = nil", "buildq");
  expect_fault(*state, "require('buildq').answer.value = 1", "answer");
  expect_fault(*state, "string.rep = nil", "string");
  assert_bench_returns(*state, "return tostring(pcall(rawset, require('buildq').answer, 'value', 1)) "
                               ".. require('buildq').answer.value", "false42");
}

static void keeps_vms_apart(void **state) {
  bench *b = *state;
  script s[2];
  bq_vm *vm[2] = {bench_vm(b), bench_vm(b)};
  for (int i = 0; i < 2; i++) {
    bench_start(&s[i], b, vm[i],
                "local before = tostring(global) global = 1 return before .. require('counter').next()");
  }
  world_run(&b->w);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(s[i].end, BQ_END_RETURNED);
    assert_string_equal(s[i].line, "nil1");
    bq_vm_free(vm[i]);
  }
}

static void holds_its_generation(void **state) {
  bench *b = *state;
  bq_generation_set *set;
  bq_error err;
  assert_int_equal(bq_generation_set_new(&set, &err), 0);
  bq_generation_set_add(set, b->generation);
  bq_vm *vm = bench_vm(b);
  bq_generation *old = b->generation;
  b->generation = bench_generation(NULL);
  bq_generation_release(old);
  assert_int_equal(bq_generation_set_count(set), 1);
  script s;
  bench_start(&s, b, vm, "return require('counter').next()");
  world_run(&b->w);
  assert_string_equal(s.line, "1");
  bq_vm_free(vm);
  assert_int_equal(bq_generation_set_count(set), 0);
  bq_generation_set_free(set);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(gives_buildq, setup, teardown),
      cmocka_unit_test_setup_teardown(gives_libraries_once, setup, teardown),
      cmocka_unit_test_setup_teardown(says_what_cannot_be_required, setup, teardown),
      cmocka_unit_test_setup_teardown(locks_its_modules, setup, teardown),
      cmocka_unit_test_setup_teardown(keeps_vms_apart, setup, teardown),
      cmocka_unit_test_setup_teardown(holds_its_generation, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
