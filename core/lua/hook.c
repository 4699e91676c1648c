// The hook: what ends a slice, and what ends a script that may not go on. It is there only when it is asked for.
#include <lauxlib.h>
#include <stdio.h>
#include <time.h>

#include "lua/errors.h"
#include "lua/vm_state.h"
#include "lua/watchdog.h"

// The thread's own time: a busy machine must not make a script look as if it looped.
// AddressSanitizer's code needs several times as long for the same work: budgets are those of the work. Not so under
// ThreadSanitizer, which ends a program with 64 Ki frames: a recursion has to be ended before.
#ifdef __SANITIZE_ADDRESS__
enum { SLOWNESS = 5 };
#else
enum { SLOWNESS = 1 };
#endif

int64_t bq_thread_cpu_us(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return ((int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000) / SLOWNESS;
}

// Never the replaced clock of a test: with that one a budget would never run out.
static int64_t wall_us(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void bq_slice_begin(bq_vm *vm, lua_State *L) {
  vm->current = L;
  vm->allocated = 0;
  if (vm->in_turn) vm->slice_began_wall_us = vm->running != NULL ? vm->turn_now_us : wall_us();
  else vm->slice_began_us = bq_thread_cpu_us();
  vm->killed_at_us = -1;
  vm->raised_at_us = -1;
  vm->yielded = BQ_YIELD_SCRIPT;
  vm->pinned = 0;
  vm->close_depth = 0;
  vm->asked_for_room = 0;
  vm->is_watched = bq_watchdog_begin(vm, &vm->watched_before);
  vm->look = !vm->is_watched;
  vm->in_slice = 1;
  if (!vm->is_watched || bq_kill_reason_of(vm) != NULL) bq_hook_soon(L);
}

void bq_slice_end(bq_vm *vm) {
  vm->in_slice = 0;
  bq_watchdog_end(vm->watched_before);
  if (!vm->in_turn) atomic_fetch_add(&vm->cpu_us, bq_thread_cpu_us() - vm->slice_began_us);
  atomic_fetch_add(&vm->slices, 1);
}

void bq_turn_begin(bq_vm *vm) {
  vm->in_turn = 1;
  vm->turn_began_us = vm->turn_now_us = wall_us();
  vm->slice_began_us = bq_thread_cpu_us();
}

int bq_turn_is_over(bq_vm *vm) {
  vm->turn_now_us = wall_us();
  return vm->turn_now_us - vm->turn_began_us >= BQ_TURN_US;
}

void bq_turn_end(bq_vm *vm) {
  vm->in_turn = 0;
  atomic_fetch_add(&vm->cpu_us, bq_thread_cpu_us() - vm->slice_began_us);
}

// How long the slice has computed. Asking for CPU time is a system call, which would cost a small handler as much as
// its work: in a turn of the loop it is asked for only when the clock on the wall says that the share may be over, and
// then may count up to a turn's length of the slices before.
static int64_t slice_used_us(const bq_vm *vm) {
  if (!vm->in_turn) return bq_thread_cpu_us() - vm->slice_began_us;
  int64_t by_wall = wall_us() - vm->slice_began_wall_us;
  if (by_wall < vm->options.slice_us) return by_wall;
  int64_t by_cpu = bq_thread_cpu_us() - vm->slice_began_us;
  return by_cpu < by_wall ? by_cpu : by_wall;
}

const char *bq_kill_reason_of(const bq_vm *vm) {
  const char *reason = atomic_load(&vm->kill);
  if (reason == NULL && vm->running != NULL) reason = atomic_load(&vm->running->kill);
  return reason;
}

int bq_vm_is_killed(lua_State *L) {
  return bq_kill_reason_of(bq_vm_of(L)) != NULL;
}

int bq_vm_raise_kill(lua_State *L) {
  bq_vm *vm = bq_vm_of(L);
  const char *reason = bq_kill_reason_of(vm);
  int64_t used = slice_used_us(vm);
  if (vm->killed_at_us < 0) {
    vm->killed_at_us = used;
    if (vm->running != NULL) bq_fiber_note_place(vm->running, L);
    else if (vm->call_where != NULL && vm->call_where[0] == '\0') bq_lua_where(L, vm->call_where, BQ_WHERE_SIZE);
  }
  vm->raised_at_us = used;
  // Closing code sees the reason as its error. Without memory for it the raised error is another one: no matter.
  lua_pushstring(L, reason != NULL ? reason : "ended");
  return lua_error(L);
}

int bq_can_wait(lua_State *L) {
  const bq_vm *vm = bq_vm_of(L);
  return vm->running != NULL && vm->pinned == 0 && lua_isyieldable(L);
}

int bq_slice_is_over(bq_vm *vm) {
  return slice_used_us(vm) >= vm->options.slice_us;
}

const char *bq_vm_noun(const bq_vm *vm) {
  if (vm->options.noun != NULL) return vm->options.noun;
  return vm->options.pool != NULL ? "pipeline" : "handler";
}

// Sets the kill mark when a budget has run out. For a loop vm the share of a slice is the budget; for a pool vm there
// is some more, as long as it can't be interrupted.
static void check_budgets(bq_vm *vm, int64_t used) {
  char reason[200];
  const bq_vm_options *o = &vm->options;
  if (atomic_load_explicit(&vm->cpu_us, memory_order_relaxed) + used >= vm->cpu_limit_us) {
    (void)snprintf(reason, sizeof reason, "the %s used more than %lld s of Lua time", bq_vm_noun(vm),
                   (long long)(o->cpu_us / 1000000));
    if (o->cpu_us % 1000000 != 0) {
      (void)snprintf(reason, sizeof reason, "the %s used more than %lld ms of Lua time", bq_vm_noun(vm),
                     (long long)(o->cpu_us / 1000));
    }
    (void)bq_kill_set(&vm->kill, reason);
  } else if (o->pool == NULL && vm->running != NULL) {
    if (used < o->slice_us) return;
    (void)snprintf(reason, sizeof reason, "the handler computed for more than %lld ms without a pause",
                   (long long)(o->slice_us / 1000));
    (void)bq_kill_set(&vm->running->kill, reason);
  } else if (vm->call_us > 0 && vm->running == NULL) {
    if (used < vm->call_us) return;
    (void)snprintf(reason, sizeof reason, "the %s computed for more than %lld ms", bq_vm_noun(vm),
                   (long long)(vm->call_us / 1000));
    (void)bq_kill_set(&vm->kill, reason);
  } else if (used >= o->slice_us + BQ_STRETCH_US) {
    (void)snprintf(reason, sizeof reason,
                   "the %s ran for more than %d ms where it can't be interrupted (inside a gsub, a pattern, "
                   "an error handler, a module's chunk, …)", bq_vm_noun(vm), BQ_STRETCH_US / 1000);
    (void)bq_kill_set(&vm->kill, reason);
  }
}

// Whether closing code of a killed fiber may go on for a while.
static int may_unwind(const bq_vm *vm, int64_t used) {
  return vm->killed_at_us >= 0 && used - vm->raised_at_us < BQ_UNWIND_STEP_US &&
         used - vm->killed_at_us < BQ_UNWIND_ALL_US;
}

static void hook(lua_State *L, lua_Debug *ar);

void bq_hook_keep(lua_State *L) {
  lua_sethook(L, hook, LUA_MASKCOUNT, BQ_HOOK_COUNT);
}

void bq_hook_soon(lua_State *L) {
  lua_sethook(L, hook, LUA_MASKCOUNT, 1);
}

void bq_hook_ask(bq_vm *vm) {
  vm->look = 1;
  bq_hook_soon(vm->current);
}

// The script runs without a hook until the watchdog, or the allocator, asks again.
static void drop_hook(const bq_vm *vm, lua_State *L) {
  if (vm->is_watched) lua_sethook(L, NULL, 0, 0);
  else bq_hook_keep(L);
}

static void hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  bq_vm *vm = bq_vm_of(L);
  if (!vm->in_slice) return; // lua_gc and lua_close of the vm's owner
  vm->look = !vm->is_watched;
  vm->allocated = 0;
  vm->asked_for_room = 0;
  bq_vm_make_room(L, 0);
  int64_t used = slice_used_us(vm);
  if (bq_kill_reason_of(vm) == NULL) check_budgets(vm, used);
  if (bq_kill_reason_of(vm) != NULL) {
    bq_hook_keep(L); // what closes now is looked after by the count
    if (may_unwind(vm, used)) return;
    // A script may nest very many pieces of closing code: once the time for all is over each gets one instruction.
    if (vm->killed_at_us >= 0 && used - vm->killed_at_us >= BQ_UNWIND_ALL_US) bq_hook_soon(L);
    (void)bq_vm_raise_kill(L);
  } else if (used < vm->options.slice_us) {
    drop_hook(vm, L);
  } else if (!bq_can_wait(L)) {
    bq_hook_keep(L); // inside a callback: it yields as soon as that is over
  } else {
    drop_hook(vm, L);
    vm->yielded = BQ_YIELD_SLICE;
    (void)lua_yield(L, 0);
  }
}

void bq_vm_tick(lua_State *L) {
  bq_vm *vm = bq_vm_of(L);
  if (!vm->in_slice || (!vm->look && bq_kill_reason_of(vm) == NULL)) return;
  vm->look = !vm->is_watched;
  int64_t used = slice_used_us(vm);
  if (bq_kill_reason_of(vm) == NULL) check_budgets(vm, used);
  if (bq_kill_reason_of(vm) != NULL) {
    if (!may_unwind(vm, used)) (void)bq_vm_raise_kill(L);
  } else if (used >= vm->options.slice_us) {
    bq_hook_soon(L);
  }
}
