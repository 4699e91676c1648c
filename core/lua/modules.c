#include "lua/modules.h"

#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/nearest.h"
#include "lua/errors.h"
#include "lua/stdlib.h"

// What a script vm carries: its extra.
typedef struct script_vm {
  bq_generation *generation;    // retained
  const bq_lua_module *modules; // borrowed
  bq_services *services;        // borrowed
  int env;                      // registry reference: the globals that all scripts of the vm share
  int loaded;                   // registry reference: module name → value
} script_vm;

static script_vm *find(lua_State *L) {
  const bq_vm *vm = bq_vm_of(L);
  return vm != NULL ? bq_vm_extra(vm) : NULL;
}

int bq_script_is_own(lua_State *L, const char *path) {
  const script_vm *script = find(L);
  if (script == NULL) return 0;
  const bq_source *source = bq_sources_find(bq_generation_sources(script->generation), path);
  return source != NULL && source->overlaid;
}

bq_services *bq_script_services(lua_State *L) {
  return find(L)->services;
}

bq_generation *bq_script_generation(lua_State *L) {
  return find(L)->generation;
}

void bq_script_push_env(lua_State *L) {
  (void)lua_rawgeti(L, LUA_REGISTRYINDEX, find(L)->env);
}

void bq_script_push_loaded(lua_State *L) {
  (void)lua_rawgeti(L, LUA_REGISTRYINDEX, find(L)->loaded);
}

static void release_script_vm(void *extra) {
  script_vm *script = extra;
  bq_generation_release(script->generation);
  bq_free(script);
}

static void push_chunk(lua_State *L, const char *path) {
  bq_error err;
  bq_script_push_env(L);
  if (bq_generation_push_chunk(find(L)->generation, L, path, -1, &err) < 0) {
    (void)bq_lua_raise(L, err.code, "%s", err.message);
  }
  lua_remove(L, -2);
}

// Stack: 1 the name, 2 the loaded table, top the module's value.
static int keep_module(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_pushboolean(L, 1); // as stock require does for a module that returns nothing
  }
  lua_pushvalue(L, 1);
  lua_pushvalue(L, -2);
  lua_rawset(L, 2);
  return 1;
}

static void push_buildq(lua_State *L) {
  lua_newtable(L);
  for (const bq_lua_module *module = find(L)->modules; module->name != NULL; module++) {
    lua_pushcfunction(L, module->open);
    lua_call(L, 0, 1);
    if (lua_istable(L, -1) && !bq_lua_is_locked(L, -1)) bq_lua_lock(L, module->name);
    lua_setfield(L, -2, module->name);
  }
  bq_lua_lock(L, "buildq");
}

static int is_module_name(const char *name) {
  size_t length = strlen(name);
  if (length == 0 || length > 100 || name[0] == '.' || name[length - 1] == '.' || strstr(name, "..") != NULL) return 0;
  return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == length;
}

// "; did you mean x?", pushed, or "". The name is no module's.
static const char *guess_module(lua_State *L, const char *name) {
  static const char prefix[] = "scripts/lib/";
  const bq_sources *sources = bq_generation_sources(find(L)->generation);
  size_t best = (size_t)-1;
  lua_pushliteral(L, "");
  for (size_t i = 0; i < bq_sources_count(sources); i++) {
    const char *path = bq_sources_at(sources, i)->path;
    size_t length = strlen(path);
    if (strncmp(path, prefix, sizeof prefix - 1) != 0 || length < sizeof prefix + 4) continue;
    lua_pushlstring(L, path + sizeof prefix - 1, length - (sizeof prefix - 1) - 4);
    const char *words[] = {lua_tostring(L, -1), NULL};
    size_t distance = bq_nearest_distance(name, words[0]);
    if (bq_nearest(name, words) != NULL && distance < best) {
      best = distance;
      lua_pushfstring(L, "; did you mean %s?", words[0]);
      lua_replace(L, -3);
    }
    lua_pop(L, 1);
  }
  return lua_tostring(L, -1);
}

// require(name): "buildq", or scripts/lib/<name with / for .>.lua, once for each vm.
static int script_require(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  (void)lua_rawgeti(L, LUA_REGISTRYINDEX, find(L)->loaded);
  lua_pushvalue(L, 1);
  if (lua_rawget(L, 2) != LUA_TNIL) {
    if (lua_islightuserdata(L, -1)) return luaL_error(L, "the module %s requires itself", name);
    return 1;
  }
  lua_settop(L, 2);
  if (strcmp(name, "buildq") == 0) {
    push_buildq(L);
    return keep_module(L, LUA_OK, 0);
  }
  luaL_Buffer path;
  if (!is_module_name(name)) return luaL_error(L, "%s is no name of a module", name);
  luaL_buffinit(L, &path);
  luaL_addstring(&path, "scripts/lib/");
  for (const char *c = name; *c != '\0'; c++) luaL_addchar(&path, *c == '.' ? '/' : *c);
  luaL_addstring(&path, ".lua");
  luaL_pushresult(&path);
  const char *file = lua_tostring(L, 3);
  if (bq_sources_find(bq_generation_sources(find(L)->generation), file) == NULL) {
    return luaL_error(L, "there is no module %s: neither buildq nor %s%s", name, file, guess_module(L, name));
  }
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, find(L)); // the mark of a module being loaded
  lua_rawset(L, 2);
  push_chunk(L, file);
  lua_pushvalue(L, 1);
  lua_callk(L, 1, 1, 0, keep_module);
  return keep_module(L, LUA_OK, 0);
}

static int return_all(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 1;
}

// load(path): runs a script anew and returns its value.
static int load_script(lua_State *L) {
  push_chunk(L, luaL_checkstring(L, 1));
  lua_callk(L, 0, 1, 0, return_all);
  return 1;
}

void bq_script_push_loader(lua_State *L) {
  lua_pushcfunction(L, load_script);
}

// Runs inside bq_vm_call: everything here may raise.
static int set_up(lua_State *L) {
  script_vm *script = find(L);
  bq_vm_new_env(L);
  script->env = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_newtable(L);
  script->loaded = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

int bq_script_vm_new(bq_vm **out, const bq_vm_options *options, bq_generation *generation,
                     const bq_lua_module *modules, bq_services *services, bq_error *err) {
  bq_vm *vm;
  *out = NULL;
  int result = bq_vm_new(&vm, options, err);
  if (result < 0) return result;
  bq_vm_set_require(vm, script_require);
  script_vm *script = bq_alloc(sizeof *script);
  if (script == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a Lua state");
    goto cleanup;
  }
  *script = (script_vm){.generation = bq_generation_retain(generation), .modules = modules, .services = services};
  bq_vm_set_extra(vm, script, release_script_vm);
  lua_pushcfunction(bq_vm_state(vm), set_up);
  result = bq_vm_call(vm, bq_vm_state(vm), 0, 0, err);
  if (result < 0) goto cleanup;
  bq_vm_lend(vm);
  *out = vm;
  vm = NULL;
cleanup:
  bq_vm_free(vm);
  return result;
}
