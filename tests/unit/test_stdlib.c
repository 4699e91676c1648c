// The standard library of scripts: what is there, what isn't, what is locked, what is bounded.
#include "lua_test.h"

#include <lualib.h>

#include "base/file.h"
#include "base/memory.h"

static void has_no_way_out(void **state) {
  (void)state;
  assert_script_returns("return tostring(io) .. tostring(debug) .. tostring(package) .. tostring(dofile) .. "
                        "tostring(loadfile) .. tostring(require) .. tostring(os.execute) .. tostring(os.getenv) .. "
                        "tostring(os.exit) .. tostring(string.dump) .. tostring(warn)",
                        "nilnilnilnilnilnilnilnilnilnilnil");
  assert_script_returns("return type(os.time()) .. type(os.date()) .. type(os.clock()) .. os.difftime(2, 1)",
                        "numberstringnumber1.0");
}

// Adds the backticked words of the rows between the two marks of the README: " table.name name …", sorted.
static const char readme_reader[] =
  "local text, words = ..., {} "
  "local list = assert(text:match('<!%-%- library.-%-%->(.-)<!%-%- end of library')) "
  "for name, row in list:gmatch('%c| (%g*) ?| (`[^%c]*)') do "
  "  local prefix = name:match('`(.-)`') if prefix then words[#words + 1] = prefix end "
  "  for word in row:gmatch('`(.-)`') do words[#words + 1] = prefix and prefix .. '.' .. word or word end "
  "end table.sort(words) return table.concat(words, ' ')";

// The names in the table that environments inherit, and in its tables behind their locks.
static const char library_reader[] =
  "local base, words = ..., {} "
  "for name, value in pairs(base) do words[#words + 1] = name "
  "  local real = type(value) == 'table' and assert(debug.getmetatable(value).__index, name) "
  "  for inner in pairs(real or {}) do words[#words + 1] = name .. '.' .. inner end "
  "end table.sort(words) return table.concat(words, ' ')";

static const char *run_reader(lua_State *L, const char *reader, int argument) {
  argument = lua_absindex(L, argument);
  int status = luaL_loadstring(L, reader);
  lua_pushvalue(L, argument);
  if (status != LUA_OK || lua_pcall(L, 1, 1, 0) != LUA_OK) fail_msg("%s", lua_tostring(L, status != LUA_OK ? -2 : -1));
  return lua_tostring(L, -1);
}

static void is_exactly_what_the_readme_lists(void **state) {
  (void)state;
  world w;
  char *text;
  size_t length;
  bq_error err;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  lua_State *L = bq_vm_state(vm);
  luaL_openlibs(L); // for the readers: what scripts inherit is another table
  if (bq_file_read("scripts/README.md", 1 << 20, &text, &length, &err) < 0) fail_msg("%s", err.message);
  lua_pushlstring(L, text, length);
  bq_free(text);
  const char *listed = run_reader(L, readme_reader, -1);
  bq_vm_new_env(L);
  assert_true(lua_getmetatable(L, -1));
  lua_getfield(L, -1, "__index");
  assert_string_equal(run_reader(L, library_reader, -1), listed);
  bq_vm_free(vm);
  world_close(&w);
}

static void loads_text_only(void **state) {
  (void)state;
  assert_script_returns("local f, e = load('\\27Lua') return tostring(f) .. e",
                        "nilattempt to load a binary chunk (mode is 't')");
  assert_script_fails("load('return 1', 'x', 'b')",
                      "scripts/pipelines/test.lua:1: load takes text only: bytecode can't be checked");
  assert_script_returns("x = 5 return load('return x')()", "5");
  assert_script_returns("x = 5 return tostring(load('return x', 'n', 't', {})())", "nil");
  assert_script_returns("local n = 0 return load(function() n = n + 1 return ({'return ', '7'})[n] end)()", "7");
  assert_script_returns("local f, e = load('return +') return e", "[string \"return +\"]:1: unexpected symbol near "
                        "'+'");
  assert_script_returns("load('y = 3')() return y", "3");
  assert_script_fails("load((' '):rep(1 << 21))", "scripts/pipelines/test.lua:1: a chunk of more than 1 MiB");
  assert_script_returns("return select(2, load(function() return (' '):rep(1000) end))",
                        "scripts/pipelines/test.lua:1: a chunk of more than 1 MiB");
}

