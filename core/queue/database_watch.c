#include "queue/database_watch.h"

#include "base/clock.h"
#include "base/memory.h"

enum { ASK_MS = 1000, REFUSE_MS = 3000 };

struct bq_database_watch {
  bq_store *store;    // borrowed
  bq_timer *timer;    // owned; the next question
  int asking;         // a question is under way
  int64_t since_us;   // bq_clock_mono_us of the first question since the last answer; 0: all are answered
};

static void on_answer(void *arg, const bq_pg_result *result) {
  bq_database_watch *watch = arg;
  watch->asking = 0;
  if (result->error == NULL) watch->since_us = 0;
}

static void ask(void *arg) {
  bq_database_watch *watch = arg;
  bq_error err;
  bq_timer_set(watch->timer, ASK_MS);
  if (watch->since_us == 0) watch->since_us = bq_clock_mono_us();
  if (watch->asking) return;
  watch->asking = bq_store_query(watch->store, "ping", 0, NULL, on_answer, watch, &err) == 0;
}

int bq_database_watch_new(bq_database_watch **out, bq_loop *loop, bq_store *store, bq_error *err) {
  *out = NULL;
  bq_database_watch *watch = bq_alloc(sizeof *watch);
  if (watch == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for watching the database");
  watch->store = store;
  int result = bq_timer_new(&watch->timer, loop, ask, watch, err);
  if (result < 0) {
    bq_free(watch);
    return result;
  }
  bq_timer_set(watch->timer, 0);
  *out = watch;
  return 0;
}

void bq_database_watch_free(bq_database_watch *watch) {
  if (watch == NULL) return;
  bq_timer_free(watch->timer);
  bq_free(watch);
}

int64_t bq_database_watch_silent_ms(const bq_database_watch *watch) {
  return watch->since_us != 0 ? (bq_clock_mono_us() - watch->since_us) / 1000 : 0;
}

int bq_database_watch_check(const bq_database_watch *watch, bq_error *err) {
  int64_t silent_ms = bq_database_watch_silent_ms(watch);
  if (silent_ms < REFUSE_MS) return 0;
  return bq_fail(err, BQ_EUNAVAIL, "PostgreSQL has not answered for %lld s, nothing was sent to it",
                 (long long)(silent_ms / 1000));
}
