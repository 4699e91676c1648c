#include "lua/policies.h"

#include <lauxlib.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"
#include "base/nearest.h"
#include "lua/libs.h"
#include "lua/stdlib.h"

enum { LOAD_US = 200 * 1000, MAX_FACTS = 16, MAX_NAME = 64 };

static const char active_path[] = "scripts/policies/active.lua";

static const char *const hook_names[] = {[BQ_HOOK_PRIORITY] = "priority",   [BQ_HOOK_CHOOSE] = "choose",
                                         [BQ_HOOK_RETRY] = "retry",         [BQ_HOOK_ADMISSION] = "admission",
                                         [BQ_HOOK_SCHEDULE] = "schedule",   [BQ_HOOK_ESTIMATE] = "estimate",
                                         [BQ_HOOK_COUNT] = NULL};

typedef struct policy_hook {
  char *file;    // owned; NULL: the built-in rule
  int function;  // reference in the vm's registry
  json_t *facts; // owned list of names, or NULL
} policy_hook;

struct bq_policies {
  bq_policies_options options;
  char *overrides[BQ_HOOK_COUNT]; // owned; options.files points here
  char *first;                    // owned; options.first
  bq_generation *generation;      // retained
  bq_vm *vm;                      // owned; NULL after a call that had to be ended, until the next
  policy_hook hooks[BQ_HOOK_COUNT];
  char fingerprints[BQ_HOOK_COUNT][BQ_FINGERPRINT_SIZE];
};

const char *bq_hook_name(bq_hook hook) {
  return hook_names[hook];
}

// What a policy may require -----------------------------------------------------------------------------------------

static int open_sha256(lua_State *L) {
  lua_pushcfunction(L, bq_lua_sha256);
  return 1;
}

static const bq_lua_module policy_modules[] = {{"json", bq_lua_open_json}, {"sha256", open_sha256}, {NULL, NULL}};

