// Whether PostgreSQL answers: asked once a second, because a frozen server (a stopped process, a hung disk) breaks no
// connection, and a lost one may not be noticed while nobody asks.
//
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_DATABASE_WATCH_H
#define BQ_QUEUE_DATABASE_WATCH_H

#include "queue/store.h"

typedef struct bq_database_watch bq_database_watch;

// `store` is borrowed; its pg pool is freed before the watch. Begins to ask at once.
int bq_database_watch_new(bq_database_watch **out, bq_loop *loop, bq_store *store, bq_error *err) BQ_MUSTCHECK;
void bq_database_watch_free(bq_database_watch *watch);

// How long the oldest question since the last answer has been open, in milliseconds; a failure is no answer.
int64_t bq_database_watch_silent_ms(const bq_database_watch *watch);

// BQ_EUNAVAIL when it has been silent for 3 s: what somebody waits for is refused then instead of sent, because a frozen
// server would take it, hold it for half a minute, and do it when nobody waits any more.
int bq_database_watch_check(const bq_database_watch *watch, bq_error *err) BQ_MUSTCHECK;

#endif
