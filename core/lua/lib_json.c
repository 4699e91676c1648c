// The module `json`: the one place where JSON crosses between C, Lua and PostgreSQL.
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/fiber.h"
#include "lua/libs.h"
#include "lua/stdlib.h"

// ---- text → json_t

// Values in the text, roughly: separators and openers. A bound on what the tree will take in memory.
static size_t count_values(const char *text, size_t length) {
  size_t count = 1;
  for (size_t i = 0; i < length; i++) count += text[i] == ',' || text[i] == '[' || text[i] == '{';
  return count;
}

static int too_deep(const json_t *json, int depth) {
  if (!json_is_array(json) && !json_is_object(json)) return 0;
  if (depth >= BQ_LUA_JSON_MAX_DEPTH) return 1;
  size_t i;
  const char *key;
  json_t *value;
  if (json_is_array(json)) {
    json_array_foreach(json, i, value) {
      if (too_deep(value, depth + 1)) return 1;
    }
    return 0;
  }
  json_object_foreach((json_t *)(uintptr_t)json, key, value) {
    if (too_deep(value, depth + 1)) return 1;
  }
  return 0;
}

int bq_lua_parse_json(json_t **out, const char *text, size_t length, unsigned flags, bq_error *err) {
  *out = NULL;
  if (length > BQ_LUA_JSON_MAX_BYTES) return bq_fail(err, BQ_ELIMIT, "line 1, column 1: the text is longer than 8 MiB");
  if (count_values(text, length) > BQ_LUA_JSON_MAX_VALUES) {
    return bq_fail(err, BQ_ELIMIT, "line 1, column 1: the text has more than %d values", BQ_LUA_JSON_MAX_VALUES);
  }
  int result = bq_json_parse(text, length, flags, out, err);
  if (result < 0 || !too_deep(*out, 0)) return result;
  json_decref(*out);
  *out = NULL;
  return bq_fail(err, BQ_ELIMIT, "line 1, column 1: nested more than %d levels deep", BQ_LUA_JSON_MAX_DEPTH);
}

// ---- json_t → Lua

static const char array_key = 0; // registry: the metatable that marks arrays

// Pushes it. Scripts that ask for it get a read-only view with the same field.
static void push_array_mark(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_createtable(L, 0, 2);
  lua_pushliteral(L, "array");
  lua_setfield(L, -2, "__jsontype");
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "array");
  lua_setfield(L, -2, "__jsontype");
  bq_lua_lock(L, "the array mark");
  lua_setfield(L, -2, "__metatable");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);
}

static void push_value(lua_State *L, const json_t *json, int depth);

static void push_array(lua_State *L, const json_t *json, int depth) {
  size_t count = json_array_size(json);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    push_value(L, json_array_get(json, i), depth + 1);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  push_array_mark(L);
  lua_setmetatable(L, -2);
}

static void push_object(lua_State *L, json_t *json, int depth) {
  lua_createtable(L, 0, (int)json_object_size(json));
  for (void *at = json_object_iter(json); at != NULL; at = json_object_iter_next(json, at)) {
    lua_pushlstring(L, json_object_iter_key(at), json_object_iter_key_len(at));
    push_value(L, json_object_iter_value(at), depth + 1);
    lua_rawset(L, -3);
  }
}

static void push_value(lua_State *L, const json_t *json, int depth) {
  if (depth > BQ_LUA_JSON_MAX_DEPTH) {
    (void)luaL_error(L, "JSON is nested more than %d levels deep", BQ_LUA_JSON_MAX_DEPTH);
  }
  luaL_checkstack(L, 4, "for JSON");
  switch (json_typeof(json)) {
  case JSON_OBJECT: push_object(L, (json_t *)(uintptr_t)json, depth); break;
  case JSON_ARRAY: push_array(L, json, depth); break;
  case JSON_STRING: lua_pushlstring(L, json_string_value(json), json_string_length(json)); break;
  case JSON_INTEGER: lua_pushinteger(L, json_integer_value(json)); break;
  case JSON_REAL: lua_pushnumber(L, json_real_value(json)); break;
  case JSON_TRUE:
  case JSON_FALSE: lua_pushboolean(L, json_is_true(json)); break;
  case JSON_NULL: lua_pushlightuserdata(L, NULL); break;
  }
}

