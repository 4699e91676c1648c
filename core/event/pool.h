// A pool of worker threads with one bounded queue in each direction.
//
// The server has two: the compute pool (Lua slices, hashing, compressing) and the blocking pool (regular files,
// fsync, removing trees, archives, DNS, PQcancel).
#ifndef BQ_EVENT_POOL_H
#define BQ_EVENT_POOL_H

#include <stddef.h>

#include "event/loop.h"

typedef struct bq_pool bq_pool;

// A task. Embed it in your own struct; it must stay alive until `done` is called.
typedef struct bq_task {
  void (*work)(struct bq_task *task); // on a worker thread
  void (*done)(struct bq_task *task); // on the loop's thread, afterwards; may free the task
  bq_post post;                       // the pool's own
  struct bq_task *next;               // the pool's own while queued
  bq_pool *pool;                      // the pool's own while queued
} bq_task;

// `name` (15 bytes at most) names the threads. `max_queued` bounds the tasks that wait for a thread.
int bq_pool_new(bq_pool **out, bq_loop *loop, const char *name, unsigned threads, size_t max_queued,
                bq_error *err) BQ_MUSTCHECK;

// Loop thread. Returns BQ_ELIMIT when max_queued tasks wait: the caller decides what that means.
int bq_pool_submit(bq_pool *pool, bq_task *task, bq_error *err) BQ_MUSTCHECK;

// Tasks waiting or running, whose `done` has not been called yet.
size_t bq_pool_pending(const bq_pool *pool);

// Runs what is queued, joins the threads, then runs the outstanding `done` functions on the calling thread.
void bq_pool_free(bq_pool *pool);

#endif
