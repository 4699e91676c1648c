// Table functions that loop in C: the same as Lua's own, but counts are bounded and a kill ends them.
#include <lauxlib.h>

#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

static const int MAX_COUNT = BQ_TABLE_MAX_COUNT;

static void look(const bq_vm *vm, lua_State *L) {
  if (vm->look) bq_vm_tick(L);
}

// The length of the first argument, which an author's __len may say to be anything. *plain: the table has no
// metatable, so it is what it seems.
static lua_Integer length_of(lua_State *L, int *plain) {
  if (lua_type(L, 1) != LUA_TTABLE) luaL_checktype(L, 1, LUA_TTABLE);
  *plain = !lua_getmetatable(L, 1);
  if (*plain) return (lua_Integer)lua_rawlen(L, 1);
  lua_pop(L, 1);
  return luaL_len(L, 1);
}

static lua_Integer check_length(lua_State *L, int *plain) {
  lua_Integer n = length_of(L, plain);
  if (n > MAX_COUNT) (void)luaL_argerror(L, 1, "a table of more than 10 million elements");
  return n;
}

static int table_insert(lua_State *L) {
  int plain;
  lua_Integer end = check_length(L, &plain) + 1;
  int given = lua_gettop(L);
  if (given == 2) {
    if (plain) lua_rawseti(L, 1, end);
    else lua_seti(L, 1, end);
    return 0;
  }
  if (given != 3) return luaL_error(L, "wrong number of arguments to 'insert'");
  lua_Integer position = luaL_checkinteger(L, 2);
  luaL_argcheck(L, position >= 1 && position <= end, 2, "position out of bounds");
  const bq_vm *vm = bq_vm_of(L);
  for (lua_Integer i = end; i > position; i--) {
    look(vm, L);
    lua_geti(L, 1, i - 1);
    lua_seti(L, 1, i);
  }
  lua_seti(L, 1, position);
  return 0;
}

static int table_remove(lua_State *L) {
  int plain;
  lua_Integer size = check_length(L, &plain);
  if (plain && lua_gettop(L) == 1) { // the last one of a plain list: what is asked for nearly always
    (void)lua_rawgeti(L, 1, size);
    lua_pushnil(L);
    lua_rawseti(L, 1, size);
    return 1;
  }
  lua_Integer position = luaL_optinteger(L, 2, size);
  // An empty list may be asked for its last element by number, too.
  if (position != size) {
    luaL_argcheck(L, (lua_Unsigned)position - 1 <= (lua_Unsigned)size, 2, "position out of bounds");
  }
  lua_settop(L, 2);
  const bq_vm *vm = bq_vm_of(L);
  lua_geti(L, 1, position);
  for (; position < size; position++) {
    look(vm, L);
    lua_geti(L, 1, position + 1);
    lua_seti(L, 1, position);
  }
  lua_pushnil(L);
  lua_seti(L, 1, position);
  return 1;
}

static void check_range(lua_State *L, lua_Integer first, lua_Integer last, int argument) {
  if (last >= first && (lua_Unsigned)last - (lua_Unsigned)first >= MAX_COUNT) {
    (void)luaL_argerror(L, argument, "a range of more than 10 million elements");
  }
}

static int table_move(lua_State *L) {
  const bq_vm *vm = bq_vm_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer first = luaL_checkinteger(L, 2);
  lua_Integer last = luaL_checkinteger(L, 3);
  lua_Integer to = luaL_checkinteger(L, 4);
  int target = lua_isnoneornil(L, 5) ? 1 : 5;
  luaL_checktype(L, target, LUA_TTABLE);
  lua_settop(L, 5);
  check_range(L, first, last, 3);
  if (last >= first) {
    luaL_argcheck(L, to <= LUA_MAXINTEGER - (last - first), 4, "destination wrap around");
    int same = target == 1 || lua_compare(L, 1, 5, LUA_OPEQ);
    int downwards = same && to > first && to <= last; // the ranges overlap: copy from the end
    for (lua_Integer i = 0; i <= last - first; i++) {
      lua_Integer at = downwards ? last - first - i : i;
      look(vm, L);
      lua_geti(L, 1, first + at);
      lua_seti(L, target, to + at);
    }
  }
  lua_pushvalue(L, target);
  return 1;
}

static int table_concat(lua_State *L) {
  const bq_vm *vm = bq_vm_of(L);
  int plain;
  lua_Integer size = length_of(L, &plain); // in any case
  size_t length;
  const char *separator = luaL_optlstring(L, 2, "", &length);
  lua_Integer first = luaL_optinteger(L, 3, 1);
  lua_Integer last = luaL_optinteger(L, 4, size);
  check_range(L, first, last, 4);
  lua_settop(L, 4);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  for (lua_Integer i = first; i <= last; i++) {
    look(vm, L);
    lua_geti(L, 1, i);
    if (!lua_isstring(L, -1)) {
      return luaL_error(L, "invalid value (%s) at index %I in table for 'concat'", luaL_typename(L, -1),
                        (LUAI_UACINT)i);
    }
    luaL_addvalue(&text);
    if (i < last) luaL_addlstring(&text, separator, length);
    else break; // last may be the largest integer
  }
  luaL_pushresult(&text);
  return 1;
}

static int table_unpack(lua_State *L) {
  const bq_vm *vm = bq_vm_of(L);
  lua_Integer first = luaL_optinteger(L, 2, 1);
  lua_Integer last = lua_isnoneornil(L, 3) ? luaL_len(L, 1) : luaL_checkinteger(L, 3);
  if (first > last) return 0;
  lua_Unsigned count = (lua_Unsigned)last - (lua_Unsigned)first;
  if (count >= MAX_COUNT || !lua_checkstack(L, (int)++count)) return luaL_error(L, "too many results to unpack");
  for (lua_Unsigned i = 0; i < count; i++) {
    look(vm, L);
    lua_geti(L, 1, first + (lua_Integer)i);
  }
  return (int)count;
}

static const luaL_Reg functions[] = {
  {"concat", table_concat},
  {"insert", table_insert},
  {"move", table_move},
  {"remove", table_remove},
  {"sort", bq_table_sort},
  {"unpack", table_unpack},
  {NULL, NULL}
};

void bq_lib_table_set(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
