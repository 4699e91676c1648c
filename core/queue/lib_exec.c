// build:exec: one program in the sandbox, its output to the attempt's log.
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/tree.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "queue/attempt_internal.h"
#include "queue/hidden.h"

enum {
  MAX_ARGUMENTS = 4096,
  MAX_ENVIRONMENT = 256,
  MAX_MOUNTS = 32, // of each kind
  MAX_STDIN_BYTES = 8 * 1024 * 1024,
  CAPTURE_BYTES = 1024 * 1024,
  MAX_CAPTURE_BYTES = 64 * 1024 * 1024,
  LAST_LINES = 20,
  ERROR_LINES = 5 // of them, in the error's message
};

// A list of owned strings, NULL-terminated.
typedef struct text_list {
  char **items;
  size_t count;
} text_list;

typedef struct exec_op {
  bq_op op;
  bq_attempt *attempt;        // borrowed: outlives its vm
  bq_process *process;        // borrowed while it runs; NULL before and after
  bq_attempt_source *source;  // owned; its lines in the log
  bq_timer *timeout;          // owned or NULL
  text_list argv;             // owned
  text_list env;              // owned
  char *cwd;                  // owned; absolute
  char *input;                // owned or NULL
  size_t input_length;        // bytes
  double timeout_s;           // 0: none of its own
  int check;                  // an exit code other than 0 raises
  text_list read_only;        // owned; paths shown to it besides the configuration's
  text_list writable;         // owned; likewise, below StateDirectory/shared
  size_t capture_max;         // bytes; 0: no capture
  int quiet;                  // what is captured does not go to the log
  bq_mask mask;               // of what is captured
  bq_buf output;              // captured standard output, masked
  int over;                   // capture_max was reached
  int timed_out;
  int cancelled;
  bq_ask ask;                 // to the stand-in of `buildq test` …
  int asked;                  // … which has not answered yet
  int hangs;                  // it stands for a command that does not end
  int64_t recorded_since_us;  // real time; what it writes is told as well; 0: it is not
  bq_process_exit end;
  bq_buf last;                // the last lines, masked, each with a line end
  bq_error error;             // why it could not be started; code 0: it was
} exec_op;

static int list_add(text_list *list, char *text) {
  char **grown = text != NULL ? bq_realloc(list->items, (list->count + 2) * sizeof *grown) : NULL;
  if (grown == NULL) {
    bq_free(text);
    return 0;
  }
  list->items = grown;
  list->items[list->count++] = text;
  list->items[list->count] = NULL;
  return 1;
}

static void list_free(text_list *list) {
  for (size_t i = 0; i < list->count; i++) bq_free(list->items[i]);
  bq_free(list->items);
}

// On the loop -----------------------------------------------------------------------------------------------------

static void on_output(void *arg, int stream, const char *bytes, size_t length) {
  exec_op *exec = arg;
  if (stream != 1 || !exec->quiet) bq_attempt_source_write(exec->source, stream, bytes, length);
  if (stream != 1 || exec->capture_max == 0 || exec->over) return;
  bq_mask_feed(&exec->mask, bytes, length, &exec->output);
  if (exec->output.length <= exec->capture_max) return;
  exec->over = 1;
  if (exec->process != NULL) bq_process_stop(exec->process);
}

// What build.json says of the command. Its arguments pass the mask, as everything that leaves the attempt.
static void record(exec_op *exec) {
  bq_attempt *attempt = exec->attempt;
  if (json_array_size(attempt->commands) >= BQ_ATTEMPT_MAX_COMMANDS) {
    attempt->commands_left_out++;
    return;
  }
  json_t *argv = json_array();
  for (size_t i = 0; i < exec->argv.count; i++) {
    bq_buf masked = {0};
    bq_mask_text(attempt->secrets, exec->argv.items[i], strlen(exec->argv.items[i]), &masked);
    (void)json_array_append_new(argv, json_string(masked.data != NULL ? masked.data : ""));
    bq_buf_free(&masked);
  }
  json_t *command = json_pack("{s:o, s:i, s:f}", "argv", argv, "code", exec->end.code, "durationSeconds",
                              (double)exec->end.duration_us / 1e6);
  (void)json_array_append_new(attempt->commands, command);
}

static bq_stand_in *stand_in_of(const exec_op *exec) {
  return exec->attempt->env->services->stand_in;
}

