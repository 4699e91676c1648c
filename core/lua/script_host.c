#include "lua/script_host.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "lua/check.h"
#include "lua/errors.h"

enum { CHECK_CPU_US = 5 * 1000 * 1000, SLICE_US = 10 * 1000 };

typedef enum host_state { HOST_IDLE, HOST_READING, HOST_COMPILING, HOST_CHECKING } host_state;

struct bq_script_host {
  bq_script_host_options options;
  host_state state;
  int again;                  // a reload was asked for during a round
  int held;                   // what runs was activated: the disk's is not swapped in
  int from_disk;              // the round under way reads the disk
  bq_sources *activated;      // owned; to be activated by the next round, or NULL
  char disk[BQ_HASH_SIZE];    // hash of the last of the disk's that could run
  bq_task task;               // of READING and COMPILING
  bq_error error;             // of the round under way; code 0: none
  bq_sources *sources;        // owned; from READING to COMPILING
  bq_generation *next;        // retained; from COMPILING to the swap
  bq_vm *check_vm;            // owned; of CHECKING
  bq_fiber *check_fiber;      // of CHECKING; valid until its end
  bq_check check;             // of CHECKING
  bq_post post;               // ends a round on a later turn
  int64_t round_us;           // bq_clock_mono_us at the round's start
  bq_generation *current;     // retained
  bq_handlers *handlers;      // owned reference
  bq_policies *policies;      // owned
  json_t *pipelines;          // owned
  char *failure;              // owned; why the last round failed, or NULL
  bq_script_host_stats stats;
};

static void start_round(bq_script_host *host);

int bq_script_host_new(bq_script_host **out, const bq_script_host_options *options, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the script host");
  (*out)->options = *options;
  return 0;
}

void bq_script_host_free(bq_script_host *host) {
  if (host == NULL) return;
  bq_handlers_release(host->handlers);
  bq_policies_free(host->policies);
  bq_sources_free(host->activated);
  bq_generation_release(host->current);
  json_decref(host->pipelines);
  bq_free(host->failure);
  bq_free(host);
}

int bq_script_host_busy(const bq_script_host *host) {
  return host->state != HOST_IDLE;
}

bq_generation *bq_script_host_current(bq_script_host *host) {
  return host->current;
}

bq_handlers *bq_script_host_handlers(bq_script_host *host) {
  return host->handlers;
}

bq_policies *bq_script_host_policies(bq_script_host *host) {
  return host->policies;
}

const char *bq_script_host_error(const bq_script_host *host) {
  return host->failure;
}

const json_t *bq_script_host_pipelines(const bq_script_host *host) {
  return host->pipelines;
}

void bq_script_host_get_stats(const bq_script_host *host, bq_script_host_stats *out) {
  *out = host->stats;
}

static int load_handlers(bq_script_host *host, bq_generation *generation, bq_handlers **out, bq_error *err) {
  bq_handlers_options options = {.loop = host->options.loop,
                                 .modules = host->options.handler_modules,
                                 .services = host->options.services,
                                 .memory_bytes = host->options.memory_bytes,
                                 .slice_us = host->options.handler_slice_us};
  return bq_handlers_new(out, &options, generation, err);
}

void bq_script_host_spoiled(bq_script_host *host, bq_handlers *handlers) {
  if (handlers != host->handlers) return; // replaced already
  bq_handlers *fresh;
  bq_error err;
  if (load_handlers(host, host->current, &fresh, &err) < 0) {
    bq_log_error("the routes could not be loaded anew", &err);
    return;
  }
  bq_handlers_release(host->handlers);
  host->handlers = fresh;
}

