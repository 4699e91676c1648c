#include "queue/preview.h"

#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "lua/generation.h"
#include "lua/libs.h"
#include "queue/server_internal.h"
#include "queue/server_modules.h"

enum { PREVIEW_BYTES = 64 * 1024 * 1024, SLICE_US = 2 * 1000 * 1000 };

// Called with the event's name, its facts or nil, and options. Two results: the preview, or nil and why there is none.
static const char source[] =
    "local event, facts, options = ...\n"
    "local notify = require 'notify'\n"
    "local known, refusal = notify.is_event(event)\n"
    "if not known then return nil, refusal end\n"
    "return notify.preview(facts or event, options)\n";

static const char *nothing(lua_State *L) {
  (void)L;
  return NULL;
}

// Arguments: those of the source. Inside bq_vm_call: may raise.
static int run_source(lua_State *L) {
  if (luaL_loadbufferx(L, source, sizeof source - 1, "=preview", "t") != LUA_OK) return lua_error(L);
  bq_script_push_env(L);
  (void)lua_setupvalue(L, -2, 1);
  lua_insert(L, 1);
  lua_call(L, 3, 2);
  return 2;
}

static void set_option(lua_State *L, const char *name, const char *value) {
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

// Argument: the options as a light userdata. Pushes what the source is called with.
static int push_arguments(lua_State *L) {
  const bq_preview_options *options = lua_touserdata(L, 1);
  lua_settop(L, 0);
  lua_pushcfunction(L, run_source);
  lua_pushstring(L, options->event);
  if (options->facts != NULL) bq_lua_push_json(L, options->facts);
  else lua_pushnil(L);
  lua_createtable(L, 0, 3);
  if (options->cloud != NULL) set_option(L, "cloud", options->cloud);
  if (options->channel != NULL) set_option(L, "channel", options->channel);
  if (options->recipient != NULL) set_option(L, "recipient", options->recipient);
  lua_call(L, 3, 2);
  return 2;
}

static int call(json_t **out, bq_vm *vm, const bq_preview_options *options, bq_error *err) {
  lua_State *L = bq_vm_state(vm);
  lua_pushcfunction(L, push_arguments);
  lua_pushlightuserdata(L, (void *)(uintptr_t)options);
  int result = bq_vm_call(vm, L, 1, 2, err);
  if (result < 0) return result;
  if (lua_isnil(L, -2)) result = bq_fail(err, BQ_EINVAL, "%s", lua_tostring(L, -1));
  else result = bq_lua_to_json(L, -2, out, err);
  lua_pop(L, 2);
  return result;
}

static int add_file(bq_sources *sources, const char *name, const json_t *text, bq_error *err) {
  char *path = bq_format("templates/%s", name);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a template");
  int result = bq_sources_add(sources, path, json_string_value(text), json_string_length(text), 1, err);
  bq_free(path);
  return result;
}

// The generation's sources, but for those that were handed in.
static int copy_sources(bq_sources **out, const bq_preview_options *options, bq_error *err) {
  static const char room[] = "templates/";
  const bq_sources *from = bq_generation_sources(options->generation);
  const char *name;
  json_t *text;
  int result = bq_sources_new(out, err);
  for (size_t i = 0; i < bq_sources_count(from) && result == 0; i++) {
    const bq_source *file = bq_sources_at(from, i);
    int replaced = strncmp(file->path, room, sizeof room - 1) == 0 &&
                   json_object_get(options->files, file->path + sizeof room - 1) != NULL;
    if (!replaced) result = bq_sources_add(*out, file->path, file->text, file->length, file->overlaid, err);
  }
  json_object_foreach((json_t *)(uintptr_t)options->files, name, text) {
    if (result == 0) result = add_file(*out, name, text, err);
  }
  if (result == 0) result = bq_sources_seal(*out, err);
  if (result < 0) bq_sources_free(*out);
  return result;
}

static int read_generation(bq_generation **out, const bq_config *config, const bq_preview_options *options,
                           bq_error *err) {
  const char *templates = options->templates != NULL ? options->templates : config->template_directory;
  const bq_source_directories directories = {
      .share = options->share,
      .scripts = config->script_directory[0] != '\0' ? config->script_directory : NULL,
      .templates = templates[0] != '\0' ? templates : NULL};
  bq_sources *sources = NULL;
  int result = options->generation != NULL ? copy_sources(&sources, options, err)
                                           : bq_sources_read(&sources, &directories, err);
  return result == 0 ? bq_generation_compile(out, sources, options->generation, err) : result;
}

int bq_preview(json_t **out, const bq_config *config, const bq_preview_options *options, bq_error *err) {
  // Only what the bindings look at: nothing here waits for anything.
  bq_server server = {.config = (bq_config *)(uintptr_t)config};
  bq_generation *generation = NULL;
  bq_vm *vm = NULL;
  *out = NULL;
  int result = bq_loop_new(&server.loop, err);
  server.services = (bq_services){.loop = server.loop, .workspace = nothing, .build_id = nothing, .product = &server};
  if (result == 0) result = read_generation(&generation, config, options, err);
  if (result == 0) {
    const bq_vm_options vm_options = {.loop = server.loop, .memory_bytes = PREVIEW_BYTES, .slice_us = SLICE_US};
    result = bq_script_vm_new(&vm, &vm_options, generation, bq_check_modules, &server.services, err);
  }
  if (result == 0) result = call(out, vm, options, err);
  if (vm != NULL) bq_vm_free(vm);
  bq_generation_release(generation);
  bq_loop_free(server.loop);
  return result;
}
