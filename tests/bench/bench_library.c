// The functions of the library that are ours, beside stock Lua's, in ordinary use: the same chunk in a stock state and
// in a script's, in turns. The figure of a row is the median of the ratios of its rounds.
#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "bench.h"
#include "event/loop.h"
#include "lua/fiber.h"
#include "lua/stdlib.h"

enum { ROUNDS = 11, MAX_TIMES = 100 * 1000 * 1000 };

static const double AIM = 1.2;
static const double BARE_AIM = 2; // of a call that does nothing: what is added to each call, seen under the microscope
static const double ROUND_SECONDS = 0.004;

// What is done once, as the body of a loop over `i`; `before` runs once. A name that begins with "bare": nothing but
// the call itself is done.
typedef struct row {
  const char *name;
  const char *before;
  const char *body;
} row;

#define TEXT "local text = ('The quick brown fox jumps over 13 lazy dogs. '):rep(20) "
#define LOG "local line = '2026-11-24T01:36:23Z info build finished id=7f3a9c step=\"Building image\" seconds=12.75' "
#define NUMBERS "local numbers = {} for i = 1, 1000 do numbers[i] = (i * 7919) % 1009 end "
#define WORDS "local words = {} for i = 1, 1000 do words[i] = 'word-' .. (i * 7919) % 1009 end "

static const row rows[] = {
  {"find, plain text", TEXT, "text:find('lazy cats', 1, true)"},
  {"find, a word", LOG, "line:find('finished')"},
  {"find, anchored pattern", LOG, "line:find('^(%d+)-(%d+)-(%d+)T')"},
  {"find, pattern far away", TEXT, "text:find('%d+ lazy cats')"},
  {"match, captures", LOG, "line:match('^(%S+) (%a+) (.-) id=(%x+)')"},
  {"match, trim", "local s = '   some text with blanks around   '", "s:match('^%s*(.-)%s*$')"},
  {"match, set", LOG, "line:match('[%w_]+=\"[^\"]*\"')"},
  {"gmatch, words", TEXT, "for w in text:gmatch('%a+') do local _ = w end"},
  {"gmatch, fields", LOG, "for k, v in line:gmatch('(%w+)=(%S+)') do local _ = k, v end"},
  {"gsub, by a text", TEXT, "text:gsub('o', '0')"},
  {"gsub, by captures", TEXT, "text:gsub('(%w+) (%w+)', '%2 %1')"},
  {"gsub, by a table", TEXT "local map = { quick = 'slow', lazy = 'busy' }", "text:gsub('%a+', map)"},
  {"gsub, by a function", TEXT, "text:gsub('%d+', function(n) return n + 1 end)"},
  {"gsub, nothing found", TEXT, "text:gsub('%z', '')"},
  {"rep, short", "", "local _ = (' '):rep(8)"},
  {"rep, with a separator", "", "local _ = ('?'):rep(20, ', ')"},
  {"format", "", "local _ = ('%s: %d of %5.1f'):format('step', i, 12.5)"},
  {"upper, lower", LOG, "line:upper():lower()"},
  {"table.concat", WORDS, "table.concat(words, ',')"},
  {"table.insert, at the end", "", "local t = {} for j = 1, 100 do table.insert(t, j) end"},
  {"table.insert, in front", "", "local t = {} for j = 1, 100 do table.insert(t, 1, j) end"},
  {"table.remove, from the end", NUMBERS, "table.insert(numbers, 1) table.remove(numbers)"},
  {"table.remove, from the front", "", "local t = {} for j = 1, 100 do t[j] = j end "
                                       "for j = 1, 100 do table.remove(t, 1) end"},
  {"table.move", NUMBERS, "table.move(numbers, 1, 1000, 1, {})"},
  {"table.unpack", "", "table.unpack({ 1, 2, 3, 4, 5, 6, 7, 8 })"},
  {"table.sort, numbers", NUMBERS, "table.sort(table.move(numbers, 1, 1000, 1, {}))"},
  {"table.sort, texts", WORDS, "table.sort(table.move(words, 1, 1000, 1, {}))"},
  {"table.sort, by a function", NUMBERS,
   "table.sort(table.move(numbers, 1, 1000, 1, {}), function(a, b) return a > b end)"},
  {"table.sort, a few", "", "table.sort({ 5, 2, 8, 1, 9, 3 })"},
  {"pcall", "local function f(x) return ('%d'):format(x) end", "pcall(f, i)"},
  {"pcall, an error", "local function f() error('x') end", "pcall(f)"},
  {"xpcall", "local function f(x) return ('%d'):format(x) end local function h(e) return e end", "xpcall(f, h, i)"},
  {"coroutine, lines of a text", LOG "local text = (line .. ';'):rep(10) local function lines() "
                                     "for l in text:gmatch('[^;]+') do coroutine.yield(l) end end",
   "for l in coroutine.wrap(lines) do local _ = l end"},
  {"an object with a metatable", "local m = { __index = { get = function(self) return self.n end } }",
   "setmetatable({ n = i }, m):get()"},
  {"load", "", "load('local t = ... return t.name == 1 and t.value or 0')"},
  {"bare pcall", "local function f(x) return x end", "pcall(f, i)"},
  {"bare xpcall", "local function f(x) return x end local function h(e) return e end", "xpcall(f, h, i)"},
  {"bare resume and yield", "local c = coroutine.create(function() while true do coroutine.yield() end end)",
   "coroutine.resume(c)"},
  {"bare setmetatable", "local m = {}", "setmetatable({}, m)"},
  {"plain Lua: arithmetic", "local n = 0", "n = (n * 31 + i) % 65521"},
  {"plain Lua: calls and tables", "local function f(t) t.n = t.n + 1 return t end", "f({ n = i })"},
};

