// Fibers: Lua coroutines that the scheduler runs in slices, and operations they wait for.
//
// A bq_vm is one lua_State with a memory cap, a step budget and the fibers in it. Only one thread touches it at a time:
// a slice (one resume) of a pool vm runs on the compute pool; of a loop vm, on the loop. Between slices everything
// belongs to the loop.
//
// A binding that waits is a lua_CFunction that checks its arguments, makes a bq_op and ends in
// `return bq_op_yield(L, op)`. The smallest whole example is lua/lib_sleep.c: copy it.
#ifndef BQ_LUA_FIBER_H
#define BQ_LUA_FIBER_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "event/loop.h"
#include "event/pool.h"

typedef struct bq_vm bq_vm;
typedef struct bq_fiber bq_fiber;
typedef struct bq_op bq_op;

// An operation under way for one fiber. Embed it first in your own struct, allocated with bq_alloc.
struct bq_op {
  // Loop thread: begin. Must lead to exactly one bq_op_complete, now or later.
  void (*start)(bq_op *op);
  // Loop thread: the fiber is being ended (cancel, timeout, shutdown). Must still lead to bq_op_complete, soon.
  // NULL: it can't be cut short.
  void (*cancel)(bq_op *op);
  // Slice thread: push the results and return their count, or push one error value and return -1 to raise it. The
  // stack begins with what the lua_CFunction had on its own when it yielded. May raise.
  int (*push)(bq_op *op, lua_State *L);
  // Any thread: release the op and all it owns. Called exactly once, whether or not push was.
  void (*release)(bq_op *op);
  // The scheduler's own.
  bq_fiber *fiber;
  int state;
};

// From a lua_CFunction, as its return expression. Takes ownership of `op` (also when it raises an error, as it does
// outside of a fiber).
int bq_op_yield(lua_State *L, bq_op *op);

// Something small for the loop to do when this slice is over, before whatever else comes of the slice; the script goes on
// meanwhile. Embed it in your own struct.
typedef struct bq_later bq_later;
struct bq_later {
  // Loop thread, once: does it when `wanted` (the vm is not being freed), and releases it in any case.
  void (*run)(bq_later *later, int wanted);
  size_t bytes; // that it keeps
  bq_later *next;
};

// From a lua_CFunction. 1: it is the slice's now. 0: there is no slice, it is being ended, or has put off enough: yield an
// operation instead (bq_op_yield).
int bq_vm_put_off(lua_State *L, bq_later *later);

// Loop thread: the operation has ended; its fiber becomes runnable.
void bq_op_complete(bq_op *op);

// Loop thread, from `start` on: the vm whose fiber waits for it. NULL when that is being freed (a cancel then must not
// touch the Lua state).
bq_vm *bq_op_vm(const bq_op *op);

typedef enum bq_end {
  BQ_END_RETURNED, // the function returned
  BQ_END_ERROR,    // it raised an error that nothing caught
  BQ_END_KILLED    // the scheduler ended it (see bq_fiber_kill), or a budget ran out
} bq_end;

typedef struct bq_vm_options {
  bq_loop *loop;
  bq_pool *pool;           // NULL: slices run on the loop
  size_t memory_bytes;     // growth allowed over the size at bq_vm_lend
  int64_t slice_us;        // pool: a slice is ended after about this long (10 000). Loop: a fiber that computes this
                           // long between two waits is killed: handlers on the loop are small
  int64_t cpu_us;          // all slices of the fibers together; reaching it kills the vm; 0: no bound
  const char *noun;        // what messages call it: "policy"; NULL: pipeline on a pool, handler on the loop
  void *owner;             // what bindings find with bq_vm_owner: the attempt, the exchange, …
  unsigned lent;           // not 0: its memory is freed as a whole, no __gc runs, and it can be lent again; the stock's era
} bq_vm_options;

// The state has the libraries of lua/stdlib.h and no globals. Nothing is bounded by memory_bytes before bq_vm_lend.
int bq_vm_new(bq_vm **out, const bq_vm_options *options, bq_error *err) BQ_MUSTCHECK;

// Collects garbage, takes the size that is left as the base of the memory cap, and starts all budgets afresh.
void bq_vm_lend(bq_vm *vm);

