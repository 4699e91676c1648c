// notifications.preview: what a notification would say with other templates than those that run. It happens beside the
// loop, in a vm of its own: whoever hands in templates can take neither time nor memory from what the server does.
#include <lauxlib.h>
#include <stddef.h>

#include "base/memory.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/preview.h"
#include "queue/server_internal.h"

typedef struct preview_op {
  bq_op op;
  bq_task task;
  bq_server *server;         // borrowed
  const bq_config *config;   // borrowed; stays until the server ends
  bq_generation *generation; // retained
  char *event;               // owned
  json_t *options;           // owned: what the script gave
  json_t *preview;           // owned; the result
  bq_error error;            // code 0: none
} preview_op;

static preview_op *of_task(bq_task *task) {
  return (preview_op *)((char *)task - offsetof(preview_op, task));
}

static void work(bq_task *task) {
  preview_op *p = of_task(task);
  const json_t *facts = json_object_get(p->options, "facts");
  const bq_preview_options options = {.generation = p->generation,
                                      .files = json_object_get(p->options, "templates"),
                                      .event = p->event,
                                      .facts = json_is_object(facts) ? facts : NULL,
                                      .cloud = json_string_value(json_object_get(p->options, "cloud")),
                                      .channel = json_string_value(json_object_get(p->options, "channel")),
                                      .recipient = json_string_value(json_object_get(p->options, "recipient"))};
  if (bq_preview(&p->preview, p->config, &options, &p->error) == 0) p->error.code = 0;
}

static void done(bq_task *task) {
  bq_op_complete(&of_task(task)->op);
}

static void start(bq_op *op) {
  preview_op *p = (preview_op *)op;
  p->task = (bq_task){.work = work, .done = done};
  if (bq_pool_submit(p->server->compute, &p->task, &p->error) < 0) bq_op_complete(op);
}

static int push(bq_op *op, lua_State *L) {
  preview_op *p = (preview_op *)op;
  switch (p->error.code) {
  case 0: bq_lua_push_json(L, p->preview); return 1;
  case BQ_EINVAL:
  case BQ_ESCRIPT:
  case BQ_ELIMIT: return bq_queue_push_failure(L, bq_err_name(p->error.code), p->error.message);
  default: bq_lua_push_error(L, &p->error); return -1;
  }
}

static void release(bq_op *op) {
  preview_op *p = (preview_op *)op;
  bq_generation_release(p->generation);
  json_decref(p->options);
  json_decref(p->preview);
  bq_free(p->event);
  bq_free(p);
}

int bq_notifications_preview(lua_State *L) {
  static const char *const options[] = {"templates", "facts", "cloud", "channel", "recipient", NULL};
  const char *event = luaL_checkstring(L, 1);
  bq_error err;
  bq_args_options(L, 2, "notifications.preview", options,
                  "notifications.preview(\"failed\", {templates = {[\"email/failed.html\"] = \"…\"}})");
  preview_op *p = bq_alloc(sizeof *p);
  if (p == NULL) return luaL_error(L, "out of memory");
  p->op = (bq_op){.start = start, .push = push, .release = release};
  p->server = bq_script_services(L)->product;
  p->config = p->server->config;
  p->generation = bq_generation_retain(bq_script_generation(L));
  p->event = bq_strdup(event);
  int result = p->event != NULL ? bq_lua_to_json(L, 2, &p->options, &err) : bq_fail(&err, BQ_ENOMEM, "out of memory");
  if (result == 0) return bq_op_yield(L, &p->op);
  release(&p->op);
  return bq_lua_raise(L, err.code, "%s", err.message);
}
