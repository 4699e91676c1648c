// The inside of the server, shared by the files that make it: server.c (its life), server_scripts.c (generations),
// lib_queue.c (what routes ask), streams.c (logs, events, files), health.c (readiness, metrics), janitor.c, scheduler.c.
#ifndef BQ_QUEUE_SERVER_INTERNAL_H
#define BQ_QUEUE_SERVER_INTERNAL_H

#include "base/metrics.h"
#include "event/pool.h"
#include "io/cluster.h"
#include "io/curl.h"
#include "io/http_server.h"
#include "io/pg.h"
#include "io/smtp.h"
#include "io/statements.h"
#include "io/watch.h"
#include "io/webhook.h"
#include "lua/script_host.h"
#include "queue/api.h"
#include "queue/cluster_keeper.h"
#include "queue/database_watch.h"
#include "queue/estimate.h"
#include "queue/enqueue.h"
#include "queue/hidden.h"
#include "queue/labels.h"
#include "queue/node.h"
#include "queue/runner.h"
#include "queue/server.h"
#include "queue/store.h"

typedef struct bq_streams bq_streams;
typedef struct bq_janitor bq_janitor;
typedef struct bq_activation bq_activation;
typedef struct bq_placer bq_placer;
typedef struct bq_scheduler bq_scheduler;
typedef struct bq_estimator bq_estimator;
typedef struct bq_sender bq_sender;

typedef struct bq_server {
  bq_config *config;            // owned
  const bq_serve_options *options;
  bq_loop *loop;
  bq_pool *compute;
  bq_pool *blocking;
  bq_cluster *cluster;          // NULL with a ConnectionString
  bq_cluster_keeper *keeper;    // starts that again when it ends; NULL likewise
  const char *conninfo;         // borrowed from the cluster or the configuration
  bq_pg *core;                  // the queue's connections
  bq_pg *scripts;               // db.query's connections
  bq_pg_listener *listener;
  bq_statements *statements;
  bq_store *store;
  bq_database_watch *database;  // whether PostgreSQL answers
  bq_curl *curl;
  bq_webhook *webhook;        // owned; calls of notifications
  bq_metrics *metrics;
  bq_services services;
  bq_generation_set *generations; // those alive
  int storing;                  // generations on their way into the database: until it has them no build is claimed
  bq_script_host *host;
  bq_decider decider;           // with the policies of the running generation
  int64_t policy_said_us;       // bq_clock_mono_us of the last log line about a failing policy
  bq_watch *watch;
  bq_api *api;
  bq_http_server *http;
  bq_node *node;
  bq_runner *runner;
  bq_streams *streams;
  bq_janitor *janitor;
  bq_batch *enqueues;
  bq_enqueue_lanes *lanes;
  bq_activation *activation;
  struct reload_op *reloads;    // routes that wait for the end of a round; lib_generations.c's
  bq_placer *placer;
  bq_scheduler *scheduler;
  bq_sender *sender;
  bq_smtp *smtp;
  bq_estimator *estimator;
  bq_sandbox sandbox;
  bq_attempt_env env;
  char *url;                    // owned; "http://" and the address as bound
  char *predecessor;            // owned; node id of the last server in this state directory, or NULL
  bq_generation *announced;     // retained; the last one that the log has called active
  json_t *change;               // owned; {previous, added, changed, removed}: what it was the change of; NULL: the first
  int64_t change_us;            // bq_clock_mono_us of it
  bq_timer *store_timer;        // owned; the newest could not be sent there: it is tried again
  bq_generation *stored;        // retained; the newest that is safely in SQL: what builds start on
  char host_name[256];
  bq_mask_set *hidden;          // owned; what no log of a build shows
  bq_labels *labels;            // owned; what this server offers to builds
  char *share;                  // owned; where scripts/, templates/ and sql/ can be read
  int lock_fd;                  // of StateDirectory/lock
  int sandbox_works;            // the probe at the start went well
  int ready;                    // the first generation runs: HTTP is open
  int stopping;                 // signals to stop so far
  int abrupt;                   // the end did not wait for what is under way: nothing is freed
  bq_timer *wind_timer;         // owned; waits for the last work to end
  bq_timer *patience_timer;     // owned; while stopping: whether the database still lets it
  struct event *signals[3];     // owned; SIGTERM, SIGINT, SIGHUP
  bq_task config_task;          // reads the configuration again
  bq_config *new_config;        // owned; what it has read
  bq_config **old_configs;      // owned; kept to the end: slices may still read their strings
  size_t old_config_count;
  int reading_config;           // the task is under way
  bq_task trim_task;            // gives memory back
  int trimming;                 // the task is under way
  int result;                   // of bq_serve
  bq_error error;               // why it ends, when result is negative
  // statistics, at most 2 s old
  json_t *statistics;           // owned
  int64_t statistics_us;        // bq_clock_mono_us of it; 0: never
  // disk
  int64_t free_megabytes;       // in WorkspaceDirectory and OutputDirectory, the smaller; -1: not known yet
} bq_server;

