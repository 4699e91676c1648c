// The module `notifications`: what routes ask about deliveries and about who wants no more, and the links in mails.
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/uuid.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/sender_internal.h"
#include "queue/server_internal.h"
#include "queue/unsubscribe.h"

enum { DEFAULT_PAGE = 50, MOST_LISTED = 1000, MOST_FAULTS = 20 };

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

// Deliveries --------------------------------------------------------------------------------------------------------

static int notifications_list(lua_State *L) {
  static const char *const options[] = {"state",     "channel", "build",  "event", "customerId",
                                        "recipient", "limit",   "cursor", NULL};
  bq_args_options(L, 1, "notifications.list", options, "notifications.list {state = \"dead\", limit = 10}");
  const char *filters[6]; // in the statement's order, which is that of the options
  for (int i = 0; i < 6; i++) filters[i] = bq_queue_option(L, options[i]);
  const char *cursor = bq_queue_option(L, "cursor");
  if (filters[2] != NULL && !bq_uuid_is(filters[2])) {
    return bq_queue_push_failure(L, "invalid", "A build's id is a UUID.");
  }
  lua_getfield(L, 1, "limit");
  return bq_queue_ask_page(L, "deliveries_list", "notifications", filters, 6, luaL_optinteger(L, -1, DEFAULT_PAGE),
                           cursor);
}

static int notifications_faults(lua_State *L) {
  static const char *const options[] = {"build", "event", "customerId", NULL};
  char limit[24];
  bq_args_options(L, 1, "notifications.faults", options, "notifications.faults {event = \"queued\"}");
  const char *params[] = {bq_queue_option(L, "build"), bq_queue_option(L, "event"), bq_queue_option(L, "customerId"),
                          limit};
  if (params[0] != NULL && !bq_uuid_is(params[0])) {
    return bq_queue_push_failure(L, "invalid", "A build's id is a UUID.");
  }
  (void)snprintf(limit, sizeof limit, "%d", MOST_FAULTS);
  return bq_queue_ask(L, "outbox_faults", 4, params);
}

// The first argument, when it may be an id at all; else NULL: then there is none of it.
static const char *id_of(lua_State *L) {
  const char *id = luaL_checkstring(L, 1);
  return bq_uuid_is(id) ? id : NULL;
}

static int nothing(lua_State *L) {
  lua_pushnil(L);
  return 1;
}

static int notifications_get(lua_State *L) {
  const char *params[] = {id_of(L)};
  return params[0] != NULL ? bq_queue_ask(L, "delivery_show", 1, params) : nothing(L);
}

static int notifications_requeue(lua_State *L) {
  const char *params[] = {id_of(L), lua_toboolean(L, 2) ? "true" : "false"};
  return params[0] != NULL ? bq_queue_change(L, "delivery_requeue", 2, params, bq_queue_tell_deliveries) : nothing(L);
}

static int notifications_cancel(lua_State *L) {
  const char *params[] = {id_of(L)};
  return params[0] != NULL ? bq_queue_ask(L, "delivery_cancel", 1, params) : nothing(L);
}

static int notifications_send_test(lua_State *L) {
  static const char *const options[] = {"channel", "recipient", "event", "build", NULL};
  char id[BQ_UUID_SIZE];
  bq_error err;
  bq_args_options(L, 1, "notifications.send_test", options,
                  "notifications.send_test {channel = \"email\", recipient = \"a@b.example\", event = \"queued\"}");
  if (bq_uuid_new(id, &err) < 0) return bq_lua_raise(L, err.code, "%s", err.message);
  const char *params[] = {id, bq_queue_option(L, "channel"), bq_queue_option(L, "recipient"),
                          bq_queue_option(L, "event"), bq_queue_option(L, "build"), NULL};
  luaL_argcheck(L, params[1] != NULL && params[2] != NULL && params[3] != NULL, 1,
                "channel, recipient and event are needed");
  if (params[4] != NULL && !bq_uuid_is(params[4])) return nothing(L);
  return bq_queue_change(L, "delivery_test", 6, params, bq_queue_tell_deliveries);
}

static int notifications_facts(lua_State *L) {
  char retries[24];
  char days[24];
  const bq_config *config = server_of(L)->config;
  const char *build = id_of(L);
  const char *event = luaL_checkstring(L, 2);
  if (build == NULL) return nothing(L);
  (void)snprintf(retries, sizeof retries, "%d", config->max_retry_attempts);
  (void)snprintf(days, sizeof days, "%d", config->completed_build_retention_days);
  const char *params[] = {build, event, retries, days};
  return bq_queue_ask(L, "notification_facts", 4, params);
}

// Who wants no more -------------------------------------------------------------------------------------------------

static const char *const whom[] = {"channel", "customerId", "recipient", "event", "reason", "source", NULL};
static const char suppress_example[] = "notifications.suppress {customerId = \"acme\", event = \"queued\", source = \"api\"}";

// Fills the first four of the statement's parameters from the table at index 1.
static void read_whom(lua_State *L, const char *params[4]) {
  for (int i = 0; i < 4; i++) {
    params[i] = bq_queue_option(L, whom[i]);
    if (params[i] == NULL) params[i] = i == 0 ? "email" : "";
  }
  luaL_argcheck(L, params[1][0] != '\0' || params[2][0] != '\0', 1, "customerId or recipient is needed");
}

