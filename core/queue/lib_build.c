// The `build` object that a pipeline is given: scripts/README.md is its manual, scripts/lib/buildq.d.lua its types.
#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/attempt_internal.h"

bq_attempt *bq_attempt_of(lua_State *L) {
  return bq_vm_owner(bq_vm_of(L));
}

bq_attempt *bq_attempt_with_dirs(lua_State *L) {
  bq_attempt *attempt = bq_attempt_of(L);
  bq_error err;
  if (bq_attempt_make_dirs(attempt, &err) < 0) (void)bq_lua_raise(L, err.code, "%s", err.message);
  return attempt;
}

static int build_defer(lua_State *L) {
  bq_args_self(L, "defer");
  bq_attempt *attempt = bq_attempt_of(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (attempt->deferred_count == BQ_ATTEMPT_MAX_DEFERRED) {
    return luaL_error(L, "build:defer: more than %d functions", BQ_ATTEMPT_MAX_DEFERRED);
  }
  if (attempt->state == BQ_ATTEMPT_DEFERRING) return luaL_error(L, "build:defer: the build is ending already");
  int *grown = bq_realloc(attempt->deferred, (attempt->deferred_count + 1) * sizeof *grown);
  if (grown == NULL) return luaL_error(L, "out of memory");
  attempt->deferred = grown;
  lua_settop(L, 2);
  attempt->deferred[attempt->deferred_count] = luaL_ref(L, LUA_REGISTRYINDEX);
  attempt->deferred_count++;
  return 0;
}

// result ----------------------------------------------------------------------------------------------------------

static int build_result(lua_State *L) {
  static const char *const options[] = {"imageUrl", "provenance", NULL};
  bq_args_self(L, "result");
  bq_attempt *attempt = bq_attempt_of(L);
  bq_args_options(L, 2, "build:result", options, "build:result {provenance = {compiler = \"gcc 12\"}}");
  lua_getfield(L, 2, "imageUrl");
  if (!lua_isnil(L, -1)) {
    if (lua_type(L, -1) == LUA_TNUMBER) { // a mistake here, not a text
      char given[80];
      bq_args_describe(L, -1, given, sizeof given);
      return bq_lua_raise(L, BQ_EINVAL, "build:result: imageUrl: given %s, expected a string", given);
    }
    char *url = bq_strdup(bq_args_string(L, -1, "build:result", "imageUrl", NULL));
    if (url == NULL) return luaL_error(L, "out of memory");
    bq_utf8_clean(url);
    bq_free(attempt->image_url);
    attempt->image_url = url;
  }
  lua_getfield(L, 2, "provenance");
  if (lua_isnil(L, -1)) return 0;
  bq_error err;
  json_t *more = NULL;
  if (bq_lua_to_json(L, -1, &more, &err) < 0) return luaL_error(L, "build:result: provenance: %s", err.message);
  int failed = !json_is_object(more) || json_object_update(attempt->provenance, more) < 0;
  json_decref(more);
  if (failed) return luaL_error(L, "build:result: provenance is a table with names as keys");
  if (json_dumpb(attempt->provenance, NULL, 0, 0) > BQ_ATTEMPT_MAX_PROVENANCE) {
    return luaL_error(L, "build:result: provenance is larger than %d bytes", BQ_ATTEMPT_MAX_PROVENANCE);
  }
  return 0;
}

// secret ----------------------------------------------------------------------------------------------------------

// What the pipeline needs was read and given to the mask before its first line ran; this only hands it out.
static int build_secret(lua_State *L) {
  const bq_attempt *attempt = bq_attempt_of(L);
  bq_args_self(L, "secret");
  const char *name = bq_args_string(L, 2, "build:secret", "the name", NULL);
  size_t index;
  json_t *wanted;
  int needed = 0;
  json_array_foreach(attempt->secret_names, index, wanted) needed |= strcmp(json_string_value(wanted), name) == 0;
  if (!needed) {
    return bq_lua_raise(L, BQ_EINVAL, "build:secret: the pipeline's needs.secrets does not name %s", name);
  }
  const char *value = json_string_value(json_object_get(attempt->secret_values, name));
  if (value == NULL) {
    return bq_lua_raise(L, BQ_ENOTFOUND, "build:secret: there is no secret %s in SecretsDirectory", name);
  }
  lua_pushstring(L, value);
  return 1;
}

static int build_all(lua_State *L) {
  bq_args_self(L, "all");
  lua_remove(L, 1); // the build itself
  return bq_lua_all(L);
}

// the object ------------------------------------------------------------------------------------------------------

static const luaL_Reg methods[] = {
    {"defer", build_defer},          {"result", build_result}, {"artifact", bq_build_artifact},
    {"import", bq_build_import},     {"all", build_all},       {"exec", bq_build_exec},
    {"secret", build_secret},        {"shared", bq_build_shared}, {"credential", bq_build_credential},
    {NULL, NULL}};

static void set_text(lua_State *L, const bq_attempt *attempt, const char *field, const char *key) {
  lua_pushstring(L, json_string_value(json_object_get(attempt->row, key)));
  lua_setfield(L, -2, field);
}

static void set_json(lua_State *L, const bq_attempt *attempt, const char *field, const char *key) {
  json_t *value = json_object_get(attempt->row, key);
  if (!json_is_object(value)) return;
  bq_lua_push_json(L, value);
  lua_setfield(L, -2, field);
}

void bq_attempt_push_build(lua_State *L, bq_attempt *attempt) {
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  bq_build_add_progress(L);
  set_text(L, attempt, "id", "id");
  set_text(L, attempt, "tier", "tier");
  set_text(L, attempt, "architecture", "architecture");
  set_text(L, attempt, "cloud", "cloudProvider");
  set_text(L, attempt, "configuration", "configurationName");
  set_text(L, attempt, "pipeline", "pipeline");
  set_text(L, attempt, "manifest_path", "manifestPath");
  set_json(L, attempt, "manifest", "manifest");
  set_json(L, attempt, "metadata", "metadata");
  lua_newtable(L);
  set_text(L, attempt, "id", "customerId");
  set_text(L, attempt, "name", "customerName");
  set_text(L, attempt, "email", "customerEmail");
  lua_setfield(L, -2, "customer");
  lua_pushinteger(L, attempt->number);
  lua_setfield(L, -2, "attempt");
  lua_pushstring(L, bq_generation_hash(attempt->generation));
  lua_setfield(L, -2, "generation");
  lua_pushstring(L, attempt->workspace);
  lua_setfield(L, -2, "workspace");
  lua_pushboolean(L, attempt->env->config->allow_inline_commands ||
                         json_is_true(json_object_get(attempt->row, "trusted")));
  lua_setfield(L, -2, "manifest_trusted");
}
