// Waiting for a build's first attempt, for streams that follow its log.
//
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_LOG_WAIT_H
#define BQ_QUEUE_LOG_WAIT_H

#include "queue/store.h"

typedef struct bq_log_waits bq_log_waits;
typedef struct bq_log_wait bq_log_wait;

// `store` is borrowed; its pg pool is freed before the waits, the streams before both.
int bq_log_waits_new(bq_log_waits **out, bq_loop *loop, bq_store *store, bq_error *err) BQ_MUSTCHECK;
void bq_log_waits_free(bq_log_waits *waits);

// Called once, on a later turn of the loop; the wait is gone by then. `begun` 1: the build has had an attempt; 0: it has
// ended without one, or is gone. While the database is away nothing is called.
typedef void (*bq_log_wait_done)(void *arg, int begun);

// `build` is a lower-case UUID, copied. BQ_ELIMIT: too many wait.
int bq_log_wait_begin(bq_log_wait **out, bq_log_waits *waits, const char *build, bq_log_wait_done done, void *arg,
                      bq_error *err) BQ_MUSTCHECK;
void bq_log_wait_end(bq_log_wait *wait); // without `done`; NULL is fine

void bq_log_waits_changed(bq_log_waits *waits); // a build of this server has changed: look at once

#endif