// What a recorded command is answered with later.
static void tell_stand_in(const exec_op *exec) {
  const bq_buf *text = exec->capture_max > 0 ? &exec->output : &exec->last;
  json_t *result = json_pack("{s:i, s:i, s:f, s:o}", "code", exec->end.code, "signal", exec->end.signal, "duration",
                             (double)exec->end.duration_us / 1e6, "output",
                             bq_answer_from_bytes(text->data != NULL ? text->data : "", text->length));
  bq_error err;
  if (exec->recorded_since_us > 0 &&
      bq_answer_add_files(result, exec->attempt->workspace, exec->recorded_since_us, &err) < 0) {
    bq_log_error("the files of a command could not be recorded", &err);
  }
  stand_in_of(exec)->tell(stand_in_of(exec), &exec->ask, result);
  json_decref(result);
}

static void on_end(void *arg, const bq_process_exit *end) {
  exec_op *exec = arg;
  exec->end = *end;
  bq_mask_end(&exec->mask, &exec->output);
  bq_attempt_source_end(exec->source);
  bq_attempt_source_last(exec->source, LAST_LINES, &exec->last);
  bq_attempt_source_free(exec->source);
  exec->source = NULL;
  bq_timer_free(exec->timeout);
  exec->timeout = NULL;
  record(exec);
  if (stand_in_of(exec) != NULL && exec->process != NULL) tell_stand_in(exec);
  exec->process = NULL;
  bq_op_complete(&exec->op);
}

static void on_timeout(void *arg) {
  exec_op *exec = arg;
  exec->timed_out = 1;
  if (exec->process != NULL) bq_process_stop(exec->process);
  else on_end(exec, &exec->end); // a stand-in that hangs
}

static bq_process_limits limits_of(const bq_config *config) {
  const uint64_t megabyte = 1024 * 1024;
  return (bq_process_limits){.address_space_bytes = (uint64_t)config->child_address_space_megabytes * megabyte,
                             .file_size_bytes = (uint64_t)config->child_file_size_megabytes * megabyte,
                             .open_files = (uint64_t)config->child_open_files,
                             .processes = (uint64_t)config->child_max_processes};
}

static int open_source(exec_op *exec, bq_error *err) {
  int result = bq_attempt_source_new(&exec->source, exec->attempt->log, err);
  if (result == 0 && exec->timeout_s > 0) {
    result = bq_timer_new(&exec->timeout, exec->attempt->env->loop, on_timeout, exec, err);
    if (result == 0) bq_timer_follow_clock(exec->timeout);
  }
  return result;
}

static void begin_timeout(exec_op *exec) {
  if (exec->timeout != NULL) bq_timer_set(exec->timeout, (int64_t)(exec->timeout_s * 1000));
}

// The configuration's paths after the command's own.
static int add_read_only(exec_op *exec, bq_error *err) {
  const char *const *path = exec->attempt->env->sandbox->read_only_paths;
  for (; path != NULL && *path != NULL; path++) {
    if (!list_add(&exec->read_only, bq_strdup(*path))) return bq_fail(err, BQ_ENOMEM, "out of memory for a command");
  }
  return 0;
}

static int start_process(exec_op *exec, bq_error *err) {
  bq_attempt *attempt = exec->attempt;
  const bq_config *config = attempt->env->config;
  int result = open_source(exec, err);
  if (result == 0) result = add_read_only(exec, err);
  if (result < 0) return result;
  bq_process_spec spec = {.argv = (const char *const *)(void *)exec->argv.items,
                          .env = (const char *const *)(void *)exec->env.items,
                          .cwd = exec->cwd,
                          .workspace = attempt->workspace,
                          .input = exec->input,
                          .input_length = exec->input_length,
                          .sandbox = *attempt->env->sandbox,
                          .limits = limits_of(config),
                          .grace_ms = (int64_t)config->stop_grace_seconds * 1000};
  spec.sandbox.read_only_paths = (const char *const *)(void *)exec->read_only.items;
  spec.sandbox.writable_paths = (const char *const *)(void *)exec->writable.items;
  bq_process_events events = {.on_output = on_output, .on_exit = on_end, .arg = exec};
  result = bq_process_start(&exec->process, attempt->env->loop, &spec, &events, err);
  if (result == 0) begin_timeout(exec);
  return result;
}

