// The module `templates`: templates and the rules of scripts/notifications, of the vm's own generation.
#include <lauxlib.h>
#include <string.h>

#include "lua/libs.h"
#include "lua/modules.h"

static const char rules_room[] = "scripts/notifications/";

static const bq_sources *sources_of(lua_State *L) {
  return bq_generation_sources(bq_script_generation(L));
}

// read(path): the text of templates/<path>, or nil.
static int templates_read(lua_State *L) {
  lua_pushfstring(L, "templates/%s", luaL_checkstring(L, 1));
  const bq_source *source = bq_sources_find(sources_of(L), lua_tostring(L, -1));
  if (source == NULL) lua_pushnil(L);
  else lua_pushlstring(L, source->text, source->length);
  return 1;
}

// rules(): the paths of the scripts in scripts/notifications, sorted.
static int templates_rules(lua_State *L) {
  const bq_sources *sources = sources_of(L);
  lua_Integer count = 0;
  lua_newtable(L);
  for (size_t i = 0; i < bq_sources_count(sources); i++) {
    const char *path = bq_sources_at(sources, i)->path;
    if (strncmp(path, rules_room, sizeof rules_room - 1) != 0) continue;
    lua_pushstring(L, path);
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

// load_rule(path): runs one of them and returns its value.
static int templates_load_rule(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  luaL_argcheck(L, strncmp(path, rules_room, sizeof rules_room - 1) == 0, 1, "not a path that rules() gave");
  bq_script_push_loader(L);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

int bq_lua_open_templates(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"read", templates_read}, {"rules", templates_rules}, {"load_rule", templates_load_rule}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
