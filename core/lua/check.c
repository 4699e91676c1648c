#include "lua/check.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/label.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "lua/modules.h"
#include "lua/router.h"

int bq_check_init(bq_check *check, const bq_generation *generation, const bq_generation *like, bq_error *err) {
  *check = (bq_check){.generation = generation, .like = like, .pipelines = json_object()};
  return check->pipelines != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for checking scripts");
}

void bq_check_free(bq_check *check) {
  bq_buf_free(&check->faults);
  json_decref(check->pipelines);
  *check = (bq_check){0};
}

static void add_fault(bq_check *check, const char *path, const char *reason) {
  if (check->fault_count++ > 0) bq_buf_adds(&check->faults, "\n");
  // A Lua error begins with the place already.
  if (strncmp(reason, "scripts/", 8) == 0 || strncmp(reason, "templates/", 10) == 0) bq_buf_adds(&check->faults, reason);
  else bq_buf_addf(&check->faults, "%s: %s", path, reason);
}

// The error value on top of the stack.
static void add_error(lua_State *L, bq_check *check, const char *path) {
  char line[BQ_LINE_SIZE];
  bq_lua_error_line(L, -1, "", line, sizeof line);
  add_fault(check, path, line);
}

// The field must be a function when it is there at all; `required`: it must be there.
static int has_function(lua_State *L, bq_check *check, const char *path, const char *field, int required) {
  lua_getfield(L, -1, field);
  int type = lua_type(L, -1);
  lua_pop(L, 1);
  if (type == LUA_TFUNCTION || (type == LUA_TNIL && !required)) return 1;
  char reason[100];
  (void)snprintf(reason, sizeof reason, "%s must be a function, it is %s", field, lua_typename(L, type));
  add_fault(check, path, reason);
  return 0;
}

// Runs the module's own check(), if it has one. The module is on top of the stack.
static void run_own_check(lua_State *L, bq_check *check, const char *path) {
  if (!has_function(L, check, path, "check", 0)) return;
  lua_getfield(L, -1, "check");
  if (!lua_isnil(L, -1)) {
    lua_pushvalue(L, -2);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK) return;
    if (bq_vm_is_killed(L)) (void)bq_vm_raise_kill(L);
    add_error(L, check, path);
  }
  lua_pop(L, 1);
}

static int is_pipeline_name(const char *name, size_t length) {
  return length > 0 && length <= 64 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") >= length;
}

// A list of texts in the table at the top: a copy, empty when it is absent. `test` says which texts are right (NULL: all).
static json_t *read_list(lua_State *L, bq_check *check, const char *path, const char *field, const char *rule,
                         int (*test)(const char *text)) {
  json_t *list = json_array();
  lua_getfield(L, -1, field);
  if (lua_istable(L, -1)) {
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
      if (test != NULL && !test(lua_tostring(L, -1))) add_fault(check, path, rule);
      (void)json_array_append_new(list, json_string(lua_tostring(L, -1)));
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  } else if (!lua_isnil(L, -1)) {
    add_fault(check, path, rule);
  }
  lua_pop(L, 1);
  return list;
}

// What a pipeline needs: {secrets =, labels =}, each a list.
static json_t *read_needs(lua_State *L, bq_check *check, const char *path, int pinned) {
  json_t *secrets = NULL;
  json_t *labels = NULL;
  lua_getfield(L, -1, "needs");
  if (lua_istable(L, -1)) {
    secrets = read_list(L, check, path, "secrets", "needs.secrets must be a list of names", NULL);
    labels = read_list(L, check, path, "labels", "needs.labels must be a list of labels, each " BQ_LABEL_RULE, bq_label_is);
    if (json_array_size(labels) > BQ_MAX_NEEDS) add_fault(check, path, "needs.labels is too long a list");
  } else if (!lua_isnil(L, -1)) {
    add_fault(check, path, "needs must be a table");
  }
  lua_pop(L, 1);
  return json_pack("{s:b, s:o, s:o}", "pin", pinned, "secrets", secrets != NULL ? secrets : json_array(), "labels",
                   labels != NULL ? labels : json_array());
}

static void check_pipeline(lua_State *L, bq_check *check, const char *path) {
  const char *name = strrchr(path, '/') + 1;
  size_t length = strlen(name) - strlen(".lua");
  if (!is_pipeline_name(name, length)) {
    add_fault(check, path, "a pipeline's file name has lower-case letters, digits, - and _ only, 64 at most");
  }
  (void)has_function(L, check, path, "run", 1);
  lua_getfield(L, -1, "pin");
  int pinned = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "build") == 0;
  if (!pinned && !lua_isnil(L, -1)) add_fault(check, path, "pin must be \"build\" or absent");
  lua_pop(L, 1);
  char key[128];
  (void)snprintf(key, sizeof key, "%.*s", (int)(length < 100 ? length : 100), name);
  json_t *info = read_needs(L, check, path, pinned);
  if (info == NULL || json_object_set_new(check->pipelines, key, info) < 0) luaL_error(L, "out of memory");
}

static void check_notification(lua_State *L, bq_check *check, const char *path) {
  (void)has_function(L, check, path, "deliver", 1);
  lua_getfield(L, -1, "events");
  if (!lua_istable(L, -1)) add_fault(check, path, "events must be a list of event names");
  lua_pop(L, 1);
}

