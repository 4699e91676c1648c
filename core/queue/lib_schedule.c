// The module `schedule`: what scripts/lib/schedule.lua and the routes of schedules ask.
#include <lauxlib.h>
#include <stdio.h>

#include "base/json.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/server_internal.h"

enum { TAKEN_AT_ONCE = 20 }; // schedules of one claim, and occurrences of each

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

static void number_text(char out[24], lua_Integer value) {
  (void)snprintf(out, 24, "%lld", (long long)value);
}

// The list that the active policy gives; an empty one when none is active.
static int schedule_wanted(lua_State *L) {
  json_t *list = NULL;
  bq_error err;
  bq_server *server = server_of(L);
  int result = bq_policies_call(bq_script_host_policies(server->host), BQ_HOOK_SCHEDULE, NULL, 0, &list, &err);
  if (result == BQ_ENOTFOUND) {
    lua_newtable(L);
    return 1;
  }
  if (result < 0) {
    bq_server_policy_failed(server, BQ_HOOK_SCHEDULE, &err);
    return bq_queue_push_failure(L, "invalid", err.message);
  }
  bq_lua_give_json(L, list);
  return 1;
}

static int schedule_sync(lua_State *L) {
  json_t *list = NULL;
  bq_error err;
  luaL_checktype(L, 1, LUA_TTABLE);
  if (bq_lua_to_json(L, 1, &list, &err) < 0) return bq_lua_raise(L, err.code, "schedule.sync: %s", err.message);
  char *text = bq_json_dumps(list, JSON_COMPACT);
  json_decref(list);
  if (text == NULL) return luaL_error(L, "out of memory");
  lua_pushstring(L, text); // kept by the stack
  bq_free(text);
  const char *params[] = {lua_tostring(L, -1)};
  return bq_queue_ask(L, "schedule_sync", 1, params);
}

static int schedule_claim(lua_State *L) {
  char most[24];
  number_text(most, TAKEN_AT_ONCE);
  const char *params[] = {server_of(L)->env.node_id, most};
  return bq_queue_ask(L, "schedule_claim", 2, params);
}

static int schedule_settle(lua_State *L) {
  const char *params[] = {luaL_checkstring(L, 1), luaL_checkstring(L, 2), luaL_checkstring(L, 3),
                          luaL_optstring(L, 4, NULL)};
  return bq_queue_ask(L, "schedule_settle", 4, params);
}

static int schedule_begin(lua_State *L) {
  const char *node = server_of(L)->env.node_id;
  const char *params[] = {luaL_checkstring(L, 1), node[0] != '\0' ? node : NULL};
  return bq_queue_ask(L, "schedule_manual", 2, params);
}

static int schedule_list(lua_State *L) {
  return bq_queue_ask(L, "schedule_list", 0, NULL);
}

static int schedule_show(lua_State *L) {
  char next[24];
  char runs[24];
  const char *name = luaL_checkstring(L, 1);
  lua_Integer wanted_next = luaL_checkinteger(L, 2);
  lua_Integer wanted_runs = luaL_checkinteger(L, 3);
  luaL_argcheck(L, wanted_next >= 0 && wanted_next <= 1000, 2, "0 to 1000 occurrences");
  luaL_argcheck(L, wanted_runs >= 0 && wanted_runs <= 1000, 3, "0 to 1000 runs");
  number_text(next, wanted_next);
  number_text(runs, wanted_runs);
  const char *params[] = {name, next, runs};
  return bq_queue_ask(L, "schedule_show", 3, params);
}

static int schedule_pause(lua_State *L) {
  const char *params[] = {luaL_checkstring(L, 1), luaL_checkstring(L, 2)};
  return bq_queue_ask(L, "schedule_pause", 2, params);
}

static int schedule_resume(lua_State *L) {
  const char *params[] = {luaL_checkstring(L, 1)};
  return bq_queue_ask(L, "schedule_resume", 1, params);
}

int bq_schedule_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"wanted", schedule_wanted}, {"sync", schedule_sync},
                                       {"claim", schedule_claim},   {"settle", schedule_settle},
                                       {"begin", schedule_begin},   {"list", schedule_list},
                                       {"show", schedule_show},     {"pause", schedule_pause},
                                       {"resume", schedule_resume}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
