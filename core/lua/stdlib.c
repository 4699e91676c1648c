#include "lua/stdlib.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>
#include <sys/random.h>

#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

// Registry keys: the addresses count, not the contents.
static const char base_key = 0;   // the table of all globals of the library
static const char env_key = 0;    // the metatable of environments
static const char locked_key = 0; // in a view's metatable: it is one
static const char seed_key = 0;   // math.randomseed

static int refuse_write(lua_State *L) {
  return luaL_error(L, "%s is read-only", lua_tostring(L, lua_upvalueindex(1)));
}

// The iterator that pairs() gets: with the real table as an upvalue, never as a value that a script could keep.
static int next_of_view(lua_State *L) {
  lua_settop(L, 2);
  if (lua_next(L, lua_upvalueindex(1))) return 2;
  lua_pushnil(L);
  return 1;
}

static int pairs_of_view(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, next_of_view, 1);
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  return 3;
}

void bq_lua_lock(lua_State *L, const char *name) {
  int real = lua_gettop(L);
  luaL_checkstack(L, 6, NULL);
  lua_newtable(L); // the view
  lua_createtable(L, 0, 5);
  lua_pushvalue(L, real);
  lua_setfield(L, -2, "__index");
  lua_pushstring(L, name);
  lua_pushcclosure(L, refuse_write, 1);
  lua_setfield(L, -2, "__newindex");
  lua_pushvalue(L, real);
  lua_pushcclosure(L, pairs_of_view, 1);
  lua_setfield(L, -2, "__pairs");
  lua_pushliteral(L, "locked");
  lua_setfield(L, -2, "__metatable");
  lua_pushboolean(L, 1);
  lua_rawsetp(L, -2, &locked_key);
  lua_setmetatable(L, -2);
  lua_replace(L, real);
}

int bq_lua_is_locked(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) return 0;
  int locked = lua_rawgetp(L, -1, &locked_key) == LUA_TBOOLEAN;
  lua_pop(L, 2);
  return locked;
}

// Opens one of Lua's own libraries and pushes its table; nothing is left in the globals or in the loaded table.
static void open_stock(lua_State *L, const char *name, lua_CFunction open) {
  lua_pushcfunction(L, open);
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
}

static void drop(lua_State *L, const char *const *names) {
  for (; *names != NULL; names++) {
    lua_pushnil(L);
    lua_setfield(L, -2, *names);
  }
}

// Locks the table on top and makes it a field of the table below it. Pops it.
static void add_locked(lua_State *L, const char *name) {
  bq_lua_lock(L, name);
  lua_setfield(L, -2, name);
}

// Lua's own (the upvalue), which takes a microsecond for two characters.
static int os_date(lua_State *L) {
  enum { MAX_FORMAT = 1000 };
  size_t length = 0;
  (void)luaL_optlstring(L, 1, "", &length);
  luaL_argcheck(L, length <= MAX_FORMAT, 1, "a format of more than 1000 characters");
  int count = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, count, 1);
  return 1;
}

static void open_os(lua_State *L) {
  static const char *const kept[] = {"time", "clock", "difftime", NULL};
  open_stock(L, "os", luaopen_os);
  lua_createtable(L, 0, 4);
  lua_getfield(L, -2, "date");
  lua_pushcclosure(L, os_date, 1);
  lua_setfield(L, -2, "date");
  for (const char *const *name = kept; *name != NULL; name++) {
    lua_getfield(L, -2, *name);
    lua_setfield(L, -2, *name);
  }
  lua_remove(L, -2);
}

static void open_math(lua_State *L) {
  // Of Lua 5.2: there or not, as Lua was compiled.
  static const char *const dropped[] = {"atan2", "cosh", "frexp", "ldexp", "log10", "pow", "sinh", "tanh", NULL};
  open_stock(L, "math", luaopen_math);
  drop(L, dropped);
  lua_getfield(L, -1, "randomseed");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &seed_key);
  bq_stdlib_reseed(L);
}

void bq_stdlib_reseed(lua_State *L) {
  lua_Integer seed[2] = {0, 0};
  // Without the kernel's bits there still are those that luaopen_math took from the clock and an address.
  if (getrandom(seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) return;
  (void)lua_rawgetp(L, LUA_REGISTRYINDEX, &seed_key);
  lua_pushinteger(L, seed[0]);
  lua_pushinteger(L, seed[1]);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) lua_pop(L, 1);
}

static void open_string(lua_State *L) {
  static const char *const dropped[] = {"dump", NULL};
  open_stock(L, "string", luaopen_string); // also gives strings their metatable
  drop(L, dropped);
  bq_lib_string_set(L);
  lua_pushliteral(L, "");
  lua_getmetatable(L, -1);
  lua_pushvalue(L, -3);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "locked");
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 2);
}

static void open_base(lua_State *L) {
  static const char *const dropped[] = {"dofile", "loadfile", "warn", "_G", NULL};
  // luaopen_base fills the globals: they are the library's table from here on, and scripts never see it.
  open_stock(L, "_G", luaopen_base);
  drop(L, dropped);
  bq_lib_base_set(L);
}

void bq_stdlib_open(lua_State *L) {
  open_base(L);
  open_string(L);
  add_locked(L, "string");
  open_stock(L, "table", luaopen_table);
  bq_lib_table_set(L);
  add_locked(L, "table");
  open_math(L);
  add_locked(L, "math");
  open_stock(L, "utf8", luaopen_utf8);
  add_locked(L, "utf8");
  bq_lib_coroutine_push(L);
  add_locked(L, "coroutine");
  open_os(L);
  add_locked(L, "os");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &base_key);
  // A chunk whose environment nobody has set gets an empty one.
  lua_newtable(L);
  lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_createtable(L, 0, 2);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &base_key);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "locked");
  lua_setfield(L, -2, "__metatable");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &env_key);
}

void bq_vm_new_env(lua_State *L) {
  enum { GLOBALS = 40 }; // and some room for the script's own
  luaL_checkstack(L, 5, NULL);
  lua_createtable(L, 0, GLOBALS);
  // A copy, because each call of a library function looks its global up; the metatable brings back what was set to nil.
  lua_rawgetp(L, LUA_REGISTRYINDEX, &base_key);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -5);
  }
  lua_pop(L, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "_G");
  const bq_vm *vm = bq_vm_of(L);
  if (vm->require != NULL) {
    lua_pushcfunction(L, vm->require);
    lua_setfield(L, -2, "require");
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &env_key);
  lua_setmetatable(L, -2);
}

void bq_vm_set_require(bq_vm *vm, lua_CFunction require) {
  vm->require = require;
}

void bq_vm_set_print(bq_vm *vm, bq_vm_print print) {
  vm->print = print;
}
