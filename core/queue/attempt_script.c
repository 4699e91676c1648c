// The Lua of an attempt: its vm, the pipeline's fiber, the deferred functions.
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/attempt_internal.h"

// Both run in the fiber, so that loading, checking and running have the build's budgets.
//
// A row that another program put into the table brings only a path: its manifest is read and checked here, with the
// rules that POST /builds has.
static const char run_source[] =
    "local load, make_build, adopt, keep, fixed = ...\n"
    "local build = make_build()\n"
    "build.config = require('buildq').config\n"
    "if adopt then\n"
    "  local found, why = require('intake').adopt{manifestPath = build.manifest_path, manifest = build.manifest,\n"
    "    tier = build.tier, architecture = build.architecture, cloudProvider = build.cloud}\n"
    "  if not found then build:fail(why, {retry = false}) end\n"
    "  build.manifest, build.manifest_trusted = found.manifest, found.trusted\n"
    "  if not fixed then build.pipeline = found.pipeline or build.pipeline end\n"
    "  local needs = load('scripts/pipelines/' .. build.pipeline .. '.lua').needs\n"
    "  keep{manifest = found.manifest, pipeline = build.pipeline,\n"
    "    needs = require('intake').needs(found.manifest, build.pipeline, needs and needs.labels)}\n"
    "end\n"
    "load('scripts/pipelines/' .. build.pipeline .. '.lua').run(build)\n";

static const char deferred_source[] =
    "local functions, report = ...\n"
    "for i = #functions, 1, -1 do\n"
    "  local ok, message = pcall(functions[i])\n"
    "  if not ok then report('a deferred function failed: ' .. tostring(message)) end\n"
    "end\n";

static void say(bq_note *note) {
  bq_attempt_log_say(note->attempt->log, note->text);
}

static int report_deferred(lua_State *L) {
  return bq_note_put_off(L, bq_note_new(L, say, luaL_checkstring(L, 1)));
}

static void keep_manifest(bq_note *note) {
  bq_attempt *attempt = note->attempt;
  json_t *kept = json_loads(note->text, 0, NULL);
  int failed = kept == NULL || json_object_update(attempt->row, kept) < 0;
  json_decref(kept);
  if (failed) return;
  attempt->events.adopted(attempt->events.arg, attempt);
}

// keep{manifest =, pipeline =, needs =}: they go to SQL, so that a later edit of the file changes nothing for another attempt.
static int keep(lua_State *L) {
  json_t *manifest = NULL;
  bq_error err;
  if (bq_lua_to_json(L, 1, &manifest, &err) < 0) return bq_lua_raise(L, err.code, "%s", err.message);
  char *text = bq_json_dumps(manifest, JSON_COMPACT);
  json_decref(manifest);
  lua_settop(L, 0);
  bq_note *note = text != NULL ? bq_note_new(L, keep_manifest, text) : NULL;
  bq_free(text);
  if (note == NULL) return luaL_error(L, "out of memory");
  return bq_note_put_off(L, note);
}

static int make_build(lua_State *L) {
  bq_attempt_push_build(L, bq_attempt_of(L));
  return 1;
}

// What a failure is, for retry rules and people who read attempts. "timeout" is the whole build's; a command or a request
// that took too long is a step's failure.
static const char *kind_of(int code) {
  switch (code) {
  case BQ_ENOMEM: return "memory";
  case BQ_ELIMIT: return "limit";
  case BQ_EUNAVAIL:
  case BQ_EUNKNOWN:
  case BQ_EIO: return "infrastructure";
  case BQ_ECANCELED: return "cancelled";
  default: return "step";
  }
}

