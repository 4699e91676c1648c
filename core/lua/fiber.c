// The scheduler: the run queue of a vm, its slices, and what fibers wait for.
#include "lua/fiber.h"

#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"
#include "lua/errors.h"
#include "lua/vm_state.h"

enum { FULL_POOL_RETRY_MS = 10 };

enum { OP_NEW, OP_STARTED, OP_CANCELLED, OP_COMPLETE };

static void begin_slice(bq_post *post);

static int is_killed(const bq_fiber *fiber) {
  return atomic_load(&fiber->vm->kill) != NULL || atomic_load(&fiber->kill) != NULL;
}

// The first slice of a turn is begun on a later turn, so that whoever started a fiber may go on using the state.
static void schedule(bq_vm *vm) {
  if (vm->work != BQ_VM_IDLE || vm->in_done || vm->queue_first == NULL) return;
  vm->work = BQ_VM_POSTED;
  vm->post.run = begin_slice;
  bq_loop_post(vm->options.loop, &vm->post);
}

static void enqueue(bq_fiber *fiber) {
  bq_vm *vm = fiber->vm;
  fiber->state = BQ_FIBER_QUEUED;
  fiber->queue_next = NULL;
  if (vm->queue_first == NULL) vm->queue_first = fiber;
  else vm->queue_last->queue_next = fiber;
  vm->queue_last = fiber;
  schedule(vm);
}

static bq_fiber *dequeue(bq_vm *vm) {
  bq_fiber *fiber = vm->queue_first;
  vm->queue_first = fiber->queue_next;
  if (vm->queue_first == NULL) vm->queue_last = NULL;
  return fiber;
}

// ---- one slice, on the slice's thread

static int make_traceback(lua_State *L) {
  bq_fiber *fiber = lua_touserdata(L, 1);
  lua_State *at = lua_touserdata(L, 2);
  luaL_traceback(L, at, NULL, 0);
  fiber->traceback = bq_strdup(lua_tostring(L, -1));
  return 0;
}

void bq_fiber_note_place(bq_fiber *fiber, lua_State *L) {
  if (fiber->traceback != NULL) return;
  // Want of memory has noted it when it came: what was below a pcall is gone by now.
  if (fiber->where[0] == '\0') bq_lua_where(L, fiber->where, sizeof fiber->where);
  // On the main thread's stack: L's own may be full.
  lua_State *stack = fiber->vm->L;
  lua_pushcfunction(stack, make_traceback);
  lua_pushlightuserdata(stack, fiber);
  lua_pushlightuserdata(stack, L);
  if (lua_pcall(stack, 2, 0, 0) != LUA_OK) lua_pop(stack, 1);
}

static int push_text(lua_State *L) {
  lua_pushstring(L, lua_touserdata(L, 1));
  return 1;
}

// The message handler below everything: the stack is still whole. The value stays as it is.
static int note_error(lua_State *L) {
  bq_fiber *fiber = bq_vm_of(L)->running;
  if (fiber != NULL) bq_fiber_note_place(fiber, L);
  return 1;
}

static int finish_main(lua_State *L, int status, lua_KContext context) {
  (void)context;
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 1;
  bq_vm_of(L)->running->failed = 1;
  return 1;
}

// The function of every fiber's coroutine; its arguments are the script's function and its arguments. Protected here
// and not by lua_resume alone: an error raised by the hook leaves a coroutine with its hook switched off, and what is
// closed afterwards by lua_resetthread could then run for ever. (Lua 5.4.4; a pcall switches it on again.)
static int fiber_main(lua_State *L) {
  lua_pushcfunction(L, note_error);
  lua_insert(L, 1);
  return finish_main(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, finish_main), 0);
}

// Leaves the error value alone on the stack: the script's, or the reason of the kill.
static void end_with_error(bq_fiber *fiber, int keep) {
  lua_State *L = fiber->L;
  const char *reason = bq_kill_reason_of(fiber->vm);
  fiber->end = reason != NULL ? BQ_END_KILLED : BQ_END_ERROR;
  if (reason == NULL && keep) return;
  lua_settop(L, 0);
  if (reason == NULL) reason = "the coroutine could not be run";
  lua_pushcfunction(L, push_text);
  lua_pushlightuserdata(L, (void *)(uintptr_t)reason);
  (void)lua_pcall(L, 1, 1, 0); // without memory the value is Lua's own message about that
}

