// The parts of the standard library, one file each. Private to stdlib.c. Each pushes one table or sets functions.
#ifndef BQ_LUA_STDLIB_PARTS_H
#define BQ_LUA_STDLIB_PARTS_H

#include <lua.h>

enum { BQ_TABLE_MAX_COUNT = 10 * 1000 * 1000 }; // elements that one call of a table function takes

void bq_lib_base_set(lua_State *L);      // sets our base functions in the table on top
void bq_lib_table_set(lua_State *L);     // sets our table functions in the table on top
int bq_table_sort(lua_State *L);         // table.sort
void bq_lib_string_set(lua_State *L);    // sets our string functions in the table on top
void bq_lib_coroutine_push(lua_State *L); // pushes the table of `coroutine`

#endif