static int notifications_suppress(lua_State *L) {
  const char *params[6];
  bq_args_options(L, 1, "notifications.suppress", whom, suppress_example);
  read_whom(L, params);
  params[4] = bq_queue_option(L, "reason");
  params[5] = bq_queue_option(L, "source");
  luaL_argcheck(L, params[5] != NULL, 1, "source is needed: command, api or link");
  return bq_queue_ask(L, "suppress", 6, params);
}

static int notifications_unsuppress(lua_State *L) {
  const char *params[5];
  bq_args_options(L, 1, "notifications.unsuppress", whom, suppress_example);
  read_whom(L, params);
  params[4] = bq_queue_option(L, "source");
  return bq_queue_ask(L, "unsuppress", 5, params);
}

static int notifications_suppressions(lua_State *L) {
  static const char *const options[] = {"customerId", "recipient", "limit", NULL};
  char limit[24];
  bq_args_options(L, 1, "notifications.suppressions", options, "notifications.suppressions {customerId = \"acme\"}");
  const char *params[] = {bq_queue_option(L, "customerId"), bq_queue_option(L, "recipient"), limit};
  lua_getfield(L, 1, "limit");
  lua_Integer count = luaL_optinteger(L, -1, MOST_LISTED);
  luaL_argcheck(L, count >= 1 && count <= MOST_LISTED, 1, "limit is 1 to 1000");
  (void)snprintf(limit, sizeof limit, "%lld", (long long)count);
  return bq_queue_ask(L, "suppressions_list", 3, params);
}

static int notifications_disabled(lua_State *L) {
  char limit[24];
  (void)snprintf(limit, sizeof limit, "%d", MOST_LISTED);
  const char *params[] = {limit};
  return bq_queue_ask(L, "disabled_recipients", 1, params);
}

static int notifications_enable(lua_State *L) {
  const char *params[] = {luaL_checkstring(L, 1), luaL_checkstring(L, 2)};
  return bq_queue_ask(L, "enable_recipient", 2, params);
}

// Mails -------------------------------------------------------------------------------------------------------------

// mail_bytes(delivery, mail): the mail as it would be sent now.
static int notifications_mail_bytes(lua_State *L) {
  const bq_server *server = server_of(L);
  bq_outgoing what = {0};
  json_t *delivery = NULL;
  json_t *message = NULL;
  char *id = NULL;
  char *bytes = NULL;
  size_t length = 0;
  bq_error err;
  int result = bq_lua_to_json(L, 1, &delivery, &err);
  if (result == 0) result = bq_lua_to_json(L, 2, &message, &err);
  if (result == 0) result = bq_message_id(&id, server, delivery, &err);
  what = (bq_outgoing){.delivery = delivery, .message = message, .message_id = id};
  if (result == 0) result = bq_mail_bytes(&bytes, &length, server, &what, &err);
  if (result == 0) lua_pushlstring(L, bytes, length);
  bq_free(bytes);
  bq_free(id);
  json_decref(message);
  json_decref(delivery);
  return result == 0 ? 1 : bq_lua_raise(L, err.code, "%s", err.message);
}

// Links -------------------------------------------------------------------------------------------------------------

static int notifications_unsubscribe_url(lua_State *L) {
  char *url = NULL;
  bq_error err;
  const char *event = luaL_checkstring(L, 1);
  const char *customer = luaL_checkstring(L, 2);
  const char *recipient = luaL_checkstring(L, 3);
  if (bq_unsubscribe_url(&url, server_of(L)->config, event, customer, recipient, &err) < 0) {
    return bq_lua_raise(L, err.code, "%s", err.message);
  }
  lua_pushstring(L, url); // nil for none
  bq_free(url);
  return 1;
}

static int notifications_read_unsubscribe(lua_State *L) {
  bq_unsubscribe read;
  bq_error err;
  if (bq_unsubscribe_read(&read, server_of(L)->config, luaL_checkstring(L, 1), &err) < 0) {
    return bq_queue_push_failure(L, "invalid", err.message);
  }
  lua_createtable(L, 0, 3);
  lua_pushstring(L, read.event);
  lua_setfield(L, -2, "event");
  lua_pushstring(L, read.customer);
  lua_setfield(L, -2, "customerId");
  lua_pushstring(L, read.recipient);
  lua_setfield(L, -2, "recipient");
  bq_unsubscribe_free(&read);
  return 1;
}

int bq_notifications_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"list", notifications_list},
                                       {"faults", notifications_faults},
                                       {"get", notifications_get},
                                       {"requeue", notifications_requeue},
                                       {"cancel", notifications_cancel},
                                       {"send_test", notifications_send_test},
                                       {"facts", notifications_facts},
                                       {"suppress", notifications_suppress},
                                       {"unsuppress", notifications_unsuppress},
                                       {"suppressions", notifications_suppressions},
                                       {"disabled", notifications_disabled},
                                       {"enable", notifications_enable},
                                       {"mail_bytes", notifications_mail_bytes},
                                       {"preview", bq_notifications_preview},
                                       {"unsubscribe_url", notifications_unsubscribe_url},
                                       {"read_unsubscribe", notifications_read_unsubscribe},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
