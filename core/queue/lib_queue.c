// The module `queue`: what routes ask of the queue.
//
// Nearly every call is one named statement with text parameters and JSON in its first column.
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/server_internal.h"

enum { MAX_PARAMS = 9, STATISTICS_AGE_US = 2 * 1000 * 1000, MAX_MANIFEST_BYTES = 1024 * 1024 };

typedef struct call_op call_op;

// How one call's answer becomes Lua values; as bq_op's push. `answer` is NULL when there was no row.
typedef int (*push_fn)(call_op *call, lua_State *L);

struct call_op {
  bq_op op;
  bq_server *server;      // borrowed
  const char *statement;  // its name
  char *params[MAX_PARAMS]; // owned; NULL is SQL's NULL
  int param_count;
  push_fn push;
  void (*after)(call_op *call); // on the loop, after success; may be NULL
  PGresult *rows;         // owned copy
  json_t *answer;         // owned; first column of the first row
  char *text;             // owned; of what is pushed, in case that Lua has no memory for it; NULL: none
  bq_error error;         // code 0: none
  char sqlstate[6];
  int64_t limit;          // of a page
  const char *list;       // the field that a page's rows go into
  bq_queue_fill fill;     // of bq_queue_ask_filled; may be NULL
  void (*changed)(bq_server *server); // of bq_queue_change
};

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

static void on_answer(void *arg, const bq_pg_result *result) {
  call_op *call = arg;
  if (result->error != NULL) {
    call->error = *result->error;
    memcpy(call->sqlstate, result->sqlstate, sizeof call->sqlstate);
  } else {
    call->rows = PQcopyResult(result->rows, PG_COPYRES_ATTRS | PG_COPYRES_TUPLES);
    call->answer = bq_store_json(result->rows, 0);
    int unread = call->answer == NULL && PQntuples(result->rows) > 0 && !PQgetisnull(result->rows, 0, 0);
    if (call->rows == NULL || unread) (void)bq_fail(&call->error, BQ_ENOMEM, "out of memory for an answer");
    else if (call->after != NULL) call->after(call);
  }
  bq_op_complete(&call->op);
}

// There is none in `buildq run`, and in `buildq test` until a spec asks for it.
static int has_database(const bq_server *server, bq_error *err) {
  if (server->store != NULL) return 1;
  (void)bq_fail(err, BQ_EUNAVAIL, "there is no database here, so there is no queue");
  return 0;
}

int bq_queue_may_ask(const bq_server *server, bq_error *err) {
  if (!has_database(server, err)) return 0;
  return server->database == NULL || bq_database_watch_check(server->database, err) == 0;
}

static void call_start(bq_op *op) {
  call_op *call = (call_op *)op;
  if (!bq_queue_may_ask(call->server, &call->error)) {
    bq_op_complete(op);
    return;
  }
  const char *const *params = (const char *const *)(void *)call->params;
  if (bq_store_query(call->server->store, call->statement, call->param_count, params, on_answer, call, &call->error) <
      0) {
    bq_op_complete(op);
  }
}

static int call_push(bq_op *op, lua_State *L) {
  call_op *call = (call_op *)op;
  if (call->error.code != 0) {
    // Class 22 and 23: PostgreSQL refused the data, which is the caller's business.
    int refused = strncmp(call->sqlstate, "22", 2) == 0 || strncmp(call->sqlstate, "23", 2) == 0;
    if (!refused) {
      bq_lua_push_error(L, &call->error);
      return -1;
    }
    return bq_queue_push_failure(L, "invalid", call->error.message);
  }
  return call->push(call, L);
}

static void call_release(bq_op *op) {
  call_op *call = (call_op *)op;
  for (int i = 0; i < call->param_count; i++) bq_free(call->params[i]);
  PQclear(call->rows);
  json_decref(call->answer);
  bq_free(call->text);
  bq_free(call);
}