void bq_lua_push_json(lua_State *L, const json_t *json) {
  if (json == NULL) (void)bq_lua_raise(L, BQ_ENOMEM, "out of memory for JSON");
  push_value(L, json, 0);
}

// ---- Lua → json_t

// One conversion. Every container is attached to its parent before it is filled, so that the root owns all there is
// whenever Lua raises.
typedef struct conversion {
  json_t *root;
  const void *path[BQ_LUA_JSON_MAX_DEPTH + 1]; // the tables we are inside of
  size_t values; // converted so far: a table may be in many places, so memory does not bound the text
  size_t bytes;  // of strings
  bq_error *err; // never NULL
  int result;    // 0 or a bq_err
} conversion;

// Where to put the next value: exactly one of `array`, `key` below `object`, or the root.
typedef struct place {
  json_t *array;
  json_t *object;
  const char *key;
  size_t key_length;
} place;

static int put(conversion *c, const place *p, json_t *value) {
  int failed = value == NULL;
  if (!failed && p->array != NULL) failed = json_array_append_new(p->array, value) < 0;
  else if (!failed && p->object != NULL) {
    failed = json_object_setn_new(p->object, p->key, p->key_length, value) < 0;
  } else if (!failed) c->root = value;
  if (failed) c->result = bq_fail(c->err, BQ_ENOMEM, "out of memory for JSON");
  return c->result;
}

static int refuse(conversion *c, const char *what) {
  c->result = bq_fail(c->err, BQ_EINVAL, "JSON can't hold %s", what);
  return c->result;
}

static int put_string(conversion *c, const place *p, const char *text, size_t length) {
  if (memchr(text, '\0', length) != NULL) return refuse(c, "a string with a NUL byte");
  c->bytes += length;
  if (c->bytes > BQ_LUA_JSON_MAX_TEXT) return refuse(c, "more than 64 MiB of strings");
  json_t *value = json_stringn(text, length);
  if (value == NULL && !bq_utf8_is(text, length)) return refuse(c, "a string that is not UTF-8");
  return put(c, p, value);
}

static int has_array_mark(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return 0;
  lua_pushliteral(L, "__jsontype");
  lua_rawget(L, -2);
  int marked = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "array") == 0;
  lua_pop(L, 2);
  return marked;
}

// 1: keys are 1..n exactly (n may be 0: see *empty); 0: anything else.
static int is_sequence(lua_State *L, int index, int *empty) {
  lua_Unsigned length = lua_rawlen(L, index);
  lua_Unsigned count = 0;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    lua_pop(L, 1);
    if (!lua_isinteger(L, -1) || (lua_Unsigned)lua_tointeger(L, -1) - 1 >= length) {
      lua_pop(L, 1);
      *empty = 0;
      return 0;
    }
    count++;
  }
  *empty = count == 0;
  return count == length;
}

// Puts one step of the path to the faulty value ("[2]", ".name") before the message.
static void name_place(conversion *c, const char *step) {
  if (c->result != BQ_EINVAL) return;
  const char *rest = c->err->message;
  (void)bq_fail(c->err, BQ_EINVAL, "%s%s%s", step, *rest == '[' || *rest == '.' ? "" : ": ", rest);
}

static int convert(conversion *c, lua_State *L, int index, const place *p, int depth);

static int convert_array(conversion *c, lua_State *L, int index, json_t *array, int depth) {
  lua_Unsigned length = lua_rawlen(L, index);
  for (lua_Unsigned i = 1; i <= length && c->result == 0; i++) {
    place p = {.array = array};
    lua_rawgeti(L, index, (lua_Integer)i);
    if (convert(c, L, lua_gettop(L), &p, depth + 1) < 0) {
      char step[40];
      (void)snprintf(step, sizeof step, "[%llu]", (unsigned long long)i);
      name_place(c, step);
    }
    lua_pop(L, 1);
  }
  return c->result;
}