static void check_policy(lua_State *L, bq_check *check, const char *path) {
  int functions = 0;
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    functions += lua_isfunction(L, -1);
    lua_pop(L, 1);
  }
  if (functions == 0) add_fault(check, path, "a policy returns a table with at least one hook, a function");
}

// The file that claimed the pattern first: as a path it matches itself.
static const char *first_claim(const bq_check *check, const bq_router *router, const char *method,
                               const char *pattern) {
  bq_route_match match;
  if (bq_router_match(router, method, pattern, &match) != BQ_ROUTE_FOUND) return "another file";
  return bq_sources_at(bq_generation_sources(check->generation), (size_t)match.handler)->path;
}

static void check_route(lua_State *L, bq_check *check, const char *path, bq_router *router) {
  lua_getfield(L, -1, "method");
  lua_getfield(L, -2, "path");
  int named = lua_type(L, -1) == LUA_TSTRING && lua_type(L, -2) == LUA_TSTRING;
  bq_error err;
  if (!named) {
    add_fault(check, path, "a route has method and path, both strings");
  } else {
    const char *method = lua_tostring(L, -2);
    const char *pattern = lua_tostring(L, -1);
    int result = bq_router_add(router, method, pattern, (int)check->current_index, &err);
    if (result == BQ_ECONFLICT) {
      lua_pushfstring(L, "%s, claimed by %s", err.message, first_claim(check, router, method, pattern));
      add_fault(check, path, lua_tostring(L, -1));
      lua_pop(L, 1);
    } else if (result < 0) {
      add_fault(check, path, err.message);
    }
  }
  lua_pop(L, 2);
  (void)has_function(L, check, path, "handle", 1);
  check->route_count++;
}

static void check_routes(lua_State *L, bq_check *check, const char *path, bq_router *router) {
  lua_getfield(L, -1, "handle");
  int single = !lua_isnil(L, -1);
  lua_pop(L, 1);
  if (single) {
    check_route(L, check, path, router);
    return;
  }
  lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
  if (count == 0) add_fault(check, path, "a route file returns a route {method=, path=, handle=} or a list of them");
  for (lua_Integer i = 1; i <= count; i++) {
    if (lua_rawgeti(L, -1, i) == LUA_TTABLE) check_route(L, check, path, router);
    else add_fault(check, path, "an entry of the list is no route");
    lua_pop(L, 1);
  }
}

static int is_below(const char *path, const char *room) {
  return strncmp(path, room, strlen(room)) == 0;
}

static void check_script(lua_State *L, bq_check *check, const char *path, bq_router *router) {
  check->current = path;
  int top = lua_gettop(L);
  bq_script_push_loader(L);
  lua_pushstring(L, path);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    if (bq_vm_is_killed(L)) (void)bq_vm_raise_kill(L);
    add_error(L, check, path);
  } else if (!lua_istable(L, -1)) {
    lua_pushfstring(L, "must return a table, it returns %s", luaL_typename(L, -1));
    add_fault(check, path, lua_tostring(L, -1));
  } else {
    if (is_below(path, "scripts/pipelines/")) check_pipeline(L, check, path);
    else if (is_below(path, "scripts/routes/")) check_routes(L, check, path, router);
    else if (is_below(path, "scripts/notifications/")) check_notification(L, check, path);
    else if (is_below(path, "scripts/policies/") && strcmp(path, "scripts/policies/active.lua") != 0) {
      check_policy(L, check, path); // what is active is looked at when the policies are made of it
    }
    run_own_check(L, check, path);
  }
  lua_settop(L, top);
}

// The router lives in a userdata, so that an error that ends the check frees it.
static int free_router(lua_State *L) {
  bq_router **router = lua_touserdata(L, 1);
  bq_router_free(*router);
  *router = NULL;
  return 0;
}

// Rendering each mail for each sample is most of a check's work, and only these rooms have a part in it.
static int has_mails_like(const bq_sources *sources, const bq_generation *like) {
  static const char *const rooms[] = {"scripts/lib/", "scripts/notifications/", "templates/"};
  int same = like != NULL;
  for (size_t i = 0; same && i < sizeof rooms / sizeof rooms[0]; i++) {
    same = bq_sources_are_same(sources, bq_generation_sources(like), rooms[i]);
  }
  return same;
}

int bq_check_run(lua_State *L) {
  bq_check *check = lua_touserdata(L, 1);
  bq_router **router = lua_newuserdatauv(L, sizeof(bq_router *), 0);
  *router = NULL;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, free_router);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  bq_error err;
  if (bq_router_new(router, &err) < 0) return luaL_error(L, "%s", err.message);
  const bq_sources *sources = bq_generation_sources(check->generation);
  for (size_t i = 0; i < bq_sources_count(sources); i++) {
    const char *path = bq_sources_at(sources, i)->path;
    check->current_index = i;
    // What scripts/lib holds is run by those that require it, with their arguments and for their purpose.
    if (is_below(path, "scripts/") && !is_below(path, "scripts/lib/")) check_script(L, check, path, *router);
  }
  // Renders every mail. It calls the rules of scripts/notifications, so these must be right first.
  static const char notify[] = "scripts/lib/notify.lua";
  if (check->fault_count == 0 && bq_sources_find(sources, notify) != NULL && !has_mails_like(sources, check->like)) {
    check_script(L, check, notify, *router);
  }
  return 0;
}
