// The desk of a trial: a vm in which modules of scripts/lib, and parts of any script, are called one by one; and
// policies, which have a vm of their own as in the server.
//
// Values cross as JSON. What JSON can't hold (a function, a table with functions in it or with a metatable) stays at
// the desk under a number, and the spec has a stand-in for it.
#include <lauxlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/server_modules.h"
#include "queue/trial_internal.h"

enum { DESK_SLICE_US = 5 * 1000 * 1000 };

// Given the loader, returns a function of one text, the call, that returns another, its results.
static const char glue_source[] =
    "local load_script = ...\n"
    "local json = require('buildq').json\n"
    "local type, next, pairs, select, load = type, next, pairs, select, load\n"
    "local getmetatable, error = getmetatable, error\n"
    "local require, unpack = require, table.unpack\n"
    "local kept, count = {}, 0\n"
    "local function plain(value, depth)\n"
    "  local kind = type(value)\n"
    "  if kind == 'userdata' then return value == json.null end\n"
    "  if kind ~= 'table' then return kind ~= 'function' and kind ~= 'thread' end\n"
    "  local meta = getmetatable(value)\n"
    "  if depth > 60 or (meta ~= nil and not json.is_array(value)) then return false end\n"
    "  local list, size = #value, 0\n"
    "  for k, v in next, value do\n"
    "    size = size + 1\n"
    "    if not plain(v, depth + 1) or (type(k) ~= 'string' and list == 0) then return false end\n"
    "  end\n"
    "  return list == 0 or size == list\n"
    "end\n"
    "local function give(value)\n"
    "  if value == nil then return {none = true} end\n"
    "  if plain(value, 0) then return {value = value} end\n"
    "  count = count + 1\n"
    "  kept[count] = value\n"
    "  return {kept = count, type = type(value)}\n"
    "end\n"
    "local function take(value)\n"
    "  if value.none then return nil end\n"
    "  if value.kept then return kept[value.kept] end\n"
    "  return value.value\n"
    "end\n"
    "local function results(...)\n"
    "  local all = json.array()\n"
    "  for i = 1, select('#', ...) do all[i] = give((select(i, ...))) end\n"
    "  return json.encode(all)\n"
    "end\n"
    "local operations = {}\n"
    "function operations.require(_, _, name) return require(name) end\n"
    "function operations.script(_, _, path) return load_script(path) end\n"
    "function operations.index(object, _, key) return object[key] end\n"
    "function operations.assign(object, _, key, value) object[key] = value end\n"
    "function operations.length(object) return #object end\n"
    "function operations.keys(object)\n"
    "  local names = json.array()\n"
    "  for key in pairs(object) do if type(key) == 'string' then names[#names + 1] = key end end\n"
    "  return names\n"
    "end\n"
    "function operations.call(object, _, ...) return object(...) end\n"
    "function operations.eval(_, source, ...)\n"
    "  local chunk, message = load(source, '=spec', 't', _ENV)\n"
    "  if not chunk then error(message, 0) end\n"
    "  return chunk(...)\n"
    "end\n"
    "return function(text)\n"
    "  local call = json.decode(text)\n"
    "  local args = {}\n"
    "  for i, value in pairs(call.args) do args[i] = take(value) end\n"
    "  return results(operations[call.operation](kept[call.object], call.source, unpack(args, 1, #call.args)))\n"
    "end\n";

// Pushes the glue's function. Inside bq_vm_call: may raise.
static int load_glue(lua_State *L) {
  if (luaL_loadbufferx(L, glue_source, sizeof glue_source - 1, "=buildq", "t") != LUA_OK) return lua_error(L);
  bq_script_push_env(L);
  (void)lua_setupvalue(L, -2, 1);
  bq_script_push_loader(L);
  lua_call(L, 1, 1);
  return 1;
}