// Pushes the function of the row: it does the body `n` times.
static void push_row(lua_State *L, const row *r) {
  const char *text = lua_pushfstring(L, "%s return function(n) for i = 1, n do %s end end", r->before, r->body);
  if (luaL_loadbufferx(L, text, strlen(text), "=bench", "t") != LUA_OK) bench_fail(lua_tostring(L, -1));
  lua_remove(L, -2);
}

static double time_stock(lua_State *L, lua_Integer times) {
  lua_pushvalue(L, 1);
  lua_pushinteger(L, times);
  double began = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) bench_fail(lua_tostring(L, -1));
  return bench_seconds(CLOCK_THREAD_CPUTIME_ID) - began;
}

static double time_ours(bq_vm *vm, lua_State *L, lua_Integer times) {
  bq_error err;
  lua_pushvalue(L, 1);
  lua_pushinteger(L, times);
  double began = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
  if (bq_vm_call(vm, L, 1, 0, &err) < 0) bench_fail(err.message);
  return bench_seconds(CLOCK_THREAD_CPUTIME_ID) - began;
}

static void measure(const row *r, lua_State *stock, bq_vm *vm) {
  bq_error err;
  lua_State *L = bq_vm_state(vm);
  push_row(stock, r);
  if (lua_pcall(stock, 0, 1, 0) != LUA_OK) bench_fail(lua_tostring(stock, -1));
  push_row(L, r);
  bq_vm_new_env(L);
  (void)lua_setupvalue(L, -2, 1);
  if (bq_vm_call(vm, L, 0, 1, &err) < 0) bench_fail(err.message);
  lua_Integer times = 1;
  while (times < MAX_TIMES && time_stock(stock, times) < ROUND_SECONDS) times *= 2;
  double ratios[ROUNDS];
  double values[ROUNDS];
  double limits[ROUNDS];
  for (int i = 0; i < ROUNDS; i++) {
    limits[i] = time_stock(stock, times) / (double)times * 1e6;
    values[i] = time_ours(vm, L, times) / (double)times * 1e6;
    ratios[i] = values[i] / limits[i];
  }
  bench_report("library beside stock Lua", r->name, bench_percentile(values, ROUNDS, 0.5), "µs", "stock Lua",
               bench_percentile(limits, ROUNDS, 0.5), bench_percentile(ratios, ROUNDS, 0.5),
               strncmp(r->name, "bare ", 5) == 0 ? BARE_AIM : AIM);
  lua_settop(stock, 0);
  lua_settop(L, 0);
}

// With an argument: only the rows whose name has it.
int main(int argc, char **argv) {
  bq_loop *loop;
  bq_vm *vm;
  bq_error err;
  lua_State *stock = luaL_newstate();
  if (stock == NULL || bq_loop_new(&loop, &err) < 0) bench_fail("no memory");
  luaL_openlibs(stock);
  const bq_vm_options options = {.loop = loop, .memory_bytes = 64u << 20, .slice_us = 10 * 1000 * 1000};
  if (bq_vm_new(&vm, &options, &err) < 0) bench_fail(err.message);
  bq_vm_lend(vm);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    if (argc < 2 || strstr(rows[i].name, argv[1]) != NULL) measure(&rows[i], stock, vm);
  }
  bq_vm_free(vm);
  bq_loop_free(loop);
  lua_close(stock);
  return 0;
}
