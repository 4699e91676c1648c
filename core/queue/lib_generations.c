// The module `generations`: reload on demand, what generations there are, which is active.
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/hash.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/server_internal.h"

enum {
  MAX_LISTED = 200,
  JUST_NOW_US = 2000000 // a change that the watch has found before the reload came is what the reload was for
};

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

// reload ------------------------------------------------------------------------------------------------------------

typedef struct reload_op reload_op;

// Waits for the end of the round that began after it was asked for.
struct reload_op {
  bq_op op;
  bq_server *server;      // borrowed
  char before[BQ_HASH_TEXT_SIZE]; // what ran
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
  (void)snprintf(r->before, sizeof r->before, "%s", bq_generation_hash(bq_script_host_current(r->server->host)));
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

// {generation, previous, disk, held, added, changed, removed}
static int reload_push(bq_op *op, lua_State *L) {
  static const char *const lists[] = {"added", "changed", "removed"};
  reload_op *r = (reload_op *)op;
  const bq_server *server = r->server;
  if (r->error != NULL) return bq_queue_push_failure(L, "invalid", r->error);
  const char *hash = bq_generation_hash(bq_script_host_current(server->host));
  int has_changed = server->change != NULL && (strcmp(hash, r->before) != 0 ||
                                               bq_clock_mono_us() - server->change_us < JUST_NOW_US);
  json_t *answer = has_changed ? json_copy(server->change) : json_pack("{s:s}", "previous", hash);
  for (size_t i = 0; !has_changed && i < sizeof lists / sizeof lists[0]; i++) {
    (void)json_object_set_new(answer, lists[i], json_array());
  }
  (void)json_object_set_new(answer, "generation", json_string(hash));
  (void)json_object_set_new(answer, "disk", json_string(bq_script_host_disk(server->host)));
  (void)json_object_set_new(answer, "held", json_boolean(bq_script_host_is_held(server->host)));
  bq_lua_give_json(L, answer);
  return 1;
}

static void reload_release(bq_op *op) {
  reload_op *r = (reload_op *)op;
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
