#include "queue/cluster_keeper.h"

#include <event2/event.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum { STABLE_MS = 60000 }; // a cluster that ran for as long has been well

// WATCHING (it runs) → RESTING (a pause) → CLEARING (its leftovers are removed on the blocking pool) → WATCHING
//                                                                     or RESTING when it can't be started
typedef enum keeper_state { KEEPER_WATCHING, KEEPER_RESTING, KEEPER_CLEARING } keeper_state;

struct bq_cluster_keeper {
  bq_task task;          // of CLEARING
  bq_loop *loop;         // borrowed
  bq_pool *blocking;     // borrowed
  bq_cluster *cluster;   // borrowed
  keeper_state state;
  struct event *event;   // owned; the cluster's end. NULL while it does not run
  bq_timer *timer;       // owned; of RESTING
  unsigned failures;     // starts in a row that did not last
  int64_t started_us;    // bq_clock_mono_us of the last one
  int result;            // of the task …
  bq_error error;        // … and why, when it is negative
};

int64_t bq_cluster_keeper_pause_ms(unsigned failures) {
  static const int64_t pauses_ms[] = {100, 1000, 5000, 15000, 30000};
  size_t most = sizeof pauses_ms / sizeof pauses_ms[0] - 1;
  return pauses_ms[failures < most ? failures : most];
}

static void rest(bq_cluster_keeper *keeper) {
  keeper->state = KEEPER_RESTING;
  bq_timer_set(keeper->timer, bq_cluster_keeper_pause_ms(keeper->failures));
  keeper->failures++;
}

static void on_ended(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  bq_cluster_keeper *keeper = arg;
  event_free(keeper->event);
  keeper->event = NULL;
  if (bq_clock_mono_us() - keeper->started_us >= (int64_t)STABLE_MS * 1000) keeper->failures = 0;
  char pause[24];
  (void)snprintf(pause, sizeof pause, "%.1f", (double)bq_cluster_keeper_pause_ms(keeper->failures) / 1000);
  bq_log(BQ_ERROR, "the private PostgreSQL has ended and is started again: see postgres.log in StateDirectory",
         "pauseSeconds", pause, NULL);
  rest(keeper);
}

static int watch(bq_cluster_keeper *keeper, bq_error *err) {
  keeper->event = event_new(bq_loop_base(keeper->loop), bq_cluster_fd(keeper->cluster), EV_READ, on_ended, keeper);
  if (keeper->event != NULL && event_add(keeper->event, NULL) == 0) {
    keeper->state = KEEPER_WATCHING;
    return 0;
  }
  if (keeper->event != NULL) event_free(keeper->event);
  keeper->event = NULL;
  return bq_fail(err, BQ_ENOMEM, "out of memory for watching PostgreSQL");
}

static void clear_work(bq_task *task) {
  bq_cluster_keeper *keeper = (bq_cluster_keeper *)task;
  keeper->result = bq_cluster_clear(keeper->cluster, &keeper->error);
}

// From here on the pools find it by themselves; one that can't recover ends, which is seen.
static void clear_done(bq_task *task) {
  bq_cluster_keeper *keeper = (bq_cluster_keeper *)task;
  keeper->started_us = bq_clock_mono_us();
  if (keeper->result == 0) keeper->result = bq_cluster_spawn_again(keeper->cluster, &keeper->error);
  if (keeper->result == 0) keeper->result = watch(keeper, &keeper->error);
  if (keeper->result == 0) {
    bq_log(BQ_INFO, "the private PostgreSQL was started again", NULL);
    return;
  }
  bq_log_error("the private PostgreSQL can't be started now", &keeper->error);
  rest(keeper);
}

static void on_rested(void *arg) {
  bq_cluster_keeper *keeper = arg;
  keeper->task = (bq_task){.work = clear_work, .done = clear_done};
  keeper->state = KEEPER_CLEARING;
  if (bq_pool_submit(keeper->blocking, &keeper->task, &keeper->error) < 0) rest(keeper);
}

int bq_cluster_keeper_new(bq_cluster_keeper **out, bq_loop *loop, bq_pool *blocking, bq_cluster *cluster,
                          bq_error *err) {
  *out = NULL;
  bq_cluster_keeper *keeper = bq_alloc(sizeof *keeper);
  if (keeper == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for watching PostgreSQL");
  keeper->loop = loop;
  keeper->blocking = blocking;
  keeper->cluster = cluster;
  keeper->started_us = bq_clock_mono_us();
  int result = bq_timer_new(&keeper->timer, loop, on_rested, keeper, err);
  if (result == 0) result = watch(keeper, err);
  if (result < 0) bq_cluster_keeper_free(keeper);
  else *out = keeper;
  return result;
}

void bq_cluster_keeper_free(bq_cluster_keeper *keeper) {
  if (keeper == NULL) return;
  if (keeper->event != NULL) event_free(keeper->event);
  bq_timer_free(keeper->timer);
  bq_free(keeper);
}

int bq_cluster_keeper_busy(const bq_cluster_keeper *keeper) {
  return keeper != NULL && keeper->state == KEEPER_CLEARING;
}