static call_op *new_call(lua_State *L, const char *statement, push_fn push) {
  call_op *call = bq_alloc(sizeof *call);
  if (call == NULL) {
    (void)luaL_error(L, "out of memory");
    return NULL;
  }
  call->op = (bq_op){.start = call_start, .push = call_push, .release = call_release};
  call->server = server_of(L);
  call->statement = statement;
  call->push = push;
  return call;
}

// Adds a parameter, a copy; NULL is SQL's NULL.
static void add_param(lua_State *L, call_op *call, const char *text) {
  char *copy = bq_strdup(text);
  if (text != NULL && copy == NULL) {
    call_release(&call->op);
    (void)luaL_error(L, "out of memory");
    return;
  }
  call->params[call->param_count++] = copy;
}

// What other modules ask: the answer is the JSON of the first row, or nil when there is none.
static int push_row(call_op *call, lua_State *L) {
  bq_error err;
  if (call->answer != NULL && call->fill != NULL && call->fill(call->server, call->answer, &err) < 0) {
    bq_lua_push_error(L, &err);
    return -1;
  }
  if (call->answer == NULL) lua_pushnil(L);
  else bq_lua_push_json(L, call->answer);
  return 1;
}

int bq_queue_ask_filled(lua_State *L, const char *statement, int param_count, const char *const *params,
                        bq_queue_fill fill) {
  call_op *call = new_call(L, statement, push_row);
  for (int i = 0; i < param_count; i++) add_param(L, call, params[i]);
  call->fill = fill;
  return bq_op_yield(L, &call->op);
}

int bq_queue_ask(lua_State *L, const char *statement, int param_count, const char *const *params) {
  return bq_queue_ask_filled(L, statement, param_count, params, NULL);
}

static void after_change(call_op *call) {
  if (call->answer != NULL) call->changed(call->server);
}

int bq_queue_change(lua_State *L, const char *statement, int param_count, const char *const *params,
                    void (*changed)(bq_server *server)) {
  call_op *call = new_call(L, statement, push_row);
  for (int i = 0; i < param_count; i++) add_param(L, call, params[i]);
  call->after = after_change;
  call->changed = changed;
  return bq_op_yield(L, &call->op);
}

static int push_not_found(lua_State *L) {
  return bq_queue_push_failure(L, "not_found", "There is no build of this id.");
}

static int push_answer(call_op *call, lua_State *L) {
  if (call->answer == NULL) return push_not_found(L);
  bq_lua_push_json(L, call->answer);
  return 1;
}

// A call whose first argument is a build's id: what is no UUID is simply not found.
static call_op *build_call(lua_State *L, const char *statement, push_fn push) {
  const char *id = luaL_checkstring(L, 1);
  if (!bq_uuid_is(id)) return NULL;
  call_op *call = new_call(L, statement, push);
  add_param(L, call, id);
  return call;
}

// Streams and other servers hear of what a request has changed.
static void tell_changed(call_op *call) {
  bq_streams_changed(call->server->streams, call->params[0]);
  bq_sender_wake(call->server->sender);
}

static void on_announced(void *arg, const bq_pg_result *result) {
  (void)arg;
  // A lost announcement costs a poll interval: the other servers look by themselves.
  if (result->error != NULL) bq_log(BQ_DEBUG, "an announcement was lost", "error", result->error->message, NULL);
}

void bq_queue_announce(const bq_server *server, const char *channel) {
  bq_error err;
  if (bq_store_query(server->store, "announce", 1, &channel, on_announced, NULL, &err) < 0) {
    bq_log(BQ_DEBUG, "an announcement was lost", "error", err.message, NULL);
  }
}

void bq_queue_tell_deliveries(bq_server *server) {
  bq_sender_wake(server->sender);
  bq_queue_announce(server, "buildq_wake");
}

void bq_queue_tell_enqueued(bq_server *server) {
  bq_runner_wake(server->runner);
  bq_queue_announce(server, "buildq_wake");
  bq_streams_changed(server->streams, NULL);
  bq_sender_wake(server->sender);
}

