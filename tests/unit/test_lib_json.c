// The module json: nothing changes on its way through, and what JSON can't hold is refused with its place.
#include "lua_test.h"

#include <stdlib.h>

#include "base/json.h"

static void round_trips(void **state) {
  (void)state;
  assert_script_returns("return json.encode(json.decode('[]'))", "[]");
  assert_script_returns("return json.encode(json.decode('{}'))", "{}");
  assert_script_returns("return json.encode(json.decode('{\"a\":[],\"b\":{\"c\":[[]]}}'))",
                        "{\"a\":[],\"b\":{\"c\":[[]]}}");
  assert_script_returns("return "
                        "json.encode(json.decode('[9223372036854775807,-9223372036854775808,9007199254740993]'))",
                        "[9223372036854775807,-9223372036854775808,9007199254740993]");
  // Microseconds since 1970, as an integer and as a real; and text.
  assert_script_returns("local t = json.decode('[1795473377123456,1795473377.123456]') "
                        "assert(math.type(t[1]) == 'integer' and t[2] == 1795473377.123456) "
                        "return tostring(json.decode(json.encode(t))[2] == 1795473377.123456) .. json.encode(t[1])",
                        "true1795473377123456");
  assert_script_returns("return json.encode(json.decode('\"2026-11-23T21:36:17.123456Z\"'))",
                        "\"2026-11-23T21:36:17.123456Z\"");
  assert_script_returns("local t = json.decode('[null,true,0.1,3.0,\"\\\\u00e9\"]') assert(t[1] == json.null and "
                        "type(json.null) == 'userdata' and t[3] == 0.1 and math.type(t[4]) == 'float') "
                        "return json.encode(t)", "[null,true,0.1,3.0,\"\xc3\xa9\"]");
}

static void tells_arrays_from_objects(void **state) {
  (void)state;
  assert_script_returns("return json.encode{}", "{}");
  assert_script_returns("return json.encode(json.array())", "[]");
  assert_script_returns("return json.encode(json.array{1, 'x'})", "[1,\"x\"]");
  assert_script_returns("return json.encode{1, {2}, {b = 1, a = {}}}", "[1,[2],{\"a\":{},\"b\":1}]");
  assert_script_returns("local t = json.decode('[]') assert(json.is_array(t) and json.is_array{1} and not "
                        "json.is_array{} and not json.is_array{a = 1} and not json.is_array(1)) "
                        "return getmetatable(t).__jsontype", "array");
  assert_script_returns("local t = json.decode('[1]') t[2] = 5 return json.encode(t)", "[1,5]");
  assert_script_returns("return json.encode({a = {1}}, {indent = 2})", "{\n  \"a\": [\n    1\n  ]\n}");
  assert_script_fails("getmetatable(json.array()).__jsontype = 'x'",
                      "scripts/pipelines/test.lua:1: the array mark is read-only");
}

static void refuses_what_json_cannot_hold(void **state) {
  (void)state;
  static const char *const table[][2] = {
    {"0/0", "JSON can't hold NaN or an infinity"},
    {"{a = {1, 1/0}}", "a[2]: JSON can't hold NaN or an infinity"},
    {"'\\0'", "JSON can't hold a string with a NUL byte"},
    {"{x = '\\xff'}", "x: JSON can't hold a string that is not UTF-8"},
    {"{['\\xff'] = 1}", "JSON can't hold a key with a NUL byte, or one that is not UTF-8"},
    {"{['a\\0b'] = 1}", "JSON can't hold a key with a NUL byte, or one that is not UTF-8"},
    {"{[1.5] = 1}", "JSON can't hold a table with keys that are neither all strings nor 1 to n without a gap"},
    {"{1, 2, a = 3}", "JSON can't hold a table with keys that are neither all strings nor 1 to n without a gap"},
    {"{[3] = 1}", "JSON can't hold a table with keys that are neither all strings nor 1 to n without a gap"},
    {"json.array{a = 1}", "JSON can't hold an array with gaps or with other keys"},
    {"{f = print}", "f: JSON can't hold a function"},
    {"(function() local t = {} t.me = {t} return t end)()", "me[1]: JSON can't hold a table that contains itself"},
  };
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    char text[500];
    (void)snprintf(text, sizeof text, "local ok, e = pcall(json.encode, %s) assert(not ok and e.kind == 'invalid') "
                                      "return tostring(e)", table[i][0]);
    assert_script_returns(text, table[i][1]);
  }
}