lua_State *bq_vm_state(bq_vm *vm);
bq_vm *bq_vm_of(lua_State *L);
// What lives as long as the vm: `release` is called with it behind the state's end.
void bq_vm_set_extra(bq_vm *vm, void *extra, void (*release)(void *extra));
void *bq_vm_extra(const bq_vm *vm);
void *bq_vm_owner(bq_vm *vm);
void bq_vm_set_owner(bq_vm *vm, void *owner);
bq_loop *bq_vm_loop(bq_vm *vm);
// Loop thread; also from inside on_end. Fibers that are left don't run again and their on_end is not called. Operations
// under way are cancelled, and released after their completion. With a slice under way the memory is freed after it.
void bq_vm_free(bq_vm *vm);

// For lua/stock.c, between slices. bq_vm_options.lent.
unsigned bq_vm_lent(const bq_vm *vm);
// What builds find in a lent vm is there: bq_vm_lend, and from here on its memory is a build's.
void bq_vm_seal(bq_vm *vm);
// Behind that: keeps a copy of its memory as it is now; 0: it can't be kept.
int bq_vm_make_image(bq_vm *vm) BQ_MUSTCHECK;
int bq_vm_has_image(const bq_vm *vm);
// Like bq_vm_free, but then the state is what it was when its image was made, byte for byte. 0: it must be freed, since it
// has none, or a slice is under way.
int bq_vm_renew(bq_vm *vm) BQ_MUSTCHECK;
// Before its next use: with these options, fresh budgets and other random numbers.
void bq_vm_lend_again(bq_vm *vm, const bq_vm_options *options);

// Runs the function and `nargs` arguments on top of L's stack now, on the calling thread, for what can't wait: loading
// a module, a self-check. Only while no slice is under way. Bounded like any stretch that can't be interrupted.
// A call that had to be ended for that leaves the vm killed (bq_vm_unkill, or free it).
// On success `nresults` results are on the stack; on failure (BQ_ESCRIPT) nothing is, and `err` has the one line.
int bq_vm_call(bq_vm *vm, lua_State *L, int nargs, int nresults, bq_error *err) BQ_MUSTCHECK;

// From now on such a call is ended after `us` of the thread's time (at first: the slice and 250 ms).
void bq_vm_set_call_budget(bq_vm *vm, int64_t us);

// Loop thread, while no slice of the vm is under way: before its first fiber, inside on_end, inside an op's start, and
// for a loop vm at any time. The first slice runs on a later turn. A fiber is gone after its on_end has returned.
// Starts a fiber on the function and `nargs` arguments on top of L's stack (popped). `on_end` is called on the loop,
// once, with the fiber's stack still holding the results (count lua_gettop) or the error value; `L` is that stack.
typedef void (*bq_fiber_end)(void *arg, bq_end end, lua_State *L);
int bq_fiber_start(bq_fiber **out, bq_vm *vm, lua_State *L, int nargs, bq_fiber_end on_end, void *arg,
                   bq_error *err) BQ_MUSTCHECK;

// Loop thread: like bq_vm_kill, for one fiber. A fiber it waits for (bq_lua_all) is ended as well.
void bq_fiber_kill(bq_fiber *fiber, const char *reason);

// For on_end, when the fiber did not return. Where it was, for people ("scripts/pipelines/x.lua:12", "" when it was in
// no script), and the traceback for the log ("" when there was no memory for one).
const char *bq_fiber_where(const bq_fiber *fiber);
const char *bq_fiber_traceback(const bq_fiber *fiber);

// Loop thread: ends every fiber of the vm with `reason`, which no script can catch; operations under way are
// cancelled. on_end follows for each, on a later turn. Idempotent; the first reason stays.
void bq_vm_kill(bq_vm *vm, const char *reason);
const char *bq_vm_kill_reason(const bq_vm *vm); // NULL when it was not killed
int bq_vm_is_out_of_memory(const bq_vm *vm);    // it reached its cap, and was killed for that
void bq_vm_unkill(bq_vm *vm); // so that deferred functions can run afterwards, with fresh budgets; no fiber is left

// For a lua_CFunction that has computed for long, or is in a loop of its own: raises when the fiber is to be ended or
// this stretch has lasted too long, and lets the slice end soon when it is over. Costs less than a microsecond.
void bq_vm_tick(lua_State *L);

// For a C function that catches errors of scripts: 1 when the error must go on, since the fiber is being ended. Then
// return bq_vm_raise_kill(L).
int bq_vm_is_killed(lua_State *L);
int bq_vm_raise_kill(lua_State *L);

typedef struct bq_vm_usage {
  size_t memory_bytes; // now
  int64_t cpu_us;      // in slices so far
  uint64_t slices;
} bq_vm_usage;
void bq_vm_get_usage(const bq_vm *vm, bq_vm_usage *out);

#endif