static void tell_work(call_op *call) {
  tell_changed(call);
  bq_runner_wake(call->server->runner);
  bq_queue_announce(call->server, "buildq_wake");
}

// replay ----------------------------------------------------------------------------------------------------------

static int push_replay(call_op *call, lua_State *L) {
  if (call->answer != NULL) return bq_queue_push_enqueued(L, call->answer);
  lua_pushnil(L);
  return 1;
}

static int queue_replay(lua_State *L) {
  const char *key = luaL_checkstring(L, 1);
  const char *hash = luaL_checkstring(L, 2);
  call_op *call = new_call(L, "replay", push_replay);
  add_param(L, call, key);
  add_param(L, call, hash);
  return bq_op_yield(L, &call->op);
}

// get, list -------------------------------------------------------------------------------------------------------

static int queue_get(lua_State *L) {
  call_op *call = build_call(L, "get_build", push_answer);
  return call != NULL ? bq_op_yield(L, &call->op) : push_not_found(L);
}

static int push_text(call_op *call, lua_State *L) {
  if (call->answer == NULL) return push_not_found(L);
  if (bq_estimator_add(call->server, call->answer)) call->text = bq_json_dumps(call->answer, JSON_COMPACT);
  if (call->text != NULL) lua_pushstring(L, call->text);
  else lua_pushlstring(L, PQgetvalue(call->rows, 0, 0), (size_t)PQgetlength(call->rows, 0, 0));
  return 1;
}

static int queue_get_json(lua_State *L) {
  call_op *call = build_call(L, "get_build", push_text);
  return call != NULL ? bq_op_yield(L, &call->op) : push_not_found(L);
}

static int push_page(call_op *call, lua_State *L) {
  int count = PQntuples(call->rows);
  int more = count > call->limit;
  if (more) count = (int)call->limit;
  lua_createtable(L, 0, 2);
  json_t *list = json_array();
  for (int i = 0; i < count; i++) {
    if (json_array_append_new(list, bq_store_json(call->rows, i)) == 0) continue;
    json_decref(list);
    return bq_lua_raise(L, BQ_ENOMEM, "out of memory for a page");
  }
  bq_lua_give_json(L, list);
  lua_setfield(L, -2, call->list);
  if (more) {
    lua_pushfstring(L, "%s_%s", PQgetvalue(call->rows, count - 1, 1), PQgetvalue(call->rows, count - 1, 2));
  } else {
    lua_pushlightuserdata(L, NULL);
  }
  lua_setfield(L, -2, "nextCursor");
  return 1;
}

// "1764012345.123456_0190…": the time and id of the last row of the page before.
static int read_cursor(const char *cursor, char time[40], const char **id) {
  const char *split = strchr(cursor, '_');
  if (split == NULL || split == cursor || split - cursor >= 40) return 0;
  if (strspn(cursor, "0123456789.") != (size_t)(split - cursor) || !bq_uuid_is(split + 1)) return 0;
  (void)snprintf(time, 40, "%.*s", (int)(split - cursor), cursor);
  *id = split + 1;
  return 1;
}

int bq_queue_ask_page(lua_State *L, const char *statement, const char *list, const char *const *filters, int filter_count,
                      int64_t limit, const char *cursor) {
  char limit_text[24];
  char time[40] = "";
  const char *id = NULL;
  luaL_argcheck(L, limit >= 1 && limit <= 500, 1, "limit is 1 to 500");
  if (cursor != NULL && !read_cursor(cursor, time, &id)) {
    return bq_queue_push_failure(L, "invalid", "The cursor can't be read.");
  }
  (void)snprintf(limit_text, sizeof limit_text, "%lld", (long long)limit);
  call_op *call = new_call(L, statement, push_page);
  for (int i = 0; i < filter_count; i++) add_param(L, call, filters[i]);
  add_param(L, call, limit_text);
  add_param(L, call, id != NULL ? time : NULL);
  add_param(L, call, id);
  call->limit = limit;
  call->list = list;
  return bq_op_yield(L, &call->op);
}

