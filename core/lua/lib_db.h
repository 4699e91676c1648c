// The module `db`: one SQL statement of a script's own, on the scripts' own connections.
#ifndef BQ_LUA_LIB_DB_H
#define BQ_LUA_LIB_DB_H

#include <lua.h>

int bq_lua_open_db(lua_State *L);

#endif