// Does what the answer says the command would have done.
static int pretend(exec_op *exec, const json_t *answer, bq_error *err) {
  int result = bq_answer_error(answer, err);
  if (result == 0) result = bq_answer_write_files(answer, exec->attempt->workspace, err);
  if (result == 0) result = open_source(exec, err);
  if (result < 0) return result;
  for (int stream = 1; stream <= 2; stream++) {
    bq_buf bytes = {0};
    bq_answer_bytes(json_object_get(answer, stream == 1 ? "output" : "errors"), &bytes);
    if (bytes.length > 0) on_output(exec, stream, bytes.data, bytes.length);
    bq_buf_free(&bytes);
  }
  exec->end = (bq_process_exit){.code = (int)json_integer_value(json_object_get(answer, "code")),
                                .signal = (int)json_integer_value(json_object_get(answer, "signal")),
                                .duration_us = (int64_t)(json_number_value(json_object_get(answer, "duration")) * 1e6)};
  exec->hangs = bq_answer_is(answer, "hang");
  if (exec->hangs) begin_timeout(exec);
  else on_end(exec, &exec->end);
  return 0;
}

static void on_answer(bq_ask *ask, const json_t *answer) {
  exec_op *exec = (exec_op *)((char *)ask - offsetof(exec_op, ask));
  exec->asked = 0;
  int real = bq_answer_is(answer, "real");
  if (bq_answer_is(answer, "record")) exec->recorded_since_us = bq_clock_wall_us() - bq_clock_shifted();
  if ((real ? start_process(exec, &exec->error) : pretend(exec, answer, &exec->error)) == 0) return;
  if (real) stand_in_of(exec)->tell(stand_in_of(exec), &exec->ask, NULL); // it is over before it began
  bq_op_complete(&exec->op);
}

static json_t *list_json(const text_list *list) {
  json_t *array = json_array();
  for (size_t i = 0; i < list->count; i++) (void)json_array_append_new(array, json_string(list->items[i]));
  return array;
}

static void ask_stand_in(exec_op *exec) {
  json_t *input = exec->input != NULL ? bq_answer_from_bytes(exec->input, exec->input_length) : NULL;
  json_t *request = json_pack("{s:s, s:s, s:o, s:o, s:s, s:o*, s:b, s:f}", "build", exec->attempt->id, "workspace",
                              exec->attempt->workspace, "argv", list_json(&exec->argv), "env", list_json(&exec->env),
                              "cwd", exec->cwd, "stdin", input, "check", exec->check, "timeout", exec->timeout_s);
  if (request == NULL) {
    (void)bq_fail(&exec->error, BQ_EINVAL, "build:exec: what it is given is no UTF-8: no spec can answer it");
    bq_op_complete(&exec->op);
    return;
  }
  exec->asked = 1;
  exec->ask = (bq_ask){.answered = on_answer};
  stand_in_of(exec)->ask(stand_in_of(exec), &exec->ask, "exec", request);
  json_decref(request);
}

// Values of variables that are named like secrets: masked from here on.
static void hide_variables(const exec_op *exec) {
  for (size_t i = 0; i < exec->env.count; i++) {
    bq_error err;
    const char *value = strchr(exec->env.items[i], '=') + 1;
    size_t length = strlen(value);
    if (length < BQ_MASK_MIN_BYTES || !bq_hidden_is_name(exec->env.items[i], (size_t)(value - 1 - exec->env.items[i]))) {
      continue;
    }
    if (bq_mask_set_add(exec->attempt->secrets, value, length, &err) < 0) {
      bq_attempt_log_say(exec->attempt->log, err.message);
    }
  }
}

static void exec_start(bq_op *op) {
  exec_op *exec = (exec_op *)op;
  hide_variables(exec);
  exec->mask.set = exec->attempt->secrets;
  if (stand_in_of(exec) != NULL) ask_stand_in(exec);
  else if (start_process(exec, &exec->error) < 0) bq_op_complete(op);
}

static void exec_cancel(bq_op *op) {
  exec_op *exec = (exec_op *)op;
  exec->cancelled = 1;
  if (exec->process != NULL) {
    bq_process_stop(exec->process);
  } else if (exec->asked) {
    stand_in_of(exec)->forget(stand_in_of(exec), &exec->ask);
    bq_op_complete(op);
  } else if (exec->hangs) {
    on_end(exec, &exec->end);
  }
}

// In the slice ----------------------------------------------------------------------------------------------------

// The last lines in one, for the error's message.
static void add_last_lines(const exec_op *exec, bq_buf *message) {
  const char *from = exec->last.data;
  if (from == NULL) return;
  size_t lines = 0;
  for (const char *c = from + exec->last.length; c > from && lines <= ERROR_LINES; c--) {
    if (c[-1] != '\n') continue;
    if (lines++ == ERROR_LINES) from = c;
  }
  bq_buf_adds(message, ": ");
  for (const char *c = from; *c != '\0'; c++) {
    if (*c == '\n') bq_buf_adds(message, c[1] != '\0' ? " | " : "");
    else bq_buf_addc(message, *c);
  }
}

