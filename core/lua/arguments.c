#include "lua/arguments.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/nearest.h"
#include "lua/errors.h"

enum { DESCRIPTION_SIZE = 80 };

void bq_args_describe(lua_State *L, int index, char *out, size_t size) {
  switch (lua_type(L, index)) {
  case LUA_TNONE: (void)snprintf(out, size, "nothing"); break;
  case LUA_TNIL: (void)snprintf(out, size, "nil"); break;
  case LUA_TBOOLEAN: (void)snprintf(out, size, "%s", lua_toboolean(L, index) ? "true" : "false"); break;
  case LUA_TNUMBER: (void)snprintf(out, size, "the number %.14g", lua_tonumber(L, index)); break;
  // Never its text: it may be a secret.
  default: (void)snprintf(out, size, "a %s", lua_typename(L, lua_type(L, index))); break;
  }
}

static void refuse_option(lua_State *L, const char *function, const char *name, const char *const *options) {
  bq_buf text = {0};
  const char *near = bq_nearest(name, options);
  bq_buf_addf(&text, "%s: there is no option %.60s", function, name);
  if (near != NULL) bq_buf_addf(&text, "; did you mean %s?", near);
  bq_buf_adds(&text, near != NULL ? " There are: " : "; there are: ");
  for (const char *const *option = options; *option != NULL; option++) {
    bq_buf_addf(&text, "%s%s", option != options ? ", " : "", *option);
  }
  bq_error err = {.code = text.failed ? BQ_ENOMEM : BQ_EINVAL};
  (void)snprintf(err.message, sizeof err.message, "%s", text.failed ? "out of memory" : text.data);
  bq_buf_free(&text);
  (void)bq_lua_raise(L, err.code, "%s", err.message);
}

void bq_args_options(lua_State *L, int index, const char *function, const char *const *options, const char *example) {
  char given[DESCRIPTION_SIZE];
  index = lua_absindex(L, index);
  if (!lua_istable(L, index)) {
    bq_args_describe(L, index, given, sizeof given);
    (void)bq_lua_raise(L, BQ_EINVAL, "%s: given %s, expected a table of options, as in %s", function, given, example);
  }
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    lua_pop(L, 1);
    const char *const *option = options;
    if (lua_type(L, -1) != LUA_TSTRING) {
      (void)bq_lua_raise(L, BQ_EINVAL, "%s: given a list, expected a table of options, as in %s", function, example);
      return;
    }
    const char *name = lua_tostring(L, -1);
    while (*option != NULL && strcmp(*option, name) != 0) option++;
    if (*option == NULL) refuse_option(L, function, name, options);
  }
}

int bq_args_has_options(lua_State *L, int index, const char *function, const char *const *options,
                        const char *example) {
  if (lua_isnoneornil(L, index)) return 0;
  bq_args_options(L, index, function, options, example);
  return 1;
}

const char *bq_args_string(lua_State *L, int index, const char *function, const char *name, size_t *length) {
  char given[DESCRIPTION_SIZE];
  if (lua_type(L, index) == LUA_TSTRING || lua_type(L, index) == LUA_TNUMBER) return lua_tolstring(L, index, length);
  bq_args_describe(L, index, given, sizeof given);
  (void)bq_lua_raise(L, BQ_EINVAL, "%s: %s: given %s, expected a string", function, name, given);
  return NULL;
}

void bq_args_self(lua_State *L, const char *method) {
  int is_build = 0;
  if (lua_istable(L, 1)) {
    (void)lua_getfield(L, 1, method);
    is_build = lua_isfunction(L, -1);
    lua_pop(L, 1);
  }
  if (is_build) return;
  (void)bq_lua_raise(L, BQ_EINVAL, "build.%s was called with a dot; expected a colon: build:%s(…)", method, method);
}