// A pure function knows no present: os.date and os.time work on a time they are given. The function is upvalue 1, the
// place of the time among its arguments upvalue 2.
static int with_time(lua_State *L) {
  int place = (int)lua_tointeger(L, lua_upvalueindex(2));
  if (lua_isnoneornil(L, place)) {
    return luaL_error(L, "a policy is a pure function of its arguments: say which time (build.enqueuedAt, facts.now)");
  }
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static int no_chance(lua_State *L) {
  return luaL_error(L, "a policy is a pure function of its arguments: math.random is not one (failure.random is given)");
}

// Copies the functions `names` of the library on top of the stack into the table below it.
static void copy_functions(lua_State *L, const char *const *names) {
  for (size_t i = 0; names[i] != NULL; i++) {
    lua_getfield(L, -1, names[i]);
    lua_setfield(L, -3, names[i]);
  }
}

static void set_timed(lua_State *L, const char *name, int place) {
  lua_getfield(L, -1, name);
  lua_pushinteger(L, place);
  lua_pushcclosure(L, with_time, 2);
  lua_setfield(L, -3, name);
}

// Makes the table on top `name` in the environment below it, and in the library that a global comes back from when a
// script has set it to nil. Pops it.
static void replace(lua_State *L, const char *name) {
  if (!lua_getmetatable(L, -2)) return; // every environment has one
  lua_getfield(L, -1, "__index");
  lua_pushvalue(L, -3);
  lua_setfield(L, -2, name);
  lua_pop(L, 2);
  lua_setfield(L, -2, name);
}

// Replaces `os` and `math` of the vm's scripts by what is pure of them.
static void make_pure(lua_State *L) {
  static const char *const os_names[] = {"difftime", NULL};
  static const char *const math_names[] = {"abs", "ceil",  "floor", "fmod", "max",  "min",       "modf", "sqrt", "exp",
                                           "log", "sin",   "cos",   "tan",  "asin", "acos",      "atan", "deg",  "rad",
                                           "ult", "type", "tointeger", "pi", "huge", "maxinteger", "mininteger", NULL};
  bq_script_push_env(L);
  lua_newtable(L);
  lua_getfield(L, -2, "os");
  copy_functions(L, os_names);
  set_timed(L, "date", 2);
  set_timed(L, "time", 1);
  lua_pop(L, 1);
  replace(L, "os");
  lua_newtable(L);
  lua_getfield(L, -2, "math");
  copy_functions(L, math_names);
  lua_pop(L, 1);
  lua_pushcfunction(L, no_chance);
  lua_setfield(L, -2, "random");
  lua_pushcfunction(L, no_chance);
  lua_setfield(L, -2, "randomseed");
  replace(L, "math");
  lua_pop(L, 1);
}

// Loading -----------------------------------------------------------------------------------------------------------

typedef struct load_call {
  bq_policies *policies;
  bq_buf faults; // one line each
} load_call;

// A new line of the faults, to be written to.
static bq_buf *add_fault(load_call *call) {
  if (call->faults.length > 0) bq_buf_adds(&call->faults, "\n");
  return &call->faults;
}

// Pushes what the script returns.
static void push_module(lua_State *L, const char *path) {
  bq_script_push_loader(L);
  lua_pushstring(L, path);
  lua_call(L, 1, 1);
}

// The names in `facts.<hook>` of the module on top of the stack.
static void read_facts(lua_State *L, load_call *call, policy_hook *hook, const char *name) {
  int top = lua_gettop(L);
  bq_error err;
  if (lua_getfield(L, -1, "facts") == LUA_TTABLE && lua_getfield(L, -1, name) != LUA_TNIL) {
    int written = bq_lua_to_json(L, -1, &hook->facts, &err) == 0;
    int is_list = json_is_array(hook->facts) || (json_is_object(hook->facts) && json_object_size(hook->facts) == 0);
    if (!written || !is_list || json_array_size(hook->facts) > MAX_FACTS) {
      bq_buf_addf(add_fault(call), "scripts/policies/%s.lua: facts.%s must be a list of names, %d at most", hook->file,
                  name, MAX_FACTS);
    }
  }
  lua_settop(L, top);
}

static void take_hook(lua_State *L, load_call *call, bq_hook which) {
  policy_hook *hook = &call->policies->hooks[which];
  const char *name = hook_names[which];
  char path[MAX_NAME + 40];
  (void)snprintf(path, sizeof path, "scripts/policies/%s.lua", hook->file);
  if (bq_sources_find(bq_generation_sources(call->policies->generation), path) == NULL) {
    bq_buf_addf(add_fault(call), "%s: %s names %s, there is no %s", active_path, name, hook->file, path);
    return;
  }
  push_module(L, path);
  if (!lua_istable(L, -1)) {
    bq_buf_addf(add_fault(call), "%s: must return a table of hooks, it returns %s", path, luaL_typename(L, -1));
    lua_pop(L, 1);
    return;
  }
  read_facts(L, call, hook, name);
  if (lua_getfield(L, -1, name) == LUA_TFUNCTION) {
    hook->function = luaL_ref(L, LUA_REGISTRYINDEX);
  } else {
    bq_buf_addf(add_fault(call), "%s: %s is active for %s, and has no function of that name", path, hook->file, name);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

// Gives the file `first` to each hook of which it has a function.
static void take_first(lua_State *L, load_call *call) {
  bq_policies *policies = call->policies;
  char path[MAX_NAME + 40];
  int found = 0;
  (void)snprintf(path, sizeof path, "scripts/policies/%.*s.lua", MAX_NAME, policies->first);
  push_module(L, path);
  if (!lua_istable(L, -1)) {
    bq_buf_addf(add_fault(call), "%s: must return a table of hooks, it returns %s", path, luaL_typename(L, -1));
    lua_pop(L, 1);
    return;
  }
  for (int i = 0; i < BQ_HOOK_COUNT; i++) {
    if (lua_getfield(L, -1, hook_names[i]) == LUA_TFUNCTION) {
      bq_free(policies->overrides[i]);
      policies->overrides[i] = bq_strdup(policies->first);
      found = 1;
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (!found) bq_buf_addf(add_fault(call), "%s: has no function of a hook's name (priority, retry, admission, …)", path);
}

// The file's name for a hook from the table of active.lua on top of the stack; NULL for none.
static const char *named_file(lua_State *L, load_call *call, const char *hook) {
  const char *name = NULL;
  int type = lua_getfield(L, -1, hook);
  if (type == LUA_TSTRING) name = lua_tostring(L, -1); // kept alive by the table
  else if (type != LUA_TNIL) bq_buf_addf(add_fault(call), "%s: %s must be the name of a file, it is %s", active_path,
                                         hook, lua_typename(L, type));
  lua_pop(L, 1);
  if (name == NULL) return NULL;
  size_t length = strlen(name);
  if (length > 0 && length <= MAX_NAME && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == length) return name;
  bq_buf_addf(add_fault(call), "%s: %s names \"%.80s\": a name has lower-case letters, digits, - and _ only, %d at most",
              active_path, hook, name, MAX_NAME);
  return NULL;
}

static void look_for_strangers(lua_State *L, load_call *call) {
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    lua_pop(L, 1);
    const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    int known = 0;
    for (size_t i = 0; key != NULL && hook_names[i] != NULL; i++) known |= strcmp(hook_names[i], key) == 0;
    if (known || (key != NULL && strcmp(key, "check") == 0)) continue;
    const char *guess = key != NULL ? bq_nearest(key, hook_names) : NULL;
    bq_buf_addf(add_fault(call), "%s: there is no hook %s%s%s", active_path, key != NULL ? key : "with such a key",
              guess != NULL ? ": did you mean " : "", guess != NULL ? guess : "");
  }
}

// Runs inside bq_vm_call. Argument: the load_call.
static int load(lua_State *L) {
  load_call *call = lua_touserdata(L, 1);
  bq_policies *policies = call->policies;
  make_pure(L);
  if (bq_sources_find(bq_generation_sources(policies->generation), active_path) != NULL) push_module(L, active_path);
  else lua_newtable(L);
  if (!lua_istable(L, -1)) {
    bq_buf_addf(add_fault(call), "%s: must return a table {hook = \"file\", …}, it returns %s", active_path, luaL_typename(L, -1));
    return 0;
  }
  look_for_strangers(L, call);
  if (policies->first != NULL) take_first(L, call);
  for (int i = 0; i < BQ_HOOK_COUNT; i++) {
    policy_hook *hook = &policies->hooks[i];
    const char *file = policies->overrides[i] != NULL ? policies->overrides[i] : named_file(L, call, hook_names[i]);
    if (file == NULL) continue;
    hook->file = bq_strdup(file);
    if (hook->file == NULL) return luaL_error(L, "out of memory");
    take_hook(L, call, (bq_hook)i);
  }
  return 0;
}

// Fingerprints ------------------------------------------------------------------------------------------------------

// Whether scripts/lib/a/b.lua was required as "a.b". The table of loaded modules is on top of the stack.
static int is_loaded(lua_State *L, const char *path) {
  static const char room[] = "scripts/lib/";
  char name[200];
  size_t length = strlen(path);
  if (strncmp(path, room, sizeof room - 1) != 0 || length >= sizeof name || length < sizeof room + 3) return 0;
  (void)snprintf(name, sizeof name, "%.*s", (int)(length - (sizeof room - 1) - 4), path + sizeof room - 1);
  for (char *c = name; *c != '\0'; c++) {
    if (*c == '/') *c = '.';
  }
  int loaded = lua_getfield(L, -1, name) != LUA_TNIL;
  lua_pop(L, 1);
  return loaded;
}

typedef struct fingerprint_call {
  const bq_policies *policies;
  const char *path; // of the hook's file
  bq_buf hashes;
} fingerprint_call;

// Runs inside bq_vm_call. Argument: the fingerprint_call.
static int collect_hashes(lua_State *L) {
  fingerprint_call *call = lua_touserdata(L, 1);
  const bq_sources *sources = bq_generation_sources(call->policies->generation);
  bq_script_push_loaded(L);
  for (size_t i = 0; i < bq_sources_count(sources); i++) {
    const bq_source *source = bq_sources_at(sources, i);
    if (strcmp(source->path, call->path) == 0 || is_loaded(L, source->path)) bq_buf_adds(&call->hashes, source->hash);
  }
  return 0;
}

static void make_fingerprint(bq_policies *policies, bq_hook hook, char out[BQ_FINGERPRINT_SIZE]) {
  const char *file = policies->hooks[hook].file;
  char path[MAX_NAME + 40];
  unsigned char digest[EVP_MAX_MD_SIZE] = {0};
  bq_error err;
  out[0] = '\0';
  if (file == NULL || (hook == BQ_HOOK_PRIORITY && strcmp(file, "strict") == 0)) return;
  (void)snprintf(path, sizeof path, "scripts/policies/%s.lua", file);
  fingerprint_call call = {.policies = policies, .path = path};
  lua_State *L = bq_vm_state(policies->vm);
  lua_pushcfunction(L, collect_hashes);
  lua_pushlightuserdata(L, &call);
  // Without memory for the hashes the name stands for what could be read: another policy for the servers, no wrong one.
  if (bq_vm_call(policies->vm, L, 1, 0, &err) < 0 || call.hashes.data == NULL) bq_buf_adds(&call.hashes, file);
  (void)EVP_Digest(call.hashes.data, call.hashes.length, digest, NULL, EVP_sha256(), NULL);
  for (int i = 0; i < 8; i++) (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
  bq_buf_free(&call.hashes);
}

const char *bq_policies_fingerprint(const bq_policies *policies, bq_hook hook) {
  return policies != NULL ? policies->fingerprints[hook] : "";
}

// The vm ---------------------------------------------------------------------------------------------------------------

static void forget_hooks(bq_policies *policies) {
  for (int i = 0; i < BQ_HOOK_COUNT; i++) {
    bq_free(policies->hooks[i].file);
    json_decref(policies->hooks[i].facts);
    policies->hooks[i] = (policy_hook){0};
  }
}

static int open_vm(bq_policies *policies, bq_error *err) {
  const bq_vm_options options = {.loop = policies->options.loop,
                                 .noun = "policy",
                                 .memory_bytes = policies->options.memory_bytes,
                                 .slice_us = LOAD_US};
  load_call call = {.policies = policies};
  forget_hooks(policies);
  int result = bq_script_vm_new(&policies->vm, &options, policies->generation, policy_modules,
                                policies->options.services, err);
  if (result < 0) {
    policies->vm = NULL;
    return result;
  }
  lua_State *L = bq_vm_state(policies->vm);
  lua_pushcfunction(L, load);
  lua_pushlightuserdata(L, &call);
  result = bq_vm_call(policies->vm, L, 1, 0, err);
  if (result == 0) result = bq_buf_check(&call.faults, err);
  if (result == 0 && call.faults.length > 0) result = bq_fail(err, BQ_ESCRIPT, "%s", call.faults.data);
  bq_buf_free(&call.faults);
  if (result == 0) {
    for (int i = 0; i < BQ_HOOK_COUNT; i++) make_fingerprint(policies, (bq_hook)i, policies->fingerprints[i]);
    bq_vm_lend(policies->vm);
    bq_vm_set_call_budget(policies->vm, policies->options.call_us);
  } else {
    bq_vm_free(policies->vm);
    policies->vm = NULL;
  }
  return result;
}

int bq_policies_new(bq_policies **out, const bq_policies_options *options, bq_generation *generation, bq_error *err) {
  *out = NULL;
  bq_policies *policies = bq_alloc(sizeof *policies);
  if (policies == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the policies");
  policies->options = *options;
  policies->generation = bq_generation_retain(generation);
  int result = 0;
  for (int i = 0; i < BQ_HOOK_COUNT && result == 0; i++) {
    if (options->files[i] == NULL) continue;
    policies->overrides[i] = bq_strdup(options->files[i]);
    if (policies->overrides[i] == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for the policies");
  }
  if (result == 0 && options->first != NULL) {
    policies->first = bq_strdup(options->first);
    if (policies->first == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for the policies");
  }
  if (result == 0) result = open_vm(policies, err);
  if (result < 0) bq_policies_free(policies);
  else *out = policies;
  return result;
}

void bq_policies_free(bq_policies *policies) {
  if (policies == NULL) return;
  if (policies->vm != NULL) bq_vm_free(policies->vm);
  forget_hooks(policies);
  for (int i = 0; i < BQ_HOOK_COUNT; i++) bq_free(policies->overrides[i]);
  bq_free(policies->first);
  bq_generation_release(policies->generation);
  bq_free(policies);
}

const char *bq_policies_file(const bq_policies *policies, bq_hook hook) {
  return policies != NULL ? policies->hooks[hook].file : NULL;
}

int bq_policies_wants(const bq_policies *policies, bq_hook hook, const char *fact) {
  size_t index;
  json_t *name;
  if (policies == NULL) return 0;
  json_array_foreach(policies->hooks[hook].facts, index, name) {
    if (json_is_string(name) && strcmp(json_string_value(name), fact) == 0) return 1;
  }
  return 0;
}

// Calls -------------------------------------------------------------------------------------------------------------

typedef struct hook_call {
  int function;              // registry reference
  const json_t *const *args; // borrowed
  size_t count;
  json_t *result;            // owned
  bq_error error;            // of turning the result into JSON; code 0: none
} hook_call;

// Runs inside bq_vm_call. Argument: the hook_call.
static int call_hook(lua_State *L) {
  hook_call *call = lua_touserdata(L, 1);
  (void)lua_rawgeti(L, LUA_REGISTRYINDEX, call->function);
  for (size_t i = 0; i < call->count; i++) bq_lua_push_json(L, call->args[i]);
  lua_call(L, (int)call->count, 1);
  if (lua_isnil(L, -1)) call->result = json_null();
  else if (bq_lua_to_json(L, -1, &call->result, &call->error) < 0) call->result = NULL;
  return 0;
}

int bq_policies_call(bq_policies *policies, bq_hook which, const json_t *const *args, size_t count, json_t **out,
                     bq_error *err) {
  *out = NULL;
  if (bq_policies_file(policies, which) == NULL) {
    return bq_fail(err, BQ_ENOTFOUND, "no policy is active for %s", hook_names[which]);
  }
  if (policies->vm == NULL) {
    int result = open_vm(policies, err);
    if (result < 0) return result;
  }
  hook_call call = {.function = policies->hooks[which].function, .args = args, .count = count};
  lua_State *L = bq_vm_state(policies->vm);
  lua_pushcfunction(L, call_hook);
  lua_pushlightuserdata(L, &call);
  int result = bq_vm_call(policies->vm, L, 1, 0, err);
  if (result == 0 && call.error.code != 0) {
    result = bq_fail(err, BQ_ESCRIPT, "scripts/policies/%s.lua: what %s returns: %s", policies->hooks[which].file,
                     hook_names[which], call.error.message);
  }
  if (result == 0) {
    *out = call.result;
    return 0;
  }
  json_decref(call.result);
  if (bq_vm_kill_reason(policies->vm) != NULL) { // it may be in a strange state
    bq_vm_free(policies->vm);
    policies->vm = NULL;
  }
  return result;
}
