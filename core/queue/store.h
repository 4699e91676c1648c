// The store: the queue's named statements on the core connections.
//
// bq_store_query asks once. bq_store_write keeps a write until PostgreSQL has said yes or no: while the database is
// away, or an answer was lost, it is sent again with backoff. That is safe because every write of the queue names what
// it expects and is idempotent (sql/README.md).
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_STORE_H
#define BQ_QUEUE_STORE_H

#include <jansson.h>

#include "base/error.h"
#include "event/loop.h"
#include "io/pg.h"
#include "io/statements.h"

typedef struct bq_store bq_store;

// `pg` and `statements` are borrowed and outlive the store.
int bq_store_new(bq_store **out, bq_loop *loop, bq_pg *pg, const bq_statements *statements, bq_error *err) BQ_MUSTCHECK;

// Ends the writes that still wait: their `done` is called with BQ_ECANCELED. Free the pg pool first.
void bq_store_free(bq_store *store);

// Params are text, copied; see bq_pg_query. An unknown name is BQ_ENOTFOUND.
int bq_store_query(bq_store *store, const char *name, int param_count, const char *const *params, bq_pg_done done,
                   void *arg, bq_error *err) BQ_MUSTCHECK;
int bq_store_write(bq_store *store, const char *name, int param_count, const char *const *params, bq_pg_done done,
                   void *arg, bq_error *err) BQ_MUSTCHECK;

size_t bq_store_waiting(const bq_store *store);      // writes that PostgreSQL has not answered yet
int64_t bq_store_waiting_ms(const bq_store *store);  // since when the oldest of them waits; 0: none does

// The JSON in the first column of row `row`; NULL when there is none or it can't be read. The caller's reference.
json_t *bq_store_json(const PGresult *rows, int row);

#endif
