// The stock of states: a build gets what another one had, as it was before; and the memory below it.
#include "script_test.h"

#include "lua/blocks.h"
#include "lua/stock.h"

static int open_box(lua_State *L) {
  lua_newtable(L);
  lua_pushinteger(L, 42);
  lua_setfield(L, -2, "value");
  return 1;
}

static const bq_lua_module modules[] = {{"box", open_box}, {NULL, NULL}};
static const char *const files[][2] = {
    {"scripts/lib/counter.lua", "local n = 0 return {next = function() n = n + 1 return n end}"}, {NULL, NULL}};

// As the builds' own: the module is there, and a function in the registry.
static const char prepared_key = 0;
static int prepare(lua_State *L) {
  bq_script_push_env(L);
  lua_getfield(L, -1, "require");
  lua_pushliteral(L, "buildq");
  lua_call(L, 1, 0);
  lua_pushliteral(L, "prepared");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &prepared_key);
  return 0;
}

typedef struct shop {
  bench b;
  bq_stock *stock;
} shop;

static int setup(void **state) {
  shop *s = bq_alloc(sizeof *s);
  bench_open(&s->b, modules, files);
  const bq_stock_options options = {
      .loop = s->b.w.loop, .modules = modules, .services = &s->b.services, .prepare = prepare, .look_ms = 20};
  bq_error err;
  assert_int_equal(bq_stock_new(&s->stock, &options, &err), 0);
  bq_stock_renew(s->stock, s->b.generation);
  *state = s;
  return 0;
}

static int teardown(void **state) {
  shop *s = *state;
  bq_stock_free(s->stock);
  bench_close(&s->b);
  bq_free(s);
  return 0;
}

static bq_vm *take(shop *s) {
  bq_vm *vm;
  bq_error err;
  bq_vm_options options = world_options(&s->b.w);
  options.owner = &s->b;
  options.cpu_us = 2000000;
  if (bq_stock_take(&vm, s->stock, &options, s->b.generation, &err) < 0) fail_msg("%s", err.message);
  assert_ptr_equal(bq_vm_owner(vm), &s->b);
  return vm;
}

// Runs `text` in a state of the stock and gives it back.
static void run_lent(script *out, shop *s, const char *text) {
  bq_vm *vm = take(s);
  bench_start(out, &s->b, vm, text);
  world_run(&s->b.w);
  bq_stock_give(s->stock, vm);
}

static size_t waiting(const shop *s) {
  bq_stock_counts counts;
  bq_stock_get_counts(s->stock, &counts);
  return counts.waiting;
}

static void assert_runs(shop *s, const char *text, const char *expected) {
  script done;
  run_lent(&done, s, text);
  if (done.end != BQ_END_RETURNED) fail_msg("%s", done.line);
  assert_string_equal(done.line, expected);
}

static const char probe[] =
    "local names = {} for name in pairs(_G) do names[#names + 1] = name end table.sort(names)\n"
    "local b = require 'buildq'\n"
    "return table.concat(names, ' ') .. tostring(b.extra) .. b.box.value .. tostring(rawget(_G, 'left'))\n"
    "  .. require('counter').next() .. #tostring(string.rep) .. tostring(('x').mine) .. tostring(getmetatable(_G))";

// Each leaves behind what it can, in as many ways as scripts know.
static const char *const litter[] = {
    "left = {} require('counter').next() string = nil print = nil return 1",
    "require = function() return 'mine' end _G.next = nil setmetatable(_G, nil) return 1",
    "local t = {} for i = 1, 200000 do t[i] = {i} end left = t return #t",
    "left = ('x'):rep(3000000) local s = {} for i = 1, 5000 do s[i] = ('y'):rep(i) end kept = s return 1",
    "for i = 1, 200 do coroutine.wrap(function() coroutine.yield() end)() end error {left = true}",
    "local function deep(n) return n == 0 and 0 or 1 + deep(n - 1) end return deep(15000)",
    "local t = {} while true do t[#t + 1] = ('z'):rep(10000) .. #t end",
    "for k in pairs(_G) do if k ~= '_G' then _G[k] = nil end end return 1",
    "require('buildq').box.value = 1", NULL};

static void lends_states_as_they_were(void **state) {
  shop *s = *state;
  script first, again;
  run_lent(&first, s, probe);
  if (first.end != BQ_END_RETURNED) fail_msg("%s", first.line);
  assert_contains(first.line, "nil42nil1");
  for (size_t i = 0; litter[i] != NULL; i++) {
    script mess;
    run_lent(&mess, s, litter[i]);
    assert_int_equal(waiting(s), bq_blocks_can_lend());
    run_lent(&again, s, probe);
    if (strcmp(again.line, first.line) != 0) fail_msg("behind %s: %s\ninstead of %s", litter[i], again.line, first.line);
  }
}

