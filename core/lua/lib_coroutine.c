// Coroutines of scripts. Same as Lua's own, but a yield of the scheduler's (the slice is over, or a binding waits)
// passes through them to the scheduler and comes back in, and a kill is caught by none of them.
#include <lauxlib.h>

#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

static lua_State *check_thread(lua_State *L, int index) {
  lua_State *co = lua_tothread(L, index);
  luaL_argexpected(L, co != NULL, index, "thread");
  return co;
}

static const char *status_of(lua_State *L, lua_State *co) {
  if (L == co) return "running";
  if (bq_thread_is_busy(co)) return "normal";
  switch (lua_status(co)) {
  case LUA_YIELD: return "suspended";
  case LUA_OK: {
    lua_Debug at;
    if (lua_getstack(co, 0, &at)) return "normal";
    return lua_gettop(co) == 0 ? "dead" : "suspended";
  }
  default: return "dead";
  }
}

static int fail(lua_State *L, int wraps, const char *message) {
  if (wraps) return luaL_error(L, "%s", message);
  lua_pushboolean(L, 0);
  lua_pushstring(L, message);
  return 2;
}

// Closes what is pending in it.
static int close_thread(lua_State *L, lua_State *co) {
  bq_vm *vm = bq_vm_of(L);
  vm->close_depth++;
  vm->current = co;
  if (!vm->is_watched) bq_hook_keep(co);
  int outcome = lua_resetthread(co);
  vm->current = L;
  vm->close_depth--;
  return outcome;
}

