#include "lua/errors.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lua/modules.h"

static const char error_metatable[] = "buildq.error";

static int error_text(lua_State *L) {
  lua_getfield(L, 1, "message");
  return 1;
}

void bq_lua_push_error(lua_State *L, const bq_error *err) {
  lua_createtable(L, 0, 2);
  lua_pushstring(L, bq_err_name(err->code));
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, err->message);
  lua_setfield(L, -2, "message");
  if (luaL_newmetatable(L, error_metatable)) {
    lua_pushcfunction(L, error_text);
    lua_setfield(L, -2, "__tostring");
    lua_pushliteral(L, "locked");
    lua_setfield(L, -2, "__metatable");
  }
  lua_setmetatable(L, -2);
}

int bq_lua_raise(lua_State *L, int code, const char *fmt, ...) {
  bq_error err = {.code = code};
  va_list args;
  va_start(args, fmt);
  (void)vsnprintf(err.message, sizeof err.message, fmt, args);
  va_end(args);
  bq_lua_push_error(L, &err);
  return lua_error(L);
}

// A string field of a table, without metamethods and without allocation. NULL when there is none.
static const char *string_field(lua_State *L, int table, const char *name) {
  const char *found = NULL;
  if (!lua_checkstack(L, 3)) return NULL;
  table = lua_absindex(L, table);
  lua_pushnil(L);
  while (lua_next(L, table) != 0) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -2), name) == 0) {
      found = lua_tostring(L, -1); // kept alive by the table
      lua_pop(L, 2);
      break;
    }
    lua_pop(L, 1);
  }
  return found;
}

static int ends_with(const char *text, size_t length, const char *end) {
  size_t size = strlen(end);
  return length >= size && memcmp(text + length - size, end, size) == 0;
}

int bq_lua_error_code(lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TSTRING) {
    size_t length;
    const char *text = lua_tolstring(L, index, &length);
    return ends_with(text, length, "not enough memory") ? BQ_ENOMEM : BQ_ESCRIPT;
  }
  if (lua_type(L, index) != LUA_TTABLE) return BQ_ESCRIPT;
  const char *kind = string_field(L, index, "kind");
  if (kind == NULL) return BQ_ESCRIPT;
  for (int code = BQ_ENOMEM; code >= BQ_EDATABASE; code--) {
    if (strcmp(bq_err_name(code), kind) == 0) return code;
  }
  return BQ_ESCRIPT;
}

static int begins_with(const char *text, const char *start) {
  return strncmp(text, start, strlen(start)) == 0;
}

void bq_lua_where(lua_State *L, char *out, size_t size) {
  enum { NOWHERE, IN_LIBRARY, IN_SCRIPT } found = NOWHERE;
  out[0] = '\0';
  lua_Debug at;
  // Bounded: what a person looks for is near the top, and a stack overflow is 200 000 levels deep.
  for (int level = 0; level < 100 && lua_getstack(L, level, &at); level++) {
    if (!lua_getinfo(L, "Sl", &at) || at.currentline < 0) continue;
    const char *file = at.source[0] == '@' || at.source[0] == '=' ? at.source + 1 : at.source;
    if (!begins_with(file, "scripts/")) continue;
    int own = bq_script_is_own(L, file);
    int place = begins_with(file, "scripts/lib/") ? IN_LIBRARY : IN_SCRIPT;
    if (own || place > (int)found) {
      (void)snprintf(out, size, "%s:%d", file, at.currentline);
      found = place == IN_SCRIPT ? IN_SCRIPT : IN_LIBRARY;
    }
    if (own) return;
  }
}

// 1 when the message begins with "file:line:" of the same file as `where`.
static int has_place(const char *message, const char *where) {
  const char *colon = strrchr(where, ':');
  return colon != NULL && strncmp(message, where, (size_t)(colon - where) + 1) == 0;
}

// How much of the message is its place, "file:12: " of the same file as `where`.
static size_t place_length(const char *message, const char *where) {
  if (!has_place(message, where)) return 0;
  const char *digits = message + (size_t)(strrchr(where, ':') - where) + 1;
  const char *rest = digits + strspn(digits, "0123456789");
  return begins_with(rest, ": ") ? (size_t)(rest + 2 - message) : 0;
}

void bq_lua_error_line(lua_State *L, int index, const char *where, char *out, size_t size) {
  bq_lua_error_line_in(L, index, where, "", out, size);
}

void bq_lua_error_line_in(lua_State *L, int index, const char *where, const char *context, char *out, size_t size) {
  char scalar[100];
  const char *message = NULL;
  switch (lua_type(L, index)) {
  case LUA_TSTRING: message = lua_tostring(L, index); break;
  case LUA_TNUMBER:
    if (lua_isinteger(L, index)) (void)snprintf(scalar, sizeof scalar, "%lld", lua_tointeger(L, index));
    else (void)snprintf(scalar, sizeof scalar, "%.14g", lua_tonumber(L, index));
    message = scalar;
    break;
  case LUA_TTABLE: message = string_field(L, index, "message"); break;
  default: break;
  }
  if (message == NULL) {
    (void)snprintf(scalar, sizeof scalar, "an error value that is a %s: raise a string", luaL_typename(L, index));
    message = scalar;
  }
  // An error that went up through many coroutine.wrap has its place once for each: once is enough.
  size_t place = strlen(where);
  while (place > 0 && strncmp(message, where, place) == 0 && strncmp(message + place, ": ", 2) == 0 &&
         strncmp(message + place + 2, where, place) == 0) {
    message += place + 2;
  }
  // A template's place is the one to look at, not that of the library which runs it.
  int add = where[0] != '\0' && !has_place(message, where) && !begins_with(message, "templates/");
  size_t length = add ? 0 : place_length(message, where);
  (void)snprintf(out, size, "%s%s%.*s%s%s%s", add ? where : "", add ? ": " : "", (int)length, message, context,
                 context[0] != '\0' ? ": " : "", message + length);
  for (char *c = out; *c != '\0'; c++) {
    if ((unsigned char)*c < ' ') *c = ' ';
  }
}
