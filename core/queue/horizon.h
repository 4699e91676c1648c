// What keeps PostgreSQL from cleaning up: a session with an old snapshot or transaction, a prepared transaction that nobody
// ends, a replication slot that nobody reads. Whatever is deleted or changed meanwhile stays in tables and indexes, for
// everybody. It is named in the log, once, and in /metrics, as soon as it is older than HorizonWarningSeconds.
//
// Thread rule: the loop's thread.
#ifndef BQ_QUEUE_HORIZON_H
#define BQ_QUEUE_HORIZON_H

#include "base/config.h"
#include "base/metrics.h"
#include "io/mask.h"
#include "queue/store.h"

typedef struct bq_horizon bq_horizon;

// All borrowed. `config` and `hidden` are looked at each time: a reload replaces them.
typedef struct bq_horizon_options {
  bq_store *store;
  bq_metrics *metrics;
  bq_config *const *config;
  bq_mask_set *const *hidden; // what no log shows
} bq_horizon_options;

int bq_horizon_new(bq_horizon **out, const bq_horizon_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_horizon_free(bq_horizon *horizon); // NULL is fine; after the store
void bq_horizon_look(bq_horizon *horizon); // asks PostgreSQL, unless it still does

#endif
