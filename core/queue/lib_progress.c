// build:step, progress, log and fail: what a pipeline says about itself. The loop owns the attempt's progress and its
// log: each is put off to the end of the slice, but for what the script must wait for.
#include <lauxlib.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "queue/attempt_internal.h"

static void note_start(bq_op *op) {
  bq_note *note = (bq_note *)op;
  note->run(note);
  bq_op_complete(op);
}

static int note_push(bq_op *op, lua_State *L) {
  (void)op;
  return lua_gettop(L);
}

static void note_release(bq_op *op) {
  bq_free(((bq_note *)op)->text);
  bq_free(op);
}

bq_note *bq_note_new(lua_State *L, void (*run)(bq_note *note), const char *text) {
  bq_note *note = bq_alloc(sizeof *note);
  if (note != NULL) {
    note->op = (bq_op){.start = note_start, .push = note_push, .release = note_release};
    note->attempt = bq_attempt_of(L);
    note->run = run;
    note->text = bq_strdup(text);
    if (text == NULL || note->text != NULL) return note;
    note_release(&note->op);
  }
  (void)luaL_error(L, "out of memory");
  return NULL;
}

static void note_later(bq_later *later, int wanted) {
  bq_note *note = (bq_note *)((char *)later - offsetof(bq_note, later));
  if (wanted) note->run(note);
  note_release(&note->op);
}

int bq_note_put_off(lua_State *L, bq_note *note) {
  note->later = (bq_later){.run = note_later, .bytes = sizeof *note + (note->text != NULL ? strlen(note->text) : 0)};
  return bq_vm_put_off(L, &note->later) ? lua_gettop(L) : bq_op_yield(L, &note->op);
}

// Progress never falls within an attempt, whatever a pipeline says; 100 is the end, which only the server declares.
static void move_progress(bq_attempt *attempt, double percent) {
  int whole = percent >= 99 ? 99 : (int)percent;
  if (whole > attempt->percent) attempt->percent = whole;
}

static void tell(bq_attempt *attempt) {
  attempt->events.progressed(attempt->events.arg, attempt);
}

// Without the secrets; cut to `size`, not inside a character.
static void mask_into(const bq_attempt *attempt, const char *text, char *out, size_t size) {
  bq_buf masked = {0};
  bq_mask_text(attempt->secrets, text, strlen(text), &masked);
  (void)snprintf(out, size, "%s", masked.data != NULL ? masked.data : "");
  bq_buf_free(&masked);
  bq_utf8_clean(out);
}

// Weights ---------------------------------------------------------------------------------------------------------

// Straight-line code does not say which steps are to come. The last success of the same pipeline on this server does, as
// long as the steps are the same so far; without one, a weight takes its share of what is left as if one more step of
// weight 1 were to follow.

// The steps of that success, when the newest step of this attempt is among them at the same place; or NULL.
static const json_t *steps_of_last_time(const bq_attempt *attempt) {
  const char *pipeline = json_string_value(json_object_get(attempt->row, "pipeline"));
  const json_t *plan = json_object_get(attempt->env->step_plans, pipeline != NULL ? pipeline : "");
  size_t here = json_array_size(attempt->steps) - 1;
  if (here >= json_array_size(plan)) return NULL;
  return json_equal(json_object_get(json_array_get(plan, here), "name"),
                    json_object_get(json_array_get(attempt->steps, here), "name")) ? plan : NULL;
}

// Where the step that has just begun ends, in percent.
static double end_of_step(const bq_attempt *attempt, double weight) {
  double left = 100 - attempt->percent;
  double total = weight + 1;
  const json_t *plan = steps_of_last_time(attempt);
  if (plan != NULL) {
    total = weight;
    for (size_t i = json_array_size(attempt->steps); i < json_array_size(plan); i++) {
      const json_t *step = json_array_get(plan, i);
      double at = json_number_value(json_object_get(step, "at"));
      if (at > attempt->percent) { // what is left to that one
        left = at - attempt->percent;
        break;
      }
      total += json_number_value(json_object_get(step, "weight"));
    }
  }
  return attempt->percent + (total > 0 ? left * weight / total : 0);
}

