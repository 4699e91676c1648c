#include "queue/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "base/uuid.h"
#include "lua/generation.h"
#include "queue/server_metrics.h"

enum {
  PROGRESS_MS = 250,       // progress reaches the row at most this late
  MAX_CLAIM = 50,          // rows of one claim
  LOW_KEY_MS = 5000        // how old the lower bound of claim keys may grow
};

// One attempt of ours and what is to be written about it.
typedef struct running {
  bq_runner *runner;
  bq_attempt *attempt;
  char id[BQ_UUID_SIZE];
  char number[16];                // the attempt, as text for SQL
  char node_id[BQ_UUID_SIZE];     // as which it was claimed
  int64_t started_us;             // bq_clock_mono_us
  int dirty;                      // progress or step is not written yet
  int writing;                    // a progress write is under way
  int ending;                     // the outcome is recorded when the progress is written
  int refused;                    // PostgreSQL did not take the outcome: a failure is recorded in its place
  const bq_outcome *outcome;      // from `ended` to the answer
  struct running *next;
  struct running *previous;
} running;

// A claimed row that waits for its own generation to be loaded.
typedef struct loading {
  bq_task task; // compiles
  bq_runner *runner;
  json_t *row;                // retained
  char node_id[BQ_UUID_SIZE];
  bq_sources *sources;        // owned; until it is compiled
  bq_generation *generation;  // retained; the result
  bq_error error;
} loading;

struct bq_runner {
  bq_runner_options options;
  char node_id[BQ_UUID_SIZE]; // "" before the node has joined
  running *first;
  size_t count;               // running, and loading
  int claiming;               // a claim is under way
  int wake_again;             // something came due meanwhile
  int adrift;                 // a claim's answer was lost: look for what we hold without knowing
  int stopping;
  int64_t low_key;            // no pending build has a smaller claim key, as far as we know
  int64_t low_key_us;         // when that was looked up
  int looking;                // it is being looked up, and a claim follows
  bq_timer *progress_timer;   // owned
  bq_timer *grace_timer;      // owned
  bq_timer *poll_timer;       // owned
  bq_post idle_post;
};

static void on_progress_timer(void *arg);
static void on_grace_over(void *arg);
static void on_poll(void *arg);