const char *bq_queue_option(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  return lua_isnil(L, -1) ? NULL : luaL_checkstring(L, -1);
}

static int queue_list(lua_State *L) {
  static const char *const options[] = {"status", "customerId", "limit", "cursor", "metadata", NULL};
  bq_args_options(L, 1, "queue.list", options, "queue.list {status = \"failed\", limit = 10}");
  const char *status = bq_queue_option(L, "status");
  const char *customer = bq_queue_option(L, "customerId");
  const char *cursor = bq_queue_option(L, "cursor");
  lua_getfield(L, 1, "limit");
  lua_Integer limit = luaL_optinteger(L, -1, 50);
  const char *metadata = NULL;
  lua_getfield(L, 1, "metadata");
  if (!lua_isnil(L, -1)) {
    json_t *value = NULL;
    bq_error err;
    if (bq_lua_to_json(L, -1, &value, &err) < 0) return bq_lua_raise(L, err.code, "queue.list: %s", err.message);
    char *text = bq_json_dumps(value, JSON_COMPACT);
    json_decref(value);
    metadata = lua_pushstring(L, text); // kept by the stack
    bq_free(text);
  }
  const char *filters[] = {status, customer, metadata};
  return bq_queue_ask_page(L, "list_builds", "builds", filters, 3, limit, cursor);
}

// Changes ---------------------------------------------------------------------------------------------------------

static const char *outcome_of(const call_op *call) {
  const char *outcome = json_string_value(json_object_get(call->answer, "outcome"));
  return outcome != NULL ? outcome : "";
}

static int push_conflict(call_op *call, lua_State *L, const char *fmt) {
  lua_pushfstring(L, fmt, json_string_value(json_object_get(call->answer, "status")));
  return bq_queue_push_failure(L, "conflict", lua_tostring(L, -1));
}

static int push_priority(call_op *call, lua_State *L) {
  if (call->answer == NULL) return push_not_found(L);
  if (strcmp(outcome_of(call), "done") != 0) {
    return push_conflict(call, L, "Only a pending build has a priority to change; this one is %s.");
  }
  bq_lua_push_json(L, json_object_get(call->answer, "build"));
  return 1;
}

static int queue_set_priority(lua_State *L) {
  lua_Integer priority = luaL_checkinteger(L, 2);
  luaL_argcheck(L, priority >= 0 && priority <= 3, 2, "priority is 0 to 3");
  call_op *call = build_call(L, "set_priority", push_priority);
  if (call == NULL) return push_not_found(L);
  char text[2] = {(char)('0' + priority), '\0'};
  add_param(L, call, text);
  call->after = tell_work;
  return bq_op_yield(L, &call->op);
}

static int push_state(call_op *call, lua_State *L, const char *status) {
  lua_createtable(L, 0, 2);
  lua_pushstring(L, call->params[0]);
  lua_setfield(L, -2, "id");
  lua_pushstring(L, status);
  lua_setfield(L, -2, "status");
  return 1;
}

static int push_cancelled(call_op *call, lua_State *L) {
  if (call->answer == NULL) return push_not_found(L);
  if (strcmp(outcome_of(call), "cancelled") == 0) return push_state(call, L, "cancelled");
  if (strcmp(outcome_of(call), "requested") == 0) return push_state(call, L, "building");
  return push_conflict(call, L, "The build has ended already; it is %s.");
}

static void after_cancel(call_op *call) {
  tell_changed(call);
  if (strcmp(outcome_of(call), "requested") != 0) return;
  bq_runner_cancel(call->server->runner, call->params[0], call->params[1]);
  bq_queue_announce(call->server, "buildq_control"); // it may run elsewhere
}