// Makes what the checked generation needs to run, and takes it as the running one unless another one is held.
static int swap(bq_script_host *host) {
  const bq_policies_options options = {.loop = host->options.loop,
                                       .services = host->options.services,
                                       .memory_bytes = BQ_POLICY_MEMORY_BYTES,
                                       .call_us = BQ_POLICY_CALL_US};
  bq_handlers *fresh;
  bq_policies *policies;
  int result = load_handlers(host, host->next, &fresh, &host->error);
  if (result < 0) return result;
  result = bq_policies_new(&policies, &options, host->next, &host->error);
  if (result < 0) {
    bq_handlers_release(fresh);
    return result;
  }
  if (host->from_disk) (void)snprintf(host->disk, sizeof host->disk, "%s", bq_generation_hash(host->next));
  if (host->from_disk && host->held) {
    bq_handlers_release(fresh);
    bq_policies_free(policies);
    return 1;
  }
  host->held = !host->from_disk;
  bq_handlers_release(host->handlers);
  bq_policies_free(host->policies);
  host->policies = policies;
  bq_generation_release(host->current);
  json_decref(host->pipelines);
  host->handlers = fresh;
  host->current = bq_generation_retain(host->next);
  host->pipelines = json_incref(host->check.pipelines);
  return 0;
}

static void end_round(bq_post *post) {
  bq_script_host *host = (bq_script_host *)((char *)post - offsetof(bq_script_host, post));
  int swapped = 0;
  // 1: the disk's, built and checked beside what is held
  if (host->error.code == 0 && host->next != NULL) swapped = swap(host) == 0;
  if (host->check_vm != NULL) bq_vm_free(host->check_vm);
  host->check_vm = NULL;
  bq_check_free(&host->check);
  bq_generation_release(host->next);
  host->next = NULL;
  if (host->from_disk || host->error.code != 0) { // an activation says nothing of the disk
    bq_free(host->failure);
    host->failure = host->error.code != 0 ? bq_strdup(host->error.message) : NULL;
  }
  host->stats.last_us = bq_clock_mono_us() - host->round_us;
  if (swapped) host->stats.reloads++;
  if (host->error.code != 0) host->stats.failures++;
  host->state = HOST_IDLE;
  host->options.loaded(host->options.arg, swapped, host->error.code != 0 ? &host->error : NULL);
  if ((host->again || host->activated != NULL) && host->state == HOST_IDLE) start_round(host);
}

static void finish_round(bq_script_host *host) {
  host->post.run = end_round;
  bq_loop_post(host->options.loop, &host->post);
}

static void on_check_end(void *arg, bq_end end, lua_State *L) {
  bq_script_host *host = arg;
  if (end == BQ_END_KILLED) {
    // What a check calls may lie in another file: that line is the one to look at.
    const char *where = bq_fiber_where(host->check_fiber);
    if (where[0] == '\0') where = host->check.current != NULL ? host->check.current : "scripts";
    (void)bq_fail(&host->error, BQ_ESCRIPT, "%s: %s", where, bq_vm_kill_reason(host->check_vm));
  } else if (end == BQ_END_ERROR) {
    char line[BQ_LINE_SIZE];
    bq_lua_error_line(L, -1, "", line, sizeof line);
    (void)bq_fail(&host->error, BQ_ESCRIPT, "%s", line);
  } else if (host->check.faults.failed) {
    (void)bq_fail(&host->error, BQ_ENOMEM, "out of memory for checking scripts");
  } else if (host->check.fault_count > 0) {
    (void)bq_fail(&host->error, BQ_ESCRIPT, "%s", host->check.faults.data);
  }
  finish_round(host);
}

static int start_check(bq_script_host *host) {
  bq_vm_options options = {.loop = host->options.loop,
                           .pool = host->options.compute,
                           .memory_bytes = host->options.memory_bytes,
                           .slice_us = SLICE_US,
                           .cpu_us = CHECK_CPU_US,
                           .noun = "check"};
  int result = bq_check_init(&host->check, host->next, host->current, &host->error);
  if (result == 0) {
    result = bq_script_vm_new(&host->check_vm, &options, host->next, host->options.check_modules,
                              host->options.services, &host->error);
  }
  if (result < 0) return result;
  lua_State *L = bq_vm_state(host->check_vm);
  lua_pushcfunction(L, bq_check_run);
  lua_pushlightuserdata(L, &host->check);
  return bq_fiber_start(&host->check_fiber, host->check_vm, L, 1, on_check_end, host, &host->error);
}

