// The runner: claims builds for this server's free slots, runs their attempts, records what becomes of them.
//
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_RUNNER_H
#define BQ_QUEUE_RUNNER_H

#include "base/metrics.h"
#include "queue/attempt.h"
#include "queue/decide.h"
#include "queue/labels.h"
#include "queue/store.h"

typedef struct bq_runner bq_runner;

typedef struct bq_runner_options {
  const bq_attempt_env *env; // borrowed
  bq_store *store;           // borrowed
  bq_metrics *metrics;       // borrowed; see queue/server_metrics.h
  const bq_decider *decider; // borrowed; its policies change with the generation
  bq_generation_set *generations; // borrowed; where one that a row asks for may be found, and what is loaded is added
  const bq_labels *labels;   // borrowed; what this server offers
  // The generation for new attempts: borrowed, NULL until one is stored, and never again afterwards.
  bq_generation *(*generation)(void *arg);
  int (*is_pinned)(void *arg, const char *pipeline); // its retries stay on their generation
  int (*may_claim)(void *arg);                       // 0: no disk space, draining
  void (*changed)(void *arg, const char *build_id);  // something about the build has changed: streams look again
  void (*idle)(void *arg);                           // after bq_runner_stop: the last attempt is gone
  void *arg;
} bq_runner_options;

int bq_runner_new(bq_runner **out, const bq_runner_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_runner_free(bq_runner *runner); // when it is idle

// As which node to claim from now on; attempts of an earlier one stop as superseded, without writing anything.
void bq_runner_set_node(bq_runner *runner, const char *node_id);

// Something may be due: a poll, a local enqueue, a notification, a free slot.
void bq_runner_wake(bq_runner *runner);

// Ends the attempt as cancelled when it runs here.
void bq_runner_cancel(bq_runner *runner, const char *build_id, const char *reason);

// No new claims. Running attempts get `grace_ms`, then go back to the queue. `idle` follows.
void bq_runner_stop(bq_runner *runner, int64_t grace_ms);

bq_attempt *bq_runner_find(bq_runner *runner, const char *build_id); // the attempt running here, or NULL
size_t bq_runner_count(const bq_runner *runner);                     // attempts running here

#endif