static int convert_object(conversion *c, lua_State *L, int index, json_t *object, int depth) {
  lua_pushnil(L);
  while (c->result == 0 && lua_next(L, index) != 0) {
    place p = {.object = object};
    if (lua_type(L, -2) != LUA_TSTRING) {
      (void)refuse(c, "a table with keys that are neither all strings nor 1 to n without a gap");
      break;
    }
    p.key = lua_tolstring(L, -2, &p.key_length);
    if (!bq_utf8_is(p.key, p.key_length)) {
      (void)refuse(c, "a key with a NUL byte, or one that is not UTF-8");
      break;
    }
    if (convert(c, L, lua_gettop(L), &p, depth + 1) < 0) {
      char step[64];
      (void)snprintf(step, sizeof step, ".%.60s", p.key);
      name_place(c, step);
    }
    lua_pop(L, 1);
  }
  return c->result;
}

static int convert_table(conversion *c, lua_State *L, int index, const place *p, int depth) {
  if (depth >= BQ_LUA_JSON_MAX_DEPTH) return refuse(c, "a table nested more than 64 levels deep");
  c->path[depth] = lua_topointer(L, index);
  for (int i = 0; i < depth; i++) {
    if (c->path[i] == c->path[depth]) return refuse(c, "a table that contains itself");
  }
  int empty;
  int sequence = is_sequence(L, index, &empty);
  int marked = has_array_mark(L, index);
  if (marked && !sequence) return refuse(c, "an array with gaps or with other keys");
  json_t *container = marked || (sequence && !empty) ? json_array() : json_object();
  if (put(c, p, container) < 0) return c->result;
  return json_is_array(container) ? convert_array(c, L, index, container, depth)
                                  : convert_object(c, L, index, container, depth);
}

static int convert(conversion *c, lua_State *L, int index, const place *p, int depth) {
  luaL_checkstack(L, 6, "for JSON");
  size_t length;
  if (++c->values > BQ_LUA_JSON_MAX_VALUES) return refuse(c, "more than 500000 values");
  switch (lua_type(L, index)) {
  case LUA_TNIL: return put(c, p, json_null());
  case LUA_TBOOLEAN: return put(c, p, json_boolean(lua_toboolean(L, index)));
  case LUA_TNUMBER:
    if (lua_isinteger(L, index)) return put(c, p, json_integer(lua_tointeger(L, index)));
    if (!isfinite(lua_tonumber(L, index))) return refuse(c, "NaN or an infinity");
    return put(c, p, json_real(lua_tonumber(L, index)));
  case LUA_TSTRING: {
    const char *text = lua_tolstring(L, index, &length);
    return put_string(c, p, text, length);
  }
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, index) == NULL) return put(c, p, json_null());
    return refuse(c, "a userdata");
  case LUA_TTABLE: return convert_table(c, L, index, p, depth);
  default: {
    char what[60];
    (void)snprintf(what, sizeof what, "a %s", luaL_typename(L, index));
    return refuse(c, what);
  }
  }
}

static int run_conversion(lua_State *L) {
  conversion *c = lua_touserdata(L, 1);
  place root = {0};
  (void)convert(c, L, 2, &root, 0);
  return 0;
}

int bq_lua_to_json(lua_State *L, int index, json_t **out, bq_error *err) {
  *out = NULL;
  bq_error fault = {0}; // messages are put together from the inside out
  conversion c = {.err = &fault};
  index = lua_absindex(L, index);
  if (!lua_checkstack(L, 4)) return bq_fail(err, BQ_ENOMEM, "out of memory for JSON");
  lua_pushcfunction(L, run_conversion);
  lua_pushlightuserdata(L, &c);
  lua_pushvalue(L, index);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    c.result = bq_fail(&fault, BQ_ENOMEM, "out of memory for JSON");
  }
  if (c.result == 0) {
    *out = c.root;
    return 0;
  }
  json_decref(c.root);
  const char *message = fault.message[0] == '.' ? fault.message + 1 : fault.message;
  return bq_fail(err, c.result, "%s", message);
}

// ---- the module

static int push_text(lua_State *L) {
  lua_pushstring(L, lua_touserdata(L, 1));
  return 1;
}