static void has_no_gc(void **state) {
  (void)state;
  assert_script_fails("setmetatable({}, {__gc = function() end})",
                      "scripts/pipelines/test.lua:1: __gc is not available: use a <close> variable");
  // Set afterwards it has no effect (the manual says so), and the state's end does not run it either.
  assert_script_returns("local m = {} do local t = setmetatable({}, m) m.__gc = function() error('ran') end end "
                        "for _ = 1, 1e5 do local _ = {} end return 'quiet'", "quiet");
  assert_script_returns("return tostring(getmetatable(setmetatable({}, {__metatable = 'mine'})))", "mine");
  assert_script_fails("setmetatable(setmetatable({}, {__metatable = 1}), nil)",
                      "scripts/pipelines/test.lua:1: cannot change a protected metatable");
}

static void is_locked(void **state) {
  (void)state;
  assert_script_fails("string.format = print", "scripts/pipelines/test.lua:1: string is read-only");
  assert_script_fails("table.extra = 1", "scripts/pipelines/test.lua:1: table is read-only");
  assert_script_fails("rawset(string, 'format', 1)", "scripts/pipelines/test.lua:1: this table is read-only");
  assert_script_fails("setmetatable(string, {})", "scripts/pipelines/test.lua:1: cannot change a protected metatable");
  assert_script_returns("return tostring(getmetatable('')) .. tostring(getmetatable(math)) .. "
                        "tostring(getmetatable(_G))", "lockedlockedlocked");
  assert_script_returns("local n = 0 for k, v in pairs(string) do assert(type(v) == 'function') n = n + 1 end "
                        "return tostring(n > 10)", "true");
  // Neither pairs nor next hand out the table behind the lock.
  assert_script_returns("local f, s = pairs(string) return tostring(rawequal(s, string)) .. tostring(next(string))",
                        "truenil");
}

static void environments_share_nothing(void **state) {
  (void)state;
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  bq_vm *vm = vm_with(&options);
  script s;
  script_start(&s, &w, vm, "string = false leaked = 1 _G.print = 7 return tostring(string) .. tostring(_G.leaked)");
  world_run(&w);
  assert_string_equal(s.line, "false1");
  script_start(&s, &w, vm, "return type(string) .. tostring(leaked) .. type(print) .. ('x'):rep(2)");
  world_run(&w);
  assert_string_equal(s.line, "tablenilfunctionxx");
  bq_vm_free(vm);
  world_close(&w);
}

static void note_print(void *owner, const char *text, size_t length) {
  char *out = owner;
  assert_int_equal(strlen(text), length);
  (void)snprintf(out, 100, "%s", text);
}

static int fake_require(lua_State *L) {
  lua_pushfstring(L, "module %s", luaL_checkstring(L, 1));
  return 1;
}

static void prints_and_requires_through_its_owner(void **state) {
  (void)state;
  char printed[100] = "";
  world w;
  world_open(&w);
  bq_vm_options options = world_options(&w);
  options.owner = printed;
  bq_vm *vm = vm_with(&options);
  bq_vm_set_print(vm, note_print);
  bq_vm_set_require(vm, fake_require);
  script s;
  script_start(&s, &w, vm, "print('a', 1, nil, true) return require 'x'");
  world_run(&w);
  assert_string_equal(printed, "a\t1\tnil\ttrue");
  assert_string_equal(s.line, "module x");
  bq_vm_free(vm);
  world_close(&w);
}

static void random_differs_between_vms(void **state) {
  (void)state;
  script a, b;
  run(&a, "return math.random(0)");
  run(&b, "return math.random(0)");
  assert_string_not_equal(a.line, b.line);
}

