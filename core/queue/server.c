// The server's life: what is made in which order, what follows a signal, what is taken down.
#include "queue/server.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/version.h"
#include "queue/migrate.h"
#include "queue/notify_manager.h"
#include "queue/server_internal.h"
#include "queue/server_metrics.h"
#include "queue/server_modules.h"
#include "queue/streams.h"

enum {
  BLOCKING_THREADS = 4,
  COMPUTE_QUEUE = 20000,
  BLOCKING_QUEUE = 20000,
  MAX_TRANSFERS = 64,          // outgoing HTTP requests of scripts at a time
  MAX_WEBHOOKS = 32,           // connections of notifications at a time
  MAX_WAITING = 10000,         // queries waiting for a connection
  DATABASE_WAIT_MS = 2000,     // how long a query waits while the database is away
  CORE_STATEMENT_MS = 30000,   // of the queue's own statements
  WIND_DOWN_MS = 20,           // between two looks whether the last work has ended
  PATIENCE_MS = 10000,         // how long a stop waits for a database that does not answer, behind the grace
  PATIENCE_STEP_MS = 500
};

void bq_server_stop_now(bq_server *server, int result) {
  server->result = result;
  bq_loop_stop(server->loop);
}

// Callbacks of the parts ------------------------------------------------------------------------------------------

static int may_claim(void *arg) {
  const bq_server *server = arg;
  if (server->free_megabytes >= 0 && server->free_megabytes < server->config->disk_reserve_megabytes) return 0;
  // A build that was ordered because of the new scripts must not start on the old ones.
  return server->sandbox_works && server->storing == 0;
}

static void on_build_changed(void *arg, const char *build_id) {
  bq_server *server = arg;
  bq_streams_changed(server->streams, build_id);
  bq_sender_wake(server->sender);
}

static void on_joined(void *arg, const char *node_id) {
  bq_server *server = arg;
  bq_error err;
  if (bq_server_remember_node(server, node_id, &err) < 0) bq_log_error("the next start can't take over at once", &err);
  server->env.node_id = node_id;
  bq_runner_set_node(server->runner, node_id);
  bq_scheduler_wake(server->scheduler);
  bq_sender_wake(server->sender);
}

static void on_cancel(void *arg, const char *build_id, const char *reason) {
  if (build_id != NULL) bq_runner_cancel(((bq_server *)arg)->runner, build_id, reason);
}

static void on_resumed(void *arg) {
  bq_runner_wake(((bq_server *)arg)->runner);
}

static void on_taken_over(void *arg, size_t builds) {
  (void)builds;
  bq_server *server = arg;
  bq_runner_wake(server->runner);
  bq_streams_changed(server->streams, NULL);
  bq_sender_wake(server->sender);
}

static void on_notify(void *arg, const char *channel, const char *payload) {
  bq_server *server = arg;
  (void)payload;
  // Also after a reconnect, when anything may have been missed: channel is empty then.
  server->statistics_us = 0;
  if (server->runner == NULL || server->node == NULL) return;
  if (channel == NULL || strcmp(channel, "buildq_wake") != 0) {
    bq_node_beat(server->node);
    bq_activation_look(server->activation);
  }
  bq_runner_wake(server->runner);
  bq_streams_changed(server->streams, NULL);
  bq_sender_wake(server->sender);
}

// The end ---------------------------------------------------------------------------------------------------------

static void wind_down(void *arg) {
  bq_server *server = arg;
  int busy = bq_script_host_busy(server->host) || bq_janitor_busy(server->janitor) ||
             bq_scheduler_busy(server->scheduler) || bq_sender_busy(server->sender) || server->reading_config ||
             bq_pool_pending(server->compute) > 0 || bq_pool_pending(server->blocking) > 0 ||
             bq_store_waiting(server->store) > 0;
  if (busy) bq_timer_set(server->wind_timer, WIND_DOWN_MS);
  else bq_loop_stop(server->loop);
}

