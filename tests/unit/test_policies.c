// Policies: what is active, what a hook may do, and what becomes of one that fails.
#include "lua/policies.h"

#include "script_test.h"

static const bq_lua_module no_modules[] = {{NULL, NULL}};

static bq_policies_options options_of(bench *b) {
  return (bq_policies_options){.loop = b->w.loop,
                               .services = &b->services,
                               .memory_bytes = BQ_POLICY_MEMORY_BYTES,
                               .call_us = BQ_POLICY_CALL_US};
}

static bq_policies *open_files(bench *b, const char *const (*files)[2]) {
  bq_policies *policies;
  bq_error err;
  bench_open(b, no_modules, files);
  const bq_policies_options options = options_of(b);
  if (bq_policies_new(&policies, &options, b->generation, &err) < 0) fail_msg("%s", err.message);
  return policies;
}

// One file p.lua, active for `priority`, whose hook is `body`.
static bq_policies *open_hook(bench *b, const char *body) {
  static char text[2000];
  (void)snprintf(text, sizeof text, "return {priority = function(build, facts) %s end}", body);
  const char *const files[][2] = {{"scripts/policies/active.lua", "return {priority = 'p'}"},
                                  {"scripts/policies/p.lua", text},
                                  {NULL, NULL}};
  return open_files(b, files);
}

static void close_all(bench *b, bq_policies *policies) {
  bq_policies_free(policies);
  bench_close(b);
}

static json_t *ask(bq_policies *policies, bq_error *err) {
  json_t *build = json_pack("{s:s, s:I}", "id", "a", "enqueuedAt", (json_int_t)9007199254740993);
  json_t *facts = json_object();
  const json_t *const args[] = {build, facts};
  json_t *result;
  if (bq_policies_call(policies, BQ_HOOK_PRIORITY, args, 2, &result, err) < 0) assert_null(result);
  json_decref(build);
  json_decref(facts);
  return result;
}

static void asks_the_active_file(void **state) {
  (void)state;
  static const char *const files[][2] = {
      {"scripts/policies/active.lua", "return {priority = 'two', retry = 'two'}"},
      {"scripts/policies/one.lua", "return {priority = function() return 1 end}"},
      {"scripts/policies/two.lua", "local word = require 'word'\n"
                                   "return {facts = {priority = {'customer'}},\n"
                                   "priority = function(b) return {key = b.enqueuedAt, reason = word} end,\n"
                                   "retry = function() end}"},
      {"scripts/lib/word.lua", "return 'because'"},
      {NULL, NULL}};
  bench b;
  bq_error err;
  bq_policies *policies = open_files(&b, files);
  assert_string_equal(bq_policies_file(policies, BQ_HOOK_PRIORITY), "two");
  assert_null(bq_policies_file(policies, BQ_HOOK_ADMISSION));
  assert_true(bq_policies_wants(policies, BQ_HOOK_PRIORITY, "customer"));
  assert_false(bq_policies_wants(policies, BQ_HOOK_PRIORITY, "queue"));
  assert_false(bq_policies_wants(policies, BQ_HOOK_RETRY, "customer"));
  json_t *answer = ask(policies, &err);
  assert_non_null(answer);
  assert_int_equal(json_integer_value(json_object_get(answer, "key")), 9007199254740993);
  assert_string_equal(json_string_value(json_object_get(answer, "reason")), "because");
  json_decref(answer);
  json_t *nothing;
  assert_int_equal(bq_policies_call(policies, BQ_HOOK_RETRY, NULL, 0, &nothing, &err), 0);
  assert_true(json_is_null(nothing));
  assert_int_equal(bq_policies_call(policies, BQ_HOOK_ADMISSION, NULL, 0, &nothing, &err), BQ_ENOTFOUND);
  close_all(&b, policies);
}

static void none_is_active_without_a_list(void **state) {
  (void)state;
  static const char *const files[][2] = {{"scripts/policies/one.lua", "return {priority = function() end}"}, {NULL, NULL}};
  bench b;
  bq_policies *policies = open_files(&b, files);
  for (int i = 0; i < BQ_HOOK_COUNT; i++) assert_null(bq_policies_file(policies, (bq_hook)i));
  close_all(&b, policies);
}

