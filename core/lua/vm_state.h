// What vm.c, hook.c, fiber.c and lib_coroutine.c share about a vm. Private to them.
#ifndef BQ_LUA_VM_STATE_H
#define BQ_LUA_VM_STATE_H

#include <signal.h>
#include <stdatomic.h>

#include "lua/blocks.h"
#include "lua/errors.h"
#include "lua/fiber.h"

enum {
  BQ_HOOK_COUNT = 1000,           // VM instructions between two looks at the clock, while the hook has to stay
  BQ_STRETCH_US = 250 * 1000,     // beyond its slice, code that can't be interrupted may go on for this long (pool)
  BQ_SPARE_FIBERS = 64,           // loop vms: ended fibers kept for the next requests
  BQ_TURN_US = 1000,              // loop vms: after so long everything else on the loop has its turn
  BQ_UNWIND_STEP_US = 5 * 1000,   // a killed fiber: each piece of closing code may take this long …
  BQ_UNWIND_ALL_US = 100 * 1000,  // … and all of it together this long
  BQ_LATER_BYTES = 64 * 1024,     // put off by one slice
  BQ_HOOK_BYTES = 8 * 1024 * 1024, // allocated between two looks at the clock: a few instructions can copy megabytes
  BQ_UNWIND_BYTES = 1024 * 1024,  // memory over the cap for the closing code
  BQ_MAX_PCALL_DEPTH = 2000,      // calls below a pcall: each costs a walk over the stack when a kill unwinds it
  BQ_MAX_CLOSE_DEPTH = 50         // nested coroutine.close: Lua 5.4.4 doesn't count their C stack itself
};

// A kill mark: NULL or the reason. Set once, by any thread.
typedef _Atomic(const char *) bq_kill_mark;
int bq_kill_set(bq_kill_mark *mark, const char *reason); // 1 when this call has set it
void bq_kill_clear(bq_kill_mark *mark);

// Why a coroutine came back from lua_resume with LUA_YIELD.
typedef enum bq_yielded {
  BQ_YIELD_SCRIPT, // coroutine.yield: the business of whoever resumed it
  BQ_YIELD_SLICE,  // its slice is over
  BQ_YIELD_OP      // it waits for an operation
} bq_yielded;

// Fiber: NEW → QUEUED → RUNNING → QUEUED (slice over) | WAITING → QUEUED (operation complete) | ENDED
typedef enum bq_fiber_state {
  BQ_FIBER_QUEUED,  // in the vm's run queue
  BQ_FIBER_RUNNING, // the vm's `running`
  BQ_FIBER_WAITING, // for `op`
  BQ_FIBER_ENDED    // on_end was called or is about to be
} bq_fiber_state;

struct bq_fiber {
  bq_vm *vm;
  lua_State *L;           // its coroutine; kept in the registry under the fiber's address
  bq_fiber_state state;
  bq_kill_mark kill;      // of this fiber alone; the vm's counts as well
  bq_op *op;              // owned from bq_op_yield until its release; NULL when it waits for nothing
  int nargs;              // for the next lua_resume
  int begun;              // the slice's: it was resumed once
  int failed;             // the slice's: an error came out of the script
  int ended;              // the slice's: it won't be resumed again; the loop reads it between slices
  int shown;              // the slice's: the script has seen its coroutine, which then serves no other fiber
  bq_end end;             // valid when ended
  char where[BQ_WHERE_SIZE];      // see bq_fiber_where
  char *traceback;        // owned; see bq_fiber_traceback
  bq_fiber_end on_end;
  void *arg;
  bq_fiber *queue_next;   // in the run queue
  bq_fiber *prev, *next;  // in the list of all fibers
};

// The vm's one item of work: IDLE → POSTED (next turn of the loop) → RUNNING (a slice) → IDLE
typedef enum bq_vm_work { BQ_VM_IDLE, BQ_VM_POSTED, BQ_VM_RUNNING } bq_vm_work;