static void on_left(void *arg) {
  wind_down(arg);
}

// No build runs any more, and what could be told has been.
static void on_told(void *arg) {
  bq_server *server = arg;
  bq_node_leave(server->node, on_left, server);
}

static void on_idle(void *arg) {
  bq_server *server = arg;
  bq_janitor_stop(server->janitor);
  bq_scheduler_stop(server->scheduler);
  bq_placer_stop(server->placer);
  bq_activation_stop(server->activation);
  bq_estimator_stop(server->estimator);
  bq_sender_stop(server->sender, on_told, server);
}

// A stop whose outcomes can't be recorded would never end by itself. The next start takes over what is left.
static void on_patience(void *arg) {
  bq_server *server = arg;
  int64_t silent_ms = bq_database_watch_silent_ms(server->database);
  int64_t waiting_ms = bq_store_waiting_ms(server->store);
  if (silent_ms < PATIENCE_MS && waiting_ms < PATIENCE_MS) {
    bq_timer_set(server->patience_timer, PATIENCE_STEP_MS);
    return;
  }
  char running[24];
  (void)snprintf(running, sizeof running, "%zu", bq_runner_count(server->runner));
  bq_log(BQ_ERROR, "stopping at once: the database does not take what became of the builds; the next start takes them over",
         "builds", running, NULL);
  server->abrupt = 1;
  bq_loop_stop(server->loop);
}

static void on_stop_signal(evutil_socket_t number, short what, void *arg) {
  (void)what;
  bq_server *server = arg;
  const bq_config *config = server->config;
  if (server->stopping++ > 0 || !server->ready) {
    // At once: the commands of builds end with this process, and the next start takes the builds over.
    bq_log(BQ_WARN, "stopping at once", "signal", strsignal(number), NULL);
    server->abrupt = 1;
    bq_loop_stop(server->loop);
    return;
  }
  int64_t grace_ms = config->enable_graceful_shutdown ? (int64_t)config->graceful_shutdown_timeout_seconds * 1000 : 0;
  char running[24];
  (void)snprintf(running, sizeof running, "%zu", bq_runner_count(server->runner));
  bq_log(BQ_INFO, "stopping: no new builds, running ones may end; a second signal stops at once", "signal",
         strsignal(number), "running", running, NULL);
  bq_notify_manager("STOPPING=1");
  bq_timer_set(server->patience_timer, grace_ms + PATIENCE_MS);
  bq_runner_stop(server->runner, grace_ms);
}

// Making the parts ------------------------------------------------------------------------------------------------

static int open_pg(bq_server *server, bq_pg **out, const char *role, unsigned size, int64_t statement_ms, size_t bytes,
                   const char *session_sql, bq_error *err) {
  const bq_pg_options options = {.conninfo = server->conninfo,
                                 .application_name = "buildq",
                                 .role = role,
                                 .size = size,
                                 .max_waiting = MAX_WAITING,
                                 .wait_ms = DATABASE_WAIT_MS,
                                 // A server that could reach the database again must not lose its lease by waiting.
                                 .backoff_most_ms = (int64_t)server->config->lease_seconds * 1000 / 3,
                                 .statement_timeout_ms = statement_ms,
                                 .max_result_bytes = bytes,
                                 .blocking = server->blocking,
                                 .session_sql = session_sql};
  return bq_pg_new(out, server->loop, &options, err);
}

// The server announces once for many. Core statements find their rows by keys, and a plan for all times must not depend on
// what a table held when it was analyzed: nested loops over indexes, never a join that reads whole tables.
static const char core_session[] = "set jit = off; set buildq.announces = 'on'; set enable_hashjoin = off; "
                                   "set enable_mergejoin = off";

