// What the runtime itself costs: a slice that gives its thread up, a wait on the loop, a build's fresh state; and how
// long other builds wait for a thread beside a hostile one.
#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "bench.h"
#include "event/loop.h"
#include "lua/fiber.h"
#include "lua/lib_archive.h"
#include "lua/lib_fs.h"
#include "lua/lib_http.h"
#include "lua/libs.h"
#include "lua/modules.h"
#include "lua/stock.h"
#include "lua/stdlib.h"

enum { ROUNDS = 9, YIELDS = 20000, STATES = 300, THREADS = 2, MEGABYTE = 1024 * 1024 };

typedef struct bench {
  bq_loop *loop;
  bq_pool *pool;
  int running; // fibers
} bench;

static void open_bench(bench *b, unsigned threads) {
  bq_error err;
  b->running = 0;
  if (bq_loop_new(&b->loop, &err) < 0 || bq_pool_new(&b->pool, b->loop, "bench", threads, 1000, &err) < 0) {
    bench_fail(err.message);
  }
}

static void close_bench(bench *b) {
  bq_pool_free(b->pool);
  bq_loop_free(b->loop);
}

static bq_vm *new_vm(bench *b, bq_pool *pool, int64_t cpu_us) {
  bq_vm *vm;
  bq_error err;
  const bq_vm_options options = {.loop = b->loop, .pool = pool, .memory_bytes = 64 * MEGABYTE,
                                 .slice_us = pool != NULL ? 10 * 1000 : 10 * 1000 * 1000, .cpu_us = cpu_us};
  if (bq_vm_new(&vm, &options, &err) < 0) bench_fail(err.message);
  bq_vm_lend(vm);
  return vm;
}

static void ended(void *arg, bq_end end, lua_State *L) {
  bench *b = arg;
  if (end == BQ_END_ERROR) bench_fail(luaL_tolstring(L, -1, NULL));
  if (--b->running == 0) bq_loop_stop(b->loop);
}

static void start(bench *b, bq_vm *vm, const char *text, const luaL_Reg *globals, bq_fiber_end on_end) {
  lua_State *L = bq_vm_state(vm);
  bq_fiber *fiber;
  bq_error err;
  if (luaL_loadbufferx(L, text, strlen(text), "=bench", "t") != LUA_OK) bench_fail(lua_tostring(L, -1));
  bq_vm_new_env(L);
  if (globals != NULL) luaL_setfuncs(L, globals, 0);
  (void)lua_setupvalue(L, -2, 1);
  b->running++;
  if (bq_fiber_start(&fiber, vm, L, 0, on_end, b, &err) < 0) bench_fail(err.message);
}

static void run(bench *b) {
  bq_error err;
  if (bq_loop_run(b->loop, &err) < 0) bench_fail(err.message);
}

// --- an operation that is over at once: what a wait costs beside what is waited for

static void complete(bq_op *op) {
  bq_op_complete(op);
}

static int push_nothing(bq_op *op, lua_State *L) {
  (void)op;
  (void)L;
  return 0;
}

static void keep(bq_op *op) {
  (void)op;
}

static int pause_now(lua_State *L) {
  bq_op *op = bq_vm_owner(bq_vm_of(L));
  *op = (bq_op){.start = complete, .push = push_nothing, .release = keep};
  return bq_op_yield(L, op);
}

static const luaL_Reg pause_functions[] = {{"pause", pause_now}, {NULL, NULL}};

static double time_yields(bq_pool *pool, bench *b) {
  bq_op op;
  bq_vm *vm = new_vm(b, pool, 0);
  bq_vm_set_owner(vm, &op);
  char text[100];
  (void)snprintf(text, sizeof text, "for i = 1, %d do pause() end", YIELDS);
  start(b, vm, text, pause_functions, ended);
  double began = bench_seconds(CLOCK_MONOTONIC);
  run(b);
  double seconds = bench_seconds(CLOCK_MONOTONIC) - began;
  bq_vm_free(vm);
  return seconds / YIELDS * 1e6;
}

// --- the limit: an empty task to a thread of the pool and back, again and again

typedef struct shuttle {
  bq_task task;
  bench *b;
  int left;
} shuttle;

static void do_nothing(bq_task *task) {
  (void)task;
}

static void send_again(bq_task *task) {
  shuttle *s = (shuttle *)task;
  bq_error err;
  if (s->left-- == 0) bq_loop_stop(s->b->loop);
  else if (bq_pool_submit(s->b->pool, &s->task, &err) < 0) bench_fail(err.message);
}

static double time_shuttle(bench *b) {
  shuttle s = {.task = {.work = do_nothing, .done = send_again}, .b = b, .left = YIELDS};
  double began = bench_seconds(CLOCK_MONOTONIC);
  send_again(&s.task);
  run(b);
  return (bench_seconds(CLOCK_MONOTONIC) - began) / YIELDS * 1e6;
}

