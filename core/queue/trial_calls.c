// What a spec can call, and the pump: the look at what a call waits for, and the moments at which the clock jumps.
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "queue/trial_internal.h"

enum {
  LOOK_MS = 1,
  QUIET_LOOKS = 3 // in a row with nothing under way: then only the clock is waited for
};
static const int64_t max_advance_ms = 1000LL * 86400 * 1000;

// The pump ----------------------------------------------------------------------------------------------------------

static int pg_is_busy(const bq_pg *pg) {
  if (pg == NULL) return 0;
  bq_pg_state state;
  bq_pg_get_state(pg, &state);
  return state.busy > 0 || state.waiting > 0;
}

// Whether anything goes on that does not wait for the clock.
static int is_busy(const bq_trial *trial) {
  const bq_server *server = trial->server;
  return trial->asks != NULL || trial->real > 0 || bq_pool_pending(server->compute) > 0 ||
         bq_pool_pending(server->blocking) > 0 || bq_script_host_busy(server->host) || pg_is_busy(server->core) ||
         pg_is_busy(server->scripts) || (server->store != NULL && bq_store_waiting(server->store) > 0);
}

static void on_told(void *arg, const bq_pg_result *result) {
  bq_trial *trial = arg;
  if (result->error != NULL) bq_log_error("the database could not be told of the clock", result->error);
  bq_runner_wake(trial->server->runner);
}

// A trial has one connection of each kind, so that the session it is told in is the only one.
static void tell_database(bq_trial *trial) {
  char offset[40];
  const char *params[] = {offset};
  bq_pg *const pools[] = {trial->server->scripts, trial->server->core};
  bq_error err;
  (void)snprintf(offset, sizeof offset, "%lld milliseconds", (long long)(bq_clock_shifted() / 1000));
  for (size_t i = 0; i < 2; i++) {
    if (bq_pg_query_text(pools[i], "select set_config('buildq.clock_offset', $1, false)", 1, params, on_told, trial,
                         NULL, &err) < 0) {
      bq_log_error("the database could not be told of the clock", &err);
    }
  }
}

static void set_forward(bq_trial *trial, int64_t ms) {
  bq_clock_shift(ms * 1000);
  bq_loop_look_at_clock(trial->server->loop);
  if (trial->server->core != NULL) tell_database(trial);
  trial->quiet = 0;
}

// One step of what is left to advance, to the next moment that something waits for.
static void advance(bq_trial *trial) {
  int64_t next_ms = bq_loop_next_ms(trial->server->loop);
  int64_t step_ms = next_ms >= 0 && next_ms < trial->left_ms ? next_ms : trial->left_ms;
  trial->left_ms -= step_ms;
  set_forward(trial, step_ms);
  if (trial->left_ms == 0 && (next_ms < 0 || next_ms > step_ms)) {
    trial->wait = BQ_TRIAL_TURN; // what has become due is under way before the spec goes on
  }
}

static void answer_when_done(bq_trial *trial) {
  bq_server *server = trial->server;
  const char *fault;
  bq_error err;
  switch (trial->wait) {
  case BQ_TRIAL_BUILD:
    if (trial->wanted == NULL) { // of a reset
      if (bq_trial_builds_run(trial)) break;
      bq_trial_free_builds(trial);
      bq_trial_reply(trial, NULL);
    } else if (bq_trial_result(trial->wanted) != NULL) {
      bq_trial_reply(trial, json_incref(bq_trial_result(trial->wanted)));
    }
    break;
  case BQ_TRIAL_RELOAD:
    if (bq_script_host_busy(server->host)) break;
    if (trial->whole && bq_server_generation(server) != bq_script_host_current(server->host)) break; // not stored yet
    fault = bq_script_host_error(server->host);
    bq_trial_desk_free(trial);
    if (fault == NULL) {
      bq_trial_reply(trial, json_string(bq_generation_hash(bq_script_host_current(server->host))));
    } else {
      (void)bq_fail(&err, BQ_ESCRIPT, "%s", fault);
      bq_trial_refuse(trial, &err);
    }
    break;
  case BQ_TRIAL_DATABASE:
    if (server->ready && bq_server_generation(server) != NULL) bq_trial_reply(trial, json_string(server->url));
    break;
  case BQ_TRIAL_TURN:
    if (trial->quiet >= QUIET_LOOKS && !trial->jump) bq_trial_reply(trial, json_integer(bq_clock_shifted() / 1000));
    break;
  case BQ_TRIAL_ADVANCE:
  case BQ_TRIAL_DESK:
  case BQ_TRIAL_NOTHING: break;
  }
}

void bq_trial_look(void *arg) {
  bq_trial *trial = arg;
  int idle;
  uint64_t ran = bq_loop_ran(trial->server->loop, &idle);
  if (is_busy(trial) || !idle || ran != trial->ran) trial->quiet = 0;
  else trial->quiet++;
  trial->ran = ran;
  answer_when_done(trial);
  if (trial->wait == BQ_TRIAL_NOTHING) return;
  if (trial->quiet >= QUIET_LOOKS) {
    int64_t next_ms = bq_loop_next_ms(trial->server->loop);
    int jumps = trial->wait == BQ_TRIAL_BUILD || trial->wait == BQ_TRIAL_DESK || trial->jump;
    trial->jump = 0;
    if (trial->wait == BQ_TRIAL_ADVANCE) advance(trial);
    else if (jumps && next_ms >= 0) set_forward(trial, next_ms);
  }
  bq_timer_set(trial->pump, LOOK_MS);
}