static int open_database(bq_server *server, bq_error *err) {
  static const char *const channels[] = {"buildq_wake", "buildq_control"};
  const bq_config *config = server->config;
  char *queries = bq_format("%s/sql/queries", server->share);
  if (queries == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  int result = bq_statements_load(&server->statements, queries, err);
  bq_free(queries);
  if (result == 0) {
    result = open_pg(server, &server->core, "core", (unsigned)config->database_connections, CORE_STATEMENT_MS, 0,
                     core_session, err);
  }
  if (result == 0) {
    result = open_pg(server, &server->scripts, "scripts", (unsigned)config->script_database_connections,
                     (int64_t)config->script_statement_timeout_seconds * 1000, 16 * 1024 * 1024, "set jit = off", err);
  }
  if (result == 0) result = bq_store_new(&server->store, server->loop, server->core, server->statements, err);
  if (result == 0) result = bq_database_watch_new(&server->database, server->loop, server->store, err);
  if (result == 0 && server->cluster != NULL) {
    result = bq_cluster_keeper_new(&server->keeper, server->loop, server->blocking, server->cluster, err);
  }
  if (result == 0) result = bq_pg_listen(&server->listener, server->loop, server->conninfo, channels, 2, on_notify,
                                         server, err);
  return result;
}

static int open_pools(bq_server *server, bq_error *err) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  unsigned threads = server->config->worker_threads > 0 ? (unsigned)server->config->worker_threads
                     : cores > 0                        ? (unsigned)cores
                                                        : 1;
  int result = bq_loop_new(&server->loop, err);
  if (result == 0) result = bq_timer_new(&server->wind_timer, server->loop, wind_down, server, err);
  if (result == 0) result = bq_timer_new(&server->patience_timer, server->loop, on_patience, server, err);
  if (result == 0) result = bq_pool_new(&server->compute, server->loop, "compute", threads, COMPUTE_QUEUE, err);
  if (result == 0) {
    result = bq_pool_new(&server->blocking, server->loop, "blocking", BLOCKING_THREADS, BLOCKING_QUEUE, err);
  }
  return result;
}

