// The pool: a queue of waiting requests, a few connections, and one function, turn(), from which every callback of
// a user is called. Connections only move requests between lists and ask for a turn.
#include <event2/event.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/pg.h"
#include "io/pg_connection.h"

enum {
  MAX_CONNECTIONS = 1000,
  CANCEL_AGAIN_MS = 1000 // a cancel that finds the server before the query did is lost: it is sent again
};

typedef struct list {
  bq_pg_request *first;
  bq_pg_request *last;
} list;

struct bq_pg {
  bq_loop *loop;          // borrowed
  bq_pool *blocking;      // borrowed; may be NULL
  bq_pg_target target;    // owned
  size_t max_waiting;
  size_t max_result_bytes;
  int64_t wait_ms;
  bq_pg_connection **connections; // owned
  unsigned size;
  struct event *turn;     // owned; made active when there is something to do
  bq_timer *wait_timer;   // owned; the oldest waiting request's patience, while no connection is ready
  bq_timer *cancel_timer; // owned; set while a canceled request is under way
  list waiting;           // oldest first; owned
  size_t waiting_count;
  list settled;           // have their outcome; owned
  list delivering;        // those of them whose `done` is called in this turn; owned
  int64_t unready_since_us; // when the last ready connection went away; 0: there is one
  int64_t down_since_us;  // when that was found to be a failure; 0: it is there
  char last_error[256];   // why; "" when it is there
  uint64_t queries;
  uint64_t sessions;      // made since start
  int turning;            // turn() is on the stack
  int freed;              // … and releases the pool at its end
};

static void push(list *l, bq_pg_request *request) {
  request->next = NULL;
  if (l->first == NULL) l->first = request;
  else l->last->next = request;
  l->last = request;
}

static void push_front(list *l, bq_pg_request *request) {
  request->next = l->first;
  l->first = request;
  if (l->last == NULL) l->last = request;
}

static bq_pg_request *pop(list *l) {
  bq_pg_request *request = l->first;
  if (request == NULL) return NULL;
  l->first = request->next;
  if (l->first == NULL) l->last = NULL;
  request->next = NULL;
  return request;
}

static void take_out(list *l, const bq_pg_request *request) {
  bq_pg_request **at = &l->first, *before = NULL;
  while (*at != NULL && *at != request) {
    before = *at;
    at = &before->next;
  }
  if (*at == NULL) return;
  *at = request->next;
  if (l->last == request) l->last = before;
}

static void ask_for_turn(bq_pg *pg) {
  if (!pg->freed) event_active(pg->turn, EV_TIMEOUT, 0);
}

// --- what connections report ---

static void on_settled(void *arg, bq_pg_request *request) {
  bq_pg *pg = arg;
  push(&pg->settled, request);
  ask_for_turn(pg);
}

static void on_unsent(void *arg, bq_pg_request *request) {
  bq_pg *pg = arg;
  push_front(&pg->waiting, request);
  pg->waiting_count++;
  ask_for_turn(pg);
}

static void on_ready(void *arg) {
  bq_pg *pg = arg;
  pg->sessions++;
  if (pg->down_since_us != 0) bq_log(BQ_INFO, "database is back", "role", pg->target.role, NULL);
  pg->unready_since_us = pg->down_since_us = 0;
  pg->last_error[0] = '\0';
  ask_for_turn(pg);
}

static int count_ready(const bq_pg *pg) {
  int ready = 0;
  for (unsigned i = 0; i < pg->size; i++) ready += bq_pg_connection_get_state(pg->connections[i]) == BQ_PG_READY;
  return ready;
}

static void on_down(void *arg, const bq_error *why) {
  bq_pg *pg = arg;
  if (pg->down_since_us == 0 && count_ready(pg) == 0) {
    pg->down_since_us = bq_clock_mono_us();
    bq_log(BQ_WARN, "database is away", "role", pg->target.role, "error", why->message, NULL);
  }
  (void)snprintf(pg->last_error, sizeof pg->last_error, "%.*s", (int)sizeof pg->last_error - 1, why->message);
  ask_for_turn(pg);
}

static void on_room(void *arg) {
  bq_pg *pg = arg;
  if (pg->waiting.first != NULL) ask_for_turn(pg);
}