// The calls ---------------------------------------------------------------------------------------------------------
// Each replies, or says what the call waits for, or fails.

static int call_start(bq_trial *trial, const json_t *call, bq_error *err) {
  bq_trial_build *build = NULL;
  int result = bq_trial_start(trial, call, &build, err);
  if (result == 0) bq_trial_reply(trial, json_string(bq_trial_id(build)));
  return result;
}

static int call_run(bq_trial *trial, const json_t *call, bq_error *err) {
  int result = bq_trial_start(trial, call, &trial->wanted, err);
  if (result == 0) bq_trial_wait_for(trial, BQ_TRIAL_BUILD);
  return result;
}

static int find(bq_trial *trial, const json_t *call, bq_trial_build **out, bq_error *err) {
  *out = bq_trial_find(trial, json_string_value(json_object_get(call, "build")));
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOTFOUND, "there is no build of this id in this test");
}

static int call_wait(bq_trial *trial, const json_t *call, bq_error *err) {
  int result = find(trial, call, &trial->wanted, err);
  if (result == 0) bq_trial_wait_for(trial, BQ_TRIAL_BUILD);
  return result;
}

static int call_stop(bq_trial *trial, const json_t *call, bq_error *err) {
  bq_trial_build *build;
  const char *how = json_string_value(json_object_get(call, "how"));
  const char *message = json_string_value(json_object_get(call, "message"));
  int result = find(trial, call, &build, err);
  if (result == 0) {
    result = bq_trial_stop(build, how != NULL ? how : "cancelled", message != NULL ? message : "stopped by the spec",
                           err);
  }
  if (result == 0) bq_trial_reply(trial, NULL);
  return result;
}

static int call_look(bq_trial *trial, const json_t *call, bq_error *err) {
  bq_trial_build *build;
  int result = find(trial, call, &build, err);
  if (result == 0) bq_trial_reply(trial, bq_trial_present(build));
  return result;
}

// Everything is as at the beginning, but for the clock, which never goes back.
static int call_reset(bq_trial *trial, const json_t *call, bq_error *err) {
  (void)call;
  bq_trial_desk_free(trial);
  trial->wanted = NULL;
  for (bq_trial_build *build = NULL; (build = bq_trial_next(trial, build)) != NULL;) {
    int result = bq_trial_stop(build, "cancelled", "the test is over", err);
    if (result < 0) return result;
  }
  bq_trial_wait_for(trial, BQ_TRIAL_BUILD);
  return 0;
}

static int call_reload(bq_trial *trial, const json_t *call, bq_error *err) {
  (void)call;
  (void)err;
  bq_script_host_reload(trial->server->host);
  bq_trial_wait_for(trial, BQ_TRIAL_RELOAD);
  return 0;
}

static int call_advance(bq_trial *trial, const json_t *call, bq_error *err) {
  json_int_t ms = json_integer_value(json_object_get(call, "ms"));
  if (ms < 0 || ms > max_advance_ms) return bq_fail(err, BQ_EINVAL, "advance: 0 to 1000 days");
  trial->left_ms = ms;
  bq_trial_wait_for(trial, BQ_TRIAL_ADVANCE);
  return 0;
}

static int call_turn(bq_trial *trial, const json_t *call, bq_error *err) {
  (void)err;
  trial->jump = json_is_true(json_object_get(call, "jump"));
  bq_trial_wait_for(trial, BQ_TRIAL_TURN);
  return 0;
}

static int call_policy(bq_trial *trial, const json_t *call, bq_error *err) {
  json_t *out = NULL;
  int result = bq_trial_policy(trial, call, &out, err);
  if (result == 0) bq_trial_reply(trial, out);
  return result;
}

// The whole server has a loop of its own: this one ends for it.
static int call_database(bq_trial *trial, const json_t *call, bq_error *err) {
  (void)call;
  if (trial->whole) {
    bq_trial_wait_for(trial, BQ_TRIAL_DATABASE);
    return 0;
  }
  if (bq_trial_builds_run(trial)) {
    return bq_fail(err, BQ_ECONFLICT, "database: a build runs; ask for the database before the first");
  }
  trial->want_database = 1;
  trial->wait = BQ_TRIAL_DATABASE;
  bq_loop_stop(trial->server->loop);
  return 0;
}

static const struct {
  const char *name;
  int (*run)(bq_trial *trial, const json_t *call, bq_error *err);
} calls[] = {
    {"start", call_start},       // pipeline, build (fields) → id
    {"run", call_run},           // the same → its result (bq_trial_result)
    {"wait", call_wait},         // build (id) → its result
    {"stop", call_stop},         // build, how, message
    {"look", call_look},         // build → {status, step, percent}
    {"reset", call_reset},       // ends all builds
    {"reload", call_reload},     // → the generation's hash
    {"advance", call_advance},   // ms → the offset
    {"turn", call_turn},         // jump → the offset, once nothing is under way; with jump, after one jump of the clock
    {"desk", bq_trial_desk_call}, // desk: {operation, object, source, args} → results
    {"policy", call_policy},     // file, hook, args → what the hook returns
    {"database", call_database}, // → the server's URL
};

void bq_trial_call(bq_trial *trial, const char *name, const json_t *call) {
  bq_error err;
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    if (strcmp(calls[i].name, name) != 0) continue;
    if (calls[i].run(trial, call, &err) < 0) bq_trial_refuse(trial, &err);
    return;
  }
  (void)bq_fail(&err, BQ_EINVAL, "there is no call %s", name);
  bq_trial_refuse(trial, &err);
}