static void compile_work(bq_task *task) {
  bq_script_host *host = (bq_script_host *)((char *)task - offsetof(bq_script_host, task));
  if (bq_generation_compile(&host->next, host->sources, host->current, &host->error) < 0) host->next = NULL; // the error tells
  if (host->next != NULL && host->options.generations != NULL) bq_generation_set_add(host->options.generations, host->next);
  host->sources = NULL;
}

static void compile_done(bq_task *task) {
  bq_script_host *host = (bq_script_host *)((char *)task - offsetof(bq_script_host, task));
  host->state = HOST_CHECKING;
  if (host->error.code != 0 || start_check(host) < 0) finish_round(host);
}

static void read_work(bq_task *task) {
  bq_script_host *host = (bq_script_host *)((char *)task - offsetof(bq_script_host, task));
  if (bq_sources_read(&host->sources, &host->options.directories, &host->error) < 0) host->sources = NULL;
}

// What is held may be what the disk has: then only who decides changes.
static int is_unchanged(const bq_script_host *host) {
  const char *known = host->held ? host->disk : host->current != NULL ? bq_generation_hash(host->current) : "";
  return strcmp(bq_sources_hash(host->sources), known) == 0;
}

// Old generations live as long as builds on them: a team that saves all day beside long builds could gather any number.
static int may_compile(bq_script_host *host) {
  unsigned count = host->options.generations != NULL ? bq_generation_set_count(host->options.generations) : 0;
  if (host->options.generations == NULL || count < host->options.max_generations) return 1;
  (void)bq_fail(&host->error, BQ_ELIMIT,
                "%u generations of scripts are in use, MaxGenerations allows no more: the change is taken when builds on "
                "old ones have ended and something is saved again, or at buildq reload", count);
  return 0;
}

static void compile(bq_script_host *host) {
  host->state = HOST_COMPILING;
  host->task = (bq_task){.work = compile_work, .done = compile_done};
  if (may_compile(host) && bq_pool_submit(host->options.compute, &host->task, &host->error) == 0) return;
  bq_sources_free(host->sources);
  host->sources = NULL;
  finish_round(host);
}

static void read_done(bq_task *task) {
  bq_script_host *host = (bq_script_host *)((char *)task - offsetof(bq_script_host, task));
  if (host->error.code == 0 && is_unchanged(host)) {
    (void)snprintf(host->disk, sizeof host->disk, "%s", bq_sources_hash(host->sources));
    bq_sources_free(host->sources);
    host->sources = NULL;
  }
  if (host->sources == NULL) { // failed, or back to what runs already
    finish_round(host);
    return;
  }
  compile(host);
}

static void start_round(bq_script_host *host) {
  host->error = (bq_error){0};
  host->round_us = bq_clock_mono_us();
  host->from_disk = host->activated == NULL;
  if (!host->from_disk) {
    host->sources = host->activated;
    host->activated = NULL;
    compile(host);
    return;
  }
  host->again = 0;
  host->state = HOST_READING;
  host->task = (bq_task){.work = read_work, .done = read_done};
  if (bq_pool_submit(host->options.blocking, &host->task, &host->error) < 0) finish_round(host);
}

void bq_script_host_activate(bq_script_host *host, bq_sources *sources) {
  bq_sources_free(host->activated);
  host->activated = sources;
  if (host->state == HOST_IDLE) start_round(host);
}

void bq_script_host_release(bq_script_host *host) {
  bq_sources_free(host->activated);
  host->activated = NULL;
  if (!host->held) return;
  host->held = 0;
  bq_script_host_reload(host);
}

int bq_script_host_is_held(const bq_script_host *host) {
  return host->held;
}

const char *bq_script_host_disk(const bq_script_host *host) {
  return host->disk;
}

void bq_script_host_reload(bq_script_host *host) {
  if (host->state == HOST_IDLE) start_round(host);
  else host->again = 1;
}
