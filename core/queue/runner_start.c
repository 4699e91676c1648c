// From claimed rows to attempts: a few in each turn of the loop, on the generation that the row asks for.
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "lua/generation.h"
#include "queue/runner_internal.h"
#include "queue/server_metrics.h"

// A claim may bring hundreds of rows. Starting all of them at once would hold the loop up, and each would take a Lua state
// long before the pool comes to it: those that have ended lend theirs to the next.
enum { STARTS_AT_ONCE = 32 };

// A row that was claimed and has not been started.
struct bq_claimed {
  bq_claimed *next;
  json_t *row; // retained
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

static void post_start(bq_runner *runner);

static void on_given_back(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  if (result->error == NULL) return;
  bq_log_error("a build could not be given back", result->error);
  runner->adrift = 1;
}

void bq_runner_give_back(bq_runner *runner, const char *id, const char *attempt, const char *node_id, const char *why) {
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
  const char *reason = bq_row_text(row, "cancelReason");
  if (json_is_true(json_object_get(row, "cancelRequested"))) { // while it waited to be started
    bq_attempt_stop(r->attempt, BQ_OUTCOME_CANCELLED, reason[0] != '\0' ? reason : "cancelled");
  }
  return 0;
}

static void start_or_give_back(bq_runner *runner, json_t *row, const char *node_id, bq_generation *generation) {
  bq_error err;
  char number[24];
  if (start_attempt(runner, row, node_id, generation, &err) == 0) return;
  (void)snprintf(number, sizeof number, "%lld", json_integer_value(json_object_get(row, "attempt")));
  bq_runner_give_back(runner, bq_row_text(row, "id"), number, node_id, err.message);
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

static void start(bq_runner *runner, json_t *row, const char *node_id) {
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

// Of one turn. When the server has begun to stop meanwhile, they go back: they must not start here.
static void start_some(bq_post *post) {
  bq_runner *runner = (bq_runner *)((char *)post - offsetof(bq_runner, start_post));
  runner->start_posted = 0;
  for (int started = 0; runner->claimed_first != NULL && started < STARTS_AT_ONCE; started++) {
    bq_claimed *claimed = runner->claimed_first;
    runner->claimed_first = claimed->next;
    json_t *row = claimed->row;
    bq_free(claimed);
    if (runner->stopping) {
      char number[24];
      (void)snprintf(number, sizeof number, "%lld", json_integer_value(json_object_get(row, "attempt")));
      bq_runner_give_back(runner, bq_row_text(row, "id"), number, runner->node_id, "the server is stopping");
      bq_runner_count_less(runner);
    } else {
      start(runner, row, runner->node_id);
    }
    json_decref(row);
  }
  if (runner->claimed_first != NULL) post_start(runner);
}

static void post_start(bq_runner *runner) {
  if (runner->start_posted) return;
  runner->start_posted = 1;
  runner->start_post.run = start_some;
  bq_loop_post(runner->options.env->loop, &runner->start_post);
}

void bq_runner_start_row(bq_runner *runner, json_t *row) {
  bq_claimed *claimed = bq_alloc(sizeof *claimed);
  runner->count++;
  if (claimed == NULL) {
    start(runner, row, runner->node_id);
    json_decref(row);
    return;
  }
  claimed->row = row;
  if (runner->claimed_first == NULL) runner->claimed_first = claimed;
  else runner->claimed_last->next = claimed;
  runner->claimed_last = claimed;
  post_start(runner);
}

void bq_runner_cancel_claimed(bq_runner *runner, const char *build_id, const char *reason) {
  bq_claimed *claimed = runner->claimed_first;
  while (claimed != NULL && strcmp(bq_row_text(claimed->row, "id"), build_id) != 0) claimed = claimed->next;
  if (claimed == NULL) return;
  // Without memory for it the next heartbeat brings the cancel again.
  (void)json_object_set_new(claimed->row, "cancelRequested", json_true());
  if (reason != NULL) (void)json_object_set_new(claimed->row, "cancelReason", json_string(reason));
}

void bq_runner_drop_claimed(bq_runner *runner) {
  while (runner->claimed_first != NULL) {
    bq_claimed *claimed = runner->claimed_first;
    runner->claimed_first = claimed->next;
    json_decref(claimed->row);
    bq_free(claimed);
    runner->count--;
  }
}
