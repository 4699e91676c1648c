// Log streams of builds that have had no attempt yet: one look in the database tells for all of them whether it has
// begun, at once after a change on this server and twice a second otherwise, since builds also begin on other servers.
#include "queue/log_wait.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"
#include "base/uuid.h"

enum {
  POLL_MS = 500,   // between two looks without a change of our own
  SOON_MS = 10,    // a look after one: several changes are one look
  MAX_WAITS = 1000 // of one server
};

// WAITING → BEGUN or OVER (by a look's answer) → gone
typedef enum wait_state { WAIT_WAITING, WAIT_BEGUN, WAIT_OVER } wait_state;

struct bq_log_wait {
  bq_log_waits *waits;
  char build[BQ_UUID_SIZE];
  wait_state state;
  bq_log_wait_done done;
  void *arg;
  bq_log_wait *next;
  bq_log_wait *previous;
};

struct bq_log_waits {
  bq_store *store;     // borrowed
  bq_timer *timer;     // owned; the next look
  bq_log_wait *first;
  size_t count;
  int looking;         // a look is under way
  int again;           // something changed meanwhile
};

static void look(void *arg);

int bq_log_waits_new(bq_log_waits **out, bq_loop *loop, bq_store *store, bq_error *err) {
  *out = NULL;
  bq_log_waits *waits = bq_alloc(sizeof *waits);
  if (waits == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for log streams");
  waits->store = store;
  int result = bq_timer_new(&waits->timer, loop, look, waits, err);
  if (result < 0) bq_free(waits);
  else *out = waits;
  return result;
}

void bq_log_waits_free(bq_log_waits *waits) {
  if (waits == NULL) return;
  bq_timer_free(waits->timer);
  bq_free(waits);
}

int bq_log_wait_begin(bq_log_wait **out, bq_log_waits *waits, const char *build, bq_log_wait_done done, void *arg,
                      bq_error *err) {
  *out = NULL;
  if (waits->count >= MAX_WAITS) {
    return bq_fail(err, BQ_ELIMIT, "%d log streams wait for their builds already", MAX_WAITS);
  }
  bq_log_wait *wait = bq_alloc(sizeof *wait);
  if (wait == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a log stream");
  *wait = (bq_log_wait){.waits = waits, .done = done, .arg = arg, .next = waits->first};
  (void)snprintf(wait->build, sizeof wait->build, "%s", build);
  if (wait->next != NULL) wait->next->previous = wait;
  waits->first = wait;
  waits->count++;
  bq_log_waits_changed(waits);
  *out = wait;
  return 0;
}

void bq_log_wait_end(bq_log_wait *wait) {
  if (wait == NULL) return;
  bq_log_waits *waits = wait->waits;
  if (wait->previous != NULL) wait->previous->next = wait->next;
  else waits->first = wait->next;
  if (wait->next != NULL) wait->next->previous = wait->previous;
  waits->count--;
  bq_free(wait);
}

// A `done` may end other waits, so the list is searched anew after each.
static void tell(bq_log_waits *waits) {
  bq_log_wait *wait = waits->first;
  while (wait != NULL) {
    if (wait->state == WAIT_WAITING) {
      wait = wait->next;
      continue;
    }
    bq_log_wait_done done = wait->done;
    void *arg = wait->arg;
    int begun = wait->state == WAIT_BEGUN;
    bq_log_wait_end(wait);
    done(arg, begun);
    wait = waits->first;
  }
}

static void on_answer(void *arg, const bq_pg_result *result) {
  bq_log_waits *waits = arg;
  waits->looking = 0;
  if (waits->again && waits->count > 0) bq_timer_set(waits->timer, SOON_MS);
  if (result->error != NULL) return; // the poll looks again
  for (int row = 0; row < PQntuples(result->rows); row++) {
    wait_state state = strcmp(PQgetvalue(result->rows, row, 1), "begun") == 0 ? WAIT_BEGUN : WAIT_OVER;
    for (bq_log_wait *wait = waits->first; wait != NULL; wait = wait->next) {
      if (strcmp(wait->build, PQgetvalue(result->rows, row, 0)) == 0) wait->state = state;
    }
  }
  tell(waits);
}

static void look(void *arg) {
  bq_log_waits *waits = arg;
  if (waits->count == 0) return;
  bq_timer_set(waits->timer, POLL_MS);
  if (waits->looking) {
    waits->again = 1;
    return;
  }
  bq_buf ids = {0};
  for (const bq_log_wait *wait = waits->first; wait != NULL; wait = wait->next) {
    bq_buf_addf(&ids, "%s%s", ids.length > 0 ? "," : "{", wait->build);
  }
  bq_buf_addc(&ids, '}');
  bq_error err;
  const char *params[] = {ids.data};
  waits->again = 0;
  if (!ids.failed && bq_store_query(waits->store, "begun_builds", 1, params, on_answer, waits, &err) == 0) {
    waits->looking = 1;
  }
  bq_buf_free(&ids);
}

void bq_log_waits_changed(bq_log_waits *waits) {
  if (waits->count > 0) bq_timer_set(waits->timer, SOON_MS);
}
