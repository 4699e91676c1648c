// String functions that loop in C.
#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

#include "lua/fiber.h"
#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

static int string_rep(lua_State *L) {
  size_t length;
  size_t separator_length;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_Integer times = luaL_checkinteger(L, 2);
  const char *separator = luaL_optlstring(L, 3, "", &separator_length);
  if (times <= 0 || (length == 0 && separator_length == 0)) {
    lua_pushliteral(L, "");
    return 1;
  }
  size_t unit = length + separator_length;
  if (unit < length || (lua_Unsigned)times > (lua_Unsigned)(INT64_MAX / 2) / unit) {
    return luaL_error(L, "resulting string too large");
  }
  size_t total = (size_t)times * unit - separator_length;
  luaL_Buffer out;
  bq_vm_make_room(L, 2 * total);
  char *to = luaL_buffinitsize(L, &out, total); // the memory cap bounds it
  for (lua_Integer i = 0; i < times; i++) {
    if (length > 0) memcpy(to, text, length);
    to += length;
    if (i + 1 < times && separator_length > 0) {
      memcpy(to, separator, separator_length);
      to += separator_length;
    }
  }
  luaL_pushresultsize(&out, total);
  bq_vm_tick(L);
  return 1;
}

static const luaL_Reg functions[] = {
  {"rep", string_rep},
  {NULL, NULL}
};

void bq_lib_string_set(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