static const bq_pg_connection_events events = {
    .on_ready = on_ready, .on_down = on_down, .on_settled = on_settled, .on_unsent = on_unsent, .on_room = on_room,
};

// --- one turn ---

// Calls `done` and frees the request.
static void deliver(bq_pg_request *request) {
  bq_pg_result result = {.rows = request->error == NULL ? request->rows : NULL, .error = request->error};
  if (result.error != NULL && result.error->code == BQ_EDATABASE) {
    memcpy(result.sqlstate, request->sqlstate, sizeof result.sqlstate);
  }
  request->done(request->arg, &result);
  bq_pg_request_free(request);
}

static void expire(bq_pg *pg) {
  bq_timer_clear(pg->wait_timer);
  if (pg->unready_since_us == 0 && count_ready(pg) == 0) pg->unready_since_us = bq_clock_mono_us();
  if (pg->unready_since_us == 0) return;
  while (pg->waiting.first != NULL) {
    bq_pg_request *request = pg->waiting.first;
    int64_t since = request->enqueued_us > pg->unready_since_us ? request->enqueued_us : pg->unready_since_us;
    int64_t left_ms = pg->wait_ms - (bq_clock_mono_us() - since) / 1000;
    if (left_ms > 0) {
      bq_timer_set(pg->wait_timer, left_ms);
      return;
    }
    (void)pop(&pg->waiting);
    pg->waiting_count--;
    bq_pg_request_fail(request, BQ_EUNAVAIL, "the database is away for %lld ms, nothing was sent to it: %s",
                       (long long)pg->wait_ms, pg->last_error[0] != '\0' ? pg->last_error : "no connection yet");
    request->state = BQ_PG_SETTLED;
    push(&pg->settled, request);
  }
}

// The ready connection with the least to do. Opens one more when all that are open have something to do.
static bq_pg_connection *choose(bq_pg *pg, const bq_pg_request *request) {
  bq_pg_connection *best = NULL, *closed = NULL;
  int opening = 0;
  for (unsigned i = 0; i < pg->size; i++) {
    bq_pg_connection *connection = pg->connections[i];
    bq_pg_connection_state state = bq_pg_connection_get_state(connection);
    if (state == BQ_PG_CLOSED && closed == NULL) closed = connection;
    if (state == BQ_PG_CONNECTING || state == BQ_PG_SETUP || state == BQ_PG_BACKOFF) opening = 1;
    if (!bq_pg_connection_accepts(connection, request)) continue;
    if (best == NULL || bq_pg_connection_load(connection) < bq_pg_connection_load(best)) best = connection;
  }
  // One at a time: a burst at the start need not open them all.
  if (closed != NULL && !opening && (best == NULL || bq_pg_connection_load(best) > 0)) {
    bq_pg_connection_open(closed);
  }
  return best;
}

static void dispatch(bq_pg *pg) {
  while (pg->waiting.first != NULL) {
    bq_pg_connection *connection = choose(pg, pg->waiting.first);
    if (connection == NULL) return;
    pg->waiting_count--;
    bq_pg_connection_send(connection, pop(&pg->waiting));
  }
}

static void release(bq_pg *pg) {
  for (unsigned i = 0; i < pg->size && pg->connections != NULL; i++) bq_pg_connection_free(pg->connections[i]);
  bq_free(pg->connections);
  if (pg->turn != NULL) event_free(pg->turn);
  bq_timer_free(pg->wait_timer);
  bq_timer_free(pg->cancel_timer);
  bq_pg_target_clear(&pg->target);
  bq_free(pg);
}

static void turn(bq_pg *pg) {
  pg->turning = 1;
  dispatch(pg); // first, so that the database works while callbacks run
  expire(pg);
  // Only what is settled by now: what the callbacks cause is for the next turn.
  pg->delivering = pg->settled;
  pg->settled = (list){0};
  bq_pg_request *request;
  while ((request = pop(&pg->delivering)) != NULL) deliver(request);
  pg->turning = 0;
  if (pg->freed) release(pg);
  else if (pg->settled.first != NULL) ask_for_turn(pg);
}

static void on_turn(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  turn(arg);
}

static void on_wait_over(void *arg) {
  turn(arg);
}

// --- canceling on the server ---

