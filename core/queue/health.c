// What the server says of itself: readiness with its reasons, and the figures of /metrics.
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "lua/generation.h"
#include "queue/server_internal.h"
#include "queue/server_metrics.h"

enum { DATABASE_SILENT_MS = 2000 }; // without an answer: failing

// Adds one check; the worst of them decides.
static void add_check(json_t *health, const char *name, const char *status, const char *message) {
  json_t *check = json_pack("{s:s, s:s, s:s*}", "name", name, "status", status, "message", message);
  (void)json_array_append_new(json_object_get(health, "checks"), check);
  const char *worst = json_string_value(json_object_get(health, "status"));
  if (strcmp(status, "failing") == 0) {
    (void)json_object_set_new(health, "status", json_string(status));
    (void)json_object_set_new(health, "ready", json_false());
  } else if (strcmp(status, "degraded") == 0 && strcmp(worst, "ok") == 0) {
    (void)json_object_set_new(health, "status", json_string(status));
  }
}

static void check_database(bq_server *server, json_t *health) {
  bq_pg_state state;
  char message[400];
  bq_pg_get_state(server->core, &state);
  int64_t silent_ms = bq_database_watch_silent_ms(server->database);
  if (state.down_since_us != 0) {
    (void)snprintf(message, sizeof message, "PostgreSQL can't be reached since %lld s: %s",
                   (long long)((bq_clock_mono_us() - state.down_since_us) / 1000000), state.last_error);
  } else if (silent_ms >= DATABASE_SILENT_MS) {
    (void)snprintf(message, sizeof message, "PostgreSQL has not answered for %lld s", (long long)(silent_ms / 1000));
  } else {
    add_check(health, "database", "ok", NULL);
    return;
  }
  add_check(health, "database", "failing", message);
}

static void check_scripts(bq_server *server, json_t *health) {
  bq_generation *current = bq_script_host_current(server->host);
  const char *error = bq_script_host_error(server->host);
  (void)json_object_set_new(health, "generation",
                            current != NULL ? json_string(bq_generation_hash(current)) : json_null());
  const json_t *activation = bq_activation_get(server->activation);
  if (activation != NULL) (void)json_object_set_new(health, "activation", json_copy((json_t *)(uintptr_t)activation));
  const char *fault = json_string_value(json_object_get(activation, "fault"));
  if (error == NULL) error = fault;
  // A broken change leaves the old scripts running: work goes on, somebody should look.
  add_check(health, "scripts", current == NULL ? "failing" : error != NULL ? "degraded" : "ok", error);
}

static void check_disk(bq_server *server, json_t *health) {
  char message[200];
  int reserve = server->config->disk_reserve_megabytes;
  if (server->free_megabytes < 0 || server->free_megabytes >= reserve) {
    add_check(health, "disk", "ok", NULL);
    return;
  }
  (void)snprintf(message, sizeof message,
                 "%lld MB are free for builds and their output, less than DiskReserveMegabytes (%d): no build starts",
                 (long long)server->free_megabytes, reserve);
  add_check(health, "disk", "failing", message);
}

static void check_sandbox(bq_server *server, json_t *health) {
  if (server->config->sandbox == BQ_CONFIG_SANDBOX_NONE) {
    add_check(health, "sandbox", "degraded",
              "Sandbox is none: builds see this server's files, and a process that leaves its group outlives its build");
  } else if (!server->sandbox_works) {
    add_check(health, "sandbox", "failing", "bubblewrap does not work here: see the log of the start");
  } else {
    add_check(health, "sandbox", "ok", NULL);
  }
}

json_t *bq_server_health(bq_server *server) {
  json_t *health = json_pack("{s:b, s:s, s:[]}", "ready", 1, "status", "ok", "checks");
  if (health == NULL) return NULL;
  check_database(server, health);
  check_scripts(server, health);
  check_disk(server, health);
  check_sandbox(server, health);
  const char *paused = bq_node_pause_reason(server->node);
  if (bq_node_is_drained(server->node)) {
    add_check(health, "node", "degraded", "this server is drained, no build starts here: `buildq nodes resume` ends that");
  }
  if (paused != NULL) {
    char message[1200]; // a reason has 250 characters of at most four bytes
    (void)snprintf(message, sizeof message, "the queue is paused, no build starts: %s", paused);
    add_check(health, "queue", "degraded", message);
  } else {
    add_check(health, "queue", "ok", NULL);
  }
  if (server->stopping) add_check(health, "server", "failing", "the server is stopping");
  return health;
}

static void fill_channels(bq_metrics *metrics, size_t index, const json_t *counts) {
  const char *channel;
  json_t *count;
  static const char *const email = "email";
  bq_metrics_clear(metrics, index);
  bq_metrics_set(metrics, index, &email, 0); // an alert needs a value to begin with
  json_object_foreach((json_t *)(uintptr_t)counts, channel, count) {
    bq_metrics_set(metrics, index, &channel, json_number_value(count));
  }
}

static void fill_notifications(bq_metrics *metrics, const json_t *figures) {
  fill_channels(metrics, BQ_M_DELIVERIES_WAITING, json_object_get(figures, "waiting"));
  fill_channels(metrics, BQ_M_DELIVERIES_FAULTY, json_object_get(figures, "faulty"));
  fill_channels(metrics, BQ_M_DELIVERIES_DEAD, json_object_get(figures, "dead"));
  bq_metrics_set(metrics, BQ_M_OLDEST_DELIVERY, NULL,
                 json_number_value(json_object_get(figures, "oldestWaitingSeconds")));
}