static void bounds_counts(void **state) {
  (void)state;
  static const char *const texts[] = {
    "table.concat({}, '', 1, 1 << 40)",
    "table.concat(setmetatable({}, {__len = function() return 1 << 50 end, __index = function() return '' end}))",
    "table.move({}, 1, 1 << 40, 2)",
    "table.move({}, math.mininteger, math.maxinteger, 2)",
    "table.unpack({}, 1, 1 << 40)",
    "table.insert(setmetatable({}, {__len = function() return 1 << 50 end}), 1, 1)",
    "table.remove(setmetatable({}, {__len = function() return 1 << 50 end}), 1)",
    "table.sort(setmetatable({}, {__len = function() return 1 << 30 end}))",
    "('x'):rep(1 << 62)",
    "('x'):rep(1 << 40)",
    "collectgarbage('step')",
  };
  int64_t began = bq_clock_mono_us();
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    script s;
    run(&s, texts[i]);
    if (s.end != BQ_END_ERROR) fail_msg("%s: %s", texts[i], s.line);
  }
  assert_script_returns("return (''):rep(1 << 62)", "");
  assert_true(bq_clock_mono_us() - began < 5 * 1000000);
}

static void table_functions_do_what_the_manual_says(void **state) {
  (void)state;
  assert_script_returns("local t = {1, 2, 3} table.insert(t, 4) table.insert(t, 1, 0) return table.concat(t, ',')",
                        "0,1,2,3,4");
  assert_script_returns("local t = {1, 2, 3} local a, b = table.remove(t), table.remove(t, 1) "
                        "return a .. b .. table.concat(t)", "312");
  assert_script_returns("local t = {} return tostring(table.remove(t)) .. #t", "nil0");
  assert_script_returns("local t = {n = 1} table.remove(t, #t + 1) return table.concat({'a', 'b', 'c'}, '-', 2, 3)",
                        "b-c");
  assert_script_returns("local t = table.move({1, 2, 3}, 1, 3, 2) return table.concat(t, ',')", "1,1,2,3");
  assert_script_returns("local t = table.move({1, 2, 3}, 2, 3, 1) return table.concat(t, ',')", "2,3,3");
  assert_script_returns("local t = table.move({1, 2}, 1, 2, 3, {9, 9}) return table.concat(t, ',')", "9,9,1,2");
  assert_script_returns("local a, b, c = table.unpack({1, 2, 3}, 2) return a .. b .. tostring(c)", "23nil");
  assert_script_returns("return select('#', table.unpack({}, 1, 3)) .. select('#', table.unpack({}, 3, 1))", "30");
  assert_script_returns("local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return table.concat(t)",
                        "321");
  assert_script_fails("table.concat({1, {}, 3})",
                      "scripts/pipelines/test.lua:1: invalid value (table) at index 2 in table for 'concat'");
  assert_script_fails("table.insert({}, 3, 1)",
                      "scripts/pipelines/test.lua:1: bad argument #2 to 'insert' (position out of bounds)");
  assert_script_returns("for n = 1, 40 do local t = {} for i = 1, n do t[i] = 'abc' end for _, sep in ipairs{'', '-', "
                        "', '} do assert(('abc'):rep(n, sep) == table.concat(t, sep)) end end "
                        "return (''):rep(3, '+') .. ('x'):rep(1, '-')", "++x");
  assert_script_returns("return ('ab'):rep(3, '-') .. ('x'):rep(0) .. ('y'):rep(-1)", "ab-ab-ab");
}

static void pcall_does_what_the_manual_says(void **state) {
  (void)state;
  assert_script_returns("local t = table.pack(pcall(function(...) return ... end, 1, nil, 3)) return t.n .. "
                        "t[4]", "43");
  assert_script_returns("local ok, e = xpcall(function(a, b) error(a + b, 0) end, function(e) return e * 2 end, 1, 2) "
                        "return tostring(ok) .. e", "false6");
  assert_script_returns("return select('#', pcall(error))", "2");
  assert_script_returns("return select(2, xpcall(function() return 5 end, print))", "5");
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(has_no_way_out),
    cmocka_unit_test(is_exactly_what_the_readme_lists),
    cmocka_unit_test(loads_text_only),
    cmocka_unit_test(has_no_gc),
    cmocka_unit_test(is_locked),
    cmocka_unit_test(environments_share_nothing),
    cmocka_unit_test(prints_and_requires_through_its_owner),
    cmocka_unit_test(random_differs_between_vms),
    cmocka_unit_test(bounds_counts),
    cmocka_unit_test(table_functions_do_what_the_manual_says),
    cmocka_unit_test(pcall_does_what_the_manual_says),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
