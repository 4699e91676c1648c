// The modules and functions that the runtime itself offers to scripts, one file each. See README.md for how to add one.
#ifndef BQ_LUA_LIBS_H
#define BQ_LUA_LIBS_H

#include <jansson.h>
#include <lua.h>

#include "base/error.h"

// Functions for scripts, as scripts/lib/buildq.d.lua describes them.
int bq_lua_sleep(lua_State *L);  // sleep(seconds); waits
int bq_lua_sha256(lua_State *L); // sha256(text) → 64 hexadecimal digits

// all(fns, {limit=}): the function behind build:all (without the build before its arguments). Waits.
int bq_lua_all(lua_State *L);

// Pushes a fresh table of the module `json`: null, encode, decode, array, is_array. A lua_CFunction without arguments.
int bq_lua_open_json(lua_State *L);

// Pushes a fresh table of the module `templates`: read, rules, load_rule. A lua_CFunction without arguments.
int bq_lua_open_templates(lua_State *L);

enum {
  BQ_LUA_JSON_MAX_DEPTH = 64,
  BQ_LUA_JSON_MAX_VALUES = 500 * 1000,      // in one text, either way
  BQ_LUA_JSON_MAX_BYTES = 8 * 1024 * 1024,  // of a text that is decoded
  BQ_LUA_JSON_MAX_TEXT = 64 * 1024 * 1024   // of all strings of a value that is encoded
};

// The one place where JSON crosses. Null is a NULL light userdata, arrays carry a mark, 64-bit integers stay exact.
// Pushes the value, borrowing `json`; raises for want of memory or beyond BQ_LUA_JSON_MAX_DEPTH levels.
// NULL raises BQ_ENOMEM: whoever could not make it need not look.
void bq_lua_push_json(lua_State *L, const json_t *json);
// The same, and the reference is taken over, also when it raises.
void bq_lua_give_json(lua_State *L, json_t *json);

// The value at `index` as JSON, *out owned by the caller. BQ_EINVAL, with a sentence that names the place ("a.b[2]"),
// for what JSON can't hold. Metamethods are not used. Never raises, but for a kill.
int bq_lua_to_json(lua_State *L, int index, json_t **out, bq_error *err) BQ_MUSTCHECK;

// bq_json_parse with the limits above, for text that scripts handle. BQ_EINVAL or BQ_ELIMIT "line 3, column 7: …".
int bq_lua_parse_json(json_t **out, const char *text, size_t length, unsigned flags, bq_error *err) BQ_MUSTCHECK;

#endif
