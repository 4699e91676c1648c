#include "queue/api_request.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"

enum { MAX_QUERY_PAIRS = 100 };

static const char request_type; // its address is the registry's key of the metatable

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

static void push_headers(lua_State *L, const bq_http_exchange *x) {
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

static void push_params(lua_State *L, const bq_route_match *match) {
  lua_createtable(L, 0, (int)match->param_count);
  for (size_t i = 0; i < match->param_count; i++) {
    const bq_route_param *param = &match->params[i];
    lua_pushlstring(L, param->name, param->name_length);
    lua_pushlstring(L, param->value, param->value_length);
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
    if (err.code == BQ_ENOMEM) return bq_lua_raise(L, err.code, "%s", err.message); // which says nothing of the body
    lua_pushnil(L);
    lua_pushstring(L, err.message);
    return 2;
  }
  bq_lua_give_json(L, value);
  return 1;
}

typedef enum field { METHOD, PATH, PARAMS, QUERY, HEADERS, ID, BODY, JSON, FIELDS } field;
static const char *const field_names[FIELDS] = {"method", "path", "params", "query", "headers", "id", "body", "json"};

static void push_field(lua_State *L, const bq_api_request *request, field wanted) {
  switch (wanted) {
  case METHOD: lua_pushstring(L, bq_http_method(request->http)); break;
  case PATH: lua_pushstring(L, bq_http_path(request->http)); break;
  case PARAMS: push_params(L, &request->match); break;
  case QUERY: push_query(L, bq_http_query(request->http)); break;
  case HEADERS: push_headers(L, request->http); break;
  case ID: lua_pushstring(L, request->id); break;
  case BODY: lua_pushlstring(L, request->body_length > 0 ? request->body : "", request->body_length); break;
  case JSON: lua_pushcfunction(L, request_json); break;
  case FIELDS: lua_pushnil(L); break;
  }
}

// Tables lie at multiples of 8 and are 56 bytes or more apart.
static bq_api_request **bucket_of(bq_api_requests *requests, const void *table) {
  return &requests->buckets[((uintptr_t)table >> 6) % BQ_API_REQUEST_BUCKETS];
}

static const bq_api_request *find(lua_State *L, const void *table) {
  const bq_api_request *at = *bucket_of(lua_touserdata(L, lua_upvalueindex(1)), table);
  while (at != NULL && at->table != table) at = at->next;
  return at;
}

// __index(request, name): a field that was not read before, kept in the table from now on.
static int request_index(lua_State *L) {
  if (lua_type(L, 2) != LUA_TSTRING) return 0;
  const char *name = lua_tostring(L, 2);
  field wanted = METHOD;
  while (wanted < FIELDS && strcmp(field_names[wanted], name) != 0) wanted++;
  if (wanted == FIELDS) return 0;
  const bq_api_request *request = find(L, lua_topointer(L, 1));
  if (request == NULL) {
    return luaL_error(L, "request.%s: this request has been answered; read it before, and keep what you need", name);
  }
  lua_settop(L, 2);
  push_field(L, request, wanted);
  lua_pushvalue(L, -1);
  lua_insert(L, 2);
  lua_rawset(L, 1);
  return 1;
}

static int next_field(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  return lua_next(L, 1) != 0 ? 2 : 0;
}

// __pairs(request): with all fields.
static int request_pairs(lua_State *L) {
  lua_settop(L, 1);
  for (field each = METHOD; each < FIELDS; each++) {
    lua_getfield(L, 1, field_names[each]);
    lua_pop(L, 1);
  }
  lua_pushcfunction(L, next_field);
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  return 3;
}

static void push_metatable(lua_State *L, bq_api_requests *requests) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &request_type) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_createtable(L, 0, 3);
  lua_pushlightuserdata(L, requests);
  lua_pushcclosure(L, request_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, request_pairs);
  lua_setfield(L, -2, "__pairs");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable"); // scripts can neither see nor lend it
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &request_type);
}

void bq_api_request_push(lua_State *L, bq_api_requests *requests, bq_api_request *request) {
  lua_createtable(L, 0, 0);
  push_metatable(L, requests);
  lua_setmetatable(L, -2);
  request->table = lua_topointer(L, -1);
  request->requests = requests;
  bq_api_request **bucket = bucket_of(requests, request->table);
  request->next = *bucket;
  *bucket = request;
}

void bq_api_request_end(bq_api_request *request) {
  if (request->requests != NULL) {
    bq_api_request **at = bucket_of(request->requests, request->table);
    while (*at != request) at = &(*at)->next;
    *at = request->next;
  }
  bq_http_release_request(request->http);
  bq_free(request->body);
}
