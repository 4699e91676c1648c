// The scheduler: a timer that lets scripts/lib/schedule.lua look for what is due, as a fiber of the routes' vm.
//
//   IDLE → RUNNING (the script's round: take over the policy's list when it is new, enqueue what is due) → IDLE
//
// The round says when the next occurrence comes; until then it is looked every LOOK_MS, so that what another server
// left unfinished, and a clock that was set, are seen.
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "queue/server_internal.h"

enum {
  LOOK_MS = 5000,  // at most between two rounds
  RETRY_MS = 1000  // after a failed one
};

typedef enum scheduler_state { SCHEDULER_IDLE, SCHEDULER_RUNNING, SCHEDULER_STOPPED } scheduler_state;

struct bq_scheduler {
  bq_server *server;     // borrowed
  bq_timer *timer;       // owned
  scheduler_state state;
  int again;             // woken during a round
  bq_fiber *fiber;       // the round's
  bq_handlers *handlers; // retained during a round
  char taken_over[65];   // hash of the generation whose list the database has; "" before the first
  char failure[400];     // the last one that was logged, so that it is logged once
};

static void on_timer(void *arg);

int bq_scheduler_new(bq_scheduler **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_scheduler *scheduler = bq_alloc(sizeof *scheduler);
  if (scheduler == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the scheduler");
  scheduler->server = server;
  int result = bq_timer_new(&scheduler->timer, server->loop, on_timer, scheduler, err);
  if (result < 0) bq_free(scheduler);
  else *out = scheduler;
  return result;
}

void bq_scheduler_free(bq_scheduler *scheduler) {
  if (scheduler == NULL) return;
  bq_timer_free(scheduler->timer);
  bq_handlers_release(scheduler->handlers);
  bq_free(scheduler);
}

int bq_scheduler_busy(const bq_scheduler *scheduler) {
  return scheduler->fiber != NULL;
}

void bq_scheduler_stop(bq_scheduler *scheduler) {
  scheduler->state = SCHEDULER_STOPPED;
  bq_timer_clear(scheduler->timer);
}

void bq_scheduler_wake(bq_scheduler *scheduler) {
  if (scheduler == NULL || scheduler->state == SCHEDULER_STOPPED) return;
  scheduler->again = 1;
  if (scheduler->state == SCHEDULER_IDLE) bq_timer_set(scheduler->timer, 0);
}

// The round -----------------------------------------------------------------------------------------------------------

static int round_done(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 1;
}

// Arguments: whether the list must be taken over. Returns the seconds until the next occurrence, or nil.
static int run_round(lua_State *L) {
  bq_script_push_env(L);
  lua_getfield(L, -1, "require");
  lua_pushstring(L, "schedule");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "round");
  lua_pushvalue(L, 1);
  lua_callk(L, 1, 1, 0, round_done);
  return round_done(L, LUA_OK, 0);
}

// The database's absence has a line of its own elsewhere, and everything else is said once.
static void tell_failure(bq_scheduler *scheduler, int code, const char *message) {
  if (code == BQ_EUNAVAIL || code == BQ_EUNKNOWN) return;
  if (strncmp(scheduler->failure, message, sizeof scheduler->failure - 1) == 0) return;
  (void)snprintf(scheduler->failure, sizeof scheduler->failure, "%s", message);
  bq_log(BQ_ERROR, "schedules can't be looked after", "error", message, NULL);
}

static int64_t wait_after(const bq_scheduler *scheduler, lua_State *L) {
  double seconds = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : LOOK_MS / 1000.0;
  if (scheduler->again || seconds <= 0) return 0;
  // A millisecond late rather than early: the database's clock decides.
  return seconds >= LOOK_MS / 1000.0 ? LOOK_MS : (int64_t)(seconds * 1000) + 1;
}

static void on_round_end(void *arg, bq_end end, lua_State *L) {
  bq_scheduler *scheduler = arg;
  bq_server *server = scheduler->server;
  bq_handlers *handlers = scheduler->handlers;
  int64_t wait_ms = RETRY_MS;
  if (end == BQ_END_RETURNED) {
    (void)snprintf(scheduler->taken_over, sizeof scheduler->taken_over, "%s",
                   bq_generation_hash(bq_handlers_generation(handlers)));
    scheduler->failure[0] = '\0';
    wait_ms = wait_after(scheduler, L);
  } else {
    char line[BQ_LINE_SIZE];
    bq_lua_error_line(L, -1, bq_fiber_where(scheduler->fiber), line, sizeof line);
    tell_failure(scheduler, end == BQ_END_ERROR ? bq_lua_error_code(L, -1) : BQ_ESCRIPT, line);
    if (end == BQ_END_KILLED) bq_script_host_spoiled(server->host, handlers);
  }
  scheduler->fiber = NULL;
  scheduler->handlers = NULL;
  bq_handlers_release(handlers);
  if (scheduler->state == SCHEDULER_STOPPED) return;
  scheduler->state = SCHEDULER_IDLE;
  bq_timer_set(scheduler->timer, wait_ms);
}

static void on_timer(void *arg) {
  bq_scheduler *scheduler = arg;
  bq_server *server = scheduler->server;
  bq_handlers *handlers = bq_script_host_handlers(server->host);
  bq_error err;
  if (scheduler->state != SCHEDULER_IDLE || handlers == NULL || server->env.node_id[0] == '\0') return; // woken later
  scheduler->again = 0;
  scheduler->handlers = bq_handlers_retain(handlers);
  const char *hash = bq_generation_hash(bq_handlers_generation(handlers));
  lua_State *L = bq_vm_state(bq_handlers_vm(handlers));
  lua_pushcfunction(L, run_round);
  lua_pushboolean(L, strcmp(scheduler->taken_over, hash) != 0);
  if (bq_fiber_start(&scheduler->fiber, bq_handlers_vm(handlers), L, 1, on_round_end, scheduler, &err) == 0) {
    scheduler->state = SCHEDULER_RUNNING;
    return;
  }
  bq_handlers_release(scheduler->handlers);
  scheduler->handlers = NULL;
  tell_failure(scheduler, err.code, err.message);
  bq_timer_set(scheduler->timer, RETRY_MS);
}
