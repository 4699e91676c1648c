// Errors on their way from and to Lua.
//
// Thread rule: whoever may touch the state.
#ifndef BQ_LUA_ERRORS_H
#define BQ_LUA_ERRORS_H

#include <lua.h>
#include <stddef.h>

#include "base/error.h"

enum { BQ_WHERE_SIZE = 200, BQ_LINE_SIZE = 1000 };

// Pushes the error as scripts get it: a table {kind=, message=} whose tostring is the message (ErrorValue in
// scripts/lib/buildq.d.lua). Further fields may be set on it. May raise for want of memory.
void bq_lua_push_error(lua_State *L, const bq_error *err);

// Raises such a value; for a lua_CFunction's return.
int bq_lua_raise(lua_State *L, int code, const char *fmt, ...) BQ_PRINTF(3, 4);

// The vocabulary's code of the error value at `index`: BQ_ENOMEM also for Lua's own message of it, whatever a script has
// put before that; BQ_ESCRIPT for whatever else isn't an ErrorValue. Never raises.
int bq_lua_error_code(lua_State *L, int index);

// Where L is now: "scripts/pipelines/x.lua:12", the innermost line of a team's own file, else the innermost that is
// not in scripts/lib, else the innermost of any script, else "". Never raises.
void bq_lua_where(lua_State *L, char *out, size_t size);

// One line for people from the error value at `index`: "scripts/pipelines/x.lua:12: message". `where` (of
// bq_fiber_where; "" when unknown) is put before a message that begins neither with that file nor with one of
// templates/. Never raises, runs no script (an author's __tostring is not called); cut at `size`, line breaks become
// spaces.
void bq_lua_error_line(lua_State *L, int index, const char *where, char *out, size_t size);

// The same with `context` between the place and the message: "scripts/pipelines/x.lua:12: step Compiling: message".
void bq_lua_error_line_in(lua_State *L, int index, const char *where, const char *context, char *out, size_t size);

#endif
