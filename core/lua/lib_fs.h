// The module `fs`: files of a build's workspace (scripts/lib/buildq.d.lua).
#ifndef BQ_LUA_LIB_FS_H
#define BQ_LUA_LIB_FS_H

#include <lua.h>

int bq_lua_open_fs(lua_State *L);

#endif
