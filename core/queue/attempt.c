#include "queue/attempt.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "queue/attempt_internal.h"

static void take_turn(bq_post *post);

static const char *row_text(const bq_attempt *attempt, const char *key) {
  const char *text = json_string_value(json_object_get(attempt->row, key));
  return text != NULL ? text : "";
}

const char *bq_attempt_id(const bq_attempt *attempt) {
  return attempt->id;
}

uint64_t bq_attempt_disk_bytes(const bq_attempt *attempt) {
  return attempt->disk_bytes;
}

int bq_attempt_number(const bq_attempt *attempt) {
  return attempt->number;
}

int bq_attempt_percent(const bq_attempt *attempt) {
  return attempt->percent;
}

const char *bq_attempt_workspace(const bq_attempt *attempt) {
  return attempt->workspace;
}

const char *bq_attempt_step(const bq_attempt *attempt) {
  return attempt->step;
}

const char *bq_attempt_text(const bq_attempt *attempt) {
  return attempt->text;
}

json_t *bq_attempt_row(const bq_attempt *attempt) {
  return attempt->row;
}

bq_attempt_log *bq_attempt_get_log(bq_attempt *attempt) {
  // Before, a blocking thread may have it.
  return attempt->state != BQ_ATTEMPT_PREPARING ? attempt->log : NULL;
}

bq_generation *bq_attempt_generation(bq_attempt *attempt) {
  return attempt->generation;
}

// No Lua of this build runs from here on: another one may have its state.
static void give_state_back(bq_attempt *attempt) {
  bq_stock_give(attempt->env->stock, attempt->vm);
  attempt->vm = NULL;
}

static void release(bq_attempt *attempt) {
  give_state_back(attempt);
  bq_timer_free(attempt->deadline);
  bq_timer_free(attempt->log_timer);
  if (attempt->log != NULL) bq_attempt_log_close(attempt->log);
  bq_mask_set_free(attempt->secrets);
  bq_generation_release(attempt->generation);
  json_decref(attempt->row);
  json_decref(attempt->secret_names);
  json_decref(attempt->secret_values);
  json_decref(attempt->credentials);
  json_decref(attempt->provenance);
  json_decref(attempt->artifacts);
  json_decref(attempt->commands);
  json_decref(attempt->steps);
  bq_free(attempt->workspace);
  bq_free(attempt->partial);
  bq_free(attempt->output);
  bq_free(attempt->log_path);
  bq_free(attempt->deferred);
  bq_free(attempt->image_url);
  bq_free(attempt->message);
  bq_free(attempt->error_kind);
  bq_free(attempt->log_tail);
  bq_free(attempt->log_text);
  bq_free(attempt);
}

void bq_attempt_fail(bq_attempt *attempt, bq_outcome_kind kind, const char *error_kind, int retryable,
                     const char *message) {
  int superseded = kind == BQ_OUTCOME_SUPERSEDED && attempt->outcome.kind != BQ_OUTCOME_SUPERSEDED;
  if (attempt->outcome.kind != BQ_OUTCOME_SUCCESS && !superseded) return;
  bq_free(attempt->message);
  bq_free(attempt->error_kind);
  bq_buf masked = {0};
  // Masked before it is cut: half a secret is none that the mask knows.
  bq_mask_text(attempt->secrets, message, strnlen(message, BQ_ATTEMPT_MASKED_BYTES), &masked);
  if (masked.data != NULL && masked.length > BQ_ATTEMPT_MESSAGE_BYTES) masked.data[BQ_ATTEMPT_MESSAGE_BYTES] = '\0';
  attempt->message = bq_buf_take(&masked);
  if (attempt->message != NULL) bq_utf8_clean(attempt->message); // else PostgreSQL refuses the whole outcome
  attempt->error_kind = bq_strdup(error_kind);
  attempt->outcome.kind = kind;
  attempt->outcome.retryable = retryable;
  attempt->outcome.message = attempt->message != NULL ? attempt->message : "out of memory";
  attempt->outcome.error_kind = attempt->error_kind != NULL ? attempt->error_kind : "infrastructure";
}

// No line stays in memory for longer than BQ_ATTEMPT_LOG_MS, but what has ended: its log is on the way into the database.
static void on_first_line(void *arg) {
  bq_attempt *attempt = arg;
  if (attempt->state < BQ_ATTEMPT_REPORTED) bq_timer_set(attempt->log_timer, BQ_ATTEMPT_LOG_MS);
}

static void on_log_time(void *arg) {
  bq_attempt_log_hurry(((bq_attempt *)arg)->log);
}

static void on_deadline(void *arg) {
  bq_attempt *attempt = arg;
  if (attempt->state == BQ_ATTEMPT_DEFERRING) {
    bq_vm_kill(attempt->vm, "the deferred functions took longer than 60 s together");
    return;
  }
  char *message = bq_format("the build ran longer than its limit of %d minutes (BuildTimeoutMinutes)",
                            attempt->env->config->build_timeout_minutes);
  bq_attempt_stop(attempt, BQ_OUTCOME_TIMEDOUT, message != NULL ? message : "the build ran longer than its limit");
  bq_free(message);
}

