#include "queue/script_tool.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>

#include "base/memory.h"
#include "lua/libs.h"
#include "queue/server_modules.h"
#include "queue/small_server.h"

enum { SLICE_US = 5000000 };

static const char caller[] = "local module, name, subject, options = ...\n"
                             "return require(module)[name](subject, options)\n";

typedef struct tool {
  bq_server server;
  bq_error error; // why the scripts can't be used; code 0: they can
  const char *module;
  const char *function;
  const json_t *subject;
  const json_t *options;
} tool;

static void on_scripts(void *arg, int swapped, const bq_error *error) {
  tool *t = arg;
  (void)swapped;
  if (error != NULL) t->error = *error;
  bq_loop_stop(t->server.loop);
}

static void push_json(lua_State *L, const json_t *value) {
  if (value == NULL) lua_pushnil(L);
  else bq_lua_push_json(L, (json_t *)(uintptr_t)value);
}

// Argument: the tool. Three results. Inside bq_vm_call: may raise.
static int call(lua_State *L) {
  const tool *t = lua_touserdata(L, 1);
  if (luaL_loadbufferx(L, caller, sizeof caller - 1, "=command", "t") != LUA_OK) return lua_error(L);
  bq_script_push_env(L);
  (void)lua_setupvalue(L, -2, 1);
  lua_pushstring(L, t->module);
  lua_pushstring(L, t->function);
  push_json(L, t->subject);
  push_json(L, t->options);
  lua_call(L, 4, 3);
  return 3;
}

static int ask(tool *t, bq_script_answer *answer, bq_error *err) {
  bq_vm *vm = NULL;
  const bq_vm_options options = {.loop = t->server.loop,
                                 .memory_bytes = (size_t)t->server.config->lua_memory_megabytes * 1024 * 1024,
                                 .slice_us = SLICE_US};
  int result = bq_script_vm_new(&vm, &options, bq_script_host_current(t->server.host), bq_check_modules,
                                &t->server.services, err);
  if (result < 0) return result;
  lua_State *L = bq_vm_state(vm);
  lua_pushcfunction(L, call);
  lua_pushlightuserdata(L, t);
  result = bq_vm_call(vm, L, 1, 3, err);
  if (result == 0) {
    const char *output = lua_tostring(L, -2);
    const char *errors = lua_tostring(L, -1);
    answer->code = (int)lua_tointeger(L, -3);
    answer->output = bq_strdup(output != NULL ? output : "");
    answer->errors = bq_strdup(errors != NULL ? errors : "");
    if (answer->output == NULL || answer->errors == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  bq_vm_free(vm);
  return result;
}

int bq_script_tool(bq_script_answer *answer, const bq_config *config, const char *share, const char *module,
                   const char *function, const json_t *subject, const json_t *options, bq_error *err) {
  *answer = (bq_script_answer){0};
  tool *t = bq_alloc(sizeof *t);
  if (t == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  t->module = module;
  t->function = function;
  t->subject = subject;
  t->options = options;
  const bq_small_options small = {.config = (bq_config *)(uintptr_t)config,
                                  .share = share,
                                  .handler_modules = bq_check_modules,
                                  .handler_slice_us = SLICE_US,
                                  .loaded = on_scripts,
                                  .arg = t};
  int result = bq_small_server_open(&t->server, &small, err);
  if (result == 0) {
    bq_script_host_reload(t->server.host);
    result = bq_loop_run(t->server.loop, err);
  }
  if (result == 0 && t->error.code != 0) result = bq_fail(err, t->error.code, "%s", t->error.message);
  if (result == 0) result = ask(t, answer, err);
  if (result < 0) bq_script_answer_free(answer);
  bq_small_server_close(&t->server);
  bq_free(t);
  return result;
}

void bq_script_answer_free(bq_script_answer *answer) {
  bq_free(answer->output);
  bq_free(answer->errors);
  *answer = (bq_script_answer){0};
}
