// What the sender asks of scripts/lib/notify.lua: one fiber of the routes' vm for each question.
#include <lauxlib.h>
#include <stdio.h>

#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/sender_internal.h"

// The result leaves Lua here, where an error of it is caught.
static int keep_result(lua_State *L, int status, lua_KContext context) {
  (void)status;
  bq_sender_call *call = (bq_sender_call *)context; // NOLINT(performance-no-int-to-ptr): that is how Lua hands it over
  bq_error err;
  int result = bq_lua_to_json(L, -1, &call->result, &err);
  if (result == 0) return 0;
  return bq_lua_raise(L, result == BQ_ENOMEM ? BQ_ENOMEM : BQ_ESCRIPT, "notify.%s: %s", call->function, err.message);
}

static int run_call(lua_State *L) {
  bq_sender_call *call = lua_touserdata(L, 1);
  bq_script_push_env(L);
  lua_getfield(L, -1, "require");
  lua_pushliteral(L, "notify");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, call->function);
  bq_lua_push_json(L, call->argument);
  lua_callk(L, 1, 1, (lua_KContext)call, keep_result);
  return keep_result(L, LUA_OK, (lua_KContext)call);
}

static int start(bq_sender_call *call, bq_error *err);

// A budget was reached, here or by another fiber of the vm: that ends all of them. Alone in a fresh vm it shows which.
static int start_again(bq_sender_call *call, bq_handlers *spoiled) {
  bq_error err;
  if (call->server->stopping || ++call->tries > 1) return 0;
  bq_script_host_spoiled(call->server->host, spoiled);
  return start(call, &err) == 0;
}

// Lua says the same when the vm's cap refuses a buffer. That is the script's fault, and comes again with every try.
static int is_scarce(const bq_sender_call *call, lua_State *L) {
  if (bq_lua_error_code(L, -1) != BQ_ENOMEM) return 0;
  return lua_type(L, -1) != LUA_TSTRING || bq_memory_refusals() != call->refusals;
}

static void on_end(void *arg, bq_end end, lua_State *L) {
  bq_sender_call *call = arg;
  bq_handlers *handlers = call->handlers;
  if (end != BQ_END_RETURNED) {
    bq_lua_error_line(L, -1, bq_fiber_where(call->fiber), call->fault, sizeof call->fault);
    call->scarce = end == BQ_END_ERROR && is_scarce(call, L);
  }
  if (end == BQ_END_KILLED && start_again(call, handlers)) {
    bq_handlers_release(handlers);
    return;
  }
  call->fiber = NULL;
  call->handlers = NULL;
  json_decref(call->argument);
  json_t *result = end == BQ_END_RETURNED ? call->result : NULL;
  call->argument = NULL;
  json_t *owned = call->result;
  call->result = NULL;
  call->done(call, result, call->fault);
  json_decref(owned);
  bq_handlers_release(handlers);
}

static int start(bq_sender_call *call, bq_error *err) {
  bq_handlers *handlers = bq_script_host_handlers(call->server->host);
  if (handlers == NULL) return bq_fail(err, BQ_EUNAVAIL, "no scripts run yet");
  (void)snprintf(call->generation, sizeof call->generation, "%s",
                 bq_generation_hash(bq_handlers_generation(handlers)));
  call->refusals = bq_memory_refusals();
  lua_State *L = bq_vm_state(bq_handlers_vm(handlers));
  lua_pushcfunction(L, run_call);
  lua_pushlightuserdata(L, call);
  int result = bq_fiber_start(&call->fiber, bq_handlers_vm(handlers), L, 1, on_end, call, err);
  if (result == 0) call->handlers = bq_handlers_retain(handlers);
  return result;
}

int bq_sender_call_start(bq_sender_call *call, bq_server *server, const char *function, json_t *argument,
                         bq_sender_answer done, bq_error *err) {
  *call = (bq_sender_call){.server = server, .function = function, .done = done};
  int result = start(call, err);
  if (result == 0) call->argument = json_incref(argument);
  return result;
}

void bq_sender_call_kill(bq_sender_call *call) {
  if (call->fiber != NULL) bq_fiber_kill(call->fiber, "the server ends");
}