static void keeps_what_was_prepared(void **state) {
  shop *s = *state;
  for (int i = 0; i < 3; i++) {
    bq_vm *vm = take(s);
    lua_State *L = bq_vm_state(vm);
    (void)lua_rawgetp(L, LUA_REGISTRYINDEX, &prepared_key);
    assert_string_equal(lua_tostring(L, -1), "prepared");
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &prepared_key);
    bq_stock_give(s->stock, vm);
  }
}

static void lends_the_same_memory_again(void **state) {
  if (!bq_blocks_can_lend()) skip();
  shop *s = *state;
  bq_vm *vm = take(s);
  bq_vm_usage before, after;
  bq_vm_get_usage(vm, &before);
  bq_stock_give(s->stock, vm);
  assert_runs(s, "local t = {} for i = 1, 100000 do t[i] = {} end return #t", "100000");
  bq_vm *second = take(s);
  assert_ptr_equal(second, vm);
  bq_vm_get_usage(second, &after);
  assert_int_equal(after.memory_bytes, before.memory_bytes);
  assert_int_equal(after.cpu_us, 0);
  assert_int_equal(after.slices, 0);
  assert_null(bq_vm_kill_reason(second));
  bq_stock_give(s->stock, second);
}

static void gives_fresh_budgets(void **state) {
  shop *s = *state;
  script done;
  for (int i = 0; i < 3; i++) {
    run_lent(&done, s, "local t = {} while true do t[#t + 1] = {#t} end");
    assert_int_equal(done.end, BQ_END_KILLED);
    assert_contains(done.line, "MB of Lua memory");
    assert_runs(s, "local t = {} for i = 1, 10000 do t[i] = {} end return #t", "10000");
  }
}

static void gives_other_random_numbers(void **state) {
  shop *s = *state;
  script one, two;
  run_lent(&one, s, "return math.random(1 << 60)");
  run_lent(&two, s, "return math.random(1 << 60)");
  assert_string_not_equal(one.line, two.line);
}

static void lends_only_what_is_of_today(void **state) {
  if (!bq_blocks_can_lend()) skip();
  shop *s = *state;
  bq_vm *before = take(s); // lent while the scripts change
  assert_runs(s, "return 1", "1");
  assert_int_equal(waiting(s), 1);
  bq_generation *old = s->b.generation;
  s->b.generation = bench_generation((const char *const[][2]){{"scripts/lib/counter.lua", "return {next = function() "
                                                               "return 'new' end}"}, {NULL, NULL}});
  bq_stock_renew(s->stock, s->b.generation);
  assert_int_equal(waiting(s), 0);
  bq_stock_give(s->stock, before);
  assert_int_equal(waiting(s), 0);
  assert_runs(s, "return require('counter').next()", "new");
  assert_int_equal(waiting(s), 1);
  // A build that keeps its generation gets a state of its own, which nobody else gets.
  bq_vm *vm;
  bq_error err;
  const bq_vm_options options = world_options(&s->b.w);
  assert_int_equal(bq_stock_take(&vm, s->stock, &options, old, &err), 0);
  assert_ptr_equal(bq_script_generation(bq_vm_state(vm)), old);
  bq_stock_give(s->stock, vm);
  assert_int_equal(waiting(s), 1);
  bq_generation_release(old);
}

static void keeps_no_more_than_its_bound(void **state) {
  enum { MANY = BQ_STOCK_MAX + 10 };
  shop *s = *state;
  static bq_vm *vms[MANY];
  bq_stock_counts counts;
  for (int i = 0; i < MANY; i++) vms[i] = take(s);
  bq_stock_get_counts(s->stock, &counts);
  assert_int_equal(counts.images, bq_blocks_can_lend() ? BQ_STOCK_MAX : 0);
  for (int i = 0; i < MANY; i++) bq_stock_give(s->stock, vms[i]);
  bq_stock_get_counts(s->stock, &counts);
  assert_int_equal(counts.waiting, bq_blocks_can_lend() ? BQ_STOCK_MAX : 0);
  assert_int_equal(counts.images, counts.waiting);
  // Unused, all of them go, half of them at a time.
  s->b.w.running++;
  while (waiting(s) > 0) assert_true(event_base_loop(bq_loop_base(s->b.w.loop), EVLOOP_ONCE) >= 0);
  s->b.w.running--;
  bq_stock_get_counts(s->stock, &counts);
  assert_int_equal(counts.images, 0);
}

static void frees_what_is_given_back_in_its_slice(void **state) {
  shop *s = *state;
  bq_vm *vm = take(s);
  script unfinished;
  bench_start(&unfinished, &s->b, vm, "while true do end");
  bq_stock_give(s->stock, vm); // its first slice is on the way
  s->b.w.running--;
  assert_int_equal(waiting(s), 0);
  assert_runs(s, "return 1", "1");
}