static void refuses_bad_text(void **state) {
  (void)state;
  static const char *const texts[] = {
    "''", "'['", "'{\"a\":1,\"a\":2}'", "'NaN'", "'[1,]'", "'\"\\\\u0000\"'", "'\"\\xff\"'", "'1 2'", "'01'",
    "'9223372036854775808'", "'\"\\0\"'", "'1e999'", "('['):rep(65) .. (']'):rep(65)", "('['):rep(100000)",
    "('x'):rep(9000000)", "'[' .. ('0,'):rep(600000) .. '0]'",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    char text[300];
    (void)snprintf(text, sizeof text, "local v, e = json.decode(%s) assert(v == nil, v) return e:match('^line %%d+, "
                                      "column %%d+: ') and 'refused' or e", texts[i]);
    assert_script_returns(text, "refused");
  }
  assert_script_returns("local t = ('['):rep(64) .. (']'):rep(64) return tostring(json.encode(json.decode(t)) == t)",
                        "true");
}

// So much takes a good part of what a script may compute in one piece: on a slow machine that bound comes first, which is
// as good an end.
static void assert_bounded(const char *text, const char *expected) {
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  script s;
  run_with(&s, &options, &w, text);
  if (s.end == BQ_END_KILLED) assert_contains(s.line, "where it can't be interrupted");
  else assert_string_equal(s.line, expected);
  world_close(&w);
}

static void bounds_what_is_in_many_places(void **state) {
  (void)state;
  assert_bounded("local t = {1} for _ = 1, 40 do t = {t, t} end local _, e = pcall(json.encode, t) "
                 "return tostring(e):match('JSON.*')", "JSON can't hold more than 500000 values");
  assert_bounded("local s, t = ('x'):rep(1 << 20), {} for i = 1, 100 do t[i] = s end "
                 "return tostring(select(2, pcall(json.encode, t)))",
                 "[65]: JSON can't hold more than 64 MiB of strings");
}

static void crosses_from_c(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  lua_State *L = bq_vm_state(vm);
  bq_error err;
  json_t *in, *out;
  const char *text = "{\"list\":[],\"big\":-9223372036854775808,\"at\":1795473377123456,\"none\":null}";
  assert_int_equal(bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &in, &err), 0);
  bq_lua_push_json(L, in);
  assert_int_equal(bq_lua_to_json(L, -1, &out, &err), 0);
  assert_true(json_equal(in, out));
  assert_int_equal(lua_gettop(L), 1);
  json_decref(in);
  json_decref(out);
  lua_pushcfunction(L, bq_lua_sha256);
  assert_int_equal(bq_lua_to_json(L, -1, &out, &err), BQ_EINVAL);
  assert_string_equal(err.message, "JSON can't hold a function");
  assert_null(out);
  bq_vm_free(vm);
  world_close(&w);
}

static int calls_left;
static void *allocate_later(size_t size) {
  return calls_left-- > 0 ? malloc(size) : NULL;
}

// A value that there is no memory for is not a value that JSON can't hold.
static void memory_can_run_out(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  lua_State *L = bq_vm_state(vm);
  bq_error err;
  json_t *in, *out;
  static const char text[] = "{\"list\":[1,2.5,\"text\",{\"deep\":[true,null,\"more\"]}]}";
  assert_int_equal(bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &in, &err), 0);
  bq_lua_push_json(L, in);
  int result = BQ_ENOMEM;
  int fails = 0;
  for (; result < 0; fails++) {
    calls_left = fails;
    json_set_alloc_funcs(allocate_later, free);
    result = bq_lua_to_json(L, -1, &out, &err);
    json_set_alloc_funcs(malloc, free);
    if (result < 0) assert_int_equal(result, BQ_ENOMEM);
  }
  assert_true(fails > 10);
  assert_true(json_equal(in, out));
  json_decref(in);
  json_decref(out);
  bq_vm_free(vm);
  world_close(&w);
}

static void hashes(void **state) {
  (void)state;
  assert_script_returns("return sha256('abc')", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  assert_script_returns("return sha256('')", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(round_trips),
    cmocka_unit_test(tells_arrays_from_objects),
    cmocka_unit_test(refuses_what_json_cannot_hold),
    cmocka_unit_test(refuses_bad_text),
    cmocka_unit_test(bounds_what_is_in_many_places),
    cmocka_unit_test(crosses_from_c),
    cmocka_unit_test(memory_can_run_out),
    cmocka_unit_test(hashes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
