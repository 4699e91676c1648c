// The module `generations`: reload on demand, what generations there are, which is active.
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/server_internal.h"

enum { MAX_LISTED = 200 };

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

// reload ------------------------------------------------------------------------------------------------------------

typedef struct reload_op reload_op;

// Waits for the end of the round that began after it was asked for.
struct reload_op {
  bq_op op;
  bq_server *server;      // borrowed
  bq_generation *before;  // retained; what ran
  int rounds;             // that must end until then
  char *error;            // owned; NULL: it went well
  reload_op *next;
};

static void reload_start(bq_op *op) {
  reload_op *r = (reload_op *)op;
  if (r->server->host == NULL) { // a runtime of its own: buildq run, buildq test
    r->error = bq_strdup("there are no scripts to reload here");
    bq_op_complete(op);
    return;
  }
  r->rounds = bq_script_host_busy(r->server->host) ? 2 : 1;
  r->before = bq_generation_retain(bq_script_host_current(r->server->host));
  r->next = r->server->reloads;
  r->server->reloads = r;
  bq_script_host_reload(r->server->host);
}

void bq_generations_loaded(bq_server *server, const bq_error *error) {
  reload_op **place = &server->reloads;
  while (*place != NULL) {
    reload_op *r = *place;
    if (--r->rounds > 0) {
      place = &r->next;
      continue;
    }
    *place = r->next;
    r->error = error != NULL ? bq_strdup(error->message) : NULL;
    bq_op_complete(&r->op);
  }
}

// Three lists lie on the stack, one for each difference.
typedef struct difference_lists {
  lua_State *L;
  int first; // of them; the index of BQ_ADDED's
} difference_lists;

static void append_difference(void *arg, bq_difference difference, const char *path) {
  const difference_lists *lists = arg;
  int list = lists->first + (int)difference;
  lua_pushstring(lists->L, path);
  lua_rawseti(lists->L, list, (lua_Integer)lua_rawlen(lists->L, list) + 1);
}

static void push_array(lua_State *L) {
  json_t *empty = json_array();
  bq_lua_push_json(L, empty);
  json_decref(empty);
}

// {generation, previous, disk, held, added, changed, removed}
static int reload_push(bq_op *op, lua_State *L) {
  reload_op *r = (reload_op *)op;
  if (r->error != NULL) return bq_queue_push_failure(L, "invalid", r->error);
  bq_generation *current = bq_script_host_current(r->server->host);
  lua_createtable(L, 0, 8);
  int result = lua_gettop(L);
  lua_pushstring(L, bq_generation_hash(current));
  lua_setfield(L, result, "generation");
  lua_pushstring(L, bq_generation_hash(r->before));
  lua_setfield(L, result, "previous");
  lua_pushstring(L, bq_script_host_disk(r->server->host));
  lua_setfield(L, result, "disk");
  lua_pushboolean(L, bq_script_host_is_held(r->server->host));
  lua_setfield(L, result, "held");
  for (int i = 0; i < 3; i++) push_array(L);
  difference_lists lists = {.L = L, .first = result + 1};
  bq_sources_compare(bq_generation_sources(r->before), bq_generation_sources(current), append_difference, &lists);
  lua_setfield(L, result, "removed");
  lua_setfield(L, result, "changed");
  lua_setfield(L, result, "added");
  return 1;
}

static void reload_release(bq_op *op) {
  reload_op *r = (reload_op *)op;
  bq_generation_release(r->before);
  bq_free(r->error);
  bq_free(r);
}

static int generations_reload(lua_State *L) {
  reload_op *r = bq_alloc(sizeof *r);
  if (r == NULL) return luaL_error(L, "out of memory");
  r->op = (bq_op){.start = reload_start, .push = reload_push, .release = reload_release};
  r->server = server_of(L);
  return bq_op_yield(L, &r->op);
}

// What SQL knows ----------------------------------------------------------------------------------------------------

static int list_of(lua_State *L, const char *statement) {
  char limit[24];
  lua_Integer count = luaL_optinteger(L, 1, 20);
  luaL_argcheck(L, count >= 1 && count <= MAX_LISTED, 1, "a limit is 1 to 200");
  (void)snprintf(limit, sizeof limit, "%lld", (long long)count);
  const char *params[] = {limit};
  return bq_queue_ask(L, statement, 1, params);
}

static int generations_list(lua_State *L) {
  return list_of(L, "generations");
}

static int generations_history(lua_State *L) {
  return list_of(L, "activations");
}

static int generations_find(lua_State *L) {
  const char *params[] = {luaL_checkstring(L, 1)};
  return bq_queue_ask(L, "find_generation", 1, params);
}

static int generations_files(lua_State *L) {
  const char *params[] = {luaL_checkstring(L, 1)};
  return bq_queue_ask(L, "generation_files", 1, params);
}

static int generations_activation(lua_State *L) {
  return bq_queue_ask(L, "activation", 0, NULL);
}

// activate(hash or nil, share, who, reason)
static int generations_activate(lua_State *L) {
  char share[24];
  lua_Integer percent = luaL_optinteger(L, 2, 100);
  luaL_argcheck(L, percent >= 1 && percent <= 100, 2, "a share is 1 to 100 percent");
  (void)snprintf(share, sizeof share, "%lld", (long long)percent);
  const char *params[] = {luaL_optstring(L, 1, NULL), share, luaL_checkstring(L, 3), luaL_optstring(L, 4, NULL)};
  return bq_queue_ask(L, "activate", 4, params);
}

// What runs on this server: {current, disk, held, fault?}
static int generations_here(lua_State *L) {
  bq_script_host *host = server_of(L)->host;
  lua_createtable(L, 0, 4);
  lua_pushstring(L, bq_generation_hash(bq_script_host_current(host)));
  lua_setfield(L, -2, "current");
  lua_pushstring(L, bq_script_host_disk(host));
  lua_setfield(L, -2, "disk");
  lua_pushboolean(L, bq_script_host_is_held(host));
  lua_setfield(L, -2, "held");
  lua_pushstring(L, bq_script_host_error(host)); // nil: the last round went well
  lua_setfield(L, -2, "fault");
  return 1;
}

int bq_generations_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"reload", generations_reload},     {"list", generations_list},
                                       {"history", generations_history},   {"find", generations_find},
                                       {"files", generations_files},       {"activation", generations_activation},
                                       {"activate", generations_activate}, {"here", generations_here},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