// The kernel kills a process when memory is out (in the sandbox its shell says 128 + 9), and compilers say so themselves
// when it is one of theirs, or when a limit of ChildAddressSpaceMegabytes has refused them some.
static int ran_out_of_memory(const exec_op *exec) {
  static const char *const words[] = {"Killed signal terminated program", "Cannot allocate memory", "virtual memory exhausted",
                                      "out of memory allocating", "std::bad_alloc", "OutOfMemoryException"};
  if (exec->end.signal == SIGKILL || exec->end.code == 128 + SIGKILL) return 1;
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    if (exec->last.data != NULL && strstr(exec->last.data, words[i]) != NULL) return 1;
  }
  return 0;
}

// 1 when the exit is to be raised; `error` says how.
static int is_failure(exec_op *exec) {
  const char *name = exec->argv.items[0];
  double seconds = (double)exec->end.duration_us / 1e6;
  if (exec->error.code != 0) return 1;
  if (exec->timed_out) {
    (void)bq_fail(&exec->error, BQ_ETIMEOUT, "%s was stopped after its time limit of %g s", name, exec->timeout_s);
  } else if (exec->cancelled) {
    (void)bq_fail(&exec->error, BQ_ECANCELED, "%s was stopped", name);
  } else if (exec->over) {
    (void)bq_fail(&exec->error, BQ_ELIMIT, "%s wrote more than %zu bytes to capture", name, exec->capture_max);
  } else if (exec->check && (exec->end.code != 0 || exec->end.signal != 0)) {
    bq_buf message = {0};
    if (exec->end.signal != 0) {
      bq_buf_addf(&message, "%s: ended by signal %d (%s) after %.1f s", name, exec->end.signal,
                  strsignal(exec->end.signal), seconds);
    } else {
      bq_buf_addf(&message, "%s: exit code %d after %.1f s", name, exec->end.code, seconds);
    }
    int no_memory = ran_out_of_memory(exec);
    if (no_memory) bq_buf_adds(&message, ", as when the machine or a limit has no more memory for it");
    add_last_lines(exec, &message);
    (void)bq_fail(&exec->error, no_memory ? BQ_ENOMEM : BQ_ESCRIPT, "%s", message.data != NULL ? message.data : name);
    bq_buf_free(&message);
  }
  return exec->error.code != 0;
}

static void push_lines(lua_State *L, const bq_buf *last) {
  lua_newtable(L);
  const char *at = last->data;
  for (lua_Integer i = 1; at != NULL && *at != '\0'; i++) {
    size_t length = strcspn(at, "\n");
    lua_pushlstring(L, at, length);
    lua_rawseti(L, -2, i);
    at += length + (at[length] == '\n');
  }
}

static int exec_push(bq_op *op, lua_State *L) {
  exec_op *exec = (exec_op *)op;
  if (is_failure(exec)) {
    bq_lua_push_error(L, &exec->error);
    return -1;
  }
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, exec->end.signal != 0 ? 128 + exec->end.signal : exec->end.code);
  lua_setfield(L, -2, "code");
  if (exec->end.signal != 0) {
    lua_pushinteger(L, exec->end.signal);
    lua_setfield(L, -2, "signal");
  }
  lua_pushnumber(L, (double)exec->end.duration_us / 1e6);
  lua_setfield(L, -2, "duration");
  push_lines(L, &exec->last);
  lua_setfield(L, -2, "lines");
  if (exec->capture_max > 0) {
    lua_pushlstring(L, exec->output.data != NULL ? exec->output.data : "", exec->output.length);
    lua_setfield(L, -2, "output");
  }
  return 1;
}

static void exec_release(bq_op *op) {
  exec_op *exec = (exec_op *)op;
  bq_timer_free(exec->timeout);
  if (exec->source != NULL) bq_attempt_source_free(exec->source);
  list_free(&exec->argv);
  list_free(&exec->env);
  list_free(&exec->read_only);
  list_free(&exec->writable);
  bq_free(exec->cwd);
  bq_free(exec->input);
  bq_buf_free(&exec->output);
  bq_buf_free(&exec->mask.held);
  bq_buf_free(&exec->last);
  bq_free(exec);
}