static void remember_step(bq_attempt *attempt, const char *name, double at, double weight) {
  if (json_array_size(attempt->steps) >= BQ_ATTEMPT_MAX_STEPS) return;
  (void)json_array_append_new(attempt->steps, json_pack("{s:s, s:f, s:f}", "name", name, "at", at, "weight", weight));
}

void bq_attempt_keep_steps(const bq_attempt *attempt) {
  json_t *plans = attempt->env->step_plans;
  const char *pipeline = json_string_value(json_object_get(attempt->row, "pipeline"));
  if (plans == NULL || pipeline == NULL) return;
  if (json_object_size(plans) >= BQ_ATTEMPT_MAX_PLANS) (void)json_object_clear(plans);
  (void)json_object_set(plans, pipeline, attempt->steps); // without memory, progress is only less even
}

static void run_begin(bq_note *note) {
  bq_attempt *attempt = note->attempt;
  double at = note->number >= 0 ? note->number : attempt->percent;
  mask_into(attempt, note->text, attempt->step, sizeof attempt->step);
  attempt->text[0] = '\0';
  move_progress(attempt, at);
  remember_step(attempt, attempt->step, note->number, note->second);
  attempt->step_end = end_of_step(attempt, note->second);
  char *line = bq_format("step: %s", note->text);
  if (line != NULL) bq_attempt_log_say(attempt->log, line);
  bq_free(line);
  tell(attempt);
}

static void run_end(bq_note *note) {
  bq_attempt *attempt = note->attempt;
  move_progress(attempt, attempt->step_end);
  tell(attempt);
  if (attempt->env->stop_after == NULL || strcmp(attempt->env->stop_after, attempt->step) != 0) return;
  char *message = bq_format("stopped after the step %s", attempt->step);
  bq_attempt_stop(attempt, BQ_OUTCOME_CANCELLED, message != NULL ? message : "stopped");
  bq_free(message);
}

// begin_step(name, at, weight)
static int begin_step(lua_State *L) {
  bq_attempt *attempt = bq_attempt_of(L);
  size_t length;
  const char *name = luaL_checklstring(L, 1, &length);
  double at = luaL_optnumber(L, 2, -1);
  double weight = luaL_optnumber(L, 3, at >= 0 ? 0 : 1); // where the next one begins is said by its own `at`
  if (length == 0 || length >= sizeof attempt->step || strlen(name) != length) {
    return luaL_error(L, "build:step: a name has 1 to %d bytes and no NUL", (int)sizeof attempt->step - 1);
  }
  if (!(at <= 100)) return luaL_error(L, "build:step: at is a percentage from 0 to 100, got %f", at);
  if (!(weight >= 0 && weight <= 1e6)) return luaL_error(L, "build:step: weight is a number from 0, got %f", weight);
  if (attempt->in_step) return luaL_error(L, "build:step: %s begins inside another step: steps don't nest", name);
  attempt->in_step = 1;
  bq_note *note = bq_note_new(L, run_begin, name);
  note->number = at;
  note->second = weight;
  return bq_note_put_off(L, note);
}

// end_step(...): returns its arguments.
static int end_step(lua_State *L) {
  bq_attempt *attempt = bq_attempt_of(L);
  attempt->in_step = 0;
  bq_note *note = bq_note_new(L, run_end, NULL);
  // The step may be the last one: nothing goes on before that is known.
  return attempt->env->stop_after != NULL ? bq_op_yield(L, &note->op) : bq_note_put_off(L, note);
}