int bq_runner_new(bq_runner **out, const bq_runner_options *options, bq_error *err) {
  *out = NULL;
  bq_runner *runner = bq_alloc(sizeof *runner);
  if (runner == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the runner");
  runner->options = *options;
  bq_loop *loop = options->env->loop;
  int result = bq_timer_new(&runner->progress_timer, loop, on_progress_timer, runner, err);
  if (result == 0) result = bq_timer_new(&runner->grace_timer, loop, on_grace_over, runner, err);
  if (result == 0) result = bq_timer_new(&runner->poll_timer, loop, on_poll, runner, err);
  if (result < 0) bq_runner_free(runner);
  else *out = runner;
  return result;
}

void bq_runner_free(bq_runner *runner) {
  if (runner == NULL) return;
  bq_timer_free(runner->progress_timer);
  bq_timer_free(runner->grace_timer);
  bq_timer_free(runner->poll_timer);
  bq_free(runner);
}

size_t bq_runner_count(const bq_runner *runner) {
  return runner->count;
}

static running *find(bq_runner *runner, const char *id) {
  for (running *r = runner->first; r != NULL; r = r->next) {
    if (strcmp(r->id, id) == 0) return r;
  }
  return NULL;
}

bq_attempt *bq_runner_find(bq_runner *runner, const char *build_id) {
  running *r = find(runner, build_id);
  return r != NULL ? r->attempt : NULL;
}

static const char *row_text(json_t *row, const char *key) {
  const char *text = json_string_value(json_object_get(row, key));
  return text != NULL ? text : "";
}

static void claim_more(bq_runner *runner);
static void on_low_key_for_claim(void *arg, const bq_pg_result *result);
static void count_less(bq_runner *runner);

// Progress --------------------------------------------------------------------------------------------------------

static void record(running *r);

static void on_progress_written(void *arg, const bq_pg_result *result) {
  running *r = arg;
  r->writing = 0;
  if (r->ending) {
    r->ending = 0;
    record(r);
    return;
  }
  if (result->error != NULL) {
    r->dirty = 1; // the next round tries again
    bq_timer_set(r->runner->progress_timer, PROGRESS_MS);
  } else if (PQntuples(result->rows) == 0 && r->outcome == NULL) {
    bq_attempt_stop(r->attempt, BQ_OUTCOME_SUPERSEDED, "another attempt has taken this build over");
  } else {
    r->runner->options.changed(r->runner->options.arg, r->id);
  }
  if (r->attempt == NULL) bq_free(r); // it ended meanwhile
}

static void write_progress(running *r) {
  char percent[16];
  bq_error err;
  (void)snprintf(percent, sizeof percent, "%d", bq_attempt_percent(r->attempt));
  const char *step = bq_attempt_step(r->attempt);
  const char *params[] = {r->id, r->number, r->node_id, percent, step[0] != '\0' ? step : NULL};
  r->dirty = 0;
  r->writing = 1;
  if (bq_store_query(r->runner->options.store, "progress", 5, params, on_progress_written, r, &err) == 0) return;
  r->writing = 0;
  r->dirty = 1;
  bq_timer_set(r->runner->progress_timer, PROGRESS_MS);
}

static void on_progress_timer(void *arg) {
  bq_runner *runner = arg;
  for (running *r = runner->first; r != NULL; r = r->next) {
    if (r->dirty && !r->writing && r->outcome == NULL) write_progress(r);
  }
}

static void on_progressed(void *arg, bq_attempt *attempt) {
  (void)attempt;
  running *r = arg;
  int quiet = !r->dirty;
  r->dirty = 1;
  if (quiet) bq_timer_set(r->runner->progress_timer, PROGRESS_MS);
}

// The end of an attempt ---------------------------------------------------------------------------------------------

static void note_end(running *r, const char *status) {
  bq_metrics *metrics = r->runner->options.metrics;
  json_t *row = bq_attempt_row(r->attempt);
  const char *labels[] = {row_text(row, "pipeline"), row_text(row, "tier")};
  double seconds = (double)(bq_clock_mono_us() - r->started_us) / 1e6;
  bq_metrics_observe(metrics, BQ_M_DURATION, labels, seconds);
  bq_metrics_add(metrics, BQ_M_FINISHED, &status, 1);
  if (strcmp(status, "pending") == 0 && r->outcome->kind == BQ_OUTCOME_FAILED) {
    bq_metrics_add(metrics, BQ_M_RETRIES, NULL, 1);
  }
  char took[32];
  (void)snprintf(took, sizeof took, "%.3f", seconds);
  bq_log(r->outcome->kind == BQ_OUTCOME_FAILED ? BQ_WARN : BQ_INFO, "attempt ended", "build", r->id, "attempt",
         r->number, "status", status, "seconds", took, "error", r->outcome->message, NULL);
}

static void on_recorded(void *arg, const bq_pg_result *result);

static void requeue(running *r, const char *why) {
  const char *params[] = {r->id, r->number, r->node_id, why};
  bq_error err;
  if (bq_store_write(r->runner->options.store, "requeue", 4, params, on_recorded, r, &err) == 0) return;
  bq_log_error("a build could not be given back", &err); // its lease will: the next server takes it over
  bq_attempt_close(r->attempt, 0);
}

static void record_refused(running *r, const bq_error *why);

static void on_recorded(void *arg, const bq_pg_result *result) {
  running *r = arg;
  if (result->error != NULL) {
    bq_log(BQ_ERROR, "the outcome of a build could not be recorded", "build", r->id, "attempt", r->number, "error",
           result->error->message, NULL);
    int refused = result->error->code == BQ_EDATABASE && r->outcome->kind != BQ_OUTCOME_REQUEUED;
    if (refused && !r->refused) record_refused(r, result->error);
    else if (refused) requeue(r, "its outcome could not be recorded");
    else bq_attempt_close(r->attempt, 0);
    return;
  }
  const char *answer = PQntuples(result->rows) > 0 ? PQgetvalue(result->rows, 0, 0) : "stale";
  int stale = strcmp(answer, "stale") == 0;
  static const char *const words[] = {"success", "failed", "timedout", "cancelled", "pending", "superseded"};
  const char *status = words[r->outcome->kind];
  if (PQnfields(result->rows) > 1 && !PQgetisnull(result->rows, 0, 1)) status = PQgetvalue(result->rows, 0, 1);
  note_end(r, stale ? "superseded" : status);
  r->runner->options.changed(r->runner->options.arg, r->id);
  bq_attempt_close(r->attempt, !stale && !r->refused);
}

static int record_success(running *r, bq_error *err) {
  const bq_outcome *outcome = r->outcome;
  const char *base = r->runner->options.env->config->download_base_url;
  if (base[0] == '\0') base = r->runner->options.env->server_url;
  char *url = outcome->archive != NULL ? bq_format("%s/downloads/%s/%s", base, r->id, outcome->archive) : NULL;
  char *artifacts = json_dumps(outcome->artifacts, JSON_COMPACT);
  const char *params[] = {r->id, r->number, r->node_id, outcome->output_path, outcome->image_url, url,
                          artifacts != NULL ? artifacts : "[]", outcome->log_tail};
  int result = bq_store_write(r->runner->options.store, "finish_success", 8, params, on_recorded, r, err);
  bq_free(url);
  bq_free(artifacts);
  return result;
}

static int record_failure(running *r, const char *message, const char *kind, int retryable, const char *log_tail,
                          bq_error *err) {
  const bq_config *config = r->runner->options.env->config;
  char retries[16];
  char delay[16];
  char jitter[32];
  (void)snprintf(retries, sizeof retries, "%d", config->max_retry_attempts);
  (void)snprintf(delay, sizeof delay, "%d", config->retry_delay_minutes);
  (void)snprintf(jitter, sizeof jitter, "%.6f", (double)random() / (double)RAND_MAX);
  const char *pipeline = row_text(bq_attempt_row(r->attempt), "pipeline");
  const char *params[] = {r->id,
                          r->number,
                          r->node_id,
                          message,
                          kind,
                          retryable ? "true" : "false",
                          retries,
                          delay,
                          config->use_exponential_backoff ? "true" : "false",
                          jitter,
                          log_tail,
                          r->runner->options.is_pinned(r->runner->options.arg, pipeline) ? "true" : "false"};
  return bq_store_write(r->runner->options.store, "finish_failure", 12, params, on_recorded, r, err);
}

// PostgreSQL took the statement and not the data: it will not another time either. That is a failure like any other, and
// charged: given back uncharged, the build would start again for ever.
static void record_refused(running *r, const bq_error *why) {
  bq_error err;
  char message[200];
  r->refused = 1;
  (void)snprintf(message, sizeof message, "the outcome (%s) was refused by the database: %.120s",
                 r->outcome->kind == BQ_OUTCOME_SUCCESS ? "success" : "failure", why->message);
  bq_utf8_clean(message);
  if (record_failure(r, message, "infrastructure", 1, NULL, &err) == 0) return;
  bq_log_error("the outcome of a build could not be written", &err);
  bq_attempt_close(r->attempt, 0);
}

static int record_end(running *r, const char *status, bq_error *err) {
  const char *params[] = {r->id,           r->number, r->node_id, status, r->outcome->message, r->outcome->error_kind,
                          r->outcome->log_tail};
  return bq_store_write(r->runner->options.store, "finish_end", 7, params, on_recorded, r, err);
}

static void record(running *r) {
  const bq_outcome *outcome = r->outcome;
  bq_error err = {0};
  int result = 0;
  switch (outcome->kind) {
  case BQ_OUTCOME_SUCCESS: result = record_success(r, &err); break;
  case BQ_OUTCOME_FAILED:
    result = record_failure(r, outcome->message, outcome->error_kind, outcome->retryable, outcome->log_tail, &err);
    break;
  case BQ_OUTCOME_TIMEDOUT: result = record_end(r, "timedout", &err); break;
  case BQ_OUTCOME_CANCELLED: result = record_end(r, "cancelled", &err); break;
  case BQ_OUTCOME_REQUEUED: requeue(r, outcome->message); break;
  case BQ_OUTCOME_SUPERSEDED:
    note_end(r, "superseded");
    bq_attempt_close(r->attempt, 0);
    break;
  }
  if (result < 0) {
    bq_log_error("the outcome of a build could not be written", &err);
    bq_attempt_close(r->attempt, 0);
  }
}

static void on_ended(void *arg, bq_attempt *attempt, const bq_outcome *outcome) {
  (void)attempt;
  running *r = arg;
  int tells_where = outcome->kind == BQ_OUTCOME_FAILED || outcome->kind == BQ_OUTCOME_TIMEDOUT ||
                    outcome->kind == BQ_OUTCOME_CANCELLED;
  // The row shows the step in which the build ended, however quickly it came there.
  if (tells_where && r->dirty && !r->writing) write_progress(r);
  r->outcome = outcome;
  if (tells_where && r->writing) r->ending = 1;
  else record(r);
}

static void on_closed(void *arg, bq_attempt *attempt) {
  (void)attempt;
  running *r = arg;
  bq_runner *runner = r->runner;
  if (r->previous != NULL) r->previous->next = r->next;
  else runner->first = r->next;
  if (r->next != NULL) r->next->previous = r->previous;
  r->attempt = NULL;
  if (!r->writing) bq_free(r);
  count_less(runner);
}

static void on_kept(void *arg, const bq_pg_result *result) {
  (void)arg;
  if (result->error != NULL) bq_log_error("a manifest's copy could not be kept", result->error);
}

static void on_adopted(void *arg, bq_attempt *attempt) {
  running *r = arg;
  bq_error err;
  char *manifest = json_dumps(json_object_get(bq_attempt_row(attempt), "manifest"), JSON_COMPACT);
  const char *params[] = {r->id, r->number, r->node_id, manifest};
  if (manifest == NULL ||
      bq_store_write(r->runner->options.store, "keep_manifest", 4, params, on_kept, NULL, &err) < 0) {
    bq_log(BQ_ERROR, "a manifest's copy could not be kept", "build", r->id, NULL);
  }
  bq_free(manifest);
}

// Starting ----------------------------------------------------------------------------------------------------------

static void on_given_back(void *arg, const bq_pg_result *result) {
  (void)arg;
  if (result->error != NULL) bq_log_error("a build could not be given back", result->error);
}

// For a claimed build that has no attempt object: back to the queue, uncharged.
static void give_back(bq_runner *runner, const char *id, const char *attempt, const char *node_id, const char *why) {
  const char *params[] = {id, attempt, node_id, why};
  bq_error err;
  bq_log(BQ_WARN, "a claimed build is given back", "build", id, "reason", why, NULL);
  if (bq_store_write(runner->options.store, "requeue", 4, params, on_given_back, NULL, &err) < 0) {
    bq_log_error("a build could not be given back", &err);
  }
}

static int start_attempt(bq_runner *runner, json_t *row, const char *node_id, bq_generation *generation,
                         bq_error *err) {
  running *r = bq_alloc(sizeof *r);
  if (r == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a build");
  r->runner = runner;
  r->started_us = bq_clock_mono_us();
  (void)snprintf(r->id, sizeof r->id, "%s", row_text(row, "id"));
  (void)snprintf(r->number, sizeof r->number, "%lld", json_integer_value(json_object_get(row, "attempt")));
  (void)snprintf(r->node_id, sizeof r->node_id, "%s", node_id);
  bq_attempt_events events = {
      .progressed = on_progressed, .adopted = on_adopted, .ended = on_ended, .closed = on_closed, .arg = r};
  int result = bq_attempt_start(&r->attempt, runner->options.env, row, generation, &events, err);
  if (result < 0) {
    bq_free(r);
    return result;
  }
  r->next = runner->first;
  if (r->next != NULL) r->next->previous = r;
  runner->first = r;
  bq_log(BQ_INFO, "attempt started", "build", r->id, "attempt", r->number, "pipeline", row_text(row, "pipeline"),
         "generation", bq_generation_hash(generation), NULL);
  if (json_integer_value(json_object_get(row, "attempt")) == 1) {
    const char *labels[] = {row_text(row, "pipeline"), row_text(row, "tier")};
    bq_metrics_observe(runner->options.metrics, BQ_M_WAIT, labels,
                       json_number_value(json_object_get(row, "waitSeconds")));
  }
  runner->options.changed(runner->options.arg, r->id);
  return 0;
}

static void start_or_give_back(bq_runner *runner, json_t *row, const char *node_id, bq_generation *generation) {
  bq_error err;
  char number[24];
  if (start_attempt(runner, row, node_id, generation, &err) == 0) return;
  (void)snprintf(number, sizeof number, "%lld", json_integer_value(json_object_get(row, "attempt")));
  give_back(runner, row_text(row, "id"), number, node_id, err.message);
  count_less(runner);
}

// A takeover of a build whose generation is not the running one: its sources come from the database. -----------------

static void finish_loading(loading *l) {
  bq_generation *generation = l->generation;
  if (generation == NULL) {
    bq_log(BQ_WARN, "a build's scripts are not in the database: it runs on the present ones", "build",
           row_text(l->row, "id"), "generation", row_text(l->row, "generation"), "error",
           l->error.code != 0 ? l->error.message : NULL, NULL);
    generation = l->runner->options.generation(l->runner->options.arg);
  }
  start_or_give_back(l->runner, l->row, l->node_id, generation);
  bq_generation_release(l->generation);
  json_decref(l->row);
  bq_free(l);
}

static void compile_work(bq_task *task) {
  loading *l = (loading *)task;
  if (bq_generation_compile(&l->generation, l->sources, &l->error) < 0) l->generation = NULL;
  l->sources = NULL;
}

static void compile_done(bq_task *task) {
  finish_loading((loading *)task);
}

static int read_sources(loading *l, const json_t *files) {
  size_t index;
  json_t *file;
  int result = bq_sources_new(&l->sources, &l->error);
  json_array_foreach(files, index, file) {
    json_t *content = json_object_get(file, "content");
    if (result < 0) break;
    result = bq_sources_add(l->sources, row_text(file, "path"), json_string_value(content),
                            json_string_length(content), 0, &l->error);
  }
  return result < 0 ? result : bq_sources_seal(l->sources, &l->error);
}

static void on_sources(void *arg, const bq_pg_result *result) {
  loading *l = arg;
  json_t *files = result->error == NULL ? bq_store_json(result->rows, 0) : NULL;
  if (result->error != NULL) l->error = *result->error;
  if (files != NULL && read_sources(l, files) == 0) {
    json_decref(files);
    l->task = (bq_task){.work = compile_work, .done = compile_done};
    if (bq_pool_submit(l->runner->options.env->compute, &l->task, &l->error) == 0) return;
  } else {
    json_decref(files);
  }
  bq_sources_free(l->sources);
  l->sources = NULL;
  finish_loading(l);
}

static void start_row(bq_runner *runner, json_t *row, const char *node_id) {
  bq_generation *current = runner->options.generation(runner->options.arg);
  const char *wanted = row_text(row, "generation");
  if (wanted[0] == '\0' || strcmp(wanted, bq_generation_hash(current)) == 0) {
    start_or_give_back(runner, row, node_id, current);
    return;
  }
  loading *l = bq_alloc(sizeof *l);
  bq_error err;
  if (l != NULL) {
    l->runner = runner;
    l->row = json_incref(row);
    (void)snprintf(l->node_id, sizeof l->node_id, "%s", node_id);
    if (bq_store_query(runner->options.store, "load_generation", 1, &wanted, on_sources, l, &err) == 0) return;
    json_decref(l->row);
    bq_free(l);
  }
  start_or_give_back(runner, row, node_id, current);
}

// Claiming ------------------------------------------------------------------------------------------------------------

static void on_mine(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  if (result->error != NULL) {
    runner->adrift = 1;
    return;
  }
  for (int row = 0; row < PQntuples(result->rows); row++) {
    const char *id = PQgetvalue(result->rows, row, 0);
    if (find(runner, id) == NULL) {
      give_back(runner, id, PQgetvalue(result->rows, row, 1), runner->node_id, "the answer to its claim was lost");
    }
  }
}

// Only when no claim is under way and nothing is being loaded can what the database has be told from what we have.
static void look_for_adrift(bq_runner *runner) {
  size_t known = 0;
  for (const running *r = runner->first; r != NULL; r = r->next) known++;
  if (!runner->adrift || runner->claiming || known != runner->count) return;
  bq_error err;
  const char *params[] = {runner->node_id};
  if (bq_store_query(runner->options.store, "mine", 1, params, on_mine, runner, &err) == 0) runner->adrift = 0;
}

static void on_claimed(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  runner->claiming = 0;
  if (result->error != NULL) {
    if (result->error->code == BQ_EUNKNOWN) runner->adrift = 1;
    if (result->error->code == BQ_EDATABASE) bq_log_error("a claim failed", result->error);
    return; // the poll tries again
  }
  int count = PQntuples(result->rows);
  for (int i = 0; i < count; i++) {
    json_t *row = bq_store_json(result->rows, i);
    if (row == NULL) continue; // logged; its lease brings it back
    runner->count++;
    start_row(runner, row, runner->node_id);
    json_decref(row);
  }
  if (count > 0 || runner->wake_again) claim_more(runner);
}


static void on_low_key(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  // An empty queue has no smallest key, and what comes next may have any.
  if (result->error != NULL || PQgetisnull(result->rows, 0, 0)) runner->low_key = 0;
  else runner->low_key = strtoll(PQgetvalue(result->rows, 0, 0), NULL, 10);
}

static void on_low_key_for_claim(void *arg, const bq_pg_result *result) {
  ((bq_runner *)arg)->looking = 0;
  on_low_key(arg, result);
  claim_more(arg);
}

// Dead index entries lie below the smallest living key. A key inserted below the bound is seen within LOW_KEY_MS.
static void refresh_low_key(bq_runner *runner) {
  int64_t now = bq_clock_mono_us();
  if (now - runner->low_key_us < (int64_t)LOW_KEY_MS * 1000) return;
  bq_error err;
  if (bq_store_query(runner->options.store, "lowest_key", 0, NULL, on_low_key, runner, &err) == 0) {
    runner->low_key_us = now;
  }
}

static void claim_more(bq_runner *runner) {
  const bq_config *config = runner->options.env->config;
  if (runner->claiming) {
    runner->wake_again = 1;
    return;
  }
  runner->wake_again = 0;
  if (runner->stopping || runner->node_id[0] == '\0' || runner->options.generation(runner->options.arg) == NULL ||
      runner->count >= (size_t)config->max_concurrent_builds || !runner->options.may_claim(runner->options.arg)) {
    return;
  }
  refresh_low_key(runner);
  size_t free_slots = (size_t)config->max_concurrent_builds - runner->count;
  char limit[16];
  char low[24];
  (void)snprintf(limit, sizeof limit, "%zu", free_slots < MAX_CLAIM ? free_slots : MAX_CLAIM);
  (void)snprintf(low, sizeof low, "%lld", (long long)runner->low_key);
  const char *hash = bq_generation_hash(runner->options.generation(runner->options.arg));
  const char *params[] = {runner->node_id, limit, low, hash};
  bq_error err;
  if (bq_store_query(runner->options.store, "claim", 4, params, on_claimed, runner, &err) == 0) runner->claiming = 1;
}

// What has come may have a smaller key than the bound: it is looked up before the next claim.
void bq_runner_wake(bq_runner *runner) {
  bq_error err;
  if (runner->looking) return;
  if (runner->low_key != 0 &&
      bq_store_query(runner->options.store, "lowest_key", 0, NULL, on_low_key_for_claim, runner, &err) == 0) {
    runner->low_key_us = bq_clock_mono_us();
    runner->looking = 1;
    return;
  }
  runner->low_key = 0;
  claim_more(runner);
}

static void on_poll(void *arg) {
  bq_runner *runner = arg;
  bq_timer_set(runner->poll_timer, (int64_t)runner->options.env->config->poll_interval_seconds * 1000);
  look_for_adrift(runner);
  bq_runner_wake(runner);
}

void bq_runner_set_node(bq_runner *runner, const char *node_id) {
  if (runner->node_id[0] != '\0') {
    for (running *r = runner->first; r != NULL; r = r->next) {
      bq_attempt_stop(r->attempt, BQ_OUTCOME_SUPERSEDED, "this server was declared dead: another one has the build");
    }
  }
  (void)snprintf(runner->node_id, sizeof runner->node_id, "%s", node_id);
  on_poll(runner);
}

void bq_runner_cancel(bq_runner *runner, const char *build_id, const char *reason) {
  running *r = find(runner, build_id);
  if (r != NULL) bq_attempt_stop(r->attempt, BQ_OUTCOME_CANCELLED, reason != NULL ? reason : "cancelled");
}

// The end of the server -------------------------------------------------------------------------------------------------

static void tell_idle(bq_post *post) {
  bq_runner *runner = (bq_runner *)((char *)post - offsetof(bq_runner, idle_post));
  runner->options.idle(runner->options.arg);
}

static void count_less(bq_runner *runner) {
  runner->count--;
  if (!runner->stopping) {
    claim_more(runner);
  } else if (runner->count == 0) {
    bq_timer_clear(runner->grace_timer);
    runner->idle_post.run = tell_idle;
    bq_loop_post(runner->options.env->loop, &runner->idle_post);
  }
}

static void on_grace_over(void *arg) {
  bq_runner *runner = arg;
  for (running *r = runner->first; r != NULL; r = r->next) {
    bq_attempt_stop(r->attempt, BQ_OUTCOME_REQUEUED, "the server was stopped");
  }
}

void bq_runner_stop(bq_runner *runner, int64_t grace_ms) {
  int first = !runner->stopping;
  runner->stopping = 1;
  bq_timer_clear(runner->poll_timer);
  if (grace_ms > 0) bq_timer_set(runner->grace_timer, grace_ms);
  else on_grace_over(runner);
  if (first && runner->count == 0) {
    runner->idle_post.run = tell_idle;
    bq_loop_post(runner->options.env->loop, &runner->idle_post);
  }
}