// The options -----------------------------------------------------------------------------------------------------
// Each function reads one of them from the table at index 2 and returns NULL or what is wrong.

static const char *read_argv(lua_State *L, exec_op *exec) {
  lua_getfield(L, 2, "shell");
  if (!lua_isnil(L, -1)) {
    const char *line = lua_tostring(L, -1);
    if (line == NULL) return "shell is no string";
    if (!list_add(&exec->argv, bq_strdup("/bin/sh")) || !list_add(&exec->argv, bq_strdup("-c")) ||
        !list_add(&exec->argv, bq_strdup(line))) {
      return "out of memory";
    }
    return NULL;
  }
  lua_getfield(L, 2, "argv");
  if (lua_isnil(L, -1)) return "argv is missing: expected a list of strings, as in {argv = {\"make\", \"all\"}}";
  if (lua_isstring(L, -1)) {
    return "argv: given a string, expected a list, as in {\"make\", \"all\"}; a line for the shell is shell =";
  }
  if (!lua_istable(L, -1)) return "argv: expected a list of strings, as in {\"make\", \"all\"}";
  lua_Unsigned count = lua_rawlen(L, -1);
  if (count == 0 || count > MAX_ARGUMENTS) return "argv has 1 to 4096 entries";
  for (lua_Unsigned i = 1; i <= count; i++) {
    int type = lua_rawgeti(L, -1, (lua_Integer)i);
    size_t length = 0;
    const char *text = type == LUA_TSTRING || type == LUA_TNUMBER ? lua_tolstring(L, -1, &length) : NULL;
    if (text == NULL || strlen(text) != length) return "argv holds something else than strings without NUL";
    if (!list_add(&exec->argv, bq_strdup(text))) return "out of memory";
    lua_pop(L, 1);
  }
  return exec->argv.items[0][0] != '\0' ? NULL : "argv begins with an empty name";
}

static int add_variable(text_list *env, const char *name, const char *value) {
  char *text = bq_format("%s=%s", name, value);
  size_t prefix = strlen(name) + 1;
  for (size_t i = 0; i < env->count && text != NULL; i++) {
    if (strncmp(env->items[i], text, prefix) != 0) continue;
    bq_free(env->items[i]);
    env->items[i] = text;
    return 1;
  }
  return list_add(env, text);
}

static const char *read_env(lua_State *L, exec_op *exec) {
  const char *workspace = exec->attempt->workspace;
  char *tmp = bq_format("%s/.tmp", workspace);
  int fits = tmp != NULL && add_variable(&exec->env, "PATH", "/usr/local/bin:/usr/bin:/bin") &&
             add_variable(&exec->env, "HOME", workspace) && add_variable(&exec->env, "TMPDIR", tmp) &&
             add_variable(&exec->env, "LANG", "C.UTF-8") && add_variable(&exec->env, "TZ", "UTC");
  bq_free(tmp);
  if (!fits) return "out of memory";
  lua_getfield(L, 2, "env");
  if (lua_isnil(L, -1)) return NULL;
  if (!lua_istable(L, -1)) return "env is a table of names and values";
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    size_t length = 0;
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    const char *value = lua_tolstring(L, -1, &length);
    if (name == NULL || value == NULL || strlen(value) != length || strchr(name, '=') != NULL) {
      return "env holds something else than names and strings without NUL";
    }
    if (exec->env.count >= MAX_ENVIRONMENT) return "env has more than 250 entries";
    if (!add_variable(&exec->env, name, value)) return "out of memory";
    lua_pop(L, 1);
  }
  return NULL;
}

static const char *read_cwd(lua_State *L, exec_op *exec) {
  const char *workspace = exec->attempt->workspace;
  size_t length = strlen(workspace);
  lua_getfield(L, 2, "cwd");
  const char *cwd = lua_isnil(L, -1) ? "." : lua_tostring(L, -1);
  if (cwd == NULL) return "cwd is no string";
  if (strncmp(cwd, workspace, length) == 0 && (cwd[length] == '/' || cwd[length] == '\0')) {
    cwd = cwd[length] == '/' && cwd[length + 1] != '\0' ? cwd + length + 1 : ".";
  }
  bq_error err;
  if (bq_tree_check(cwd, &err) < 0) return "cwd leads out of the workspace";
  exec->cwd = strcmp(cwd, ".") == 0 ? bq_strdup(workspace) : bq_format("%s/%s", workspace, cwd);
  return exec->cwd != NULL ? NULL : "out of memory";
}

