// Small things of the server that scripts use: the modules `clock`, `log` and the function `uuid`.
#ifndef BQ_LUA_LIB_SERVER_H
#define BQ_LUA_LIB_SERVER_H

#include <lua.h>

int bq_lua_open_clock(lua_State *L);
int bq_lua_open_log(lua_State *L);
int bq_lua_open_uuid(lua_State *L);

#endif
