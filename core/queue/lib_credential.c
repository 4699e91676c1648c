// build:credential: what the option Credentials has for this build's customer, for the hosts that it names.
#include <lauxlib.h>
#include <string.h>
#include <strings.h>

#include "lua/arguments.h"
#include "lua/errors.h"
#include "queue/attempt_internal.h"

int bq_build_credential(lua_State *L) {
  bq_args_self(L, "credential");
  const bq_attempt *attempt = bq_attempt_of(L);
  const char *name = bq_args_string(L, 2, "build:credential", "the name", NULL);
  const char *host = bq_args_string(L, 3, "build:credential", "the host", NULL);
  const json_t *entry = json_object_get(attempt->credentials, name);
  if (entry == NULL) {
    return bq_lua_raise(L, BQ_ENOTFOUND, "build:credential: there is no credential %s for the customer of this build, or "
                        "it can't be read; see the option Credentials", name);
  }
  size_t index;
  json_t *allowed;
  int fits = 0;
  json_array_foreach(json_object_get(entry, "hosts"), index, allowed) {
    fits |= strcasecmp(json_string_value(allowed), host) == 0;
  }
  if (!fits) return bq_lua_raise(L, BQ_EINVAL, "build:credential: the credential %s is not for %s", name, host);
  lua_createtable(L, 0, 2);
  lua_pushstring(L, json_string_value(json_object_get(entry, "username")));
  lua_setfield(L, -2, "username");
  lua_pushstring(L, json_string_value(json_object_get(entry, "value")));
  lua_setfield(L, -2, "value");
  return 1;
}