// Whether a path is one that build:shared gives.
static int is_shared(const exec_op *exec, const char *path) {
  const char *root = exec->attempt->env->config->state_directory;
  size_t length = strlen(root);
  return strncmp(path, root, length) == 0 && strncmp(path + length, "/shared/", 8) == 0 &&
         bq_is_shared_name(path + length + 8);
}

static const char *read_mounts(lua_State *L, exec_op *exec) {
  lua_getfield(L, 2, "mounts");
  if (lua_isnil(L, -1)) return NULL;
  if (!lua_istable(L, -1)) return "mounts is a table of paths and \"read\" or \"write\"";
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    size_t length = 0;
    const char *path = lua_type(L, -2) == LUA_TSTRING ? lua_tolstring(L, -2, &length) : NULL;
    const char *how = lua_tostring(L, -1);
    if (path == NULL || path[0] != '/' || strlen(path) != length || strcmp(path, "/") == 0) {
      return "mounts holds something else than absolute paths";
    }
    int writable = how != NULL && strcmp(how, "write") == 0;
    if (!writable && (how == NULL || strcmp(how, "read") != 0)) return "a mount is \"read\" or \"write\"";
    if (writable && !is_shared(exec, path)) return "only what build:shared gave can be mounted for writing";
    text_list *list = writable ? &exec->writable : &exec->read_only;
    if (list->count >= MAX_MOUNTS) return "mounts has more than 32 entries";
    if (!list_add(list, bq_strdup(path))) return "out of memory";
    lua_pop(L, 1);
  }
  return NULL;
}

static const char *read_input(lua_State *L, exec_op *exec) {
  lua_getfield(L, 2, "stdin");
  if (lua_isnil(L, -1)) return NULL;
  const char *input = lua_tolstring(L, -1, &exec->input_length);
  if (input == NULL) return "stdin is no string";
  if (exec->input_length > MAX_STDIN_BYTES) return "stdin is larger than 8 MiB";
  exec->input = bq_strndup(input, exec->input_length);
  return exec->input != NULL ? NULL : "out of memory";
}

static const char *read_rest(lua_State *L, exec_op *exec) {
  lua_getfield(L, 2, "timeout");
  exec->timeout_s = lua_isnil(L, -1) ? 0 : lua_tonumber(L, -1);
  if (!lua_isnil(L, -1) && !(exec->timeout_s > 0 && exec->timeout_s <= 1e7)) return "timeout is a number of seconds";
  lua_getfield(L, 2, "check");
  exec->check = lua_isnil(L, -1) || lua_toboolean(L, -1);
  lua_getfield(L, 2, "capture");
  if (lua_isinteger(L, -1)) {
    lua_Integer bytes = lua_tointeger(L, -1);
    if (bytes < 1 || bytes > MAX_CAPTURE_BYTES) return "capture is true or 1 to 67108864 bytes";
    exec->capture_max = (size_t)bytes;
  } else if (lua_toboolean(L, -1)) {
    exec->capture_max = CAPTURE_BYTES;
  }
  lua_getfield(L, 2, "quiet");
  exec->quiet = lua_toboolean(L, -1) && exec->capture_max > 0;
  return NULL;
}

int bq_build_exec(lua_State *L) {
  static const char *const options[] = {"argv", "shell", "cwd", "env", "timeout", "stdin", "capture", "check", "mounts", "quiet",
                                        NULL};
  bq_args_self(L, "exec");
  bq_args_options(L, 2, "build:exec", options, "build:exec {argv = {\"make\", \"all\"}}");
  lua_settop(L, 2);
  bq_attempt *attempt = bq_attempt_with_dirs(L);
  exec_op *exec = bq_alloc(sizeof *exec);
  if (exec == NULL) return luaL_error(L, "out of memory");
  exec->op = (bq_op){.start = exec_start, .cancel = exec_cancel, .push = exec_push, .release = exec_release};
  exec->attempt = attempt;
  const char *fault = read_argv(L, exec);
  if (fault == NULL) fault = read_env(L, exec);
  if (fault == NULL) fault = read_cwd(L, exec);
  if (fault == NULL) fault = read_input(L, exec);
  if (fault == NULL) fault = read_mounts(L, exec);
  if (fault == NULL) fault = read_rest(L, exec);
  if (fault != NULL) {
    exec_release(&exec->op);
    return bq_lua_raise(L, BQ_EINVAL, "build:exec: %s", fault);
  }
  return bq_op_yield(L, &exec->op);
}
