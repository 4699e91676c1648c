// What routes ask about servers: queue.nodes, queue.drain, queue.undrain; and about what builds need of them: queue.needs,
// queue.unmet.
#include <lauxlib.h>

#include "base/label.h"
#include "base/uuid.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/server_internal.h"

#define ENDED_HOURS "24" // ended servers are listed so long

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

static int queue_nodes(lua_State *L) {
  const char *params[] = {ENDED_HOURS};
  return bq_queue_ask(L, "nodes", 1, params);
}

// Each server hears of it, the one it concerns too.
static int tell(const bq_server *server, json_t *answer, bq_error *err) {
  (void)answer;
  (void)err;
  bq_node_beat(server->node);
  bq_queue_announce(server, "buildq_control");
  return 0;
}

static int set_drained(lua_State *L, const char *drained) {
  const char *id = luaL_checkstring(L, 1);
  if (!bq_uuid_is(id)) {
    lua_pushnil(L);
    return 1;
  }
  const char *params[] = {id, drained};
  return bq_queue_ask_filled(L, "node_set_drained", 2, params, tell);
}

static int queue_drain(lua_State *L) {
  return set_drained(L, "true");
}

static int queue_undrain(lua_State *L) {
  return set_drained(L, "false");
}

// The labels that a pipeline's `needs` names; {} when there is no such pipeline. Routes only: they run on the loop.
static int queue_needs(lua_State *L) {
  const bq_server *server = server_of(L);
  const json_t *info = json_object_get(bq_script_host_pipelines(server->host), luaL_checkstring(L, 1));
  const json_t *labels = json_object_get(info, "labels");
  if (labels != NULL) bq_lua_push_json(L, labels);
  else lua_newtable(L);
  return 1;
}

// queue.unmet(needs): the text of a PostgreSQL array; no label has a character that would have to be escaped there.
static int queue_unmet(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer count = luaL_len(L, 1);
  luaL_argcheck(L, count <= BQ_MAX_NEEDS, 1, "too many labels");
  lua_pushliteral(L, "{");
  for (lua_Integer i = 1; i <= count; i++) {
    (void)lua_rawgeti(L, 1, i);
    const char *label = lua_tostring(L, -1);
    if (label == NULL || !bq_label_is(label)) return luaL_argerror(L, 1, "a label is " BQ_LABEL_RULE);
    lua_pushfstring(L, "%s%s\"%s\"", lua_tostring(L, -2), i > 1 ? "," : "", label);
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  lua_pushliteral(L, "}");
  lua_concat(L, 2);
  const char *params[] = {lua_tostring(L, -1)};
  return bq_queue_ask(L, "unmet_needs", 1, params);
}

void bq_nodes_add(lua_State *L) {
  static const luaL_Reg functions[] = {{"nodes", queue_nodes}, {"drain", queue_drain}, {"undrain", queue_undrain},
                                       {"needs", queue_needs}, {"unmet", queue_unmet}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