static void fill_database(bq_metrics *metrics, const json_t *database) {
  const char *priority;
  json_t *count;
  bq_metrics_clear(metrics, BQ_M_PENDING);
  static const char *const priorities[] = {"0", "1", "2", "3"};
  for (size_t i = 0; i < 4; i++) bq_metrics_set(metrics, BQ_M_PENDING, &priorities[i], 0);
  json_object_foreach(json_object_get(database, "pending"), priority, count) {
    bq_metrics_set(metrics, BQ_M_PENDING, &priority, json_number_value(count));
  }
  double succeeded = json_number_value(json_object_get(database, "succeeded"));
  double failed = json_number_value(json_object_get(database, "failed"));
  bq_metrics_set(metrics, BQ_M_OLDEST_PENDING, NULL,
                 json_number_value(json_object_get(database, "oldestPendingSeconds")));
  bq_metrics_set(metrics, BQ_M_ACTIVE, NULL, json_number_value(json_object_get(database, "active")));
  bq_metrics_set(metrics, BQ_M_AVERAGE, NULL, json_number_value(json_object_get(database, "average")));
  bq_metrics_set(metrics, BQ_M_FAILED_24H, NULL, failed);
  bq_metrics_set(metrics, BQ_M_SUCCESS_RATE, NULL, succeeded + failed > 0 ? succeeded / (succeeded + failed) : 1);
  bq_metrics_set(metrics, BQ_M_OUTBOX_PENDING, NULL, json_number_value(json_object_get(database, "outboxPending")));
  fill_notifications(metrics, json_object_get(database, "notifications"));
}

static void fill_pg(bq_metrics *metrics, const bq_pg *pg, const char *role) {
  bq_pg_state state;
  bq_pg_get_state(pg, &state);
  bq_metrics_set(metrics, BQ_M_DATABASE_CONNECTIONS, &role, state.open);
  bq_metrics_set(metrics, BQ_M_DATABASE_WAITING, &role, (double)state.waiting);
  bq_metrics_set(metrics, BQ_M_DATABASE_QUERIES, &role, (double)state.queries);
  bq_metrics_set(metrics, BQ_M_DATABASE_RECONNECTS, &role, (double)state.reconnects);
}

static void fill_http(bq_server *server) {
  bq_metrics *metrics = server->metrics;
  bq_http_stats http;
  bq_api_stats api;
  bq_http_server_get_stats(server->http, &http);
  bq_api_get_stats(server->api, &api);
  bq_metrics_set(metrics, BQ_M_HTTP_CONNECTIONS, NULL, http.connections);
  bq_metrics_set(metrics, BQ_M_HTTP_REQUESTS, NULL, (double)http.requests);
  bq_metrics_set(metrics, BQ_M_HTTP_REFUSED, NULL, (double)http.refused);
  bq_metrics_set(metrics, BQ_M_HTTP_BAD, NULL, (double)http.bad_requests);
  bq_metrics_set(metrics, BQ_M_ROUTE_FAILURES, NULL, (double)api.failed);
}

static void add_generation_bytes(void *arg, const bq_generation *generation) {
  const char *label = bq_generation_hash(generation);
  bq_metrics_set(arg, BQ_M_GENERATION_BYTES, &label, (double)bq_generation_bytes(generation));
}

static void fill_scripts(bq_server *server) {
  bq_metrics *metrics = server->metrics;
  bq_script_host_stats stats;
  bq_script_host_get_stats(server->host, &stats);
  bq_generation *current = bq_script_host_current(server->host);
  const char *hash = current != NULL ? bq_generation_hash(current) : "";
  bq_metrics_clear(metrics, BQ_M_GENERATION);
  bq_metrics_set(metrics, BQ_M_GENERATION, &hash, 1);
  bq_metrics_set(metrics, BQ_M_GENERATIONS_LIVE, NULL, bq_generation_set_count(server->generations));
  bq_metrics_clear(metrics, BQ_M_GENERATION_BYTES);
  bq_generation_set_each(server->generations, add_generation_bytes, metrics);
  bq_metrics_set(metrics, BQ_M_RELOADS, NULL, (double)stats.reloads);
  bq_metrics_set(metrics, BQ_M_RELOAD_ERRORS, NULL, (double)stats.failures);
  const char *fault = bq_script_host_error(server->host);
  bq_metrics_clear(metrics, BQ_M_SCRIPT_FAULT);
  if (fault != NULL) bq_metrics_set(metrics, BQ_M_SCRIPT_FAULT, &fault, 1);
  bq_metrics_set(metrics, BQ_M_RELOAD_SECONDS, NULL, (double)stats.last_us / 1e6);
}

void bq_server_fill_metrics(bq_server *server, const json_t *database) {
  bq_metrics *metrics = server->metrics;
  static const char *const pools[] = {"compute", "blocking"};
  if (database != NULL) fill_database(metrics, database);
  bq_metrics_set(metrics, BQ_M_DATABASE_UP, NULL, database != NULL);
  fill_pg(metrics, server->core, "core");
  fill_pg(metrics, server->scripts, "scripts");
  fill_http(server);
  fill_scripts(server);
  bq_metrics_set(metrics, BQ_M_WRITES_WAITING, NULL, (double)bq_store_waiting(server->store));
  bq_metrics_set(metrics, BQ_M_RUNNING, NULL, (double)bq_runner_count(server->runner));
  bq_metrics_set(metrics, BQ_M_SLOTS, NULL, server->config->max_concurrent_builds);
  bq_metrics_set(metrics, BQ_M_POOL_PENDING, &pools[0], (double)bq_pool_pending(server->compute));
  bq_metrics_set(metrics, BQ_M_POOL_PENDING, &pools[1], (double)bq_pool_pending(server->blocking));
}