// The blocks alone: what was written before the image is there again, whatever happened since.
static void restores_every_byte(void **state) {
  (void)state;
  if (!bq_blocks_can_lend()) skip();
  enum { COUNT = 300, ROUNDS = 20 };
  bq_blocks blocks = {0};
  assert_true(bq_blocks_lend(&blocks));
  unsigned char *at[COUNT];
  size_t sizes[COUNT];
  unsigned seed = 7;
  for (size_t i = 0; i < COUNT; i++) {
    sizes[i] = i % 10 == 0 ? 600 + i * 20 : 1 + i;
    at[i] = bq_blocks_resize(&blocks, NULL, 0, sizes[i]);
    memset(at[i], (int)i, sizes[i]);
  }
  bq_blocks_seal(&blocks);
  assert_true(bq_blocks_make_image(&blocks));
  for (int round = 0; round < ROUNDS; round++) {
    unsigned char *now[COUNT];
    size_t have[COUNT];
    memcpy(now, at, sizeof now);
    memcpy(have, sizes, sizeof have);
    for (int step = 0; step < 2000; step++) {
      size_t i = (size_t)rand_r(&seed) % COUNT;
      size_t want = (size_t)rand_r(&seed) % (step % 50 == 0 ? 100000 : 900);
      if (want == 0) {
        if (now[i] != NULL) bq_blocks_give(&blocks, now[i], have[i]);
        now[i] = NULL;
        have[i] = 0;
        continue;
      }
      unsigned char mark = now[i] != NULL ? now[i][0] : 0;
      int had = now[i] != NULL;
      now[i] = bq_blocks_resize(&blocks, now[i], have[i], want);
      assert_non_null(now[i]);
      assert_int_equal((uintptr_t)now[i] % 8, 0);
      if (had) assert_int_equal(now[i][0], mark);
      memset(now[i], rand_r(&seed) & 0xff, want);
      have[i] = want;
    }
    bq_blocks_restore(&blocks);
    for (size_t i = 0; i < COUNT; i++) {
      for (size_t n = 0; n < sizes[i]; n++) {
        if (at[i][n] != (unsigned char)i) fail_msg("round %d, block %zu, byte %zu", round, i, n);
      }
    }
  }
  bq_blocks_free(&blocks);
}

// Also of a state that has no image: what is freed is used again, or is malloc's again.
static void bounds_what_is_free(void **state) {
  (void)state;
  if (!bq_blocks_can_lend()) skip();
  enum { SMALL_BYTES = 8 * 1024 * 1024 };
  bq_blocks blocks = {0};
  assert_true(bq_blocks_lend(&blocks));
  bq_blocks_seal(&blocks);
  for (int i = 0; i < 1000; i++) {
    void *large = bq_blocks_resize(&blocks, NULL, 0, 1000000);
    assert_non_null(large);
    bq_blocks_give(&blocks, large, 1000000);
  }
  assert_int_equal(blocks.used, 0);
  assert_null(blocks.others);
  void **all = bq_alloc_array(SMALL_BYTES / BQ_BLOCK_STEP, sizeof *all);
  for (size_t size = BQ_BLOCK_STEP; size <= BQ_BLOCK_STEP * BQ_BLOCK_SIZES; size += BQ_BLOCK_STEP) {
    size_t count = SMALL_BYTES / size;
    for (size_t i = 0; i < count; i++) {
      all[i] = bq_blocks_resize(&blocks, NULL, 0, size);
      assert_non_null(all[i]);
    }
    for (size_t i = 0; i < count; i++) bq_blocks_give(&blocks, all[i], size);
    assert_null(blocks.others);
  }
  assert_true(blocks.free_bytes <= BQ_BLOCK_ARENA);
  bq_free(all);
  bq_blocks_free(&blocks);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(lends_states_as_they_were, setup, teardown),
      cmocka_unit_test_setup_teardown(keeps_what_was_prepared, setup, teardown),
      cmocka_unit_test_setup_teardown(lends_the_same_memory_again, setup, teardown),
      cmocka_unit_test_setup_teardown(gives_fresh_budgets, setup, teardown),
      cmocka_unit_test_setup_teardown(gives_other_random_numbers, setup, teardown),
      cmocka_unit_test_setup_teardown(lends_only_what_is_of_today, setup, teardown),
      cmocka_unit_test_setup_teardown(keeps_no_more_than_its_bound, setup, teardown),
      cmocka_unit_test_setup_teardown(frees_what_is_given_back_in_its_slice, setup, teardown),
      cmocka_unit_test(restores_every_byte),
      cmocka_unit_test(bounds_what_is_free),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
