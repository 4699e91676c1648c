#include "queue/api_request.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

#include "base/json.h"
#include "lua/libs.h"

enum { MAX_QUERY_PAIRS = 100 };

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = (char)tolower((unsigned char)c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// application/x-www-form-urlencoded (URL Standard, section 5.1): "+" is a space, a stray "%" stands for itself.
static void push_decoded(lua_State *L, const char *text, size_t length) {
  luaL_Buffer out;
  luaL_buffinitsize(L, &out, length);
  for (size_t i = 0; i < length; i++) {
    int high = text[i] == '%' && i + 2 < length ? hex_value(text[i + 1]) : -1;
    int low = high >= 0 ? hex_value(text[i + 2]) : -1;
    if (low >= 0) {
      luaL_addchar(&out, (char)(high * 16 + low));
      i += 2;
    } else {
      luaL_addchar(&out, text[i] == '+' ? ' ' : text[i]);
    }
  }
  luaL_pushresult(&out);
}

static void push_query(lua_State *L, const char *query) {
  lua_createtable(L, 0, *query != '\0' ? 4 : 0);
  for (int pairs = 0; *query != '\0' && pairs < MAX_QUERY_PAIRS; pairs++) {
    size_t length = strcspn(query, "&");
    const char *equals = memchr(query, '=', length);
    size_t name_length = equals != NULL ? (size_t)(equals - query) : length;
    if (name_length > 0) {
      push_decoded(L, query, name_length);
      if (equals != NULL) push_decoded(L, equals + 1, length - name_length - 1);
      else lua_pushliteral(L, "");
      lua_rawset(L, -3);
    }
    query += length;
    if (*query == '&') query++;
  }
}

static void push_lower(lua_State *L, const char *text) {
  char small[64];
  size_t length = strlen(text);
  luaL_Buffer large;
  char *to = length <= sizeof small ? small : luaL_buffinitsize(L, &large, length);
  for (size_t i = 0; i < length; i++) {
    char c = text[i];
    to[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
  }
  if (to == small) lua_pushlstring(L, small, length);
  else luaL_pushresultsize(&large, length);
}

static void push_headers(lua_State *L, bq_http_exchange *x) {
  size_t count = bq_http_header_count(x);
  lua_createtable(L, 0, (int)count);
  for (size_t i = 0; i < count; i++) {
    bq_http_header header = bq_http_header_at(x, i);
    push_lower(L, header.name);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) { // repeated fields are one list (RFC 9110, section 5.2)
      lua_pop(L, 1);
      lua_pushstring(L, header.value);
    } else {
      lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), header.value);
      lua_remove(L, -2);
    }
    lua_rawset(L, -3);
  }
}

// request:json()
static int request_json(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_getfield(L, 1, "body");
  size_t length;
  const char *body = luaL_checklstring(L, -1, &length);
  json_t *value = NULL;
  bq_error err;
  if (bq_lua_parse_json(&value, body, length, BQ_JSON_STRICT, &err) < 0) {
    lua_pushnil(L);
    lua_pushstring(L, err.message);
    return 2;
  }
  bq_lua_push_json(L, value);
  json_decref(value);
  return 1;
}

void bq_api_push_request(lua_State *L, bq_http_exchange *x, const bq_route_match *match, const char *request_id,
                         const char *body, size_t length) {
  lua_createtable(L, 0, 8);
  lua_pushstring(L, bq_http_method(x));
  lua_setfield(L, -2, "method");
  lua_pushstring(L, bq_http_path(x));
  lua_setfield(L, -2, "path");
  lua_createtable(L, 0, (int)match->param_count);
  for (size_t i = 0; i < match->param_count; i++) {
    const bq_route_param *param = &match->params[i];
    lua_pushlstring(L, param->name, param->name_length);
    lua_pushlstring(L, param->value, param->value_length);
    lua_rawset(L, -3);
  }
  lua_setfield(L, -2, "params");
  push_query(L, bq_http_query(x));
  lua_setfield(L, -2, "query");
  push_headers(L, x);
  lua_setfield(L, -2, "headers");
  lua_pushstring(L, request_id);
  lua_setfield(L, -2, "id");
  lua_pushlstring(L, length > 0 ? body : "", length);
  lua_setfield(L, -2, "body");
  lua_pushcfunction(L, request_json);
  lua_setfield(L, -2, "json");
}
