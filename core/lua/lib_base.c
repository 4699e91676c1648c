// Base functions that differ from Lua's own: those that could catch a kill, get behind a lock, or load bytecode.
#include <lauxlib.h>
#include <string.h>

#include "lua/stdlib.h"
#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

static int finish_pcall(lua_State *L, int status, lua_KContext extra) {
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - (int)extra;
  if (bq_vm_is_killed(L)) return bq_vm_raise_kill(L);
  lua_pushboolean(L, 0);
  lua_pushvalue(L, -2);
  return 2;
}

// Lua bounds the depth of the C stack, but a pcall that a coroutine may yield across gives it back.
static void check_depth(lua_State *L) {
  lua_Debug at;
  if (lua_getstack(L, BQ_MAX_PCALL_DEPTH, &at)) {
    (void)luaL_error(L, "stack overflow: pcall inside more than %d calls", BQ_MAX_PCALL_DEPTH);
  }
}

static int base_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  check_depth(L);
  lua_pushboolean(L, 1);
  lua_insert(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish_pcall);
  return finish_pcall(L, status, 0);
}

// Stands between an error and the script's handler: a kill doesn't pass by it. The upvalue is the handler.
static int guard_handler(lua_State *L) {
  if (bq_vm_is_killed(L)) return 1;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

static int base_xpcall(lua_State *L) {
  int nargs = lua_gettop(L) - 2;
  luaL_checktype(L, 2, LUA_TFUNCTION);
  check_depth(L);
  lua_pushvalue(L, 2);
  lua_pushcclosure(L, guard_handler, 1);
  lua_replace(L, 2);
  lua_pushboolean(L, 1);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2); // f, handler, true, f, arguments
  int status = lua_pcallk(L, nargs, LUA_MULTRET, 2, 2, finish_pcall);
  return finish_pcall(L, status, 2);
}

// The upvalue is a key: making it anew each time would cost more than the rest.
static int base_setmetatable(lua_State *L) {
  int type = lua_type(L, 2);
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
  if (type == LUA_TTABLE) {
    lua_pushvalue(L, lua_upvalueindex(1)); // "__gc"
    if (lua_rawget(L, 2) != LUA_TNIL) return luaL_error(L, "__gc is not available: use a <close> variable");
    lua_pop(L, 1);
  }
  if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL) return luaL_error(L, "cannot change a protected metatable");
  lua_settop(L, 2);
  lua_setmetatable(L, 1);
  return 1;
}

static int base_rawset(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checkany(L, 2);
  luaL_checkany(L, 3);
  lua_settop(L, 3);
  if (bq_lua_is_locked(L, 1)) return luaL_error(L, "this table is read-only");
  lua_rawset(L, 1);
  return 1;
}

static int base_collectgarbage(lua_State *L) {
  const char *what = luaL_optstring(L, 1, "collect");
  if (strcmp(what, "count") != 0) return luaL_error(L, "collectgarbage can only \"count\" here");
  lua_pushnumber(L, (lua_Number)atomic_load_explicit(&bq_vm_of(L)->memory, memory_order_relaxed) / 1024);
  return 1;
}

static int base_print(lua_State *L) {
  int count = lua_gettop(L);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  for (int i = 1; i <= count; i++) {
    if (i > 1) luaL_addchar(&text, '\t');
    (void)luaL_tolstring(L, i, NULL);
    luaL_addvalue(&text);
  }
  luaL_pushresult(&text);
  bq_vm *vm = bq_vm_of(L);
  size_t length;
  const char *line = lua_tolstring(L, -1, &length);
  if (vm->print != NULL) vm->print(vm->options.owner, line, length);
  return 0;
}

// Pushes the environment of the innermost Lua function below us that has one; a fresh one when none has.
static void push_callers_env(lua_State *L) {
  lua_Debug at;
  for (int level = 1; level < 100 && lua_getstack(L, level, &at); level++) {
    (void)lua_getinfo(L, "f", &at);
    const char *name = NULL;
    for (int i = 1; !lua_iscfunction(L, -1) && (name = lua_getupvalue(L, -1, i)) != NULL; i++) {
      if (strcmp(name, "_ENV") == 0) {
        lua_remove(L, -2);
        return;
      }
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  bq_vm_new_env(L);
}

enum {
  RESERVED = 5,           // where the reader keeps its piece of text alive
  MAX_CHUNK = 1024 * 1024 // bytes: compiling can't be interrupted
};

static const char *read_piece(lua_State *L, void *arg, size_t *size) {
  size_t *total = arg;
  luaL_checkstack(L, 2, "too many nested functions");
  lua_pushvalue(L, 1);
  lua_call(L, 0, 1);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    *size = 0;
    return NULL;
  }
  if (lua_type(L, -1) != LUA_TSTRING) (void)luaL_error(L, "reader function must return a string");
  lua_replace(L, RESERVED);
  const char *piece = lua_tolstring(L, RESERVED, size);
  *total += *size;
  if (*total > MAX_CHUNK) (void)luaL_error(L, "a chunk of more than 1 MiB");
  return piece;
}

static int base_load(lua_State *L) {
  size_t length = 0;
  const char *text = lua_type(L, 1) == LUA_TSTRING ? lua_tolstring(L, 1, &length) : NULL;
  const char *mode = luaL_optstring(L, 3, "t");
  if (strchr(mode, 't') == NULL) return luaL_error(L, "load takes text only: bytecode can't be checked");
  if (length > MAX_CHUNK) return luaL_error(L, "a chunk of more than 1 MiB");
  int has_env = !lua_isnone(L, 4);
  const char *name = luaL_optstring(L, 2, text != NULL ? text : "=(load)");
  lua_settop(L, RESERVED);
  int status;
  if (text != NULL) {
    status = luaL_loadbufferx(L, text, length, name, "t");
  } else {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    status = lua_load(L, read_piece, &length, name, "t");
  }
  // lua_load catches what the reader raises.
  if (bq_vm_is_killed(L)) return bq_vm_raise_kill(L);
  if (status != LUA_OK) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  if (has_env) lua_pushvalue(L, 4);
  else push_callers_env(L);
  if (lua_setupvalue(L, -2, 1) == NULL) lua_pop(L, 1);
  return 1;
}

static const luaL_Reg functions[] = {
  {"collectgarbage", base_collectgarbage},
  {"load", base_load},
  {"pcall", base_pcall},
  {"print", base_print},
  {"rawset", base_rawset},
  {"xpcall", base_xpcall},
  {NULL, NULL}
};

void bq_lib_base_set(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  lua_pushliteral(L, "__gc");
  lua_pushcclosure(L, base_setmetatable, 1);
  lua_setfield(L, -2, "setmetatable");
}