static int queue_cancel(lua_State *L) {
  const char *reason = luaL_optstring(L, 2, NULL);
  call_op *call = build_call(L, "cancel", push_cancelled);
  if (call == NULL) return push_not_found(L);
  add_param(L, call, reason);
  call->after = after_cancel;
  return bq_op_yield(L, &call->op);
}

static int push_retried(call_op *call, lua_State *L) {
  if (call->answer == NULL) return push_not_found(L);
  if (strcmp(outcome_of(call), "done") == 0) return push_state(call, L, "pending");
  return push_conflict(call, L, "Only a build that has ended can be retried; this one is %s.");
}

static int queue_retry(lua_State *L) {
  call_op *call = build_call(L, "retry", push_retried);
  if (call == NULL) return push_not_found(L);
  call->after = tell_work;
  return bq_op_yield(L, &call->op);
}

static void after_bulk(call_op *call) {
  bq_runner_wake(call->server->runner);
  bq_queue_announce(call->server, "buildq_wake");
  bq_streams_changed(call->server->streams, NULL);
  bq_sender_wake(call->server->sender);
}

static int queue_bulk_retry(lua_State *L) {
  static const char *const options[] = {"status", "since", "limit", NULL};
  bq_args_options(L, 1, "queue.bulk_retry", options, "queue.bulk_retry {status = \"failed\"}");
  const char *status = bq_queue_option(L, "status");
  const char *since = bq_queue_option(L, "since");
  lua_getfield(L, 1, "limit");
  lua_Integer limit = luaL_optinteger(L, -1, 1000);
  luaL_argcheck(L, limit >= 1 && limit <= 10000, 1, "limit is 1 to 10000");
  char text[24];
  (void)snprintf(text, sizeof text, "%lld", (long long)limit);
  call_op *call = new_call(L, "bulk_retry", push_answer);
  add_param(L, call, status);
  add_param(L, call, since);
  add_param(L, call, text);
  call->after = after_bulk;
  return bq_op_yield(L, &call->op);
}

// The queue as a whole --------------------------------------------------------------------------------------------

static void after_control(call_op *call) {
  call->server->statistics_us = 0;
  bq_node_beat(call->server->node);
  bq_runner_wake(call->server->runner);
  bq_queue_announce(call->server, "buildq_control");
}

static int queue_pause(lua_State *L) {
  const char *reason = luaL_checkstring(L, 1);
  call_op *call = new_call(L, "pause", push_answer);
  add_param(L, call, reason);
  call->after = after_control;
  return bq_op_yield(L, &call->op);
}

static int queue_resume(lua_State *L) {
  call_op *call = new_call(L, "resume", push_answer);
  call->after = after_control;
  return bq_op_yield(L, &call->op);
}

static int queue_control(lua_State *L) {
  return bq_op_yield(L, &new_call(L, "control", push_answer)->op);
}

static void keep_statistics(call_op *call) {
  bq_server *server = call->server;
  json_decref(server->statistics);
  server->statistics = json_incref(call->answer);
  server->statistics_us = bq_clock_mono_us();
}

static int queue_statistics(lua_State *L) {
  bq_server *server = server_of(L);
  // Routes run on the loop, so what the server keeps may be read here.
  if (server->statistics_us != 0 && bq_clock_mono_us() - server->statistics_us < STATISTICS_AGE_US) {
    bq_lua_push_json(L, server->statistics);
    return 1;
  }
  call_op *call = new_call(L, "statistics", push_answer);
  call->after = keep_statistics;
  return bq_op_yield(L, &call->op);
}

static int queue_artifacts(lua_State *L) {
  call_op *call = build_call(L, "artifacts", push_answer);
  return call != NULL ? bq_op_yield(L, &call->op) : push_not_found(L);
}

static int queue_attempts(lua_State *L) {
  call_op *call = build_call(L, "attempts", push_answer);
  return call != NULL ? bq_op_yield(L, &call->op) : push_not_found(L);
}

