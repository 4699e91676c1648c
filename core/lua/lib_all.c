// all(fns, {limit=}): runs functions side by side, each as a fiber of the same vm.
#include <lauxlib.h>

#include "base/memory.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/fiber.h"
#include "lua/libs.h"

enum { MAX_FUNCTIONS = 1000 };

typedef struct all_op all_op;

typedef struct child {
  all_op *all;
  bq_fiber *fiber; // NULL before its start and after its end
} child;

// Waits while one of its children runs. On the stack of the coroutine that called all(): the functions at index 1, the
// results at index 2, with the first error at count + 1.
struct all_op {
  bq_op op;
  lua_State *L;   // the coroutine that waits
  int count;      // functions
  int limit;      // at a time
  int next;       // index (from 0) of the first that was not started
  int running;
  int failed;     // 1: the error is set, or `error` when there was none in Lua; no more are started
  bq_error error; // code 0: none
  child children[];
};

static void end_others(all_op *all, const char *reason) {
  for (int i = 0; i < all->next; i++) {
    if (all->children[i].fiber != NULL) bq_fiber_kill(all->children[i].fiber, reason);
  }
}

// Stores the value on top of `from` (or nil when it has none) at `index` of the results. The slot exists: nothing is
// allocated, nothing is raised.
static void store(all_op *all, lua_State *from, int index) {
  lua_State *L = bq_vm_state(bq_op_vm(&all->op));
  lua_pushvalue(all->L, 2);
  lua_xmove(all->L, L, 1);
  if (from == NULL || lua_gettop(from) == 0) lua_pushnil(L);
  else {
    lua_pushvalue(from, 1);
    lua_xmove(from, L, 1);
  }
  lua_rawseti(L, -2, index);
  lua_pop(L, 1);
}

static void start_more(all_op *all);

static void child_ended(void *arg, bq_end end, lua_State *L) {
  child *c = arg;
  all_op *all = c->all;
  c->fiber = NULL;
  all->running--;
  if (end == BQ_END_RETURNED) {
    store(all, L, (int)(c - all->children) + 1);
  } else if (!all->failed) {
    all->failed = 1;
    store(all, L, all->count + 1);
    end_others(all, "another function of build:all has failed");
  }
  start_more(all);
}

static void start_more(all_op *all) {
  bq_vm *vm = bq_op_vm(&all->op);
  lua_State *L = bq_vm_state(vm);
  while (!all->failed && all->next < all->count && all->running < all->limit) {
    child *c = &all->children[all->next++];
    lua_pushvalue(all->L, 1);
    lua_xmove(all->L, L, 1);
    (void)lua_rawgeti(L, -1, all->next);
    lua_remove(L, -2);
    if (bq_fiber_start(&c->fiber, vm, L, 0, child_ended, c, &all->error) == 0) {
      all->running++;
      continue;
    }
    all->failed = 1;
    end_others(all, "another function of build:all could not be started");
  }
  if (all->running == 0) bq_op_complete(&all->op);
}

static void start(bq_op *op) {
  start_more((all_op *)op);
}

static void cancel(bq_op *op) {
  all_op *all = (all_op *)op;
  if (bq_op_vm(op) == NULL) { // the vm is being freed, and the children with it
    bq_op_complete(op);
    return;
  }
  all->failed = 1;
  end_others(all, "the function that waited for build:all was ended");
}

static int push(bq_op *op, lua_State *L) {
  const all_op *all = (const all_op *)op;
  if (all->error.code != 0) {
    bq_lua_push_error(L, &all->error);
    return -1;
  }
  if (all->failed) {
    (void)lua_rawgeti(L, 2, all->count + 1);
    return -1;
  }
  lua_pushnil(L);
  lua_rawseti(L, 2, all->count + 1);
  lua_pushvalue(L, 2);
  return 1;
}

static void release(bq_op *op) {
  bq_free(op);
}

int bq_lua_all(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  static const char *const options[] = {"limit", NULL};
  lua_Integer limit = MAX_FUNCTIONS;
  if (bq_args_has_options(L, 2, "build:all", options, "build:all({one, two}, {limit = 2})")) {
    (void)lua_getfield(L, 2, "limit");
    limit = luaL_optinteger(L, -1, MAX_FUNCTIONS);
    luaL_argcheck(L, limit >= 1 && limit <= MAX_FUNCTIONS, 2, "limit: 1 to 1000");
  }
  lua_settop(L, 1);
  lua_Unsigned count = lua_rawlen(L, 1);
  luaL_argcheck(L, count <= MAX_FUNCTIONS, 1, "more than 1000 functions");
  // A copy: the caller's table may change while they run.
  lua_createtable(L, (int)count, 0);
  lua_createtable(L, (int)count + 1, 0);
  for (lua_Integer i = 1; i <= (lua_Integer)count; i++) {
    if (lua_rawgeti(L, 1, i) != LUA_TFUNCTION) {
      return luaL_error(L, "bad argument #1 to 'all' (a function expected at index %d, got %s)", (int)i,
                        luaL_typename(L, -1));
    }
    lua_rawseti(L, 2, i);
    lua_pushboolean(L, 0);
    lua_rawseti(L, 3, i);
  }
  lua_pushboolean(L, 0);
  lua_rawseti(L, 3, (lua_Integer)count + 1);
  lua_remove(L, 1);
  all_op *all = bq_alloc(sizeof *all + (size_t)count * sizeof all->children[0]);
  if (all == NULL) return bq_lua_raise(L, BQ_ENOMEM, "out of memory for build:all");
  all->op = (bq_op){.start = start, .cancel = cancel, .push = push, .release = release};
  all->L = L;
  all->count = (int)count;
  all->limit = (int)limit;
  for (int i = 0; i < all->count; i++) all->children[i].all = all;
  return bq_op_yield(L, &all->op);
}
