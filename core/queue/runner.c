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
#include "queue/runner_internal.h"
#include "queue/server_metrics.h"

enum {
  MAX_CLAIM = 500,   // rows of one claim
  MAX_MISSES = 5,    // choices running that bring nothing, before the poll's turn comes
  LOW_KEY_MS = 5000  // how old the lower bound of claim keys may grow
};

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

static void on_grace_over(void *arg);
static void on_poll(void *arg);

int bq_runner_new(bq_runner **out, const bq_runner_options *options, bq_error *err) {
  *out = NULL;
  bq_runner *runner = bq_alloc(sizeof *runner);
  if (runner == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the runner");
  runner->options = *options;
  bq_loop *loop = options->env->loop;
  int result = bq_timer_new(&runner->progress_timer, loop, bq_runner_write_progress, runner, err);
  if (result == 0) result = bq_timer_new(&runner->grace_timer, loop, on_grace_over, runner, err);
  if (result == 0) result = bq_timer_new(&runner->poll_timer, loop, on_poll, runner, err);
  if (result == 0) {
    result = bq_batch_new(&runner->finishes, loop, options->store, "finish_success", BQ_BATCH_WRITE, err);
  }
  if (result < 0) bq_runner_free(runner);
  else *out = runner;
  return result;
}

void bq_runner_free(bq_runner *runner) {
  if (runner == NULL) return;
  bq_timer_free(runner->progress_timer);
  bq_timer_free(runner->grace_timer);
  bq_timer_free(runner->poll_timer);
  bq_batch_free(runner->finishes);
  bq_free(runner);
}

size_t bq_runner_count(const bq_runner *runner) {
  return runner->count;
}

static bq_running *find(bq_runner *runner, const char *id) {
  for (bq_running *r = runner->first; r != NULL; r = r->next) {
    if (strcmp(r->id, id) == 0) return r;
  }
  return NULL;
}

bq_attempt *bq_runner_find(bq_runner *runner, const char *build_id) {
  bq_running *r = find(runner, build_id);
  return r != NULL ? r->attempt : NULL;
}

static void claim_more(bq_runner *runner);
static void on_low_key_for_claim(void *arg, const bq_pg_result *result);

static void tell_idle(bq_post *post) {
  bq_runner *runner = (bq_runner *)((char *)post - offsetof(bq_runner, idle_post));
  runner->options.idle(runner->options.arg);
}

// Once, when the last attempt is gone and no claim can bring another.
static void tell_when_idle(bq_runner *runner) {
  if (runner->count > 0 || runner->claiming || runner->claim_posted || runner->told_idle) return;
  runner->told_idle = 1;
  bq_timer_clear(runner->grace_timer);
  runner->idle_post.run = tell_idle;
  bq_loop_post(runner->options.env->loop, &runner->idle_post);
}

// Starting ----------------------------------------------------------------------------------------------------------

static void on_given_back(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  if (result->error == NULL) return;
  bq_log_error("a build could not be given back", result->error);
  runner->adrift = 1;
}

// For a claimed build that has no attempt object: back to the queue, uncharged.
static void give_back(bq_runner *runner, const char *id, const char *attempt, const char *node_id, const char *why) {
  const char *params[] = {id, attempt, node_id, why};
  bq_error err;
  bq_log(BQ_WARN, "a claimed build is given back", "build", id, "reason", why, NULL);
  if (bq_store_write(runner->options.store, "requeue", 4, params, on_given_back, runner, &err) < 0) {
    bq_log_error("a build could not be given back", &err);
    runner->adrift = 1; // the poll tries again
  }
}

static int start_attempt(bq_runner *runner, json_t *row, const char *node_id, bq_generation *generation,
                         bq_error *err) {
  bq_running *r = bq_alloc(sizeof *r);
  if (r == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a build");
  r->runner = runner;
  r->started_us = bq_clock_mono_us();
  (void)snprintf(r->id, sizeof r->id, "%s", bq_row_text(row, "id"));
  (void)snprintf(r->number, sizeof r->number, "%lld", json_integer_value(json_object_get(row, "attempt")));
  (void)snprintf(r->node_id, sizeof r->node_id, "%s", node_id);
  bq_attempt_events events = bq_running_events;
  events.arg = r;
  int result = bq_attempt_start(&r->attempt, runner->options.env, row, generation, &events, err);
  if (result < 0) {
    bq_free(r);
    return result;
  }
  r->next = runner->first;
  if (r->next != NULL) r->next->previous = r;
  runner->first = r;
  bq_log(BQ_INFO, "attempt started", "build", r->id, "attempt", r->number, "pipeline", bq_row_text(row, "pipeline"),
         "generation", bq_generation_hash(generation), NULL);
  if (json_integer_value(json_object_get(row, "attempt")) == 1) {
    const char *labels[] = {bq_row_text(row, "pipeline"), bq_row_text(row, "tier")};
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
  give_back(runner, bq_row_text(row, "id"), number, node_id, err.message);
  bq_runner_count_less(runner);
}

// A takeover of a build whose generation is not the running one: its sources come from the database. -----------------

static void finish_loading(loading *l) {
  bq_generation *generation = l->generation;
  if (generation == NULL) {
    bq_log(BQ_WARN, "a build's scripts are not in the database: it runs on the present ones", "build",
           bq_row_text(l->row, "id"), "generation", bq_row_text(l->row, "generation"), "error",
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
  if (bq_generation_compile(&l->generation, l->sources, NULL, &l->error) < 0) l->generation = NULL;
  else bq_generation_set_add(l->runner->options.generations, l->generation);
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
    result = bq_sources_add(l->sources, bq_row_text(file, "path"), json_string_value(content),
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
  const char *wanted = bq_row_text(row, "generation");
  if (wanted[0] == '\0' || strcmp(wanted, bq_generation_hash(current)) == 0) {
    start_or_give_back(runner, row, node_id, current);
    return;
  }
  bq_generation *living = bq_generation_set_find(runner->options.generations, wanted);
  if (living != NULL) {
    start_or_give_back(runner, row, node_id, living);
    bq_generation_release(living);
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
  for (const bq_running *r = runner->first; r != NULL; r = r->next) known++;
  if (!runner->adrift || runner->claiming || known != runner->count) return;
  bq_error err;
  const char *params[] = {runner->node_id};
  if (bq_store_query(runner->options.store, "mine", 1, params, on_mine, runner, &err) == 0) runner->adrift = 0;
}

// A claim that was under way when the server began to stop brings builds that must not start here.
static void take_row(bq_runner *runner, json_t *row) {
  char number[24];
  if (!runner->stopping) {
    runner->count++;
    start_row(runner, row, runner->node_id);
    return;
  }
  (void)snprintf(number, sizeof number, "%lld", json_integer_value(json_object_get(row, "attempt")));
  give_back(runner, bq_row_text(row, "id"), number, runner->node_id, "the server is stopping");
}

void bq_runner_end_claim(bq_runner *runner) {
  runner->claiming = 0;
  if (runner->stopping) tell_when_idle(runner);
  else if (runner->wake_again) claim_more(runner);
}

// Whether another claim may bring more: others may just have taken what was chosen.
static int is_worth_another(bq_runner *runner, int count) {
  if (count > 0 || !runner->chosen || ++runner->missed == MAX_MISSES) runner->missed = 0;
  return count > 0 || runner->missed > 0 || runner->wake_again;
}

static void on_claimed(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  runner->claiming = 0;
  if (result->error != NULL) {
    if (runner->stopping) tell_when_idle(runner);
    if (result->error->code == BQ_EUNKNOWN) runner->adrift = 1;
    if (result->error->code == BQ_EDATABASE) bq_log_error("a claim failed", result->error);
    return; // the poll tries again
  }
  int count = PQntuples(result->rows);
  for (int i = 0; i < count; i++) {
    json_t *row = bq_store_json(result->rows, i);
    if (row == NULL) { // logged
      runner->adrift = 1;
      continue;
    }
    take_row(runner, row);
    json_decref(row);
  }
  if (runner->stopping) tell_when_idle(runner);
  else if (is_worth_another(runner, count)) claim_more(runner);
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
  const char *params[] = {bq_labels_array(runner->options.labels)};
  if (bq_store_query(runner->options.store, "lowest_key", 1, params, on_low_key, runner, &err) == 0) {
    runner->low_key_us = now;
  }
}

int bq_runner_send_claim(bq_runner *runner, const char *chosen, bq_error *err) {
  size_t slots = (size_t)runner->options.env->config->max_concurrent_builds;
  size_t free_slots = slots > runner->count ? slots - runner->count : 0; // a SIGHUP may have taken some
  char limit[16];
  char low[24];
  (void)snprintf(limit, sizeof limit, "%zu", free_slots < MAX_CLAIM ? free_slots : MAX_CLAIM);
  (void)snprintf(low, sizeof low, "%lld", (long long)runner->low_key);
  const char *hash = bq_generation_hash(runner->options.generation(runner->options.arg));
  const char *params[] = {runner->node_id, limit, low, hash, bq_labels_array(runner->options.labels), chosen};
  runner->chosen = chosen != NULL;
  return bq_store_query(runner->options.store, chosen != NULL ? "claim_chosen" : "claim", chosen != NULL ? 6 : 5, params,
                        on_claimed, runner, err);
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
  bq_error err;
  int result = bq_runner_chooses(runner) ? bq_runner_choose(runner, &err) : bq_runner_send_claim(runner, NULL, &err);
  if (result == 0) runner->claiming = 1;
}

// What has come may have a smaller key than the bound: it is looked up before the next claim.
void bq_runner_wake(bq_runner *runner) {
  bq_error err;
  const char *params[] = {bq_labels_array(runner->options.labels)};
  if (runner->looking) return;
  if (runner->low_key != 0 &&
      bq_store_query(runner->options.store, "lowest_key", 1, params, on_low_key_for_claim, runner, &err) == 0) {
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
    for (bq_running *r = runner->first; r != NULL; r = r->next) {
      bq_attempt_stop(r->attempt, BQ_OUTCOME_SUPERSEDED, "this server was declared dead: another one has the build");
    }
  }
  (void)snprintf(runner->node_id, sizeof runner->node_id, "%s", node_id);
  on_poll(runner);
}

void bq_runner_cancel(bq_runner *runner, const char *build_id, const char *reason) {
  bq_running *r = find(runner, build_id);
  if (r != NULL) bq_attempt_stop(r->attempt, BQ_OUTCOME_CANCELLED, reason != NULL ? reason : "cancelled");
}

// The end of the server -------------------------------------------------------------------------------------------------

static void claim_for_free_slots(bq_post *post) {
  bq_runner *runner = (bq_runner *)((char *)post - offsetof(bq_runner, claim_post));
  runner->claim_posted = 0;
  if (runner->stopping) tell_when_idle(runner);
  else claim_more(runner);
}

// Attempts that end together are one batch: their slots are filled by one claim.
void bq_runner_count_less(bq_runner *runner) {
  runner->count--;
  if (runner->stopping) {
    tell_when_idle(runner);
  } else if (!runner->claim_posted) {
    runner->claim_posted = 1;
    runner->claim_post.run = claim_for_free_slots;
    bq_loop_post(runner->options.env->loop, &runner->claim_post);
  }
}

static void on_grace_over(void *arg) {
  bq_runner *runner = arg;
  for (bq_running *r = runner->first; r != NULL; r = r->next) {
    bq_attempt_stop(r->attempt, BQ_OUTCOME_REQUEUED, "the server was stopped");
  }
}

void bq_runner_stop(bq_runner *runner, int64_t grace_ms) {
  runner->stopping = 1;
  bq_timer_clear(runner->poll_timer);
  if (grace_ms > 0) bq_timer_set(runner->grace_timer, grace_ms);
  else on_grace_over(runner);
  tell_when_idle(runner);
}