static double time_coroutine(lua_State *L) {
  static const char text[] = "local n = ... local c = coroutine.wrap(function() while true do coroutine.yield() end "
                             "end) for i = 1, n do c() end";
  if (luaL_loadstring(L, text) != LUA_OK) bench_fail(lua_tostring(L, -1));
  lua_pushinteger(L, YIELDS);
  double began = bench_seconds(CLOCK_MONOTONIC);
  lua_call(L, 1, 0);
  return (bench_seconds(CLOCK_MONOTONIC) - began) / YIELDS * 1e6;
}

static void measure_slices(lua_State *stock) {
  bench b;
  double values[ROUNDS], limits[ROUNDS], ratios[ROUNDS];
  open_bench(&b, 1);
  for (int i = 0; i < ROUNDS; i++) {
    limits[i] = time_shuttle(&b);
    values[i] = time_yields(b.pool, &b);
    ratios[i] = values[i] / limits[i];
  }
  bench_report("slices", "a wait of a pipeline", bench_percentile(values, ROUNDS, 0.5), "µs",
               "an empty task to a thread and back", bench_percentile(limits, ROUNDS, 0.5),
               bench_percentile(ratios, ROUNDS, 0.5), 1.5);
  for (int i = 0; i < ROUNDS; i++) {
    limits[i] = time_coroutine(stock);
    values[i] = time_yields(NULL, &b);
    ratios[i] = values[i] / limits[i];
  }
  bench_report("slices", "a wait of a route", bench_percentile(values, ROUNDS, 0.5), "µs",
               "a yield of a stock coroutine", bench_percentile(limits, ROUNDS, 0.5),
               bench_percentile(ratios, ROUNDS, 0.5), 10);
  close_bench(&b);
}

// --- what a build begins with

static bq_generation *shipped_scripts(void) {
  const bq_source_directories directories = {.share = "."};
  bq_sources *sources;
  bq_generation *generation;
  bq_error err;
  if (bq_sources_read(&sources, &directories, &err) < 0) bench_fail(err.message);
  if (bq_generation_compile(&generation, sources, NULL, &err) < 0) bench_fail(err.message);
  return generation;
}

static double time_stock_states(void) {
  double began = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < STATES; i++) {
    lua_State *L = luaL_newstate();
    if (L == NULL) bench_fail("no memory");
    luaL_openlibs(L);
    lua_close(L);
  }
  return (bench_seconds(CLOCK_THREAD_CPUTIME_ID) - began) / STATES * 1e6;
}

// Those that work without a server.
static const bq_lua_module modules[] = {{"json", bq_lua_open_json}, {"http", bq_lua_open_http}, {"fs", bq_lua_open_fs},
                                        {"archive", bq_lua_open_archive}, {NULL, NULL}};

static double time_vms(bench *b, bq_generation *generation, const char *load) {
  bq_services services = {.loop = b->loop, .blocking = b->pool};
  const bq_vm_options options = {.loop = b->loop, .pool = b->pool, .memory_bytes = 64 * MEGABYTE, .slice_us = 10000};
  double began = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < STATES; i++) {
    bq_vm *vm;
    bq_error err;
    if (bq_script_vm_new(&vm, &options, generation, modules, &services, &err) < 0) bench_fail(err.message);
    if (load != NULL) {
      lua_State *L = bq_vm_state(vm);
      bq_script_push_loader(L);
      lua_pushstring(L, load);
      if (bq_vm_call(vm, L, 1, 0, &err) < 0) bench_fail(err.message);
    }
    bq_vm_free(vm);
  }
  return (bench_seconds(CLOCK_THREAD_CPUTIME_ID) - began) / STATES * 1e6;
}

static int prepare_nothing(lua_State *L) {
  (void)L;
  return 0;
}

// Of a state from the stock and back: what a build costs from the second on.
static double time_lent(bench *b, bq_generation *generation) {
  bq_services services = {.loop = b->loop, .blocking = b->pool};
  const bq_vm_options options = {.loop = b->loop, .pool = b->pool, .memory_bytes = 64 * MEGABYTE, .slice_us = 10000};
  const bq_stock_options stock_options = {
      .loop = b->loop, .modules = modules, .services = &services, .prepare = prepare_nothing};
  bq_stock *stock;
  bq_vm *vm;
  bq_error err;
  if (bq_stock_new(&stock, &stock_options, &err) < 0) bench_fail(err.message);
  bq_stock_renew(stock, generation);
  double began = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < STATES; i++) {
    if (bq_stock_take(&vm, stock, &options, generation, &err) < 0) bench_fail(err.message);
    bq_stock_give(stock, vm);
  }
  double took = bench_seconds(CLOCK_THREAD_CPUTIME_ID) - began;
  bq_stock_free(stock);
  return took / STATES * 1e6;
}

