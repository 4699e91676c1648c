#include "queue/api_response.h"

#include <ctype.h>
#include <jansson.h>
#include <lauxlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "lua/arguments.h"
#include "lua/libs.h"

// The registry name of the metatable that marks what this module made; field 1 is the kind, field 2 the options.
static const char response_type[] = "buildq.response";

void bq_api_response_free(bq_api_response *response) {
  bq_buf_free(&response->headers);
  bq_buf_free(&response->body);
  bq_free(response->build);
  bq_free(response->name);
  bq_free(response->etag);
  bq_free(response->customer);
  *response = (bq_api_response){0};
}

static void add_header(lua_State *L, bq_api_response *out, const char *name, const char *value, size_t length) {
  if (name == NULL || value == NULL || strlen(value) != length || strpbrk(value, "\r\n") != NULL ||
      strpbrk(name, "\r\n: ") != NULL) {
    luaL_error(L, "a header's name or value is no string, or has a line break or NUL in it");
    return;
  }
  if (out->header_count == BQ_RESPONSE_MAX_HEADERS) {
    luaL_error(L, "more than %d headers in a response", BQ_RESPONSE_MAX_HEADERS);
    return;
  }
  if (strcasecmp(name, "Content-Type") == 0) {
    out->has_type = 1;
    out->is_problem = strcasecmp(value, "application/problem+json") == 0;
  }
  bq_buf_add(&out->headers, name, strlen(name) + 1);
  bq_buf_add(&out->headers, value, length + 1);
  out->header_count++;
}

static void read_headers(lua_State *L, int response, bq_api_response *out) {
  lua_getfield(L, response, "headers");
  if (!lua_isnil(L, -1)) {
    luaL_argexpected(L, lua_istable(L, -1), response, "table with headers as a table");
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
      size_t length = 0;
      const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
      const char *value = lua_tolstring(L, -1, &length);
      add_header(L, out, name, value, length);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static char *copy_field(lua_State *L, int table, const char *key) {
  lua_getfield(L, table, key);
  char *copy = NULL;
  if (!lua_isnil(L, -1)) {
    const char *text = lua_tostring(L, -1);
    if (text == NULL) luaL_error(L, "response: %s is no string", key);
    copy = bq_strdup(text);
    if (copy == NULL) luaL_error(L, "out of memory");
  }
  lua_pop(L, 1);
  return copy;
}

static int64_t integer_field(lua_State *L, int table, const char *key, int64_t absent) {
  lua_getfield(L, table, key);
  int64_t value = absent;
  if (!lua_isnil(L, -1)) {
    int is_integer;
    value = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || value < 0) luaL_error(L, "response: %s is no whole number from 0", key);
  }
  lua_pop(L, 1);
  return value;
}

static void read_special(lua_State *L, int index, bq_api_response *out) {
  (void)lua_rawgeti(L, index, 1);
  out->kind = (bq_response_kind)lua_tointeger(L, -1);
  (void)lua_rawgeti(L, index, 2);
  int options = lua_gettop(L);
  read_headers(L, options, out);
  lua_getfield(L, options, "type");
  if (!lua_isnil(L, -1)) {
    size_t length;
    const char *type = luaL_checklstring(L, -1, &length);
    add_header(L, out, "Content-Type", type, length);
  }
  if (out->kind == BQ_RESPONSE_STREAM) {
    out->status = (int)integer_field(L, options, "status", 200);
    if (out->status < 200 || out->status > 599) luaL_error(L, "a response's status is 200 to 599, not %d", out->status);
    lua_settop(L, options - 2);
    return;
  }
  out->build = copy_field(L, options, "build");
  out->name = copy_field(L, options, "name");
  out->etag = copy_field(L, options, "etag");
  out->customer = copy_field(L, options, "customer");
  out->attempt = integer_field(L, options, "attempt", 0);
  out->offset = integer_field(L, options, "offset", 0);
  out->after = integer_field(L, options, "after", 0);
  lua_getfield(L, options, "follow");
  out->follow = lua_toboolean(L, -1);
  // The build's id becomes part of a path: only what can be one passes.
  if (out->build != NULL && !bq_uuid_is(out->build)) luaL_error(L, "response: build is no UUID");
  for (char *c = out->build; c != NULL && *c != '\0'; c++) *c = (char)tolower((unsigned char)*c);
  if (out->kind != BQ_RESPONSE_EVENTS && out->build == NULL) luaL_error(L, "response: build is missing");
  if (out->kind == BQ_RESPONSE_EVENTS && (out->build == NULL) == (out->customer == NULL)) {
    luaL_error(L, "response.event_stream: exactly one of build and customer");
  }
}

static int is_special(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return 0;
  luaL_getmetatable(L, response_type);
  int same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same;
}

static void read_json(lua_State *L, const char *request_id, bq_api_response *out) {
  json_t *value = NULL;
  bq_error err;
  if (bq_lua_to_json(L, -1, &value, &err) < 0) luaL_error(L, "a route's json: %s", err.message);
  if (out->is_problem && json_is_object(value) && json_object_get(value, "requestId") == NULL) {
    (void)json_object_set_new(value, "requestId", json_string(request_id)); // without memory for it, it is left out
  }
  char *text = bq_json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
  json_decref(value);
  if (text == NULL) luaL_error(L, "out of memory");
  else bq_buf_adds(&out->body, text);
  bq_free(text);
  if (!out->has_type) add_header(L, out, "Content-Type", "application/json", 16);
}

static void check_whole(lua_State *L, const bq_api_response *out) {
  if (out->headers.failed || out->body.failed) luaL_error(L, "out of memory for an answer");
}

void bq_api_response_read(lua_State *L, int index, const char *request_id, bq_api_response *out) {
  index = lua_absindex(L, index);
  if (!lua_istable(L, index)) {
    luaL_error(L, "a route's response: given a %s, expected a table such as {status = 200, json = {}}",
               luaL_typename(L, index));
  }
  if (is_special(L, index)) {
    read_special(L, index, out);
    check_whole(L, out);
    return;
  }
  static const char *const options[] = {"status", "headers", "json", "body", NULL};
  bq_args_options(L, index, "a route's response", options, "return {status = 200, json = {}}");
  out->kind = BQ_RESPONSE_BODY;
  out->status = (int)integer_field(L, index, "status", 200);
  if (out->status < 200 || out->status > 599) luaL_error(L, "a response's status is 200 to 599, not %d", out->status);
  read_headers(L, index, out);
  lua_getfield(L, index, "json");
  if (!lua_isnil(L, -1)) {
    read_json(L, request_id, out);
  } else {
    lua_getfield(L, index, "body");
    if (!lua_isnil(L, -1)) {
      size_t length;
      const char *body = lua_tolstring(L, -1, &length);
      if (body == NULL) luaL_error(L, "a response's body is a string, not a %s", luaL_typename(L, -1));
      bq_buf_add(&out->body, body, length);
      if (!out->has_type) add_header(L, out, "Content-Type", "text/plain; charset=utf-8", 25);
    }
  }
  check_whole(L, out);
}

static int make_special(lua_State *L, bq_response_kind kind) {
  lua_createtable(L, 2, 0);
  lua_pushinteger(L, kind);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 2);
  (void)luaL_newmetatable(L, response_type);
  lua_setmetatable(L, -2);
  return 1;
}

