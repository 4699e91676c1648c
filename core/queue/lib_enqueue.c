// queue.enqueue: the policies decide, then the build is written.
#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/enqueue.h"
#include "queue/server_internal.h"

typedef struct enqueue_op {
  bq_op op;
  bq_server *server;       // borrowed
  json_t *fields;          // owned
  json_t *answer;          // owned; NULL unless it was enqueued
  int refused;             // `admission` says why
  bq_admission admission;
  bq_error error;          // code 0: none
  char sqlstate[6];
} enqueue_op;

static json_t *disk_of(void *arg) {
  const bq_server *server = arg;
  if (server->free_megabytes < 0) return NULL;
  return json_pack("{s:I, s:i}", "freeMegabytes", (json_int_t)server->free_megabytes, "reserveMegabytes",
                   server->config->disk_reserve_megabytes);
}

static void on_done(void *arg, const bq_enqueue_result *result) {
  enqueue_op *e = arg;
  switch (result->outcome) {
  case BQ_ENQUEUED:
    e->answer = json_deep_copy(result->answer);
    if (e->answer == NULL) (void)bq_fail(&e->error, BQ_ENOMEM, "out of memory for an answer");
    bq_queue_tell_enqueued(e->server);
    break;
  case BQ_ENQUEUE_REFUSED:
    e->refused = 1;
    e->admission = *result->admission;
    break;
  case BQ_ENQUEUE_FAILED:
    e->error = *result->error;
    memcpy(e->sqlstate, result->sqlstate, strnlen(result->sqlstate, sizeof e->sqlstate - 1));
    break;
  }
  bq_op_complete(&e->op);
}

static void enqueue_start(bq_op *op) {
  enqueue_op *e = (enqueue_op *)op;
  const bq_enqueue_env env = {
      .lanes = e->server->lanes, .store = e->server->store, .batch = e->server->enqueues,
      .decider = &e->server->decider, .disk = disk_of, .arg = e->server};
  if (!bq_queue_may_ask(e->server, &e->error)) {
    bq_op_complete(op);
    return;
  }
  bq_enqueue(&env, e->fields, on_done, e);
}

int bq_queue_push_enqueued(lua_State *L, const json_t *answer) {
  if (json_is_true(json_object_get(answer, "conflict"))) {
    return bq_queue_push_failure(L, "conflict", "This Idempotency-Key was used for another request.");
  }
  bq_lua_push_json(L, answer);
  return 1;
}

// nil, {code = "refused", status =, title =, message =, retryAfter =}
static int push_refusal(lua_State *L, const bq_admission *admission) {
  int count = bq_queue_push_failure(L, "refused", admission->detail[0] != '\0' ? admission->detail
                                                                              : "The admission policy refuses this build.");
  lua_pushinteger(L, admission->status);
  lua_setfield(L, -2, "status");
  if (admission->title[0] != '\0') {
    lua_pushstring(L, admission->title);
    lua_setfield(L, -2, "title");
  }
  if (admission->retry_after_s > 0) {
    lua_pushinteger(L, admission->retry_after_s);
    lua_setfield(L, -2, "retryAfter");
  }
  return count;
}

static int enqueue_push(bq_op *op, lua_State *L) {
  enqueue_op *e = (enqueue_op *)op;
  if (e->refused) return push_refusal(L, &e->admission);
  if (e->error.code == 0) return bq_queue_push_enqueued(L, e->answer);
  // Class 22 and 23: PostgreSQL refused the data, which is the caller's business.
  int is_data = strncmp(e->sqlstate, "22", 2) == 0 || strncmp(e->sqlstate, "23", 2) == 0;
  if (is_data) return bq_queue_push_failure(L, "invalid", e->error.message);
  bq_lua_push_error(L, &e->error);
  return -1;
}

static void enqueue_release(bq_op *op) {
  enqueue_op *e = (enqueue_op *)op;
  json_decref(e->fields);
  json_decref(e->answer);
  bq_free(e);
}

int bq_queue_enqueue(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  json_t *fields = NULL;
  bq_error err;
  if (bq_lua_to_json(L, 1, &fields, &err) < 0) return bq_lua_raise(L, err.code, "queue.enqueue: %s", err.message);
  enqueue_op *e = bq_alloc(sizeof *e);
  if (e == NULL) {
    json_decref(fields);
    return luaL_error(L, "out of memory");
  }
  e->op = (bq_op){.start = enqueue_start, .push = enqueue_push, .release = enqueue_release};
  e->server = bq_script_services(L)->product;
  e->fields = fields;
  return bq_op_yield(L, &e->op);
}