static void on_run_end(void *arg, bq_end end, lua_State *L) {
  bq_attempt *attempt = arg;
  char line[BQ_LINE_SIZE];
  char step[sizeof attempt->step + 8] = "";
  if (attempt->in_step) (void)snprintf(step, sizeof step, "step %s", attempt->step);
  if (end != BQ_END_RETURNED) {
    bq_lua_error_line_in(L, -1, bq_fiber_where(attempt->fiber), step, line, sizeof line);
  }
  if (end == BQ_END_KILLED) {
    // A stop from outside, or build:fail, has set the outcome already; else a budget ran out.
    const char *kind = bq_vm_is_out_of_memory(attempt->vm) ? "memory" : "limit";
    bq_attempt_fail(attempt, BQ_OUTCOME_FAILED, kind, 0, line);
  } else if (end == BQ_END_ERROR) {
    bq_attempt_log_say(attempt->log, line);
    bq_attempt_log_say(attempt->log, bq_fiber_traceback(attempt->fiber));
    bq_attempt_fail(attempt, BQ_OUTCOME_FAILED, kind_of(bq_lua_error_code(L, -1)), 1, line);
  }
  attempt->fiber = NULL;
  bq_attempt_advance(attempt, BQ_ATTEMPT_DEFERRING);
}

// Keeps the source as a function in the scripts' environment; its address is the registry's key.
static void keep_source(lua_State *L, const char *source) {
  if (luaL_loadbufferx(L, source, strlen(source), "=buildq", "t") != LUA_OK) (void)lua_error(L);
  bq_script_push_env(L);
  (void)lua_setupvalue(L, -2, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, source);
}

int bq_attempt_open_state(lua_State *L) {
  keep_source(L, run_source);
  keep_source(L, deferred_source);
  bq_script_push_env(L);
  lua_getfield(L, -1, "require");
  lua_pushliteral(L, "buildq");
  lua_call(L, 1, 0);
  return 0;
}

int bq_attempt_run(bq_attempt *attempt, bq_error *err) {
  const bq_config *config = attempt->env->config;
  bq_vm_options options = {.loop = attempt->env->loop,
                           .pool = attempt->env->compute,
                           .memory_bytes = (size_t)config->lua_memory_megabytes * 1024 * 1024,
                           .slice_us = 10000,
                           .cpu_us = (int64_t)config->lua_cpu_seconds * 1000000,
                           .owner = attempt};
  int result = bq_stock_take(&attempt->vm, attempt->env->stock, &options, attempt->generation, err);
  if (result < 0) return result;
  lua_State *L = bq_vm_state(attempt->vm);
  (void)lua_rawgetp(L, LUA_REGISTRYINDEX, run_source);
  bq_script_push_loader(L);
  lua_pushcfunction(L, make_build);
  lua_pushboolean(L, !json_is_object(json_object_get(attempt->row, "manifest")) ||
                         json_is_true(json_object_get(attempt->row, "manifestUnchecked")));
  lua_pushcfunction(L, keep);
  lua_pushboolean(L, json_is_true(json_object_get(attempt->row, "pipelineFixed")));
  return bq_fiber_start(&attempt->fiber, attempt->vm, L, 5, on_run_end, attempt, err);
}

static void on_deferred_end(void *arg, bq_end end, lua_State *L) {
  (void)L;
  bq_attempt *attempt = arg;
  if (end != BQ_END_RETURNED) {
    const char *reason = bq_vm_kill_reason(attempt->vm);
    bq_attempt_log_say(attempt->log, reason != NULL ? reason : "the deferred functions failed");
  }
  bq_attempt_advance(attempt, BQ_ATTEMPT_PUBLISHING);
}

// Argument: the attempt. Returns the list of its deferred functions.
static int collect_deferred(lua_State *L) {
  const bq_attempt *attempt = lua_touserdata(L, 1);
  lua_createtable(L, (int)attempt->deferred_count, 0);
  for (size_t i = 0; i < attempt->deferred_count; i++) {
    (void)lua_rawgeti(L, LUA_REGISTRYINDEX, attempt->deferred[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

int bq_attempt_run_deferred(bq_attempt *attempt, bq_error *err) {
  if (attempt->deferred_count == 0) return 1;
  bq_vm_unkill(attempt->vm);
  lua_State *L = bq_vm_state(attempt->vm);
  (void)lua_rawgetp(L, LUA_REGISTRYINDEX, deferred_source);
  lua_pushcfunction(L, collect_deferred);
  lua_pushlightuserdata(L, attempt);
  int result = bq_vm_call(attempt->vm, L, 1, 1, err);
  if (result < 0) return result;
  attempt->deferred_count = 0;
  lua_pushcfunction(L, report_deferred);
  bq_fiber *fiber;
  return bq_fiber_start(&fiber, attempt->vm, L, 2, on_deferred_end, attempt, err);
}