// The coroutine has ended with an error, which is on top of its stack.
static int pass_error(lua_State *L, lua_State *co, int wraps) {
  bq_vm *vm = bq_vm_of(L);
  // A coroutine that the hook has ended stays busy for ever: closing it would run code with the hook switched off.
  if (bq_vm_is_killed(L)) return bq_vm_raise_kill(L);
  if (!wraps) {
    bq_thread_set_busy(co, 0);
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
  }
  if (vm->close_depth < BQ_MAX_CLOSE_DEPTH) {
    (void)close_thread(L, co); // the error (maybe another one) is on top
  }
  lua_xmove(co, L, 1);
  if (bq_vm_is_killed(L)) return bq_vm_raise_kill(L);
  bq_thread_set_busy(co, 0);
  if (lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int after_scheduler(lua_State *L, int status, lua_KContext wraps);

// Resumes the coroutine at index 1 with the `nargs` values on top of its own stack.
static int go_on(lua_State *L, int nargs, int wraps) {
  bq_vm *vm = bq_vm_of(L);
  lua_State *co = lua_tothread(L, 1);
  int pins = !lua_isyieldable(L);
  int results = 0;
  vm->pinned += pins;
  vm->current = co;
  if (!vm->is_watched) bq_hook_keep(co);
  int status = lua_resume(co, L, nargs, &results);
  vm->current = L;
  vm->pinned -= pins;
  if (status == LUA_YIELD && vm->yielded != BQ_YIELD_SCRIPT) return lua_yieldk(L, 0, wraps, after_scheduler);
  if (status != LUA_OK && status != LUA_YIELD) return pass_error(L, co, wraps);
  bq_thread_set_busy(co, 0);
  if (!lua_checkstack(L, results + 1)) {
    lua_pop(co, results);
    return fail(L, wraps, "too many results to resume");
  }
  if (!wraps) lua_pushboolean(L, 1);
  lua_xmove(co, L, results);
  return results + !wraps;
}

static int after_scheduler(lua_State *L, int status, lua_KContext wraps) {
  (void)status;
  // Back in from the scheduler: what yields from here on yields anew.
  bq_vm_of(L)->yielded = BQ_YIELD_SCRIPT;
  return go_on(L, 0, (int)wraps);
}

// The coroutine is at index 1, its arguments follow.
static int begin(lua_State *L, int wraps) {
  lua_State *co = lua_tothread(L, 1);
  int nargs = lua_gettop(L) - 1;
  if (L == co || bq_thread_is_busy(co)) {
    return fail(L, wraps, "cannot resume non-suspended coroutine");
  }
  if (lua_status(co) != LUA_YIELD && (lua_status(co) != LUA_OK || lua_gettop(co) == 0)) {
    return fail(L, wraps, "cannot resume dead coroutine");
  }
  if (!lua_checkstack(co, nargs)) return fail(L, wraps, "too many arguments to resume");
  lua_xmove(L, co, nargs);
  bq_thread_set_busy(co, 1);
  return go_on(L, nargs, wraps);
}

static int after_pause(lua_State *L, int status, lua_KContext wraps) {
  (void)status;
  bq_vm_of(L)->yielded = BQ_YIELD_SCRIPT;
  if (bq_vm_is_killed(L)) return bq_vm_raise_kill(L);
  return begin(L, (int)wraps);
}

static int resume(lua_State *L, int wraps) {
  bq_vm *vm = bq_vm_of(L);
  if (vm->in_slice && vm->look) {
    bq_vm_tick(L);
    if (bq_slice_is_over(vm) && bq_can_wait(L)) {
      vm->yielded = BQ_YIELD_SLICE;
      return lua_yieldk(L, 0, wraps, after_pause);
    }
  }
  return begin(L, wraps);
}

static int co_resume(lua_State *L) {
  (void)check_thread(L, 1);
  return resume(L, 0);
}

static int co_create(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  return 1;
}

static int wrapped(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  return resume(L, 1);
}

static int co_wrap(lua_State *L) {
  (void)co_create(L);
  lua_pushcclosure(L, wrapped, 1);
  return 1;
}

// A fiber's own function is the main program to its script.
static int is_main(lua_State *L) {
  const bq_vm *vm = bq_vm_of(L);
  return L == vm->L || (vm->running != NULL && vm->running->L == L);
}

static int co_yield(lua_State *L) {
  if (is_main(L)) return luaL_error(L, "attempt to yield from outside a coroutine");
  bq_vm_of(L)->yielded = BQ_YIELD_SCRIPT;
  return lua_yield(L, lua_gettop(L));
}

static int co_status(lua_State *L) {
  lua_pushstring(L, status_of(L, check_thread(L, 1)));
  return 1;
}

static int co_isyieldable(lua_State *L) {
  lua_State *co = lua_isnone(L, 1) ? L : check_thread(L, 1);
  lua_pushboolean(L, lua_isyieldable(co) && !is_main(co));
  return 1;
}

static int co_running(lua_State *L) {
  bq_vm *vm = bq_vm_of(L);
  if (vm->running != NULL) vm->running->shown = 1;
  lua_pushthread(L);
  lua_pushboolean(L, is_main(L));
  return 2;
}

static int co_close(lua_State *L) {
  bq_vm *vm = bq_vm_of(L);
  lua_State *co = check_thread(L, 1);
  const char *status = status_of(L, co);
  int may_close = co != vm->L && (status[0] == 's' || status[0] == 'd'); // suspended, dead
  if (!may_close) return luaL_error(L, "cannot close a %s coroutine", status);
  if (vm->close_depth >= BQ_MAX_CLOSE_DEPTH) return luaL_error(L, "C stack overflow: coroutines close each other");
  bq_thread_set_busy(co, 1);
  int outcome = close_thread(L, co);
  if (bq_vm_is_killed(L)) return bq_vm_raise_kill(L); // see pass_error
  bq_thread_set_busy(co, 0);
  lua_pushboolean(L, outcome == LUA_OK);
  if (outcome == LUA_OK) return 1;
  lua_xmove(co, L, 1);
  return 2;
}

static const luaL_Reg functions[] = {
  {"close", co_close},
  {"create", co_create},
  {"isyieldable", co_isyieldable},
  {"resume", co_resume},
  {"running", co_running},
  {"status", co_status},
  {"wrap", co_wrap},
  {"yield", co_yield},
  {NULL, NULL}
};

void bq_lib_coroutine_push(lua_State *L) {
  luaL_newlib(L, functions);
}