static void run_slice(bq_vm *vm) {
  bq_fiber *fiber = vm->running;
  bq_slice_begin(vm, fiber->L);
  int nargs = fiber->nargs;
  int results = 0;
  fiber->nargs = 0;
  // A fiber that was ended before its first slice doesn't run at all.
  int never = !fiber->begun && is_killed(fiber);
  fiber->begun = 1;
  int status = never ? LUA_ERRRUN : lua_resume(fiber->L, NULL, nargs, &results);
  if (status == LUA_OK && !fiber->failed) fiber->end = BQ_END_RETURNED;
  else if (status == LUA_OK) end_with_error(fiber, 1);
  else if (status != LUA_YIELD) {
    (void)lua_resetthread(fiber->L); // it failed in fiber_main itself: nothing of the script's is left to be closed
    end_with_error(fiber, 0);
  }
  fiber->ended = status != LUA_YIELD;
  bq_slice_end(vm);
}

static void work_on_pool(bq_task *task) {
  run_slice((bq_vm *)((char *)task - offsetof(bq_vm, task)));
}

// ---- between slices, on the loop

static void unlink_fiber(bq_fiber *fiber) {
  bq_vm *vm = fiber->vm;
  if (fiber->prev != NULL) fiber->prev->next = fiber->next;
  else vm->fibers = fiber->next;
  if (fiber->next != NULL) fiber->next->prev = fiber->prev;
}

static void forget(bq_fiber *fiber) {
  unlink_fiber(fiber);
  bq_kill_clear(&fiber->kill);
  bq_free(fiber->traceback);
  bq_free(fiber);
}

// A request is a fiber, and its coroutine costs more than a small handler's work: the loop's are kept for others. Only
// after an ordinary end, and unless the script could have kept the coroutine: it would be another request's.
static int keep_spare(bq_fiber *fiber) {
  bq_vm *vm = fiber->vm;
  if (vm->options.pool != NULL || vm->spare_count == BQ_SPARE_FIBERS) return 0;
  if (fiber->end != BQ_END_RETURNED || fiber->shown || is_killed(fiber) || vm->freeing) return 0;
  lua_settop(fiber->L, 0);
  bq_free(fiber->traceback);
  fiber->traceback = NULL;
  fiber->where[0] = '\0';
  unlink_fiber(fiber);
  fiber->queue_next = vm->spare;
  vm->spare = fiber;
  vm->spare_count++;
  return 1;
}

static bq_fiber *take_spare(bq_vm *vm) {
  bq_fiber *fiber = vm->spare;
  if (fiber == NULL) return NULL;
  vm->spare = fiber->queue_next;
  vm->spare_count--;
  fiber->begun = fiber->failed = fiber->ended = 0;
  fiber->prev = fiber->queue_next = NULL;
  return fiber;
}

static void end_fiber(bq_fiber *fiber) {
  bq_vm *vm = fiber->vm;
  fiber->state = BQ_FIBER_ENDED;
  if (fiber->on_end != NULL) fiber->on_end(fiber->arg, fiber->end, fiber->L);
  if (keep_spare(fiber)) return;
  // The key exists: this allocates nothing. The coroutine is garbage from now on.
  lua_pushnil(vm->L);
  lua_rawsetp(vm->L, LUA_REGISTRYINDEX, fiber);
  forget(fiber);
}

static void begin_op(bq_fiber *fiber) {
  bq_op *op = fiber->op;
  fiber->state = BQ_FIBER_WAITING;
  if (is_killed(fiber)) {
    op->state = OP_COMPLETE;
    enqueue(fiber);
    return;
  }
  op->state = OP_STARTED;
  op->start(op);
}

static void cancel_op(bq_fiber *fiber) {
  if (fiber->state != BQ_FIBER_WAITING) return; // its op may belong to a slice
  bq_op *op = fiber->op;
  if (op->state != OP_STARTED) return;
  op->state = OP_CANCELLED;
  if (op->cancel != NULL) op->cancel(op);
}

void bq_fiber_sweep(bq_vm *vm) {
  if (vm->kill_swept) return;
  vm->kill_swept = 1;
  // A cancel may complete at once, which queues the fiber; it never ends one inside this loop.
  for (bq_fiber *fiber = vm->fibers; fiber != NULL; fiber = fiber->next) cancel_op(fiber);
}

