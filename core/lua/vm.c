#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "lua/errors.h"
#include "lua/stdlib.h"
#include "lua/vm_state.h"

static const char no_memory_for_reason[] = "ended (there was no memory to keep the reason)";

int bq_kill_set(bq_kill_mark *mark, const char *reason) {
  if (atomic_load(mark) != NULL) return 0;
  const char *copy = bq_strdup(reason);
  if (copy == NULL) copy = no_memory_for_reason;
  const char *nothing = NULL;
  if (atomic_compare_exchange_strong(mark, &nothing, copy)) return 1;
  if (copy != no_memory_for_reason) bq_free((void *)(uintptr_t)copy);
  return 0;
}

void bq_kill_clear(bq_kill_mark *mark) {
  const char *reason = atomic_exchange(mark, NULL);
  if (reason != NULL && reason != no_memory_for_reason) bq_free((void *)(uintptr_t)reason);
}

// The cap was reached for good: whoever runs is ended. Other handlers of a loop vm may go on.
static void kill_for_memory(bq_vm *vm) {
  if (!vm->in_slice) return;
  int on_pool = vm->options.pool != NULL;
  char reason[120];
  (void)snprintf(reason, sizeof reason, "the %s used more than %zu MB of Lua memory", bq_vm_noun(vm),
                 vm->options.memory_bytes / (1024 * 1024));
  bq_kill_mark *mark = on_pool || vm->running == NULL ? &vm->kill : &vm->running->kill;
  if (!bq_kill_set(mark, reason)) return;
  vm->out_of_memory = 1;
  vm->memory_limit += BQ_UNWIND_BYTES;
  // Lua's own error for this has no place, and no handler sees it.
  if (vm->running != NULL) bq_lua_where(vm->running->L, vm->running->where, BQ_WHERE_SIZE);
}

int bq_vm_is_out_of_memory(const bq_vm *vm) {
  return vm->out_of_memory;
}

static void *allocate(void *arg, void *old, size_t old_size, size_t size) {
  bq_vm *vm = arg;
  if (old == NULL) old_size = 0; // then it is the kind of the object
  size_t used = atomic_load_explicit(&vm->memory, memory_order_relaxed);
  if (size == 0) {
    if (old != NULL) bq_blocks_give(&vm->blocks, old, old_size);
    atomic_store_explicit(&vm->memory, used - old_size, memory_order_relaxed);
    return NULL;
  }
  if (size > old_size && (size - old_size > vm->memory_limit || used > vm->memory_limit - (size - old_size))) {
    // After a refusal Lua collects all garbage and asks once more: only the second refusal says that it is in use.
    if (vm->memory_refused) kill_for_memory(vm);
    vm->memory_refused = 1;
    return NULL;
  }
  void *block = bq_blocks_resize(&vm->blocks, old, old_size, size);
  if (block == NULL) return size <= old_size ? old : NULL; // Lua relies on shrinking
  if (size > old_size) {
    vm->memory_refused = 0;
    vm->allocated += size - old_size;
    int wants_room = used - old_size + size > vm->collect_at && !vm->asked_for_room;
    if (vm->in_slice && (wants_room || vm->allocated > BQ_HOOK_BYTES)) {
      vm->allocated = 0;
      vm->asked_for_room = 1;
      bq_hook_soon(vm->current); // safe anywhere: Lua allows it from a signal handler
    }
  }
  atomic_store_explicit(&vm->memory, used - old_size + size, memory_order_relaxed);
  return block;
}

static int open_libraries(lua_State *L) {
  bq_stdlib_open(L);
  return 0;
}

// All but the state, what it is made of, and what it is for.
static void reset(bq_vm *vm) {
  *vm = (bq_vm){.L = vm->L,
                .options = vm->options,
                .blocks = vm->blocks,
                .retry = vm->retry,
                .print = vm->print,
                .require = vm->require,
                .extra = vm->extra,
                .release_extra = vm->release_extra,
                .image_bytes = vm->image_bytes,
                .memory_limit = SIZE_MAX,
                .collect_at = SIZE_MAX,
                .cpu_limit_us = INT64_MAX};
  atomic_init(&vm->kill, NULL);
  atomic_init(&vm->memory, 0);
  atomic_init(&vm->cpu_us, 0);
  atomic_init(&vm->slices, 0);
}

