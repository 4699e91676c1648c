// queue.estimate and queue.explain: how long a build takes, and why it waits.
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/uuid.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/estimate.h"
#include "queue/forecast.h"
#include "queue/server_internal.h"

enum {
  LOOKED_AT = 10001,    // builds ahead that are counted; one more than is told exactly
  UNKNOWN_S = 300       // how long a build takes of which nothing at all is known
};

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

// queue.estimate(fields): only what the policy is given crosses.
int bq_queue_estimate(lua_State *L) {
  static const char *const names[] = {"id",            "customerId", "customerName",      "tier",     "architecture",
                                      "cloudProvider", "pipeline",   "configurationName", "priority", "metadata"};
  bq_error err;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_createtable(L, 0, sizeof names / sizeof names[0]);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    lua_getfield(L, 1, names[i]);
    lua_setfield(L, -2, names[i]);
  }
  json_t *build = NULL;
  if (bq_lua_to_json(L, -1, &build, &err) < 0) return bq_lua_raise(L, err.code, "queue.estimate: %s", err.message);
  json_t *estimate = bq_estimator_json(server_of(L), build);
  json_decref(build);
  if (estimate == NULL) {
    lua_pushnil(L);
    return 1;
  }
  bq_lua_give_json(L, estimate);
  return 1;
}

// Forecasts -----------------------------------------------------------------------------------------------------------

// `kind` has pipeline, tier and architecture, and maybe count. Answers whether anything is known of its duration.
static int work_of(const bq_server *server, const json_t *kind, bq_work *out) {
  bq_estimate estimate;
  (void)bq_estimator_ask(server, kind, &estimate);
  int known = estimate.known && estimate.seconds > 0;
  *out = (bq_work){.median_s = known ? estimate.seconds : UNKNOWN_S,
                   .high_s = known ? estimate.seconds_high : UNKNOWN_S * 2.0,
                   .count = json_integer_value(json_object_get(kind, "count"))};
  return known;
}

// The kinds of builds ahead; NULL for want of memory. `*guesses` grows by the builds of which nothing is known.
static bq_work *ahead_works(const bq_server *server, const json_t *kinds, int64_t *guesses) {
  bq_work *works = bq_alloc((json_array_size(kinds) + 1) * sizeof *works);
  size_t index;
  json_t *kind;
  if (works == NULL) return NULL;
  json_array_foreach(kinds, index, kind) {
    if (!work_of(server, kind, &works[index])) *guesses += works[index].count;
  }
  return works;
}

static size_t running_count(const json_t *kinds) {
  size_t count = 0;
  size_t index;
  json_t *kind;
  json_array_foreach(kinds, index, kind) count += json_array_size(json_object_get(kind, "elapsed"));
  return count;
}

// The running builds, one each; the policy is asked once for a kind.
static bq_work *running_works(const bq_server *server, const json_t *kinds, int64_t *guesses) {
  bq_work *works = bq_alloc((running_count(kinds) + 1) * sizeof *works);
  size_t filled = 0;
  size_t index;
  json_t *kind;
  if (works == NULL) return NULL;
  json_array_foreach(kinds, index, kind) {
    bq_work work;
    size_t place;
    json_t *elapsed;
    int known = work_of(server, kind, &work);
    json_array_foreach(json_object_get(kind, "elapsed"), place, elapsed) {
      work.elapsed_s = json_number_value(elapsed);
      works[filled++] = work;
      if (!known) (*guesses)++;
    }
  }
  return works;
}

// To the millisecond.
static json_t *pair(double p50, double p90) {
  return json_pack("{s:f, s:f}", "p50", round(p50 * 1000) / 1000, "p90", round(p90 * 1000) / 1000);
}

// Adds startSeconds, endSeconds and guesses to what the statement explain_build has answered.
static int forecast_waiting(const bq_server *server, json_t *answer, bq_error *err) {
  const json_t *ahead = json_object_get(answer, "kinds");
  const json_t *running = json_object_get(answer, "running");
  int64_t guesses = 0;
  bq_forecast forecast;
  bq_forecast_input input = {.slots = json_integer_value(json_object_get(answer, "slots")),
                             .not_before_s = json_number_value(json_object_get(answer, "retrySeconds"))};
  bq_work *before = ahead_works(server, ahead, &guesses);
  bq_work *busy = running_works(server, running, &guesses);
  int result = before != NULL && busy != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a forecast");
  if (result == 0) {
    input.ahead = before;
    input.ahead_count = json_array_size(ahead);
    input.running = busy;
    input.running_count = running_count(running);
    if (!work_of(server, json_object_get(answer, "build"), &input.own)) guesses++;
    result = bq_forecast_start(&input, &forecast, err);
  }
  bq_free(before);
  bq_free(busy);
  if (result < 0) return result;
  (void)json_object_set_new(answer, "startSeconds", pair(forecast.start_p50_s, forecast.start_p90_s));
  (void)json_object_set_new(answer, "endSeconds", pair(forecast.end_p50_s, forecast.end_p90_s));
  (void)json_object_set_new(answer, "guesses", json_integer(guesses));
  return 0;
}

static void forecast_running(const bq_server *server, json_t *answer) {
  bq_work own;
  double p50;
  double p90;
  int known = work_of(server, json_object_get(answer, "build"), &own);
  (void)json_object_set_new(answer, "guesses", json_integer(known ? 0 : 1));
  own.elapsed_s = json_number_value(json_object_get(answer, "elapsed"));
  bq_forecast_rest(&own, &p50, &p90);
  (void)json_object_set_new(answer, "endSeconds", pair(p50, p90));
}

// Whether this very server takes no builds, and why.
static void add_here(const bq_server *server, json_t *answer) {
  int reserve = server->config->disk_reserve_megabytes;
  int is_short = server->free_megabytes >= 0 && server->free_megabytes < reserve;
  (void)json_object_set_new(answer, "here", json_pack("{s:b, s:I, s:i, s:b}", "disk", !is_short, "freeMegabytes",
                                                      (json_int_t)server->free_megabytes, "reserveMegabytes", reserve,
                                                      "sandbox", server->sandbox_works));
}

static const char *status_of(const json_t *answer) {
  const char *status = json_string_value(json_object_get(json_object_get(answer, "build"), "status"));
  return status != NULL ? status : "";
}

static int fill(const bq_server *server, json_t *answer, bq_error *err) {
  const char *status = status_of(answer);
  int result = 0;
  bq_estimator_add(server, json_object_get(answer, "build"));
  (void)json_object_set_new(answer, "limit", json_integer(LOOKED_AT - 1));
  add_here(server, answer);
  // A cluster that starts nothing has no forecast.
  int starts = json_integer_value(json_object_get(answer, "slots")) > 0 &&
               !json_is_true(json_object_get(answer, "paused"));
  if (status[0] == 'p' && starts) result = forecast_waiting(server, answer, err);
  else if (status[0] == 'b') forecast_running(server, answer);
  (void)json_object_del(answer, "kinds");
  json_int_t running = (json_int_t)running_count(json_object_get(answer, "running"));
  (void)json_object_set_new(answer, "running", json_integer(running));
  return result;
}

int bq_queue_explain(lua_State *L) {
  char looked_at[16];
  const char *id = luaL_checkstring(L, 1);
  (void)snprintf(looked_at, sizeof looked_at, "%d", LOOKED_AT);
  const char *params[] = {id, looked_at};
  if (!bq_uuid_is(id)) {
    lua_pushnil(L);
    return 1;
  }
  return bq_queue_ask_filled(L, "explain_build", 2, params, fill);
}
