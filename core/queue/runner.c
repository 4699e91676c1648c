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
  bq_runner_drop_claimed(runner);
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

// Claiming ------------------------------------------------------------------------------------------------------------

static size_t count_started(const bq_runner *runner) {
  size_t count = 0;
  for (const bq_running *r = runner->first; r != NULL; r = r->next) count++;
  return count;
}

static void on_mine(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  if (result->error != NULL) {
    runner->adrift = 1;
    return;
  }
  // A claim that was sent meanwhile may have brought what is not started yet: then this says nothing.
  if (runner->claiming || count_started(runner) != runner->count) {
    runner->adrift = 1;
    return;
  }
  for (int row = 0; row < PQntuples(result->rows); row++) {
    const char *id = PQgetvalue(result->rows, row, 0);
    if (find(runner, id) == NULL) {
      bq_runner_give_back(runner, id, PQgetvalue(result->rows, row, 1), runner->node_id,
                          "the answer to its claim was lost");
    }
  }
}

// Only when no claim is under way and nothing is being loaded can what the database has be told from what we have.
static void look_for_adrift(bq_runner *runner) {
  if (!runner->adrift || runner->claiming || count_started(runner) != runner->count) return;
  bq_error err;
  const char *params[] = {runner->node_id};
  if (bq_store_query(runner->options.store, "mine", 1, params, on_mine, runner, &err) == 0) runner->adrift = 0;
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
    if (row == NULL) runner->adrift = 1; // logged
    else bq_runner_start_row(runner, row);
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
    bq_runner_drop_claimed(runner);
  }
  (void)snprintf(runner->node_id, sizeof runner->node_id, "%s", node_id);
  if (runner->stopping) tell_when_idle(runner);
  else on_poll(runner);
}

void bq_runner_cancel(bq_runner *runner, const char *build_id, const char *reason) {
  bq_running *r = find(runner, build_id);
  if (r != NULL) bq_attempt_stop(r->attempt, BQ_OUTCOME_CANCELLED, reason != NULL ? reason : "cancelled");
  else bq_runner_cancel_claimed(runner, build_id, reason);
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