int bq_vm_put_off(lua_State *L, bq_later *later) {
  bq_vm *vm = bq_vm_of(L);
  if (vm->running == NULL || bq_vm_is_killed(L) || vm->later_bytes + later->bytes > BQ_LATER_BYTES) return 0;
  later->next = NULL;
  if (vm->later_first == NULL) vm->later_first = later;
  else vm->later_last->next = later;
  vm->later_last = later;
  vm->later_bytes += later->bytes;
  return 1;
}

static void do_later(bq_vm *vm) {
  bq_later *later = vm->later_first;
  vm->later_first = vm->later_last = NULL;
  vm->later_bytes = 0;
  while (later != NULL) {
    bq_later *next = later->next;
    later->run(later, !vm->freeing);
    later = next;
  }
}

// Returns 0 when the vm is gone.
static int slice_done(bq_vm *vm) {
  bq_fiber *fiber = vm->running;
  vm->running = NULL;
  vm->work = BQ_VM_IDLE;
  vm->in_done = 1;
  do_later(vm);
  if (!vm->freeing) {
    if (atomic_load(&vm->kill) != NULL) bq_fiber_sweep(vm);
    if (fiber->ended) end_fiber(fiber);
    else if (fiber->op != NULL) begin_op(fiber);
    else enqueue(fiber);
  }
  vm->in_done = 0;
  if (vm->freeing) {
    bq_fiber_free_all(vm);
    bq_vm_destroy(vm);
    return 0;
  }
  return 1;
}

static void done_on_loop(bq_task *task) {
  bq_vm *vm = (bq_vm *)((char *)task - offsetof(bq_vm, task));
  if (slice_done(vm)) schedule(vm);
}

// Many requests come in one turn of the loop: their slices follow one another without going through it again.
static void run_turn(bq_vm *vm) {
  bq_turn_begin(vm);
  do {
    vm->work = BQ_VM_RUNNING;
    vm->running = dequeue(vm);
    vm->running->state = BQ_FIBER_RUNNING;
    run_slice(vm);
    if (!slice_done(vm)) return;
  } while (vm->queue_first != NULL && !bq_turn_is_over(vm));
  bq_turn_end(vm);
  schedule(vm);
}

static void begin_slice(bq_post *post) {
  bq_vm *vm = (bq_vm *)((char *)post - offsetof(bq_vm, post));
  if (vm->freeing) {
    bq_fiber_free_all(vm);
    bq_vm_destroy(vm);
    return;
  }
  if (vm->options.pool == NULL) {
    run_turn(vm);
    return;
  }
  vm->running = vm->queue_first;
  vm->task.work = work_on_pool;
  vm->task.done = done_on_loop;
  vm->running->state = BQ_FIBER_RUNNING;
  // From a successful submit on, the vm belongs to the slice: everything is set before.
  (void)dequeue(vm);
  vm->work = BQ_VM_RUNNING;
  if (bq_pool_submit(vm->options.pool, &vm->task, NULL) == 0) return;
  bq_fiber *fiber = vm->running;
  vm->running = NULL;
  vm->work = BQ_VM_POSTED;
  fiber->state = BQ_FIBER_QUEUED;
  fiber->queue_next = vm->queue_first;
  if (vm->queue_first == NULL) vm->queue_last = fiber;
  vm->queue_first = fiber;
  bq_timer_set(vm->retry, FULL_POOL_RETRY_MS); // busy to the brim: its place in the run queue is kept
}

void bq_fiber_retry(void *arg) {
  bq_vm *vm = arg;
  begin_slice(&vm->post);
}

void bq_fiber_free_all(bq_vm *vm) {
  for (bq_fiber *fiber = vm->fibers; fiber != NULL; fiber = fiber->next) {
    bq_op *op = fiber->op;
    if (op == NULL) continue;
    fiber->op = NULL;
    op->fiber = NULL; // from here on its completion releases it
    if (op->state == OP_NEW || op->state == OP_COMPLETE) {
      op->release(op);
    } else if (op->state == OP_STARTED) {
      op->state = OP_CANCELLED;
      if (op->cancel != NULL) op->cancel(op);
    }
  }
  while (vm->fibers != NULL) forget(vm->fibers);
  for (bq_fiber *fiber; (fiber = take_spare(vm)) != NULL;) bq_free(fiber);
  vm->queue_first = vm->queue_last = NULL;
}