static int open_http(bq_server *server, bq_error *err) {
  const bq_config *config = server->config;
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = config->listen;
  options.max_body = (size_t)config->max_body_kilobytes * 1024;
  options.max_connections = (unsigned)config->max_connections;
  options.max_per_peer = (unsigned)config->max_connections_per_peer;
  options.head_deadline_ms = (int64_t)config->request_head_seconds * 1000;
  options.body_deadline_ms = (int64_t)config->request_body_seconds * 1000;
  options.idle_timeout_ms = (int64_t)config->idle_seconds * 1000;
  const bq_http_handler handler = {.on_request = bq_api_on_request, .arg = server->api};
  int result = bq_http_server_new(&server->http, server->loop, &options, &handler, err);
  if (result < 0) {
    // Most often the port is taken: the line that uses the next one can be pasted.
    const char *port = strrchr(config->listen, ':');
    int host = port != NULL ? (int)(port - config->listen) : 0;
    long next = port != NULL ? strtol(port + 1, NULL, 10) + 1 : 8081;
    return bq_fail(err, result, "%s. Another address: BuildQueue__Listen=%.*s:%ld buildq serve (or make run LISTEN=%.*s:%ld)",
                   err->message, host, config->listen, next, host, config->listen, next);
  }
  const char *address = bq_http_server_address(server->http);
  bq_api_set_address(server->api, address);
  server->url = bq_format("http://%s", address);
  server->env.server_url = server->url;
  if (server->url == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  bq_log(BQ_INFO, "listening", "address", address, NULL);
  return 0;
}

static void *run_ready(void *arg) {
  bq_server *server = arg;
  server->options->ready(server->options->arg, server->url + strlen("http://"));
  return NULL;
}

void bq_server_become_ready(bq_server *server) {
  bq_error err;
  pthread_t thread;
  server->ready = 1;
  if (open_http(server, &err) < 0) {
    server->error = err;
    bq_server_stop_now(server, err.code);
    return;
  }
  bq_node_join(server->node);
  bq_notify_manager("READY=1");
  if (server->options->ready == NULL) return;
  if (pthread_create(&thread, NULL, run_ready, server) == 0) (void)pthread_detach(thread);
}

static void set_sandbox(bq_server *server) {
  const bq_config *config = server->config;
  bq_error err;
  server->sandbox = bq_server_sandbox(config);
  server->sandbox_works = bq_sandbox_probe(&server->sandbox, &err) == 0;
  if (!server->sandbox_works) bq_log_error("builds can't be started: the sandbox does not work", &err);
  if (server->sandbox.kind == BQ_SANDBOX_NONE) {
    bq_log(BQ_WARN, "Sandbox is none: builds see what this server's user sees", NULL);
  }
}

static int open_queue(bq_server *server, bq_error *err) {
  int made = bq_generation_set_new(&server->generations, err);
  if (made < 0) return made;
  made = bq_labels_find(&server->labels, server->config, err);
  if (made < 0) return made;
  bq_log(BQ_INFO, "offered to builds", "labels", bq_labels_json(server->labels), NULL);
  server->decider = (bq_decider){.failed = bq_server_policy_failed, .arg = server};
  const bq_runner_options runner = {.env = &server->env,
                                    .store = server->store,
                                    .metrics = server->metrics,
                                    .decider = &server->decider,
                                    .generations = server->generations,
                                    .labels = server->labels,
                                    .generation = bq_server_generation,
                                    .is_pinned = bq_server_is_pinned,
                                    .may_claim = may_claim,
                                    .changed = on_build_changed,
                                    .idle = on_idle,
                                    .arg = server};
  int result = bq_runner_new(&server->runner, &runner, err);
  if (result < 0) return result;
  if (gethostname(server->host_name, sizeof server->host_name - 1) < 0) server->host_name[0] = '\0';
  const bq_node_options node = {.loop = server->loop,
                                .store = server->store,
                                .config = server->config,
                                .name = server->host_name,
                                .url = &server->url,
                                .version = BQ_VERSION,
                                .labels = bq_labels_json(server->labels),
                                .predecessor = server->predecessor,
                                .joined = on_joined,
                                .cancel = on_cancel,
                                .resumed = on_resumed,
                                .taken_over = on_taken_over,
                                .arg = server};
  return bq_node_new(&server->node, &node, err);
}

static int open_parts(bq_server *server, bq_error *err) {
  int result = open_database(server, err);
  if (result == 0) result = bq_curl_new(&server->curl, server->loop, MAX_TRANSFERS, err);
  if (result == 0) {
    result = bq_webhook_new(&server->webhook, server->loop, server->blocking, server->config, MAX_WEBHOOKS, err);
  }
  if (result == 0) result = bq_metrics_new(&server->metrics, bq_server_metrics, BQ_M_COUNT, err);
  if (result < 0) return result;
  server->services = (bq_services){.loop = server->loop,
                                   .blocking = server->blocking,
                                   .db = server->scripts,
                                   .http = server->curl,
                                   .workspace = bq_server_workspace,
                                   .build_id = bq_server_build_id,
                                   .product = server};
  result = bq_hidden_update(&server->hidden, server->config, server->conninfo, err);
  if (result < 0) return result;
  server->env = (bq_attempt_env){.loop = server->loop,
                                 .compute = server->compute,
                                 .blocking = server->blocking,
                                 .config = server->config,
                                 .sandbox = &server->sandbox,
                                 .services = &server->services,
                                 .hidden = server->hidden,
                                 .step_plans = json_object(),
                                 .node_id = "",
                                 .server_url = "",
                                 .version = BQ_VERSION,
                                 .needs = bq_server_needs,
                                 .arg = server};
  server->free_megabytes = -1;
  const bq_stock_options stock = {.loop = server->loop,
                                  .modules = bq_build_modules,
                                  .services = &server->services,
                                  .prepare = bq_attempt_open_state};
  result = bq_stock_new(&server->env.stock, &stock, err);
  if (result < 0) return result;
  result = bq_streams_new(&server->streams, server, err);
  if (result == 0) result = open_queue(server, err);
  if (result < 0) return result;
  const bq_api_options api = {.loop = server->loop,
                              .config = server->config,
                              .handlers = bq_server_handlers,
                              .spoiled = bq_server_spoiled,
                              .arg = server,
                              .streams = {.send = bq_streams_send, .arg = server->streams}};
  result = bq_api_new(&server->api, &api, err);
  if (result == 0) result = bq_server_open_scripts(server, err);
  if (result == 0) result = bq_janitor_new(&server->janitor, server, err);
  if (result == 0) result = bq_scheduler_new(&server->scheduler, server, err);
  if (result == 0) result = bq_sender_new(&server->sender, server, err);
  if (result == 0) result = bq_smtp_new(&server->smtp, server->loop, (unsigned)server->config->max_concurrent_deliveries, err);
  if (result == 0) result = bq_placer_new(&server->placer, server, err);
  if (result == 0) result = bq_activation_new(&server->activation, server, err);
  if (result == 0) result = bq_enqueue_lanes_new(&server->lanes, err);
  if (result == 0) {
    result = bq_batch_new(&server->enqueues, server->loop, server->store, "enqueue_all", BQ_BATCH_QUERY, err);
  }
  if (result == 0) result = bq_estimator_new(&server->estimator, server, err);
  return result;
}

static int watch_signal(bq_server *server, size_t place, int number, event_callback_fn fn, bq_error *err) {
  server->signals[place] = evsignal_new(bq_loop_base(server->loop), number, fn, server);
  if (server->signals[place] != NULL && event_add(server->signals[place], NULL) == 0) return 0;
  return bq_fail(err, BQ_ENOMEM, "out of memory for signals");
}

static int watch_signals(bq_server *server, bq_error *err) {
  (void)signal(SIGPIPE, SIG_IGN);
  int result = watch_signal(server, 0, SIGTERM, on_stop_signal, err);
  if (result == 0) result = watch_signal(server, 1, SIGINT, on_stop_signal, err);
  if (result == 0) result = watch_signal(server, 2, SIGHUP, bq_server_on_reload, err);
  return result;
}

// Taking down -----------------------------------------------------------------------------------------------------

static void free_parts(bq_server *server) {
  bq_http_server_free(server->http);
  bq_watch_free(server->watch);
  bq_pg_listener_free(server->listener);
  bq_pg_free(server->scripts);
  bq_pg_free(server->core);
  bq_cluster_keeper_free(server->keeper);
  bq_hidden_free(server->hidden);
  bq_labels_free(server->labels);
  bq_database_watch_free(server->database);
  bq_store_free(server->store);
  bq_webhook_free(server->webhook);
  bq_smtp_free(server->smtp);
  bq_curl_free(server->curl);
  bq_pool_free(server->compute);
  bq_pool_free(server->blocking);
  bq_streams_free(server->streams);
  bq_janitor_free(server->janitor);
  bq_scheduler_free(server->scheduler);
  bq_sender_free(server->sender);
  bq_activation_free(server->activation);
  bq_placer_free(server->placer);
  bq_batch_free(server->enqueues);
  bq_enqueue_lanes_free(server->lanes);
  bq_estimator_free(server->estimator);
  bq_api_free(server->api);
  bq_script_host_free(server->host);
  bq_runner_free(server->runner);
  bq_stock_free(server->env.stock);
  bq_node_free(server->node);
  bq_metrics_free(server->metrics);
  bq_statements_free(server->statements);
  for (size_t i = 0; i < sizeof server->signals / sizeof server->signals[0]; i++) {
    if (server->signals[i] != NULL) event_free(server->signals[i]);
  }
  bq_timer_free(server->wind_timer);
  bq_timer_free(server->patience_timer);
  bq_timer_free(server->store_timer);
  bq_generation_release(server->announced);
  json_decref(server->change);
  bq_generation_release(server->stored);
  bq_generation_set_free(server->generations); // the last generation has left it
  bq_loop_free(server->loop);
}

static void free_server(bq_server *server) {
  if (!server->abrupt) free_parts(server); // else builds are still running in it: the process is about to end
  // Else it is being started again, and ends with this process.
  if (!server->abrupt || !bq_cluster_keeper_busy(server->keeper)) bq_cluster_stop(server->cluster);
  if (server->lock_fd >= 0) (void)close(server->lock_fd);
  if (server->abrupt) return;
  bq_free(server->share);
  bq_free(server->url);
  bq_free(server->predecessor);
  json_decref(server->statistics);
  json_decref(server->env.step_plans);
  for (size_t i = 0; i < server->old_config_count; i++) bq_config_free(server->old_configs[i]);
  bq_free(server->old_configs);
  bq_config_free(server->config);
  bq_free(server);
}

static void report_migration(void *arg, const char *line) {
  (void)arg;
  bq_log(BQ_INFO, "migration", "text", line, NULL);
}

static int prepare(bq_server *server, bq_error *err) {
  const bq_config *config = server->config;
  int result = bq_server_become_user(config, server->options->share, &server->share, err);
  if (result == 0) result = bq_server_lock_state(server, err);
  if (result < 0) return result;
  // After the change of user, which clears it.
  if (server->options->ends_with_parent && prctl(PR_SET_PDEATHSIG, SIGTERM) < 0) {
    return bq_fail_errno(err, errno, "can't tie the server to the process that started it");
  }
  server->conninfo = config->connection_string;
  if (server->conninfo[0] == '\0') {
    const bq_cluster_options options = {.state_directory = config->state_directory};
    result = bq_cluster_start(&server->cluster, &options, err);
    if (result < 0) return result;
    server->conninfo = bq_cluster_conninfo(server->cluster);
  }
  char *sql = bq_format("%s/sql/migrations", server->share);
  if (sql == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  const bq_migrate_options options = {.max_retry_attempts = config->max_retry_attempts,
                                      .check_only = !(server->options->migrate && config->migrate_at_start)};
  result = bq_migrate(server->conninfo, sql, &options, report_migration, NULL, err);
  bq_free(sql);
  return result;
}

static void on_notifications_set(void *arg, const bq_pg_result *result) {
  (void)arg;
  if (result->error != NULL) bq_log_error("EnableNotifications could not be told to the database", result->error);
}

int bq_server_set_notifications(bq_server *server, bq_error *err) {
  const char *params[] = {server->config->enable_notifications ? "true" : "false"};
  return bq_store_write(server->store, "set_notifications", 1, params, on_notifications_set, NULL, err);
}

static int begin(bq_server *server, bq_error *err) {
  int result = watch_signals(server, err);
  if (result < 0) return result;
  bq_script_host_reload(server->host);
  return bq_server_set_notifications(server, err);
}

int bq_serve(bq_config *config, const bq_serve_options *options, bq_error *err) {
  bq_server *server = bq_alloc(sizeof *server);
  if (server == NULL) {
    bq_config_free(config);
    return bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  server->config = config;
  server->options = options;
  server->lock_fd = -1;
  int result = prepare(server, err);
  if (result == 0) set_sandbox(server);
  if (result == 0) result = open_pools(server, err);
  if (result == 0) result = open_parts(server, err);
  int opened = result == 0 && options->opened != NULL;
  if (opened) options->opened(options->arg, server);
  if (result == 0) result = begin(server, err);
  if (result == 0) result = bq_loop_run(server->loop, err);
  if (opened) options->closing(options->arg);
  if (result == 0 && server->result < 0) {
    result = server->result;
    *err = server->error;
  }
  // Whatever ended it, work may be under way in the parts: only an orderly end has waited for it.
  if (result < 0) server->abrupt = 1;
  if (result == 0) bq_log(BQ_INFO, "stopped", NULL);
  if (result == 0 && server->abrupt) result = 1;
  free_server(server);
  return result;
}