static int response_file(lua_State *L) {
  static const char *const options[] = {"build", "attempt", "name", "type", "etag", "headers", NULL};
  bq_args_options(L, 1, "response.file", options, "response.file {build = id, attempt = 1, name = \"a.tar.zst\"}");
  return make_special(L, BQ_RESPONSE_FILE);
}

static int response_stream(lua_State *L) {
  static const char *const options[] = {"status", "headers", NULL};
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 2);
  if (!bq_args_has_options(L, 2, "response.stream", options, "response.stream(producer, {status = 200})")) {
    lua_newtable(L);
    lua_replace(L, 2);
  }
  lua_insert(L, 1); // the options first, as with the others
  (void)make_special(L, BQ_RESPONSE_STREAM);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, 3);
  return 1;
}

static int response_log_stream(lua_State *L) {
  static const char *const options[] = {"build", "attempt", "offset", "follow", "headers", NULL};
  bq_args_options(L, 1, "response.log_stream", options, "response.log_stream {build = id, attempt = 1}");
  return make_special(L, BQ_RESPONSE_LOG);
}

static int response_event_stream(lua_State *L) {
  static const char *const options[] = {"build", "after", "customer", "headers", NULL};
  bq_args_options(L, 1, "response.event_stream", options, "response.event_stream {build = id}");
  return make_special(L, BQ_RESPONSE_EVENTS);
}

int bq_api_open_response(lua_State *L) {
  static const luaL_Reg functions[] = {{"file", response_file},
                                       {"log_stream", response_log_stream},
                                       {"event_stream", response_event_stream},
                                       {"stream", response_stream},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