// lib_queue.c
// Whether the database may be asked now for somebody who waits: not without one, nor while it does not answer. 0: `err`
// is BQ_EUNAVAIL.
int bq_queue_may_ask(const bq_server *server, bq_error *err);
int bq_queue_open(lua_State *L);  // the module `queue` of routes

void bq_queue_tell_deliveries(bq_server *server); // something is to be sent: senders look
void bq_queue_announce(const bq_server *server, const char *channel); // to all servers; one that misses it looks by itself
void bq_queue_tell_enqueued(bq_server *server); // something pending has come: claimers and streams look

// activation.c: which generation the cluster was told to use
int bq_activation_new(bq_activation **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_activation_free(bq_activation *activation); // NULL is fine
void bq_activation_look(bq_activation *activation); // it may be another one
void bq_activation_stop(bq_activation *activation);
// {generation, share, since, who, reason, fault?} as last seen; borrowed, NULL when nothing is active. `fault` says why this
// server does not run it.
const json_t *bq_activation_get(const bq_activation *activation);
void bq_activation_loaded(bq_activation *activation, const bq_error *error); // a round of the script host has ended

// lib_generations.c
int bq_notifications_preview(lua_State *L); // lib_preview.c: notifications.preview
int bq_generations_open(lua_State *L);                                        // the module `generations` of routes
void bq_generations_loaded(bq_server *server, const bq_error *error);         // a round has ended: answers who waits

// placer.c: gives pending builds the places of the priority policy in force
int bq_placer_new(bq_placer **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_placer_free(bq_placer *placer); // NULL is fine
void bq_placer_wake(bq_placer *placer); // other policies are running
void bq_placer_stop(bq_placer *placer); // what is under way ends by itself

// lib_nodes.c
void bq_nodes_add(lua_State *L); // to the module queue: servers, and what builds need of them

// lib_enqueue.c
int bq_queue_enqueue(lua_State *L);                           // queue.enqueue
int bq_queue_push_enqueued(lua_State *L, const json_t *answer); // of the statements enqueue and replay

// lib_queue.c
// The text of the option `name` of the table at index 1, kept by the stack; NULL when it is absent.
const char *bq_queue_option(lua_State *L, const char *name);
// Ends a binding: asks for a page of rows (JSON, time, id; one more than the limit when there are more). The statement has
// the filters (copied; NULL: any), then limit (1 to 500), time and id of the cursor. Gives {[list] = rows, nextCursor}.
int bq_queue_ask_page(lua_State *L, const char *statement, const char *list, const char *const *filters, int filter_count,
                      int64_t limit, const char *cursor);
// Ends a binding: asks a named statement (9 parameters at most, copied) and returns its first row's JSON, or nil.
int bq_queue_ask(lua_State *L, const char *statement, int param_count, const char *const *params);
typedef int (*bq_queue_fill)(const bq_server *server, json_t *answer, bq_error *err); // adds what SQL doesn't know
int bq_queue_ask_filled(lua_State *L, const char *statement, int param_count, const char *const *params,
                        bq_queue_fill fill);

// The same for what changes something: `changed` is called on the loop when there was a row.
int bq_queue_change(lua_State *L, const char *statement, int param_count, const char *const *params,
                    void (*changed)(bq_server *server));

// lib_notifications.c
int bq_notifications_open(lua_State *L); // the module `notifications` of routes

// lib_schedule.c
int bq_schedule_open(lua_State *L); // the module `schedule` of routes

// lib_explain.c
int bq_queue_estimate(lua_State *L); // queue.estimate
int bq_queue_explain(lua_State *L);  // queue.explain

// lib_intake.c
int bq_intake_open(lua_State *L); // the part of `queue` that pipelines have: read_manifest, pipelines
void bq_intake_add(lua_State *L); // the same into the table on top
int bq_queue_push_failure(lua_State *L, const char *code, const char *message); // nil, {code=, message=}: returns 2

// lib_config.c
int bq_config_open(lua_State *L); // the module `config`

// health.c
json_t *bq_server_health(bq_server *server);
void bq_server_fill_metrics(bq_server *server, const json_t *database); // `database`: of the statement metrics, or NULL

// streams.c
int bq_streams_new(bq_streams **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_streams_free(bq_streams *streams);
void bq_streams_send(void *arg, bq_http_exchange *x, const bq_api_response *response, const bq_http_header *headers,
                     size_t header_count);
void bq_streams_changed(bq_streams *streams, const char *build_id); // NULL: anything may have

// janitor.c: everything periodic that nobody waits for
int bq_janitor_new(bq_janitor **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_janitor_free(bq_janitor *janitor);
int bq_janitor_busy(const bq_janitor *janitor); // file work is under way
void bq_janitor_stop(bq_janitor *janitor);

// scheduler.c: enqueues what schedules say
int bq_scheduler_new(bq_scheduler **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_scheduler_free(bq_scheduler *scheduler);
void bq_scheduler_wake(bq_scheduler *scheduler);       // something may be due, or the scripts are others; NULL is fine
int bq_scheduler_busy(const bq_scheduler *scheduler);  // a round is under way
void bq_scheduler_stop(bq_scheduler *scheduler);

// sender.c: what customers are told
int bq_sender_new(bq_sender **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_sender_free(bq_sender *sender);       // behind what its deliveries are handed to
void bq_sender_wake(bq_sender *sender);       // something may be owed, or the scripts are others; NULL is fine
int bq_sender_busy(const bq_sender *sender);  // something is being sent or recorded
void bq_sender_stop(bq_sender *sender, void (*idle)(void *arg), void *arg); // `idle` when nothing is, or 5 s later

// estimator.c: how long builds take, in memory
int bq_estimator_new(bq_estimator **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_estimator_free(bq_estimator *estimator);
void bq_estimator_stop(bq_estimator *estimator);
// The estimate of a build that has pipeline, tier, architecture and what else is known of it; answers the history it was
// made of (borrowed). As JSON: see bq_estimate_json.
const json_t *bq_estimator_ask(const bq_server *server, const json_t *build, bq_estimate *out);
json_t *bq_estimator_json(const bq_server *server, const json_t *build);
int bq_estimator_add(const bq_server *server, json_t *build); // field `estimate` of an unfinished one; 1: it was added

// server.c
void bq_server_stop_now(bq_server *server, int result); // ends the loop; `server->error` says why when it is negative
void bq_server_become_ready(bq_server *server);         // the first generation runs: opens HTTP, joins the cluster
int bq_server_set_notifications(bq_server *server, bq_error *err) BQ_MUSTCHECK; // tells SQL of EnableNotifications

// server_scripts.c; the first six are callbacks of other parts, with the server as `arg`
bq_generation *bq_server_generation(void *arg); // the newest that is stored; borrowed, NULL before the first is
int bq_server_is_pinned(void *arg, const char *pipeline);
const json_t *bq_server_needs(void *arg, const char *pipeline); // names of secrets; borrowed, or NULL
bq_handlers *bq_server_handlers(void *arg);
void bq_server_spoiled(void *arg, bq_handlers *handlers);
void bq_server_policy_failed(void *arg, bq_hook hook, const bq_error *err);
int bq_server_open_scripts(bq_server *server, bq_error *err) BQ_MUSTCHECK;

// server_reload.c: libevent's callback for SIGHUP, with the server as `arg`
void bq_server_on_reload(int number, short what, void *arg);

// server_start.c: before the loop
// Makes the directories and gives up root. `*share` (owned by the caller) is where the shipped files can be read as that
// user: `from`, or a descriptor's path when a parent directory of it is closed to others, as a clone in root's home is.
int bq_server_become_user(const bq_config *config, const char *from, char **share, bq_error *err) BQ_MUSTCHECK;
int bq_server_lock_state(bq_server *server, bq_error *err) BQ_MUSTCHECK;        // lock_fd, predecessor
int bq_server_remember_node(const bq_server *server, const char *node_id, bq_error *err) BQ_MUSTCHECK;

#endif
