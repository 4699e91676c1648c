// Batches: what comes for one named statement in the same moment is one statement, so one commit.
//
//   batch: IDLE → GATHERING (items of this turn of the loop) → UNDER WAY (new items gather behind it) → GATHERING or IDLE
//
// The statement takes one JSON list and answers a row for each item, in their order, all or nothing. When PostgreSQL refuses
// a batch, its halves are sent, and theirs, until the item that it won't take is alone: no item fails its neighbours.
// `done` of an item is called after the commit of the batch that it was in.
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_BATCH_H
#define BQ_QUEUE_BATCH_H

#include "queue/store.h"

typedef struct bq_batch bq_batch;

typedef enum bq_batch_kind {
  BQ_BATCH_QUERY, // asked once (bq_store_query)
  BQ_BATCH_WRITE  // sent until PostgreSQL has answered (bq_store_write)
} bq_batch_kind;

enum {
  BQ_BATCH_ROWS = 500,              // items of one statement
  BQ_BATCH_BYTES = 4 * 1024 * 1024, // of their JSON; a larger item goes alone
  BQ_BATCH_WAITING = 10000          // items of a QUERY that wait behind the one under way; beyond it BQ_ELIMIT
};

// `store` is borrowed; `statement` is a constant.
int bq_batch_new(bq_batch **out, bq_loop *loop, bq_store *store, const char *statement, bq_batch_kind kind,
                 bq_error *err) BQ_MUSTCHECK;

// NULL is fine. Items that wait end with BQ_ECANCELED. Free the pg pool and the store first.
void bq_batch_free(bq_batch *batch);

// `row` is the item's in result->rows; 0 with an error.
typedef void (*bq_batch_done)(void *arg, const bq_pg_result *result, int row);

// `value` stays the caller's. `done` is called once, on a later turn.
int bq_batch_add(bq_batch *batch, const json_t *value, bq_batch_done done, void *arg, bq_error *err) BQ_MUSTCHECK;

#endif