static void measure_states(void) {
  bench b;
  double values[ROUNDS], lent[ROUNDS], loaded[ROUNDS], limits[ROUNDS];
  double ratios[ROUNDS], lent_ratios[ROUNDS], loaded_ratios[ROUNDS];
  bq_generation *generation = shipped_scripts();
  open_bench(&b, 1);
  for (int i = 0; i < ROUNDS; i++) {
    limits[i] = time_stock_states();
    values[i] = time_vms(&b, generation, NULL);
    lent[i] = time_lent(&b, generation);
    loaded[i] = time_vms(&b, generation, "scripts/pipelines/honua-server.lua");
    ratios[i] = values[i] / limits[i];
    lent_ratios[i] = lent[i] / limits[i];
    loaded_ratios[i] = loaded[i] / limits[i];
  }
  const char *beside = "a stock state with its libraries";
  double limit = bench_percentile(limits, ROUNDS, 0.5);
  bench_report("a build's state", "fresh", bench_percentile(values, ROUNDS, 0.5), "µs", beside, limit,
               bench_percentile(ratios, ROUNDS, 0.5), 2);
  bench_report("a build's state", "lent again", bench_percentile(lent, ROUNDS, 0.5), "µs", beside, limit,
               bench_percentile(lent_ratios, ROUNDS, 0.5), 0.5);
  bench_report("a build's state", "with the pipeline honua-server loaded", bench_percentile(loaded, ROUNDS, 0.5), "µs",
               beside, limit, bench_percentile(loaded_ratios, ROUNDS, 0.5), 20);
  close_bench(&b);
  bq_generation_release(generation);
}

// --- other builds beside a hostile one

enum { WAITS = 600, NAP_MS = 1 };

typedef struct neighbour {
  double waits_ms[WAITS];
  int count;
} neighbour;

// note(): the time since the last note, less the nap between.
static int note(lua_State *L) {
  neighbour *n = bq_vm_owner(bq_vm_of(L));
  static double last;
  double now = bench_seconds(CLOCK_MONOTONIC);
  if (lua_toboolean(L, 1) && n->count < WAITS) n->waits_ms[n->count++] = (now - last) * 1000 - NAP_MS;
  last = now;
  return 0;
}

static const luaL_Reg neighbour_functions[] = {{"note", note}, {"sleep", bq_lua_sleep}, {NULL, NULL}};

static const char *const hostile[] = {
  "while true do end",
  "while true do pcall(function() while true do end end) end",
  "while true do pcall(string.rep, 'x', 1 << 24) end",
  "while true do local t = {} for i = 1, 1e6 do t[i] = i end table.sort(t) end",
  "while true do (('a'):rep(40)):find(('a?'):rep(40) .. ('a'):rep(40)) end",
  "while true do string.gsub('x', 'x', function() while true do end end) end",
  "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
};

static void hostile_ended(void *arg, bq_end end, lua_State *L) {
  (void)arg;
  (void)end;
  (void)L;
}

// The p99 of how late the slice of a build that naps comes, in ms, with so many hostile builds on the same threads.
static double neighbour_p99(size_t hostile_count) {
  bench b;
  neighbour n = {.count = 0};
  open_bench(&b, THREADS);
  bq_vm *vm = new_vm(&b, b.pool, 0);
  bq_vm_set_owner(vm, &n);
  start(&b, vm, "note() for i = 1, 600 do sleep(0.001) note(true) end", neighbour_functions, ended);
  bq_vm *others[sizeof hostile / sizeof hostile[0]];
  for (size_t i = 0; i < hostile_count; i++) {
    others[i] = new_vm(&b, b.pool, 1000 * 1000);
    start(&b, others[i], hostile[i], NULL, hostile_ended);
    b.running--; // only the neighbour is waited for
  }
  run(&b);
  for (size_t i = 0; i < hostile_count; i++) bq_vm_free(others[i]);
  bq_vm_free(vm);
  close_bench(&b);
  return bench_percentile(n.waits_ms, (size_t)n.count, 0.99);
}

static void measure_neighbours(void) {
  enum { AIM_MS = 20 };
  double alone = neighbour_p99(0);
  double beside_one = neighbour_p99(1);
  double beside_all = neighbour_p99(sizeof hostile / sizeof hostile[0]);
  bench_report("other builds", "a slice is late by, p99, beside one hostile", beside_one, "ms",
               "alone and 20 ms", alone + AIM_MS, beside_one / (alone + AIM_MS), 1);
  bench_report("other builds", "the same beside seven on two threads", beside_all, "ms",
               "alone and 7 slices of 10 ms on 2 threads", alone + 10.0 * 7 / 2,
               beside_all / (alone + 10.0 * 7 / 2), 1.5);
}

int main(void) {
  lua_State *stock = luaL_newstate();
  if (stock == NULL) bench_fail("no memory");
  luaL_openlibs(stock);
  measure_slices(stock);
  measure_states();
  measure_neighbours();
  lua_close(stock);
  return 0;
}