int bq_vm_new(bq_vm **out, const bq_vm_options *options, bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_vm *vm = bq_alloc(sizeof *vm);
  if (vm == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a Lua state");
  vm->options = *options;
  reset(vm);
  if (options->lent != 0 && bq_blocks_can_lend() && !bq_blocks_lend(&vm->blocks)) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a Lua state");
    goto cleanup;
  }
  vm->L = lua_newstate(allocate, vm);
  if (vm->L == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a Lua state");
    goto cleanup;
  }
  memcpy(lua_getextraspace(vm->L), &vm, sizeof vm);
  lua_pushcfunction(vm->L, open_libraries);
  if (lua_pcall(vm->L, 0, 0, 0) != LUA_OK) {
    result = bq_fail(err, BQ_ENOMEM, "can't open the Lua libraries: %s", lua_tostring(vm->L, -1));
    goto cleanup;
  }
  if (options->pool != NULL) {
    result = bq_timer_new(&vm->retry, options->loop, bq_fiber_retry, vm, err);
    if (result < 0) goto cleanup;
  }
  *out = vm;
  vm = NULL;
cleanup:
  if (vm != NULL) bq_vm_destroy(vm);
  return result;
}

void bq_vm_destroy(bq_vm *vm) {
  bq_timer_free(vm->retry);
  // Nothing in a lent state has a __gc: its memory is all there is to it.
  if (vm->L != NULL && vm->blocks.arena == NULL) lua_close(vm->L);
  bq_blocks_free(&vm->blocks);
  if (vm->release_extra != NULL) vm->release_extra(vm->extra);
  bq_kill_clear(&vm->kill);
  bq_free(vm);
}

void bq_vm_free(bq_vm *vm) {
  if (vm == NULL || vm->freeing) return;
  vm->freeing = 1;
  (void)bq_kill_set(&vm->kill, "the Lua state is being closed"); // ends a slice under way
  if (vm->work != BQ_VM_IDLE || vm->in_done) return; // fiber.c goes on when that is over
  bq_fiber_free_all(vm);
  bq_vm_destroy(vm);
}

static void fresh_budgets(bq_vm *vm) {
  size_t used = atomic_load(&vm->memory);
  size_t growth = vm->options.memory_bytes;
  vm->memory_limit = used + growth;
  vm->memory_refused = 0;
  vm->collect_at = vm->memory_limit - growth / 4;
  vm->cpu_limit_us = vm->options.cpu_us > 0 ? atomic_load(&vm->cpu_us) + vm->options.cpu_us : INT64_MAX;
}

void bq_vm_make_room(lua_State *L, size_t bytes) {
  bq_vm *vm = bq_vm_of(L);
  size_t used = atomic_load_explicit(&vm->memory, memory_order_relaxed);
  if (used < vm->collect_at && bytes < vm->collect_at - used) return;
  (void)lua_gc(L, LUA_GCCOLLECT);
  used = atomic_load_explicit(&vm->memory, memory_order_relaxed);
  // What is in use now is in use: the next time is when an eighth of the whole has been added.
  size_t next = used + vm->options.memory_bytes / 8;
  size_t usual = vm->memory_limit - vm->options.memory_bytes / 4;
  vm->collect_at = next > usual ? next : usual;
}

void bq_vm_lend(bq_vm *vm) {
  (void)lua_gc(vm->L, LUA_GCCOLLECT);
  fresh_budgets(vm);
}

unsigned bq_vm_lent(const bq_vm *vm) {
  return vm->options.lent;
}

void bq_vm_seal(bq_vm *vm) {
  bq_vm_lend(vm);
  bq_blocks_seal(&vm->blocks);
}

int bq_vm_make_image(bq_vm *vm) {
  if (!bq_blocks_make_image(&vm->blocks)) return 0;
  vm->image_bytes = atomic_load(&vm->memory);
  return 1;
}

int bq_vm_has_image(const bq_vm *vm) {
  return vm->blocks.image != NULL;
}

