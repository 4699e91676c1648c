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
  // Slice thread: push the results and return their count, or push one error value and return -1 to raise it.
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

// Loop thread: the operation has ended; its fiber becomes runnable.
void bq_op_complete(bq_op *op);

typedef enum bq_end {
  BQ_END_RETURNED, // the function returned
  BQ_END_ERROR,    // it raised an error that nothing caught
  BQ_END_KILLED    // the scheduler ended it (see bq_fiber_kill), or a budget ran out
} bq_end;

typedef struct bq_vm_options {
  bq_loop *loop;
  bq_pool *pool;           // NULL: slices run on the loop
  size_t memory_bytes;     // growth allowed over the size at bq_vm_lend
  int64_t slice_us;        // a slice is ended after about this long (10 000)
  int64_t cpu_us;          // all slices of the fibers together; reaching it kills the vm
  void *owner;             // what bindings find with bq_vm_owner: the attempt, the exchange, …
} bq_vm_options;

int bq_vm_new(bq_vm **out, const bq_vm_options *options, bq_error *err) BQ_MUSTCHECK;
lua_State *bq_vm_state(bq_vm *vm);
bq_vm *bq_vm_of(lua_State *L);
void *bq_vm_owner(bq_vm *vm);
void bq_vm_set_owner(bq_vm *vm, void *owner);
bq_loop *bq_vm_loop(bq_vm *vm);
void bq_vm_free(bq_vm *vm); // no fiber may be running in a slice; pending ops are released after their completion

// Starts a fiber on the function and `nargs` arguments on top of L's stack (popped). `on_end` is called on the loop,
// once, with the fiber's stack still holding the results (count lua_gettop) or the error value; `L` is that stack.
typedef void (*bq_fiber_end)(void *arg, bq_end end, lua_State *L);
int bq_fiber_start(bq_fiber **out, bq_vm *vm, lua_State *L, int nargs, bq_fiber_end on_end, void *arg,
                   bq_error *err) BQ_MUSTCHECK;

// Loop thread: ends every fiber of the vm with `reason`, which no script can catch; operations under way are
// cancelled. on_end follows for each, on a later turn. Idempotent; the first reason stays.
void bq_vm_kill(bq_vm *vm, const char *reason);
const char *bq_vm_kill_reason(const bq_vm *vm); // NULL when it was not killed
void bq_vm_unkill(bq_vm *vm);                   // so that deferred functions can run afterwards

typedef struct bq_vm_usage {
  size_t memory_bytes; // now
  int64_t cpu_us;      // in slices so far
  uint64_t slices;
} bq_vm_usage;
void bq_vm_get_usage(const bq_vm *vm, bq_vm_usage *out);

#endif