static int push_tree(lua_State *L) {
  bq_lua_push_json(L, lua_touserdata(L, 1));
  return 1;
}

// Calls `push` with `what`, protected, so that the caller can free it whatever happens. Returns a status of Lua.
static int push_protected(lua_State *L, lua_CFunction push, void *what) {
  lua_pushcfunction(L, push);
  lua_pushlightuserdata(L, what);
  return lua_pcall(L, 1, 1, 0);
}

static int raise_again(lua_State *L) {
  return bq_vm_is_killed(L) ? bq_vm_raise_kill(L) : lua_error(L);
}

void bq_lua_give_json(lua_State *L, json_t *json) {
  int status = push_protected(L, push_tree, json);
  json_decref(json);
  if (status != LUA_OK) (void)raise_again(L);
}

static int json_encode(lua_State *L) {
  static const char *const options[] = {"indent", NULL};
  luaL_checkany(L, 1);
  lua_Integer indent = 0;
  if (bq_args_has_options(L, 2, "json.encode", options, "json.encode(value, {indent = 2})")) {
    lua_getfield(L, 2, "indent");
    indent = luaL_optinteger(L, -1, 0);
    luaL_argcheck(L, indent >= 0 && indent <= 8, 2, "indent: 0 to 8");
  }
  bq_error err;
  json_t *json;
  int result = bq_lua_to_json(L, 1, &json, &err);
  if (result < 0) {
    if (!bq_vm_is_killed(L)) bq_lua_push_error(L, &err);
    return raise_again(L);
  }
  size_t flags = indent > 0 ? JSON_INDENT((size_t)indent) : (size_t)JSON_COMPACT;
  char *text = bq_json_dumps(json, flags | JSON_ENCODE_ANY | JSON_SORT_KEYS);
  json_decref(json);
  if (text == NULL) return bq_lua_raise(L, BQ_ENOMEM, "out of memory for JSON");
  int status = push_protected(L, push_text, text);
  free(text); // jansson's own allocator is malloc
  if (status != LUA_OK) return raise_again(L);
  bq_vm_tick(L);
  return 1;
}

static int json_decode(lua_State *L) {
  static const char *const options[] = {"relaxed", NULL};
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  unsigned flags = BQ_JSON_STRICT;
  if (bq_args_has_options(L, 2, "json.decode", options, "json.decode(text, {relaxed = true})")) {
    lua_getfield(L, 2, "relaxed");
    if (lua_toboolean(L, -1)) flags = BQ_JSON_RELAXED;
  }
  bq_error err;
  json_t *json;
  if (bq_lua_parse_json(&json, text, length, flags, &err) < 0) {
    if (err.code == BQ_ENOMEM) return bq_lua_raise(L, err.code, "%s", err.message); // which says nothing of the text
    lua_pushnil(L);
    lua_pushstring(L, err.message);
    return 2;
  }
  bq_lua_give_json(L, json);
  bq_vm_tick(L);
  return 1;
}

static int json_mark_array(lua_State *L) {
  if (lua_isnoneornil(L, 1)) lua_newtable(L);
  else luaL_checktype(L, 1, LUA_TTABLE);
  int table = lua_gettop(L);
  if (bq_lua_is_locked(L, table)) return luaL_argerror(L, 1, "this table is read-only");
  if (lua_getmetatable(L, table)) {
    lua_pop(L, 1);
    if (!has_array_mark(L, table)) return luaL_argerror(L, 1, "this table has a metatable already");
    return 1;
  }
  push_array_mark(L);
  lua_setmetatable(L, table);
  return 1;
}

static int json_is_marked(lua_State *L) {
  int empty = 1;
  int is = lua_type(L, 1) == LUA_TTABLE && (has_array_mark(L, 1) || (is_sequence(L, 1, &empty) && !empty));
  lua_pushboolean(L, is);
  return 1;
}

static const luaL_Reg functions[] = {
  {"array", json_mark_array},
  {"decode", json_decode},
  {"encode", json_encode},
  {"is_array", json_is_marked},
  {NULL, NULL}
};

int bq_lua_open_json(lua_State *L) {
  luaL_newlib(L, functions);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  return 1;
}