static int open_desk(bq_trial *trial, bq_error *err) {
  bq_server *server = trial->server;
  const bq_vm_options options = {.loop = server->loop,
                                 .pool = NULL, // what the queue's bindings need
                                 .memory_bytes = (size_t)trial->server->config->lua_memory_megabytes * 1024 * 1024,
                                 .slice_us = DESK_SLICE_US,
                                 .noun = "spec"};
  int result = bq_script_vm_new(&trial->desk, &options, bq_script_host_current(server->host), bq_check_modules,
                                &server->services, err);
  if (result < 0) return result;
  lua_State *L = bq_vm_state(trial->desk);
  lua_pushcfunction(L, load_glue);
  result = bq_vm_call(trial->desk, L, 0, 1, err);
  if (result < 0) {
    bq_trial_desk_free(trial);
    return result;
  }
  trial->desk_glue = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

void bq_trial_desk_free(bq_trial *trial) {
  if (trial->desk != NULL) bq_vm_free(trial->desk);
  trial->desk = NULL;
  trial->desk_fiber = NULL;
}

static void on_end(void *arg, bq_end end, lua_State *L) {
  bq_trial *trial = arg;
  bq_error err = {.code = BQ_ESCRIPT};
  if (end == BQ_END_RETURNED) {
    size_t length;
    const char *text = lua_tolstring(L, 1, &length);
    json_t *results = NULL;
    if (text == NULL) (void)bq_fail(&err, BQ_ESCRIPT, "no results");
    else if (bq_json_parse(text, length, BQ_JSON_STRICT, &results, &err) == 0) {
      bq_trial_reply(trial, results);
      return;
    }
  } else if (end == BQ_END_ERROR) {
    err.code = bq_lua_error_code(L, -1);
    // A string has its place in front already; an ErrorValue is compared by its message.
    bq_lua_error_line(L, -1, "", err.message, sizeof err.message);
  } else {
    const char *reason = bq_vm_kill_reason(trial->desk);
    (void)bq_fail(&err, BQ_ELIMIT, "%s", reason != NULL ? reason : "it computed too long without a pause");
  }
  trial->desk_fiber = NULL;
  if (trial->call != 0) bq_trial_refuse(trial, &err);
}

int bq_trial_desk_call(bq_trial *trial, const json_t *call, bq_error *err) {
  int result = trial->desk == NULL ? open_desk(trial, err) : 0;
  if (result < 0) return result;
  char *text = NULL;
  result = bq_json_dump(json_object_get(call, "desk"), &text, err);
  if (result < 0) return result;
  lua_State *L = bq_vm_state(trial->desk);
  (void)lua_rawgeti(L, LUA_REGISTRYINDEX, trial->desk_glue);
  lua_pushstring(L, text);
  bq_free(text);
  result = bq_fiber_start(&trial->desk_fiber, trial->desk, L, 1, on_end, trial, err);
  if (result == 0) bq_trial_wait_for(trial, BQ_TRIAL_DESK);
  return result;
}

int bq_trial_policy(bq_trial *trial, const json_t *call, json_t **out, bq_error *err) {
  enum { MAX_ARGUMENTS = 4 };
  const char *file = json_string_value(json_object_get(call, "file"));
  const char *name = json_string_value(json_object_get(call, "hook"));
  const json_t *list = json_object_get(call, "args");
  const json_t *args[MAX_ARGUMENTS];
  size_t count = json_array_size(list);
  bq_policies_options options = {.loop = trial->server->loop,
                                 .services = &trial->server->services,
                                 .memory_bytes = BQ_POLICY_MEMORY_BYTES,
                                 .call_us = BQ_POLICY_CALL_US};
  int hook = 0;
  while (hook < BQ_HOOK_COUNT && (name == NULL || strcmp(bq_hook_name((bq_hook)hook), name) != 0)) hook++;
  if (file == NULL || hook == BQ_HOOK_COUNT || count > MAX_ARGUMENTS) {
    return bq_fail(err, BQ_EINVAL, "policy: %s given, expected one of priority, choose, retry, admission, schedule, "
                                   "estimate", name != NULL ? name : "nothing");
  }
  options.files[hook] = file;
  for (size_t i = 0; i < count; i++) args[i] = json_array_get(list, i);
  bq_policies *policies;
  int result = bq_policies_new(&policies, &options, bq_script_host_current(trial->server->host), err);
  if (result < 0) return result;
  result = bq_policies_call(policies, (bq_hook)hook, args, count, out, err);
  bq_policies_free(policies);
  return result;
}
