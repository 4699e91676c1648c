#include "queue/store.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

enum { FIRST_DELAY_MS = 100, LONGEST_DELAY_MS = 5000 };

// One write on its way. On the store's list until its `done` was called.
typedef struct write_request {
  bq_store *store;
  const bq_statement *statement;
  char **params; // owned, `param_count`
  int param_count;
  bq_pg_done done;
  void *arg;
  bq_timer *timer;  // owned; until the next try
  int64_t delay_ms; // before the next try, without jitter
  int64_t since_us; // bq_clock_mono_us of the first try
  struct write_request *next;
  struct write_request *previous;
} write_request;

struct bq_store {
  bq_loop *loop;
  bq_pg *pg;
  const bq_statements *statements;
  write_request *first;     // the latest; the oldest is at the list's end
  size_t waiting;
  int closing;
};

static void send_write(void *arg);

int bq_store_new(bq_store **out, bq_loop *loop, bq_pg *pg, const bq_statements *statements, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the store");
  **out = (bq_store){.loop = loop, .pg = pg, .statements = statements};
  return 0;
}

static void end_write(write_request *w, const bq_pg_result *result) {
  bq_store *store = w->store;
  if (w->previous != NULL) w->previous->next = w->next;
  else store->first = w->next;
  if (w->next != NULL) w->next->previous = w->previous;
  store->waiting--;
  w->done(w->arg, result);
  bq_timer_free(w->timer);
  for (int i = 0; i < w->param_count && w->params != NULL; i++) bq_free(w->params[i]);
  bq_free(w->params);
  bq_free(w);
}

void bq_store_free(bq_store *store) {
  if (store == NULL) return;
  store->closing = 1;
  bq_error err;
  (void)bq_fail(&err, BQ_ECANCELED, "the server ends before the database has answered");
  bq_pg_result result = {.error = &err};
  while (store->first != NULL) end_write(store->first, &result);
  bq_free(store);
}

static int find(const bq_store *store, const char *name, const bq_statement **out, bq_error *err) {
  *out = bq_statements_find(store->statements, name);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOTFOUND, "there is no statement %s in sql/queries", name);
}

int bq_store_query(bq_store *store, const char *name, int param_count, const char *const *params, bq_pg_done done,
                   void *arg, bq_error *err) {
  const bq_statement *statement;
  int result = find(store, name, &statement, err);
  if (result < 0) return result;
  return bq_pg_query(store->pg, statement, param_count, params, done, arg, err);
}

static void try_later(write_request *w) {
  // Full jitter keeps the servers of a cluster apart when the database comes back.
  int64_t delay_ms = w->delay_ms / 2 + random() % (w->delay_ms / 2 + 1);
  w->delay_ms = w->delay_ms * 2 < LONGEST_DELAY_MS ? w->delay_ms * 2 : LONGEST_DELAY_MS;
  bq_timer_set(w->timer, delay_ms);
}

static int may_retry(const bq_store *store, int code) {
  if (store->closing) return 0;
  return code == BQ_EUNAVAIL || code == BQ_EUNKNOWN || code == BQ_ELIMIT || code == BQ_ENOMEM;
}

static void on_answer(void *arg, const bq_pg_result *result) {
  write_request *w = arg;
  if (result->error != NULL && may_retry(w->store, result->error->code)) {
    bq_log(BQ_WARN, "a write waits for the database", "statement", w->statement->name, "error", result->error->message,
           NULL);
    try_later(w);
    return;
  }
  end_write(w, result);
}

static void send_write(void *arg) {
  write_request *w = arg;
  bq_error err;
  const char *const *params = (const char *const *)(void *)w->params;
  if (bq_pg_query(w->store->pg, w->statement, w->param_count, params, on_answer, w, &err) < 0) try_later(w);
}

int bq_store_write(bq_store *store, const char *name, int param_count, const char *const *params, bq_pg_done done,
                   void *arg, bq_error *err) {
  const bq_statement *statement;
  int result = find(store, name, &statement, err);
  if (result < 0) return result;
  write_request *w = bq_alloc(sizeof *w);
  if (w == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a write");
  *w = (write_request){.store = store, .statement = statement, .done = done, .arg = arg, .delay_ms = FIRST_DELAY_MS,
                       .since_us = bq_clock_mono_us()};
  result = bq_timer_new(&w->timer, store->loop, send_write, w, err);
  if (result < 0) goto cleanup;
  w->params = bq_alloc_array((size_t)param_count, sizeof w->params[0]);
  if (w->params == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a write");
    goto cleanup;
  }
  w->param_count = param_count;
  for (int i = 0; i < param_count; i++) {
    w->params[i] = bq_strdup(params[i]);
    if (params[i] == NULL || w->params[i] != NULL) continue;
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a write");
    goto cleanup;
  }
  w->next = store->first;
  if (w->next != NULL) w->next->previous = w;
  store->first = w;
  store->waiting++;
  send_write(w);
  return 0;
cleanup:
  bq_timer_free(w->timer);
  for (int i = 0; i < w->param_count; i++) bq_free(w->params[i]);
  bq_free(w->params);
  bq_free(w);
  return result;
}

size_t bq_store_waiting(const bq_store *store) {
  return store->waiting;
}

int64_t bq_store_waiting_ms(const bq_store *store) {
  int64_t since_us = 0;
  for (const write_request *w = store->first; w != NULL; w = w->next) since_us = w->since_us;
  return since_us != 0 ? (bq_clock_mono_us() - since_us) / 1000 : 0;
}

json_t *bq_store_json(const PGresult *rows, int row) {
  if (rows == NULL || row >= PQntuples(rows) || PQgetisnull(rows, row, 0)) return NULL;
  json_t *value = NULL;
  bq_error err;
  if (bq_json_parse(PQgetvalue(rows, row, 0), (size_t)PQgetlength(rows, row, 0), 0, &value, &err) < 0) {
    bq_log_error("the database answered with JSON that can't be read", &err);
    return NULL;
  }
  return value;
}