static const char *stop_error_kind(bq_outcome_kind kind) {
  switch (kind) {
  case BQ_OUTCOME_TIMEDOUT: return "timeout";
  case BQ_OUTCOME_CANCELLED: return "cancelled";
  case BQ_OUTCOME_REQUEUED:
  case BQ_OUTCOME_SUPERSEDED: return "infrastructure";
  case BQ_OUTCOME_SUCCESS:
  case BQ_OUTCOME_FAILED: break;
  }
  return "script";
}

void bq_attempt_stop(bq_attempt *attempt, bq_outcome_kind kind, const char *message) {
  // What was published, or handed to the owner, has its outcome: only a lost lease still changes that.
  if (attempt->state >= BQ_ATTEMPT_PUBLISHING && kind != BQ_OUTCOME_SUPERSEDED) return;
  bq_attempt_fail(attempt, kind, stop_error_kind(kind), 0, message);
  attempt->stopping = 1;
  // Without a vm the pipeline has not begun: it will not.
  if (attempt->state == BQ_ATTEMPT_RUNNING && attempt->vm != NULL) bq_vm_kill(attempt->vm, message);
}

static void submit(bq_attempt *attempt, void (*work)(bq_task *task));

static void end(bq_attempt *attempt) {
  bq_attempt_events events = attempt->events;
  events.closed(events.arg, attempt);
  release(attempt);
}

// Blocking work is over: the next state follows from the present one.
static void work_done(bq_task *task) {
  bq_attempt *attempt = (bq_attempt *)((char *)task - offsetof(bq_attempt, task));
  if (attempt->task_result < 0) {
    bq_log(BQ_WARN, "file work of a build failed", "build", attempt->id, "error", attempt->task_error.message, NULL);
    if (attempt->state != BQ_ATTEMPT_CLEANING) {
      bq_attempt_fail(attempt, BQ_OUTCOME_FAILED, "infrastructure", 1, attempt->task_error.message);
    }
  }
  switch (attempt->state) {
  case BQ_ATTEMPT_PREPARING: bq_attempt_advance(attempt, BQ_ATTEMPT_RUNNING); break;
  case BQ_ATTEMPT_PUBLISHING: bq_attempt_advance(attempt, BQ_ATTEMPT_REPORTED); break;
  case BQ_ATTEMPT_CLEANING: end(attempt); break;
  case BQ_ATTEMPT_RUNNING:
  case BQ_ATTEMPT_DEFERRING:
  case BQ_ATTEMPT_REPORTED: break; // these have no blocking work
  }
}

static void submit(bq_attempt *attempt, void (*work)(bq_task *task)) {
  attempt->task = (bq_task){.work = work, .done = work_done};
  bq_error err;
  // A full blocking pool is overload, not this build's fault: the next turn of the loop tries again.
  if (bq_pool_submit(attempt->env->blocking, &attempt->task, &err) < 0) {
    attempt->turn.run = take_turn;
    bq_loop_post(attempt->env->loop, &attempt->turn);
  }
}

// The log goes into the database when it has no file and the build has succeeded. That of any other end is a file: what
// becomes of the attempt is not known yet.
static void report_log(bq_attempt *attempt) {
  size_t length = 0;
  bq_buf tail = {0};
  bq_error err;
  bq_attempt_log_last(attempt->log, BQ_LOG_LAST_LINES, &tail);
  attempt->outcome.log_tail = attempt->log_tail = bq_buf_take(&tail);
  const char *text = bq_attempt_log_text(attempt->log, &length);
  if (text == NULL) return;
  if (attempt->outcome.kind == BQ_OUTCOME_SUCCESS) attempt->log_text = bq_strndup(text, length);
  if (attempt->log_text == NULL) (void)!bq_attempt_log_keep(attempt->log, &err); // a failure is logged
  attempt->outcome.log = attempt->log_text;
}

static void report(bq_attempt *attempt) {
  bq_timer_clear(attempt->deadline);
  bq_timer_clear(attempt->log_timer);
  attempt->outcome.artifacts = attempt->artifacts;
  attempt->outcome.image_url = attempt->image_url;
  if (attempt->outcome.kind == BQ_OUTCOME_SUCCESS) {
    bq_attempt_keep_steps(attempt);
    if (bq_attempt_publishes(attempt)) attempt->outcome.output_path = attempt->output;
    size_t index;
    json_t *artifact;
    json_array_foreach(attempt->artifacts, index, artifact) {
      const char *kind = json_string_value(json_object_get(artifact, "kind"));
      if (attempt->outcome.archive == NULL && kind != NULL && strcmp(kind, "archive") == 0) {
        attempt->outcome.archive = json_string_value(json_object_get(artifact, "name"));
      }
    }
  } else {
    bq_attempt_log_say(attempt->log, attempt->outcome.message);
  }
  report_log(attempt);
  attempt->events.ended(attempt->events.arg, attempt, &attempt->outcome);
}

// Whether there is file work before the pipeline runs. A later attempt removes what earlier ones have left.
static int has_to_prepare(const bq_attempt *attempt) {
  return attempt->env->files_at_once || attempt->number > 1 || json_array_size(attempt->secret_names) > 0 ||
         strcmp(attempt->env->config->credentials, "{}") != 0;
}

