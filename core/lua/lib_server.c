#include "lua/lib_server.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/uuid.h"
#include "lua/modules.h"

enum { MAX_MESSAGE_BYTES = 8192, MAX_FIELDS = 16 };

// clock -----------------------------------------------------------------------------------------------------------

static int clock_now(lua_State *L) {
  double unix_s = luaL_optnumber(L, 1, (double)bq_clock_wall_us() / 1e6);
  if (!(unix_s >= 0 && unix_s < 253402300800.0)) return luaL_error(L, "clock.now: a time from 1970 to 9999");
  int64_t us = lua_isnoneornil(L, 1) ? bq_clock_wall_us() : (int64_t)(unix_s * 1e6);
  char text[BQ_CLOCK_TEXT_SIZE];
  bq_clock_format(us, text);
  char precise[32];
  (void)snprintf(precise, sizeof precise, "%.19s.%06uZ", text, (unsigned)(us % 1000000));
  lua_pushstring(L, precise);
  return 1;
}

static int clock_unix(lua_State *L) {
  lua_pushnumber(L, (double)bq_clock_wall_us() / 1e6);
  return 1;
}

static int clock_monotonic(lua_State *L) {
  lua_pushnumber(L, (double)bq_clock_mono_us() / 1e6);
  return 1;
}

int bq_lua_open_clock(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"now", clock_now}, {"unix", clock_unix}, {"monotonic", clock_monotonic}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}

// log -------------------------------------------------------------------------------------------------------------

// Adds " name=value" for each field of the table at `index`, so that one line holds them all.
static void add_fields(lua_State *L, int index, bq_buf *line) {
  int count = 0;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    if (count++ == MAX_FIELDS || lua_type(L, -2) != LUA_TSTRING) {
      lua_pop(L, 2);
      return;
    }
    const char *value = luaL_tolstring(L, -1, NULL);
    bq_buf_addf(line, "%s%s=%s", line->length > 0 ? " " : "", lua_tostring(L, -3), value);
    lua_pop(L, 2);
  }
}

static int write_line(lua_State *L, bq_log_level level) {
  const char *message = luaL_checkstring(L, 1);
  bq_buf fields = {0};
  bq_buf text = {0};
  if (lua_istable(L, 2)) add_fields(L, 2, &fields);
  bq_buf_addf(&text, "%.*s", MAX_MESSAGE_BYTES, message);
  bq_services *services = bq_script_services(L);
  bq_log(level, text.data != NULL ? text.data : "", "source", "script", "build", services->build_id(L), "fields",
         fields.length > 0 ? fields.data : NULL, NULL);
  bq_buf_free(&fields);
  bq_buf_free(&text);
  return 0;
}

static int log_debug(lua_State *L) {
  return write_line(L, BQ_DEBUG);
}

static int log_info(lua_State *L) {
  return write_line(L, BQ_INFO);
}

static int log_warn(lua_State *L) {
  return write_line(L, BQ_WARN);
}

static int log_error(lua_State *L) {
  return write_line(L, BQ_ERROR);
}

int bq_lua_open_log(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"debug", log_debug}, {"info", log_info}, {"warn", log_warn}, {"error", log_error}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}

// uuid ------------------------------------------------------------------------------------------------------------

static int new_uuid(lua_State *L) {
  char text[BQ_UUID_SIZE];
  bq_error err;
  if (bq_uuid_new(text, &err) < 0) return luaL_error(L, "%s", err.message);
  lua_pushstring(L, text);
  return 1;
}

int bq_lua_open_uuid(lua_State *L) {
  lua_pushcfunction(L, new_uuid);
  return 1;
}