// PQcancel on a worker thread. Nothing of the pool is touched there, so it may outlive the pool.
typedef struct cancel_task {
  bq_task task;
  PGcancel *key;  // owned
  char why[256];  // filled by PQcancel on failure
  int failed;
} cancel_task;

static void cancel_work(bq_task *task) {
  cancel_task *cancel = (cancel_task *)task;
  cancel->failed = PQcancel(cancel->key, cancel->why, (int)sizeof cancel->why) != 1;
}

static void cancel_done(bq_task *task) {
  cancel_task *cancel = (cancel_task *)task;
  // Most often the session has just ended by itself.
  if (cancel->failed) bq_log(BQ_INFO, "a database query could not be canceled", "error", cancel->why, NULL);
  PQfreeCancel(cancel->key);
  bq_free(cancel);
}

static void cancel_on_server(const bq_pg *pg, PGcancel *key) {
  bq_error err;
  cancel_task *cancel = bq_alloc(sizeof *cancel);
  if (cancel == NULL) {
    (void)bq_fail(&err, BQ_ENOMEM, "out of memory");
    goto cleanup;
  }
  cancel->task = (bq_task){.work = cancel_work, .done = cancel_done};
  cancel->key = key;
  if (bq_pool_submit(pg->blocking, &cancel->task, &err) == 0) return;
cleanup:
  bq_log_error("a database query could not be canceled yet", &err);
  PQfreeCancel(key);
  bq_free(cancel);
}

// Sends a cancel for each canceled request that is under way, now and every CANCEL_AGAIN_MS until they have ended.
static void on_cancel_again(void *arg) {
  bq_pg *pg = arg;
  for (unsigned i = 0; i < pg->size; i++) {
    PGcancel *key = bq_pg_connection_cancel_key(pg->connections[i]);
    if (key == NULL) continue;
    cancel_on_server(pg, key);
    bq_timer_set(pg->cancel_timer, CANCEL_AGAIN_MS);
  }
}

// --- the interface ---

static int make_setup_sql(const bq_pg_options *options, char **out, bq_error *err) {
  bq_buf sql = {0};
  bq_buf_addf(&sql, "set statement_timeout = %lld;", (long long)options->statement_timeout_ms);
  if (options->session_sql != NULL) bq_buf_adds(&sql, options->session_sql);
  *out = bq_buf_take(&sql);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for the database connections");
}

