// The module `http`: outgoing requests of scripts.
#ifndef BQ_LUA_LIB_HTTP_H
#define BQ_LUA_LIB_HTTP_H

#include <lua.h>

int bq_lua_open_http(lua_State *L);

#endif