// Enters the present state. Each state leads to the next through bq_attempt_advance.
static void take_turn(bq_post *post) {
  bq_attempt *attempt = (bq_attempt *)((char *)post - offsetof(bq_attempt, turn));
  bq_error err;
  int result;
  switch (attempt->state) {
  case BQ_ATTEMPT_PREPARING:
    if (has_to_prepare(attempt)) submit(attempt, bq_attempt_prepare);
    else bq_attempt_advance(attempt, BQ_ATTEMPT_RUNNING);
    break;
  case BQ_ATTEMPT_RUNNING:
    if (attempt->outcome.kind != BQ_OUTCOME_SUCCESS) { // preparing failed, or a stop came meanwhile
      bq_attempt_advance(attempt, BQ_ATTEMPT_REPORTED);
      break;
    }
    if (bq_attempt_run(attempt, &err) < 0) {
      bq_attempt_fail(attempt, BQ_OUTCOME_FAILED, "infrastructure", 1, err.message);
      bq_attempt_advance(attempt, BQ_ATTEMPT_REPORTED);
    }
    break;
  case BQ_ATTEMPT_DEFERRING:
    result = bq_attempt_run_deferred(attempt, &err);
    if (result < 0) bq_log_error("deferred functions could not be run", &err);
    if (result == 0) bq_timer_set(attempt->deadline, BQ_ATTEMPT_DEFER_MS);
    else bq_attempt_advance(attempt, BQ_ATTEMPT_PUBLISHING);
    break;
  case BQ_ATTEMPT_PUBLISHING:
    give_state_back(attempt);
    if (attempt->outcome.kind == BQ_OUTCOME_SUCCESS && bq_attempt_publishes(attempt)) {
      submit(attempt, bq_attempt_publish);
    } else {
      bq_attempt_advance(attempt, BQ_ATTEMPT_REPORTED);
    }
    break;
  case BQ_ATTEMPT_REPORTED: report(attempt); break;
  case BQ_ATTEMPT_CLEANING:
    if (attempt->dirs != BQ_DIRS_NONE) submit(attempt, bq_attempt_clean);
    else end(attempt);
    break;
  }
}

void bq_attempt_advance(bq_attempt *attempt, bq_attempt_state next) {
  attempt->state = next;
  attempt->turn.run = take_turn;
  bq_loop_post(attempt->env->loop, &attempt->turn);
}

int bq_attempt_start(bq_attempt **out, const bq_attempt_env *env, json_t *row, bq_generation *generation,
                     const bq_attempt_events *events, bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_attempt *attempt = bq_alloc(sizeof *attempt);
  if (attempt == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a build");
  attempt->env = env;
  attempt->events = *events;
  attempt->generation = bq_generation_retain(generation);
  attempt->row = json_incref(row);
  attempt->id = row_text(attempt, "id");
  attempt->number = (int)json_integer_value(json_object_get(row, "attempt"));
  attempt->started_us = bq_clock_wall_us();
  attempt->outcome.kind = BQ_OUTCOME_SUCCESS;
  attempt->secret_names = json_deep_copy(env->needs(env->arg, row_text(attempt, "pipeline")));
  attempt->secret_values = json_object();
  attempt->credentials = json_object();
  attempt->provenance = json_object();
  attempt->artifacts = json_array();
  attempt->commands = json_array();
  attempt->steps = json_array();
  if (attempt->secret_values == NULL || attempt->credentials == NULL || attempt->provenance == NULL ||
      attempt->artifacts == NULL || attempt->commands == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a build");
    goto cleanup;
  }
  result = bq_mask_set_new(&attempt->secrets, env->hidden, err);
  if (result == 0) result = bq_attempt_make_paths(attempt, err);
  if (result == 0) {
    result = bq_attempt_log_new(&attempt->log, attempt->log_path, (uint64_t)env->config->max_log_megabytes * 1024 * 1024,
                                attempt->secrets, err);
  }
  if (result == 0) result = bq_timer_new(&attempt->deadline, env->loop, on_deadline, attempt, err);
  if (result == 0) result = bq_timer_new(&attempt->log_timer, env->loop, on_log_time, attempt, err);
  if (result < 0) goto cleanup;
  bq_attempt_log_on_first(attempt->log, on_first_line, attempt);
  bq_timer_follow_clock(attempt->deadline);
  bq_timer_set(attempt->deadline, (int64_t)env->config->build_timeout_minutes * 60 * 1000);
  bq_attempt_advance(attempt, BQ_ATTEMPT_PREPARING);
  *out = attempt;
  attempt = NULL;
cleanup:
  if (attempt != NULL) release(attempt);
  return result;
}

void bq_attempt_close(bq_attempt *attempt, int recorded) {
  bq_error err;
  attempt->recorded = recorded;
  // Its log was not taken either.
  if (!recorded && attempt->log_text != NULL) (void)!bq_attempt_log_keep(attempt->log, &err);
  bq_attempt_advance(attempt, BQ_ATTEMPT_CLEANING);
}