static void an_override_wins(void **state) {
  (void)state;
  static const char *const files[][2] = {{"scripts/policies/active.lua", "return {priority = 'one'}"},
                                         {"scripts/policies/one.lua", "return {priority = function() return 1 end}"},
                                         {"scripts/policies/new.lua", "return {priority = function() return 2 end}"},
                                         {NULL, NULL}};
  bench b;
  bq_policies *policies;
  bq_error err;
  bench_open(&b, no_modules, files);
  bq_policies_options options = options_of(&b);
  options.files[BQ_HOOK_PRIORITY] = "new";
  assert_int_equal(bq_policies_new(&policies, &options, b.generation, &err), 0);
  json_t *answer = ask(policies, &err);
  assert_int_equal(json_integer_value(answer), 2);
  json_decref(answer);
  close_all(&b, policies);
}

static void names_what_is_wrong(void **state) {
  (void)state;
  static const struct {
    const char *active;
    const char *file; // p.lua
    const char *fault;
  } rows[] = {
      {"return 1", "return {}", "scripts/policies/active.lua: must return a table"},
      {"return {priorty = 'p'}", "return {}", "there is no hook priorty: did you mean priority"},
      {"return {priority = 3}", "return {}", "priority must be the name of a file, it is number"},
      {"return {priority = '../p'}", "return {}", "a name has lower-case letters"},
      {"return {priority = 'q'}", "return {}", "priority names q, there is no scripts/policies/q.lua"},
      {"return {priority = 'p'}", "return 7", "scripts/policies/p.lua: must return a table of hooks, it returns number"},
      {"return {priority = 'p'}", "return {retry = print}", "p is active for priority, and has no function"},
      {"return {priority = 'p'}", "error('no')", "scripts/policies/p.lua:1: no"},
      {"return {priority = 'p'}", "while true do end", "where it can't be interrupted"},
      {"return {priority = 'p'}", "return {priority = print, facts = {priority = 'customer'}}", "facts.priority must be a list"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const char *const files[][2] = {{"scripts/policies/active.lua", rows[i].active},
                                    {"scripts/policies/p.lua", rows[i].file},
                                    {NULL, NULL}};
    bench b;
    bq_policies *policies;
    bq_error err;
    bench_open(&b, no_modules, files);
    const bq_policies_options options = options_of(&b);
    assert_int_equal(bq_policies_new(&policies, &options, b.generation, &err), BQ_ESCRIPT);
    assert_contains(err.message, rows[i].fault);
    bench_close(&b);
  }
}

static void a_hook_is_pure(void **state) {
  (void)state;
  static const struct {
    const char *body;
    const char *fault; // NULL: it returns true
  } rows[] = {
      {"return os.time()", "say which time"},
      {"return os.date('%H')", "say which time"},
      {"return os.date('!%H', 7200) == '02' and os.time{year = 2026, month = 1, day = 1} > 0", NULL},
      {"return math.random()", "math.random is not one"},
      {"return math.floor(2.5) == 2 and math.maxinteger > 0", NULL},
      {"return os.clock", "returned nil"},
      {"math = nil return math.random()", "math.random is not one"}, // what comes back is as pure
      {"os = nil return os.clock", "returned nil"},
      {"return require('buildq').db", "returned nil"},
      {"return require('buildq').json.decode('[1]')[1] == 1", NULL},
      {"string.format = nil", "string"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    bench b;
    bq_error err = {0};
    bq_policies *policies = open_hook(&b, rows[i].body);
    json_t *answer = ask(policies, &err);
    if (rows[i].fault == NULL && !json_is_true(answer)) fail_msg("%s: %s", rows[i].body, err.message);
    if (rows[i].fault != NULL && answer == NULL) assert_contains(err.message, rows[i].fault);
    if (rows[i].fault != NULL && answer != NULL && !json_is_null(answer)) fail_msg("%s went through", rows[i].body);
    json_decref(answer);
    close_all(&b, policies);
  }
}

// Each is ended, in time, and the next call works again.
static void a_hook_that_overruns_is_ended(void **state) {
  (void)state;
  static const char *const bodies[] = {
      "if facts.bad == nil and build.id == 'a' then while true do end end",
      "while true do pcall(function() while true do end end) end",
      "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
      "return (('a'):rep(40)):find(('a?'):rep(40) .. ('a'):rep(40) .. 'b')",
      "local c <close> = setmetatable({}, {__close = function() while true do end end})",
      "coroutine.wrap(function() while true do end end)()",
      "local function f() return f() + 1 end return f()",
  };
  for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
    bench b;
    bq_error err = {0};
    bq_policies *policies = open_hook(&b, bodies[i]);
    int64_t before = bq_clock_mono_us();
    for (int round = 0; round < 2; round++) {
      json_t *answer = ask(policies, &err);
      if (answer != NULL) fail_msg("%s went through", bodies[i]);
      assert_int_equal(err.code, BQ_ESCRIPT);
    }
    assert_true(bq_clock_mono_us() - before < 20 * 1000000ll); // against looping for ever, not a timing
    close_all(&b, policies);
  }
}

static void an_answer_that_is_no_json_is_an_error(void **state) {
  (void)state;
  bench b;
  bq_error err;
  bq_policies *policies = open_hook(&b, "return {key = print}");
  assert_null(ask(policies, &err));
  assert_contains(err.message, "scripts/policies/p.lua: what priority returns");
  close_all(&b, policies);
}

// The name changes with the file and with what it requires, and with nothing else.
static void a_fingerprint_names_what_decides(void **state) {
  (void)state;
  static const char active[] = "return {priority = 'p', retry = 'strict'}";
  static const char p[] = "local l = require 'a.lib' return {priority = function() return l end}";
  static const char strict[] = "return {priority = print, retry = print}";
  const char *const same[][2] = {{"scripts/policies/active.lua", active}, {"scripts/policies/p.lua", p},
                                 {"scripts/policies/strict.lua", strict}, {"scripts/lib/a/lib.lua", "return {1}"},
                                 {"scripts/lib/other.lua", "return 1"},   {NULL, NULL}};
  const char *const other[][2] = {{"scripts/policies/active.lua", active}, {"scripts/policies/p.lua", p},
                                  {"scripts/policies/strict.lua", strict}, {"scripts/lib/a/lib.lua", "return {1}"},
                                  {"scripts/lib/other.lua", "return 2"},   {NULL, NULL}};
  const char *const changed[][2] = {{"scripts/policies/active.lua", active}, {"scripts/policies/p.lua", p},
                                    {"scripts/policies/strict.lua", strict}, {"scripts/lib/a/lib.lua", "return {2}"},
                                    {NULL, NULL}};
  const char *const builtin[][2] = {{"scripts/policies/active.lua", "return {priority = 'strict'}"},
                                    {"scripts/policies/strict.lua", strict}, {NULL, NULL}};
  char names[4][BQ_FINGERPRINT_SIZE];
  const char *const(*const sets[4])[2] = {same, other, changed, builtin};
  for (int i = 0; i < 4; i++) {
    bench b;
    bq_policies *policies = open_files(&b, sets[i]);
    (void)snprintf(names[i], sizeof names[i], "%s", bq_policies_fingerprint(policies, BQ_HOOK_PRIORITY));
    close_all(&b, policies);
  }
  assert_int_equal(strlen(names[0]), BQ_FINGERPRINT_SIZE - 1);
  assert_string_equal(names[0], names[1]);
  assert_string_not_equal(names[0], names[2]);
  assert_string_equal(names[3], "");
  assert_string_equal(bq_policies_fingerprint(NULL, BQ_HOOK_PRIORITY), "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(asks_the_active_file),
      cmocka_unit_test(none_is_active_without_a_list),
      cmocka_unit_test(an_override_wins),
      cmocka_unit_test(names_what_is_wrong),
      cmocka_unit_test(a_hook_is_pure),
      cmocka_unit_test(a_hook_that_overruns_is_ended),
      cmocka_unit_test(a_fingerprint_names_what_decides),
      cmocka_unit_test(an_answer_that_is_no_json_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