static int push_events(call_op *call, lua_State *L) {
  if (!json_is_true(json_object_get(call->answer, "exists"))) return push_not_found(L);
  bq_lua_push_json(L, json_object_get(call->answer, "events"));
  return 1;
}

static int queue_events(lua_State *L) {
  lua_Integer after = luaL_optinteger(L, 2, 0);
  lua_Integer limit = luaL_optinteger(L, 3, 100);
  luaL_argcheck(L, after >= 0 && after <= 2147483647, 2, "after is a number of an event");
  luaL_argcheck(L, limit >= 1 && limit <= 1000, 3, "limit is 1 to 1000");
  char after_text[24];
  char limit_text[24];
  (void)snprintf(after_text, sizeof after_text, "%lld", (long long)after);
  (void)snprintf(limit_text, sizeof limit_text, "%lld", (long long)limit);
  call_op *call = build_call(L, "events_since", push_events);
  if (call == NULL) return push_not_found(L);
  add_param(L, call, after_text);
  add_param(L, call, limit_text);
  return bq_op_yield(L, &call->op);
}

static int queue_health(lua_State *L) {
  bq_error err;
  if (!has_database(server_of(L), &err)) return bq_lua_raise(L, err.code, "%s", err.message);
  json_t *health = bq_server_health(server_of(L));
  if (health == NULL) return luaL_error(L, "out of memory");
  bq_lua_give_json(L, health);
  return 1;
}

// Without the database the server's own figures are still worth having.
static int metrics_push(bq_op *op, lua_State *L) {
  call_op *call = (call_op *)op;
  bq_buf text = {0};
  bq_metrics_write(call->server->metrics, &text);
  call->text = bq_buf_take(&text);
  if (call->text == NULL) return luaL_error(L, "out of memory");
  lua_pushstring(L, call->text);
  return 1;
}

static void on_metrics(void *arg, const bq_pg_result *result) {
  call_op *call = arg;
  json_t *database = result->error == NULL ? bq_store_json(result->rows, 0) : NULL;
  bq_server_fill_metrics(call->server, database);
  json_decref(database);
  bq_op_complete(&call->op);
}

static void metrics_start(bq_op *op) {
  call_op *call = (call_op *)op;
  bq_pg_state state;
  bq_error err;
  bq_pg_get_state(call->server->core, &state);
  if (state.down_since_us == 0 && bq_queue_may_ask(call->server, &err) &&
      bq_store_query(call->server->store, "metrics", 0, NULL, on_metrics, call, &call->error) == 0) {
    return;
  }
  bq_server_fill_metrics(call->server, NULL);
  bq_op_complete(op);
}

static int queue_metrics(lua_State *L) {
  bq_error err;
  if (!has_database(server_of(L), &err)) return bq_lua_raise(L, err.code, "%s", err.message);
  call_op *call = new_call(L, "metrics", push_answer);
  call->op.start = metrics_start;
  call->op.push = metrics_push;
  return bq_op_yield(L, &call->op);
}

int bq_queue_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"enqueue", bq_queue_enqueue},
                                       {"replay", queue_replay},
                                       {"get", queue_get},
                                       {"get_json", queue_get_json},
                                       {"list", queue_list},
                                       {"set_priority", queue_set_priority},
                                       {"cancel", queue_cancel},
                                       {"retry", queue_retry},
                                       {"bulk_retry", queue_bulk_retry},
                                       {"pause", queue_pause},
                                       {"resume", queue_resume},
                                       {"control", queue_control},
                                       {"statistics", queue_statistics},
                                       {"artifacts", queue_artifacts},
                                       {"attempts", queue_attempts},
                                       {"events", queue_events},
                                       {"health", queue_health},
                                       {"metrics", queue_metrics},
                                       {"estimate", bq_queue_estimate},
                                       {"explain", bq_queue_explain},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  bq_intake_add(L);
  bq_nodes_add(L);
  return 1;
}