// ---- what bindings and owners call

void bq_op_complete(bq_op *op) {
  bq_fiber *fiber = op->fiber;
  if (fiber == NULL) { // its vm is gone
    op->release(op);
    return;
  }
  op->state = OP_COMPLETE;
  enqueue(fiber);
}

bq_vm *bq_op_vm(const bq_op *op) {
  return op->fiber != NULL ? op->fiber->vm : NULL;
}

static int call_push(lua_State *L) {
  bq_op *op = lua_touserdata(L, 1);
  lua_remove(L, 1);
  int results = op->push(op, L);
  return results < 0 ? lua_error(L) : results;
}

// The continuation of bq_op_yield, in a new slice.
static int resume_with_results(lua_State *L, int status, lua_KContext context) {
  (void)status;
  bq_op *op = (bq_op *)context;
  bq_fiber *fiber = op->fiber;
  fiber->op = NULL;
  if (is_killed(fiber)) {
    op->release(op);
    return bq_vm_raise_kill(L);
  }
  int before = lua_gettop(L);
  if (!lua_checkstack(L, before + 2)) {
    op->release(op);
    return luaL_error(L, "stack overflow");
  }
  lua_pushcfunction(L, call_push);
  lua_pushlightuserdata(L, op);
  for (int i = 1; i <= before; i++) lua_pushvalue(L, i);
  // Protected, so that the op is released in every case.
  int outcome = lua_pcall(L, before + 1, LUA_MULTRET, 0);
  op->release(op);
  if (outcome != LUA_OK) return lua_error(L);
  return lua_gettop(L) - before;
}

int bq_op_yield(lua_State *L, bq_op *op) {
  bq_vm *vm = bq_vm_of(L);
  op->state = OP_NEW;
  op->fiber = vm->running;
  if (bq_vm_is_killed(L)) {
    op->release(op);
    return bq_vm_raise_kill(L);
  }
  if (!bq_can_wait(L)) {
    op->release(op);
    return luaL_error(L, "can't wait here: not inside a gsub, an error handler, coroutine.close or a "
                         "module's chunk");
  }
  vm->running->op = op;
  vm->yielded = BQ_YIELD_OP;
  return lua_yieldk(L, 0, (lua_KContext)op, resume_with_results);
}

static int new_coroutine(lua_State *L) {
  bq_fiber *fiber = lua_touserdata(L, 1);
  fiber->L = lua_newthread(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, fiber);
  return 0;
}

int bq_fiber_start(bq_fiber **out, bq_vm *vm, lua_State *L, int nargs, bq_fiber_end on_end, void *arg,
                   bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_fiber *fiber = take_spare(vm);
  if (fiber == NULL) {
    fiber = bq_alloc(sizeof *fiber);
    if (fiber == NULL || !lua_checkstack(L, 2)) goto no_memory;
    atomic_init(&fiber->kill, NULL);
    fiber->vm = vm;
    lua_pushcfunction(L, new_coroutine);
    lua_pushlightuserdata(L, fiber);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
      lua_pop(L, 1);
      goto no_memory;
    }
  }
  fiber->nargs = nargs + 1; // fiber_main's
  fiber->on_end = on_end;
  fiber->arg = arg;
  lua_pushcfunction(fiber->L, fiber_main);
  if (!lua_checkstack(fiber->L, nargs + LUA_MINSTACK)) {
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, fiber);
    goto no_memory;
  }
  lua_xmove(L, fiber->L, nargs + 1);
  bq_thread_set_busy(fiber->L, 1);
  fiber->next = vm->fibers;
  if (vm->fibers != NULL) vm->fibers->prev = fiber;
  vm->fibers = fiber;
  *out = fiber; // set before the first slice can end
  enqueue(fiber);
  return 0;
no_memory:
  result = bq_fail(err, BQ_ENOMEM, "out of memory for a coroutine");
  lua_pop(L, nargs + 1);
  bq_free(fiber);
  return result;
}

void bq_fiber_kill(bq_fiber *fiber, const char *reason) {
  (void)bq_kill_set(&fiber->kill, reason);
  cancel_op(fiber);
}

const char *bq_fiber_where(const bq_fiber *fiber) {
  return fiber->where;
}

const char *bq_fiber_traceback(const bq_fiber *fiber) {
  return fiber->traceback != NULL ? fiber->traceback : "";
}
