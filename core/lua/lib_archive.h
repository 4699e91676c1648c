// The module `archive`: packing and unpacking in a build's workspace (scripts/lib/buildq.d.lua).
#ifndef BQ_LUA_LIB_ARCHIVE_H
#define BQ_LUA_LIB_ARCHIVE_H

#include <lua.h>

int bq_lua_open_archive(lua_State *L);

#endif
