// Enqueueing one build: the policies decide whether and where, then it is written.
//
//   FACTS (only when a policy asks for some) → decide → WRITING → done
//                                                ↑         |
//                                                └─────────┘ what was counted has changed
//
// Builds whose decision counts nothing are written in batches (queue/batch.h). Builds whose decision counts others take turns, in lanes by customer (one lane for all when tiers are counted), so that a
// burst of one customer is decided one after the other and only other servers can change what was counted.
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_ENQUEUE_H
#define BQ_QUEUE_ENQUEUE_H

#include <jansson.h>

#include "queue/batch.h"
#include "queue/decide.h"
#include "queue/store.h"

typedef struct bq_enqueue_lanes bq_enqueue_lanes;
int bq_enqueue_lanes_new(bq_enqueue_lanes **out, bq_error *err) BQ_MUSTCHECK;
void bq_enqueue_lanes_free(bq_enqueue_lanes *lanes); // NULL is fine; what still waits is forgotten, `done` is not called

typedef struct bq_enqueue_env {
  bq_enqueue_lanes *lanes;   // borrowed
  bq_store *store;           // borrowed
  bq_batch *batch;           // borrowed; of the statement enqueue_all
  const bq_decider *decider; // borrowed
  // {freeMegabytes, reserveMegabytes}, for policies that ask for "disk"; the caller's reference, NULL when not known.
  json_t *(*disk)(void *arg);
  void *arg;
} bq_enqueue_env;

typedef enum bq_enqueued {
  BQ_ENQUEUED,         // `answer` is what the statement enqueue says
  BQ_ENQUEUE_REFUSED,  // `admission` says why
  BQ_ENQUEUE_FAILED    // `error` says why, `sqlstate` too when PostgreSQL refused
} bq_enqueued;

typedef struct bq_enqueue_result {
  bq_enqueued outcome;
  const json_t *answer;          // borrowed
  const bq_admission *admission; // borrowed
  const bq_error *error;         // borrowed
  const char *sqlstate;          // "" for none
} bq_enqueue_result;

typedef void (*bq_enqueue_done)(void *arg, const bq_enqueue_result *result);

// `fields` (EnqueueFields of scripts/lib/buildq.d.lua, an object) is the caller's; it is copied. `done` is called once,
// now or later. There is nothing to cancel: what was sent is written or not, and its id makes a repeat harmless.
void bq_enqueue(const bq_enqueue_env *env, const json_t *fields, bq_enqueue_done done, void *arg);

#endif