int bq_pg_new(bq_pg **out, bq_loop *loop, const bq_pg_options *options, bq_error *err) {
  *out = NULL;
  if (options->size < 1 || options->size > MAX_CONNECTIONS || options->max_waiting < 1) {
    return bq_fail(err, BQ_EINVAL, "a database pool has 1 to %d connections and room for 1 waiting query at least",
                   MAX_CONNECTIONS);
  }
  char *setup_sql = NULL;
  bq_pg *pg = bq_alloc(sizeof *pg);
  if (pg == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the database connections");
  pg->loop = loop;
  pg->blocking = options->blocking;
  pg->max_waiting = options->max_waiting;
  pg->max_result_bytes = options->max_result_bytes;
  pg->wait_ms = options->wait_ms;
  pg->unready_since_us = bq_clock_mono_us();
  int result = make_setup_sql(options, &setup_sql, err);
  if (result < 0) goto cleanup;
  result = bq_pg_target_init(&pg->target, options->conninfo, options->application_name, options->role, setup_sql, err);
  if (result == 0 && options->backoff_most_ms > 0 && options->backoff_most_ms < BQ_PG_BACKOFF_MOST_MS) {
    pg->target.backoff_most_ms = options->backoff_most_ms;
  }
  if (result < 0) goto cleanup;
  if (options->statement_timeout_ms > 0) {
    pg->target.silence_limit_ms = options->statement_timeout_ms + BQ_PG_SILENCE_MARGIN_MS;
  }
  result = bq_timer_new(&pg->wait_timer, loop, on_wait_over, pg, err);
  if (result < 0) goto cleanup;
  result = bq_timer_new(&pg->cancel_timer, loop, on_cancel_again, pg, err);
  if (result < 0) goto cleanup;
  pg->turn = event_new(bq_loop_base(loop), -1, 0, on_turn, pg);
  pg->connections = bq_alloc_array(options->size, sizeof(bq_pg_connection *));
  if (pg->turn == NULL || pg->connections == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for the database connections");
    goto cleanup;
  }
  for (; pg->size < options->size; pg->size++) {
    result = bq_pg_connection_new(&pg->connections[pg->size], loop, &pg->target, &events, pg, err);
    if (result < 0) goto cleanup;
  }
  *out = pg;
  pg = NULL;
cleanup:
  bq_free(setup_sql);
  if (pg != NULL) release(pg);
  return result;
}

void bq_pg_free(bq_pg *pg) {
  if (pg == NULL || pg->freed) return;
  pg->freed = 1;
  for (unsigned i = 0; i < pg->size; i++) {
    bq_pg_connection_free(pg->connections[i]); // its requests come to `settled`
    pg->connections[i] = NULL;
  }
  bq_pg_request *request;
  while ((request = pop(&pg->delivering)) != NULL) deliver(request);
  while ((request = pop(&pg->settled)) != NULL) deliver(request);
  while ((request = pop(&pg->waiting)) != NULL) {
    bq_pg_request_fail(request, BQ_ECANCELED, "canceled: the database pool was closed");
    deliver(request);
  }
  if (!pg->turning) release(pg);
}

static int enqueue(bq_pg *pg, const bq_statement *statement, const char *text, int param_count,
                   const char *const *params, bq_pg_done done, void *arg, bq_pg_request **out, bq_error *err) {
  if (out != NULL) *out = NULL;
  if (pg->freed) return bq_fail(err, BQ_ECANCELED, "the database pool is being closed");
  if (param_count < 0 || param_count > BQ_PG_MAX_PARAMS) {
    return bq_fail(err, BQ_EINVAL, "a query has at most %d parameters", BQ_PG_MAX_PARAMS);
  }
  if (pg->waiting_count >= pg->max_waiting) {
    return bq_fail(err, BQ_ELIMIT, "%zu queries wait for a database connection already", pg->waiting_count);
  }
  bq_pg_request *request = bq_pg_request_new(text, param_count, params);
  if (request == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a database query");
  request->pool = pg;
  request->statement = statement;
  if (text != NULL) request->max_bytes = pg->max_result_bytes;
  request->done = done;
  request->arg = arg;
  request->enqueued_us = bq_clock_mono_us();
  push(&pg->waiting, request);
  pg->waiting_count++;
  pg->queries++;
  ask_for_turn(pg);
  if (out != NULL) *out = request;
  return 0;
}

int bq_pg_query(bq_pg *pg, const bq_statement *statement, int param_count, const char *const *params, bq_pg_done done,
                void *arg, bq_error *err) {
  return enqueue(pg, statement, NULL, param_count, params, done, arg, NULL, err);
}

int bq_pg_query_text(bq_pg *pg, const char *text, int param_count, const char *const *params, bq_pg_done done,
                     void *arg, bq_pg_request **out, bq_error *err) {
  return enqueue(pg, NULL, text, param_count, params, done, arg, out, err);
}

void bq_pg_cancel(bq_pg_request *request) {
  bq_pg *pg = request->pool;
  if (request->canceled || request->state == BQ_PG_SETTLED) return;
  request->canceled = 1;
  if (request->state != BQ_PG_WAITING) {
    if (pg->blocking != NULL) bq_timer_set(pg->cancel_timer, 0);
    return;
  }
  take_out(&pg->waiting, request);
  pg->waiting_count--;
  bq_pg_request_fail(request, BQ_ECANCELED, "SQL statement: canceled before it was sent");
  request->state = BQ_PG_SETTLED;
  on_settled(pg, request);
}

void bq_pg_get_state(const bq_pg *pg, bq_pg_state *out) {
  *out = (bq_pg_state){.waiting = pg->waiting_count, .down_since_us = pg->down_since_us, .queries = pg->queries};
  unsigned slots = 0; // connections that have ever been opened
  for (unsigned i = 0; i < pg->size; i++) {
    bq_pg_connection_state state = bq_pg_connection_get_state(pg->connections[i]);
    slots += bq_pg_connection_sessions(pg->connections[i]) > 0;
    if (state != BQ_PG_READY) continue;
    out->open++;
    out->busy += bq_pg_connection_load(pg->connections[i]) > 0;
  }
  out->reconnects = pg->sessions - slots;
  if (pg->down_since_us != 0) memcpy(out->last_error, pg->last_error, sizeof out->last_error);
}
