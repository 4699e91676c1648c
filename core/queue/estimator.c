// The estimator: keeps what is known of builds' durations in memory, so that an estimate costs no query.
//
// Every LOOK_MS it has the database count what has succeeded meanwhile (one server does, for all), and reads the
// figures.
#include <stdio.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "queue/estimate.h"
#include "queue/server_internal.h"

enum {
  LOOK_MS = 5000,
  COUNTED_AT_ONCE = 5000, // builds of one look
  MAX_KINDS = 5000,       // kept in memory; the others have the figures of wider kinds
  REST_US = 1000 * 1000   // a policy that failed is not asked again: it may be one that overruns, for each request
};

struct bq_estimator {
  bq_server *server;   // borrowed
  bq_timer *timer;     // owned
  bq_history *history; // owned
  int64_t rest_until_us; // monotonic: before it the built-in rule decides
};

static void on_timer(void *arg);

int bq_estimator_new(bq_estimator **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_estimator *estimator = bq_alloc(sizeof *estimator);
  if (estimator == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for estimates");
  estimator->server = server;
  int result = bq_history_new(&estimator->history, err);
  if (result == 0) result = bq_timer_new(&estimator->timer, server->loop, on_timer, estimator, err);
  if (result < 0) {
    bq_estimator_free(estimator);
    return result;
  }
  bq_timer_set(estimator->timer, 0);
  *out = estimator;
  return 0;
}

void bq_estimator_free(bq_estimator *estimator) {
  if (estimator == NULL) return;
  bq_timer_free(estimator->timer);
  bq_history_free(estimator->history);
  bq_free(estimator);
}

void bq_estimator_stop(bq_estimator *estimator) {
  bq_timer_clear(estimator->timer);
}

// What failed is tried again at the next look; the database's absence has a line of its own.
static void tell(const bq_error *error) {
  if (error->code == BQ_EDATABASE) bq_log_error("estimates stay as they are", error);
}

static void on_figures(void *arg, const bq_pg_result *result) {
  bq_estimator *estimator = arg;
  bq_error err;
  json_t *list = result->error == NULL ? bq_store_json(result->rows, 0) : NULL;
  if (result->error != NULL) tell(result->error);
  if (list != NULL && bq_history_set(estimator->history, list, &err) < 0) {
    bq_log_error("estimates stay as they are", &err);
  }
  json_decref(list);
}

static void on_refreshed(void *arg, const bq_pg_result *result) {
  bq_estimator *estimator = arg;
  char most[16];
  const char *params[] = {most};
  bq_store *store = estimator->server->store;
  bq_error err;
  if (result->error != NULL) {
    tell(result->error);
    return;
  }
  (void)snprintf(most, sizeof most, "%d", MAX_KINDS);
  if (bq_store_query(store, "build_statistics", 1, params, on_figures, estimator, &err) < 0) tell(&err);
}

static void on_timer(void *arg) {
  bq_estimator *estimator = arg;
  char most[16];
  const char *params[] = {most};
  bq_error err;
  (void)snprintf(most, sizeof most, "%d", COUNTED_AT_ONCE);
  if (bq_store_query(estimator->server->store, "refresh_statistics", 1, params, on_refreshed, estimator, &err) < 0) {
    tell(&err);
  }
  bq_timer_set(estimator->timer, LOOK_MS);
}

static void on_failed(void *arg, bq_hook hook, const bq_error *err) {
  bq_estimator *estimator = arg;
  estimator->rest_until_us = bq_clock_mono_us() + REST_US;
  bq_server_policy_failed(estimator->server, hook, err);
}

// What a policy is given of a build, whatever else is known of it: everywhere the same. NULL for want of memory.
static json_t *policy_build(const json_t *build) {
  static const char *const names[] = {"id",           "customerId",    "customerName", "configurationName", "tier",
                                      "architecture", "cloudProvider", "pipeline",     "priority",          "metadata"};
  json_t *own = json_object();
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    json_t *value = json_object_get(build, names[i]);
    if (value != NULL) (void)json_object_set(own, names[i], value);
  }
  return own;
}

const json_t *bq_estimator_ask(const bq_server *server, const json_t *build, bq_estimate *out) {
  bq_estimator *estimator = server->estimator;
  const json_t *history = bq_history_find(estimator->history, bq_json_text(build, "pipeline"), bq_json_text(build, "tier"),
                                          bq_json_text(build, "architecture"));
  int rests = bq_clock_mono_us() < estimator->rest_until_us;
  const bq_decider decider = {
      .policies = rests ? NULL : server->decider.policies, .failed = on_failed, .arg = estimator};
  json_t *own = policy_build(build);
  bq_decide_estimate(&decider, own, history, out);
  json_decref(own);
  return history;
}

json_t *bq_estimator_json(const bq_server *server, const json_t *build) {
  bq_estimate estimate;
  const json_t *history = bq_estimator_ask(server, build, &estimate);
  return bq_estimate_json(&estimate, history);
}

int bq_estimator_add(const bq_server *server, json_t *build) {
  const char *status = bq_json_text(build, "status");
  if (status[0] != 'p' && status[0] != 'b') return 0; // pending, building: the others have a duration
  json_t *estimate = bq_estimator_json(server, build);
  return estimate != NULL && json_object_set_new(build, "estimate", estimate) == 0;
}