struct bq_vm {
  lua_State *L;             // owned; the main thread of the state
  bq_vm_options options;
  bq_kill_mark kill;
  int kill_swept;           // loop: the fibers that wait were told of the kill
  // The allocator's
  bq_blocks blocks;
  size_t image_bytes;       // `memory` when the image was made
  atomic_size_t memory;     // bytes; written by whoever touches the vm
  size_t memory_limit;      // SIZE_MAX before bq_vm_lend
  size_t collect_at;        // bytes: garbage is collected when there is more than this
  int out_of_memory;        // the cap was reached for good
  int memory_refused;       // the last growth was refused; Lua collects garbage and asks once more
  // The slice's
  bq_fiber *running;        // NULL between slices and in bq_vm_call
  bq_later *later_first;    // put off by the slice, oldest first; the loop's between slices
  bq_later *later_last;
  size_t later_bytes;       // in that list
  lua_State *current;       // the coroutine that runs; valid in a slice
  size_t allocated;         // bytes since the hook last ran
  int in_slice;             // script code may run: the times below are valid
  bq_yielded yielded;       // why the running fiber yields
  char *call_where;         // bq_vm_call's: where the error was raised
  int64_t call_us;          // of one bq_vm_call; 0: slice_us and BQ_STRETCH_US
  int pinned;               // coroutines being resumed by code that can't yield: nothing below them may wait
  int close_depth;          // nested coroutine.close
  volatile sig_atomic_t look; // the watchdog asks: loops in C look at the clock now
  int is_watched;           // 0: no watchdog on this thread; the hook stays
  bq_vm *watched_before;    // whom the thread's watchdog goes back to
  int asked_for_room;       // the allocator has asked for the hook, to collect garbage
  int64_t slice_began_us;   // CPU time of the slice's thread; in a turn of the loop: when the turn began
  int64_t slice_began_wall_us; // in a turn of the loop: when the slice began, monotonic
  int64_t turn_began_us;    // when the turn began, monotonic
  int64_t turn_now_us;      // between two slices of it: now
  int in_turn;              // a turn of the loop: slices follow one another
  int64_t killed_at_us;     // when the kill was first raised in this slice; -1: not yet
  int64_t raised_at_us;     // when it was last raised
  atomic_llong cpu_us;      // all slices that have ended
  int64_t cpu_limit_us;     // cpu_us at which the vm is killed; INT64_MAX: none
  atomic_ullong slices;
  // The loop's
  bq_vm_work work;
  int in_done;              // between slices, in callbacks: nothing may be handed to the pool
  int freeing;              // bq_vm_free was called
  bq_fiber *queue_first;    // fibers to run, oldest first
  bq_fiber *queue_last;
  bq_fiber *fibers;         // all of them
  bq_fiber *spare;          // loop vms: ended ones with their coroutines, a list by queue_next
  int spare_count;
  bq_post post;             // to start a slice
  bq_task task;             // a slice on the pool
  bq_timer *retry;          // owned; the pool was full
  // Set by the owner, read by lua/stdlib.c
  void (*print)(void *owner, const char *text, size_t length);
  lua_CFunction require;
  void *extra;              // see bq_vm_set_extra
  void (*release_extra)(void *extra);
};

// hook.c
int64_t bq_thread_cpu_us(void);
void bq_hook_soon(lua_State *L);               // at the next instruction of that coroutine
void bq_hook_keep(lua_State *L);               // every BQ_HOOK_COUNT instructions of that coroutine
void bq_hook_ask(bq_vm *vm);                   // from a signal handler of the slice's thread: time to look
void bq_slice_begin(bq_vm *vm, lua_State *L);
void bq_slice_end(bq_vm *vm);
void bq_turn_begin(bq_vm *vm);                 // around several slices of a loop vm
int bq_turn_is_over(bq_vm *vm);                // no further slice may begin in it
void bq_turn_end(bq_vm *vm);
int bq_slice_is_over(bq_vm *vm);               // the slice has had its share
const char *bq_vm_noun(const bq_vm *vm);       // of messages
const char *bq_kill_reason_of(const bq_vm *vm); // of the vm or of the running fiber; NULL
int bq_can_wait(lua_State *L);                 // a yield of the scheduler's would reach it

// A coroutine's extra space holds its vm, and in the lowest bit whether scripts must keep their hands off it: a fiber's
// own coroutine, or one that is being resumed (also while the whole fiber waits).
int bq_thread_is_busy(lua_State *L);
void bq_thread_set_busy(lua_State *L, int busy);

// vm.c: collects garbage when `bytes` more come near the cap. Lua does so by itself for objects, but not for buffers.
void bq_vm_make_room(lua_State *L, size_t bytes);

// fiber.c
void bq_fiber_sweep(bq_vm *vm);    // loop: after a kill
void bq_fiber_retry(void *arg);    // the bq_vm; loop: the pool was full a moment ago
void bq_fiber_free_all(bq_vm *vm); // loop: for bq_vm_free
void bq_fiber_note_place(bq_fiber *fiber, lua_State *L); // fills where and traceback, once
void bq_vm_destroy(bq_vm *vm);    // vm.c: the second half of bq_vm_free

#endif