int bq_vm_renew(bq_vm *vm) {
  if (!bq_vm_has_image(vm) || vm->freeing || vm->work != BQ_VM_IDLE || vm->in_done) return 0;
  bq_fiber_free_all(vm);
  bq_kill_clear(&vm->kill);
  bq_blocks_restore(&vm->blocks);
  reset(vm);
  atomic_store(&vm->memory, vm->image_bytes);
  vm->options.owner = NULL;
  return 1;
}

void bq_vm_lend_again(bq_vm *vm, const bq_vm_options *options) {
  unsigned lent = vm->options.lent;
  vm->options = *options;
  vm->options.lent = lent;
  bq_stdlib_reseed(vm->L);
  fresh_budgets(vm);
}

void bq_vm_unkill(bq_vm *vm) {
  bq_kill_clear(&vm->kill);
  vm->kill_swept = 0;
  fresh_budgets(vm);
}

void bq_vm_kill(bq_vm *vm, const char *reason) {
  (void)bq_kill_set(&vm->kill, reason);
  bq_fiber_sweep(vm);
}

const char *bq_vm_kill_reason(const bq_vm *vm) {
  return atomic_load(&vm->kill);
}

lua_State *bq_vm_state(bq_vm *vm) {
  return vm->L;
}

static uintptr_t extra_space(lua_State *L) {
  uintptr_t word;
  memcpy(&word, lua_getextraspace(L), sizeof word);
  return word;
}

void bq_vm_set_call_budget(bq_vm *vm, int64_t us) {
  vm->call_us = us;
}

bq_vm *bq_vm_of(lua_State *L) {
  return (bq_vm *)(extra_space(L) & ~(uintptr_t)1);
}

int bq_thread_is_busy(lua_State *L) {
  return (int)(extra_space(L) & 1);
}

void bq_thread_set_busy(lua_State *L, int busy) {
  uintptr_t word = (extra_space(L) & ~(uintptr_t)1) | (uintptr_t)(busy != 0);
  memcpy(lua_getextraspace(L), &word, sizeof word);
}

void bq_vm_set_extra(bq_vm *vm, void *extra, void (*release)(void *extra)) {
  vm->extra = extra;
  vm->release_extra = release;
}

void *bq_vm_extra(const bq_vm *vm) {
  return vm->extra;
}

void *bq_vm_owner(bq_vm *vm) {
  return vm->options.owner;
}

void bq_vm_set_owner(bq_vm *vm, void *owner) {
  vm->options.owner = owner;
}

bq_loop *bq_vm_loop(bq_vm *vm) {
  return vm->options.loop;
}

void bq_vm_get_usage(const bq_vm *vm, bq_vm_usage *out) {
  out->memory_bytes = atomic_load(&vm->memory);
  out->cpu_us = atomic_load(&vm->cpu_us);
  out->slices = atomic_load(&vm->slices);
}

// The message handler of bq_vm_call: it runs before the stack is unwound. The value stays as it is.
static int keep_place(lua_State *L) {
  bq_vm *vm = bq_vm_of(L);
  if (vm->call_where != NULL && vm->call_where[0] == '\0') bq_lua_where(L, vm->call_where, BQ_WHERE_SIZE);
  return 1;
}

int bq_vm_call(bq_vm *vm, lua_State *L, int nargs, int nresults, bq_error *err) {
  char where[BQ_WHERE_SIZE] = "";
  int function = lua_gettop(L) - nargs;
  if (!lua_checkstack(L, LUA_MINSTACK)) {
    lua_settop(L, function - 1);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a Lua call");
  }
  lua_pushcfunction(L, keep_place);
  lua_insert(L, function);
  vm->call_where = where;
  bq_slice_begin(vm, L);
  int status = lua_pcall(L, nargs, nresults, function);
  bq_slice_end(vm);
  vm->call_where = NULL;
  lua_remove(L, function);
  if (status == LUA_OK) return 0;
  const char *reason = bq_vm_kill_reason(vm);
  char line[BQ_LINE_SIZE];
  if (reason != NULL) (void)snprintf(line, sizeof line, "%s%s%s", where, where[0] != '\0' ? ": " : "", reason);
  else bq_lua_error_line(L, -1, where, line, sizeof line);
  lua_settop(L, function - 1);
  return bq_fail(err, BQ_ESCRIPT, "%s", line);
}