// check_step(build, name, options, fn): options, or nothing for the function alone; as they are when they are right.
static int check_step(lua_State *L) {
  static const char *const options[] = {"at", "weight", NULL};
  static const char example[] = "build:step(\"Compiling\", {at = 50}, function() … end)";
  char given[80];
  bq_args_self(L, "step");
  (void)bq_args_string(L, 2, "build:step", "the name", NULL);
  lua_settop(L, 4);
  if (lua_isfunction(L, 3) && lua_isnil(L, 4)) {
    lua_newtable(L);
    lua_insert(L, 3);
  } else if (!lua_isnil(L, 3) || !lua_isnil(L, 4)) {
    bq_args_options(L, 3, "build:step", options, example);
  }
  if (!lua_isfunction(L, 4)) {
    bq_args_describe(L, 4, given, sizeof given);
    return bq_lua_raise(L, BQ_EINVAL, "build:step: %s: given %s, expected a function, as in %s", lua_tostring(L, 2),
                        given, example);
  }
  lua_settop(L, 4);
  lua_insert(L, 3); // the function first
  return 2;
}

static const char step_source[] =
    "local begin_step, end_step, check_step = ...\n"
    "return function(build, name, options, fn)\n"
    "  fn, options = check_step(build, name, options, fn)\n"
    "  begin_step(name, options.at, options.weight)\n"
    "  return end_step(fn())\n"
    "end\n";

static void run_progress(bq_note *note) {
  bq_attempt *attempt = note->attempt;
  move_progress(attempt, note->number);
  if (note->text != NULL) {
    mask_into(attempt, note->text, attempt->text, sizeof attempt->text);
    if (note->text[0] != '\0') bq_attempt_log_say(attempt->log, note->text);
  }
  tell(note->attempt);
}

static int build_progress(lua_State *L) {
  bq_args_self(L, "progress");
  double percent = luaL_checknumber(L, 2);
  const char *text = luaL_optstring(L, 3, NULL);
  if (!(percent >= 0 && percent <= 100)) return luaL_error(L, "build:progress: percent is 0 to 100, got %f", percent);
  bq_note *note = bq_note_new(L, run_progress, text);
  note->number = percent;
  lua_settop(L, 0);
  return bq_note_put_off(L, note);
}

static void run_log(bq_note *note) {
  bq_attempt_log_say(note->attempt->log, note->text);
}

static int build_log(lua_State *L) {
  bq_args_self(L, "log");
  bq_note *note = bq_note_new(L, run_log, bq_args_string(L, 2, "build:log", "the text", NULL));
  lua_settop(L, 0);
  return bq_note_put_off(L, note);
}

// build:fail is an end that nothing catches: the vm is killed while this operation is under way.
static void run_fail(bq_note *note) {
  bq_attempt_fail(note->attempt, BQ_OUTCOME_FAILED, "step", note->flag, note->text);
  bq_vm_kill(note->attempt->vm, note->text);
}

int bq_build_fail(lua_State *L) {
  static const char *const options[] = {"retry", NULL};
  bq_args_self(L, "fail");
  const char *message = bq_args_string(L, 2, "build:fail", "the message", NULL);
  int retryable = 1;
  if (bq_args_has_options(L, 3, "build:fail", options, "build:fail(\"no such branch\", {retry = false})")) {
    lua_getfield(L, 3, "retry");
    if (!lua_isnil(L, -1)) retryable = lua_toboolean(L, -1);
  }
  bq_note *note = bq_note_new(L, run_fail, message);
  note->flag = retryable;
  return bq_op_yield(L, &note->op);
}

void bq_build_add_progress(lua_State *L) {
  if (luaL_loadbufferx(L, step_source, sizeof step_source - 1, "=buildq", "t") != LUA_OK) (void)lua_error(L);
  lua_pushcfunction(L, begin_step);
  lua_pushcfunction(L, end_step);
  lua_pushcfunction(L, check_step);
  lua_call(L, 3, 1);
  lua_setfield(L, -2, "step");
  lua_pushcfunction(L, build_progress);
  lua_setfield(L, -2, "progress");
  lua_pushcfunction(L, build_log);
  lua_setfield(L, -2, "log");
  lua_pushcfunction(L, bq_build_fail);
  lua_setfield(L, -2, "fail");
}
