// Arguments of bindings, and what is said when they are wrong: the function, what was given, what was expected.
//
// Thread rule: a slice. All of this raises ErrorValues of the kind `invalid`.
#ifndef BQ_LUA_ARGUMENTS_H
#define BQ_LUA_ARGUMENTS_H

#include <lua.h>
#include <stddef.h>

// The table of options at `index`. `function` is its name for people ("build:exec"), `options` the names it may have,
// NULL at the end, `example` what a right call looks like ("build:exec {argv = {\"make\"}}"). Raises when it is no
// table, or has another name: a misspelt option is never ignored.
void bq_args_options(lua_State *L, int index, const char *function, const char *const *options, const char *example);

// The same where the table may be left out: 0 when it is (nil or none).
int bq_args_has_options(lua_State *L, int index, const char *function, const char *const *options,
                        const char *example);

// A string argument, which `name` names for people. A number is taken as its text, as Lua does.
const char *bq_args_string(lua_State *L, int index, const char *function, const char *name, size_t *length);

// A method of build: argument 1 is the build, or something that stands for it. Raises when `method` was called with a
// dot.
void bq_args_self(lua_State *L, const char *method);

// The value at `index` for people: "nil", "the number 5", "a table".
void bq_args_describe(lua_State *L, int index, char *out, size_t size);

#endif
