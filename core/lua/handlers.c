#include "lua/handlers.h"

#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"

enum { MAX_FORMS = 16, GC_PAUSE = 600 }; // per cent: a cycle begins when there is six times as much as the last one left

struct bq_handlers {
  unsigned references;
  bq_vm *vm;                 // owned
  bq_router *router;         // owned; its handlers are references in the vm's registry
  bq_generation *generation; // retained
  int forms[MAX_FORMS];      // the handlers whose routes have form = true
  int form_count;
};

static int add_route(bq_handlers *handlers, lua_State *L, const char *path, bq_error *err) {
  int route = lua_gettop(L);
  lua_getfield(L, route, "method");
  lua_getfield(L, route, "path");
  lua_getfield(L, route, "handle");
  if (lua_type(L, -3) != LUA_TSTRING || lua_type(L, -2) != LUA_TSTRING || !lua_isfunction(L, -1)) {
    return bq_fail(err, BQ_ESCRIPT, "%s: a route is a table {method = string, path = string, handle = function}", path);
  }
  lua_getfield(L, route, "form");
  int form = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (form && handlers->form_count == MAX_FORMS) {
    return bq_fail(err, BQ_ELIMIT, "%s: more than %d routes have form = true", path, MAX_FORMS);
  }
  int handler = luaL_ref(L, LUA_REGISTRYINDEX);
  if (form) handlers->forms[handlers->form_count++] = handler;
  int result = bq_router_add(handlers->router, lua_tostring(L, -2), lua_tostring(L, -1), handler, err);
  return result < 0 ? bq_fail(err, BQ_ESCRIPT, "%s: %s", path, err->message) : 0;
}

// The script's value, one route or a list of them, is on top of the stack.
static int add_routes(bq_handlers *handlers, lua_State *L, const char *path, bq_error *err) {
  int value = lua_gettop(L);
  if (!lua_istable(L, value)) {
    return bq_fail(err, BQ_ESCRIPT, "%s returns a %s: a route file returns a route or a list of them", path,
                   luaL_typename(L, value));
  }
  lua_getfield(L, value, "handle");
  int single = !lua_isnil(L, -1);
  lua_settop(L, value);
  if (single) return add_route(handlers, L, path, err);
  lua_Unsigned count = lua_rawlen(L, value);
  if (count == 0) return bq_fail(err, BQ_ESCRIPT, "%s: the list of routes is empty", path);
  for (lua_Unsigned i = 1; i <= count; i++) {
    (void)lua_rawgeti(L, value, (lua_Integer)i);
    if (!lua_istable(L, -1)) return bq_fail(err, BQ_ESCRIPT, "%s: entry %d is no route", path, (int)i);
    int result = add_route(handlers, L, path, err);
    if (result < 0) return result;
    lua_settop(L, value);
  }
  return 0;
}

static int load_routes(bq_handlers *handlers, bq_error *err) {
  static const char prefix[] = "scripts/routes/";
  lua_State *L = bq_vm_state(handlers->vm);
  const bq_sources *sources = bq_generation_sources(handlers->generation);
  for (size_t i = 0; i < bq_sources_count(sources); i++) {
    const char *path = bq_sources_at(sources, i)->path;
    if (strncmp(path, prefix, sizeof prefix - 1) != 0) continue;
    bq_script_push_loader(L);
    lua_pushstring(L, path);
    int result = bq_vm_call(handlers->vm, L, 1, 1, err);
    if (result < 0) return result;
    result = add_routes(handlers, L, path, err);
    if (result < 0) return result;
    lua_settop(L, 0);
  }
  return 0;
}

int bq_handlers_new(bq_handlers **out, const bq_handlers_options *options, bq_generation *generation, bq_error *err) {
  *out = NULL;
  bq_handlers *handlers = bq_alloc(sizeof *handlers);
  if (handlers == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the routes");
  handlers->references = 1;
  handlers->generation = bq_generation_retain(generation);
  bq_vm_options vm_options = {.loop = options->loop,
                              .pool = NULL,
                              .memory_bytes = options->memory_bytes,
                              .slice_us = options->slice_us,
                              .cpu_us = 0};
  int result = bq_router_new(&handlers->router, err);
  if (result == 0) {
    result = bq_script_vm_new(&handlers->vm, &vm_options, generation, options->modules, options->services, err);
  }
  if (result == 0) result = load_routes(handlers, err);
  // What the scripts themselves are lives as long as the generation, and a request leaves about a kilobyte: looking
  // through all of it each time it has doubled would be a good part of a small request's work.
  if (result == 0) (void)lua_gc(bq_vm_state(handlers->vm), LUA_GCINC, GC_PAUSE, 0, 0);
  if (result < 0) bq_handlers_release(handlers);
  else *out = handlers;
  return result;
}

bq_handlers *bq_handlers_retain(bq_handlers *handlers) {
  handlers->references++;
  return handlers;
}

void bq_handlers_release(bq_handlers *handlers) {
  if (handlers == NULL || --handlers->references > 0) return;
  if (handlers->vm != NULL) bq_vm_free(handlers->vm);
  bq_router_free(handlers->router);
  bq_generation_release(handlers->generation);
  bq_free(handlers);
}

const bq_router *bq_handlers_router(const bq_handlers *handlers) {
  return handlers->router;
}

bq_generation *bq_handlers_generation(bq_handlers *handlers) {
  return handlers->generation;
}

bq_vm *bq_handlers_vm(bq_handlers *handlers) {
  return handlers->vm;
}

void bq_handlers_push(bq_handlers *handlers, lua_State *L, int handler) {
  (void)handlers;
  (void)lua_rawgeti(L, LUA_REGISTRYINDEX, handler);
}

int bq_handlers_takes_form(const bq_handlers *handlers, int handler) {
  for (int i = 0; i < handlers->form_count; i++) {
    if (handlers->forms[i] == handler) return 1;
  }
  return 0;
}
