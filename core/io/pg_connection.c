#include "io/pg_connection.h"

#include <event2/event.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/pg_names.h"

struct bq_pg_connection {
  bq_loop *loop;                         // borrowed
  const bq_pg_target *target;            // borrowed
  const bq_pg_connection_events *events; // borrowed
  void *arg;
  bq_pg_connection_state state;
  PGconn *pg;                 // owned; NULL in CLOSED and BACKOFF
  struct event *event;        // owned; the socket, assigned anew for each
  int fd;                     // what `event` is assigned to; -1: not added
  short watching;             // EV_READ, EV_WRITE
  bq_timer *timer;            // owned; CONNECTING, SETUP: the time limit; READY: of silence; BACKOFF: the next attempt
  unsigned attempt;           // failed since the last ready session
  uint64_t sessions;          // made so far
  bq_pg_request *first;       // sent, oldest first; lent
  bq_pg_request *last;
  bq_pg_request *preparing;   // its statement is being prepared, behind all that were sent; lent
  PGresult *prepare_result;   // owned; what came of that
  unsigned load;              // length of the list, and 1 for `preparing`
  int stale;                  // takes no more requests and is renewed when the last is settled
  bq_pg_names prepared;       // owned; statements that this session knows
  int depth;                  // callbacks of the loop under way: freeing waits for their end
  int freed;
};

// libpq ends its messages with a newline and may use several lines.
static void one_line(char *text) {
  size_t length = strlen(text);
  while (length > 0 && text[length - 1] == '\n') text[--length] = '\0';
  for (; *text != '\0'; text++) {
    if (*text == '\n' || *text == '\t') *text = ' ';
  }
}

static int fail_libpq(bq_error *err, int code, const char *what, const PGconn *pg) {
  (void)bq_fail(err, code, "%s: %s", what, PQerrorMessage(pg));
  one_line(err->message);
  return code;
}

static void on_notice(void *arg, const PGresult *result) {
  bq_pg_connection *connection = arg;
  bq_log(BQ_DEBUG, "database notice", "role", connection->target->role, "severity",
         PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED), "message",
         PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY), NULL);
}

// --- the socket ---

static void on_event(evutil_socket_t fd, short what, void *arg);

static void unwatch(bq_pg_connection *connection) {
  if (connection->fd >= 0) (void)event_del(connection->event);
  connection->fd = -1;
  connection->watching = 0;
}

static int watch(bq_pg_connection *connection, short what) {
  int fd = PQsocket(connection->pg);
  if (connection->fd == fd && connection->watching == what) return 0;
  unwatch(connection);
  if (fd < 0) return -1;
  if (event_assign(connection->event, bq_loop_base(connection->loop), fd, (short)(what | EV_PERSIST), on_event,
                   connection) < 0 ||
      event_add(connection->event, NULL) < 0) {
    return -1;
  }
  connection->fd = fd;
  connection->watching = what;
  return 0;
}

// --- losing a session ---

static bq_pg_request *pop_sent(bq_pg_connection *connection) {
  bq_pg_request *request = connection->first;
  connection->first = request->next;
  if (connection->first == NULL) connection->last = NULL;
  connection->load--;
  request->next = NULL;
  request->connection = NULL;
  return request;
}

static bq_pg_request *pop_preparing(bq_pg_connection *connection) {
  bq_pg_request *request = connection->preparing;
  connection->preparing = NULL;
  connection->load--;
  request->connection = NULL;
  PQclear(connection->prepare_result);
  connection->prepare_result = NULL;
  return request;
}

static void settle(bq_pg_connection *connection, bq_pg_request *request) {
  request->state = BQ_PG_SETTLED;
  connection->events->on_settled(connection->arg, request);
}

static void give_back(bq_pg_connection *connection, bq_pg_request *request) {
  PQclear(request->rows);
  request->rows = NULL;
  request->state = BQ_PG_WAITING;
  connection->events->on_unsent(connection->arg, request);
}

// Ends the session. What was sent has an unknown outcome, unless `code` says that somebody wanted the end.
static void close_session(bq_pg_connection *connection, bq_pg_connection_state next, int code, const char *why) {
  unwatch(connection);
  bq_timer_clear(connection->timer);
  connection->state = next;
  connection->stale = 0;
  bq_pg_names_clear(&connection->prepared);
  PQfinish(connection->pg);
  connection->pg = NULL;
  while (connection->first != NULL) {
    bq_pg_request *request = pop_sent(connection);
    // The server's last word to this request says more than the broken socket.
    const char *last = request->rows != NULL ? bq_pg_field(request->rows, PG_DIAG_MESSAGE_PRIMARY) : "";
    if (code == BQ_ECANCELED || request->canceled) {
      bq_pg_request_fail(request, BQ_ECANCELED, "%s: canceled: %s", bq_pg_request_name(request), why);
    } else {
      bq_pg_request_fail(request, code, "%s: the database connection was lost after sending, it may or may not have "
                                        "happened: %s", bq_pg_request_name(request), *last != '\0' ? last : why);
    }
    PQclear(request->rows);
    request->rows = NULL;
    settle(connection, request);
  }
  if (connection->preparing == NULL) return;
  bq_pg_request *request = pop_preparing(connection);
  if (code == BQ_ECANCELED) {
    bq_pg_request_fail(request, code, "%s: canceled: %s", bq_pg_request_name(request), why);
    settle(connection, request);
  } else {
    give_back(connection, request);
  }
}

// Exponential backoff with full jitter: any delay from 0 to the bound, so that many clients spread out.
static int64_t backoff_ms(const bq_pg_connection *connection) {
  int64_t most = connection->target->backoff_most_ms;
  if (connection->attempt < 6) most = (int64_t)BQ_PG_BACKOFF_FIRST_MS << connection->attempt;
  if (most > connection->target->backoff_most_ms) most = connection->target->backoff_most_ms;
  uint32_t random = 0;
  if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random) return most;
  return (int64_t)random % (most + 1);
}

static void lose(bq_pg_connection *connection, const bq_error *why) {
  close_session(connection, BQ_PG_BACKOFF, BQ_EUNKNOWN, why->message);
  bq_timer_set(connection->timer, backoff_ms(connection));
  connection->attempt++;
  connection->events->on_down(connection->arg, why);
}

static void lose_libpq(bq_pg_connection *connection, const char *what) {
  bq_error err;
  (void)fail_libpq(&err, BQ_EUNAVAIL, what, connection->pg);
  lose(connection, &err);
}

// Ends a session whose state can't be trusted any more and makes a new one at once; the server is there.
static void renew(bq_pg_connection *connection, const char *why) {
  close_session(connection, BQ_PG_BACKOFF, BQ_EUNKNOWN, why);
  bq_timer_set(connection->timer, 0);
}

// --- connecting ---

static void become_ready(bq_pg_connection *connection) {
  if (PQenterPipelineMode(connection->pg) != 1) {
    lose_libpq(connection, "can't begin a database session");
    return;
  }
  connection->state = BQ_PG_READY;
  connection->attempt = 0;
  connection->sessions++;
  bq_timer_clear(connection->timer);
  if (watch(connection, EV_READ) < 0) lose_libpq(connection, "can't watch the database connection");
  else connection->events->on_ready(connection->arg);
}

static int flush_and_watch(bq_pg_connection *connection) {
  int left = PQflush(connection->pg);
  if (left < 0) return -1;
  return watch(connection, left > 0 ? EV_READ | EV_WRITE : EV_READ);
}

static void begin_setup(bq_pg_connection *connection) {
  connection->state = BQ_PG_SETUP;
  if (PQsetnonblocking(connection->pg, 1) < 0) {
    lose_libpq(connection, "can't begin a database session");
  } else if (connection->target->setup_sql == NULL) {
    become_ready(connection);
  } else if (PQsendQuery(connection->pg, connection->target->setup_sql) != 1 || flush_and_watch(connection) < 0) {
    lose_libpq(connection, "can't set up a database session");
  }
}

static void step_setup(bq_pg_connection *connection) {
  if (PQconsumeInput(connection->pg) != 1 || flush_and_watch(connection) < 0) {
    lose_libpq(connection, "can't set up a database session");
    return;
  }
  while (!PQisBusy(connection->pg)) {
    PGresult *result = PQgetResult(connection->pg);
    if (result == NULL) {
      become_ready(connection);
      return;
    }
    ExecStatusType status = PQresultStatus(result);
    bq_error err = {0};
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY) {
      (void)bq_fail(&err, BQ_EUNAVAIL, "can't set up a database session: %s (SQLSTATE %s)",
                    bq_pg_field(result, PG_DIAG_MESSAGE_PRIMARY), bq_pg_field(result, PG_DIAG_SQLSTATE));
    }
    PQclear(result);
    if (err.code != 0) {
      lose(connection, &err);
      return;
    }
  }
}

static void step_connect(bq_pg_connection *connection) {
  // libpq may close this socket and open another under the same number.
  unwatch(connection);
  int result = 0;
  switch (PQconnectPoll(connection->pg)) {
  case PGRES_POLLING_READING: result = watch(connection, EV_READ); break;
  case PGRES_POLLING_WRITING: result = watch(connection, EV_WRITE); break;
  case PGRES_POLLING_OK: begin_setup(connection); return;
  case PGRES_POLLING_FAILED:
  case PGRES_POLLING_ACTIVE: result = -1; break;
  }
  if (result < 0) lose_libpq(connection, "can't connect to the database");
}

static void start_connecting(bq_pg_connection *connection) {
  connection->state = BQ_PG_CONNECTING;
  bq_timer_set(connection->timer, connection->target->connect_limit_ms);
  connection->pg = PQconnectStartParams((const char *const *)connection->target->keywords,
                                        (const char *const *)connection->target->values, 0);
  if (connection->pg == NULL) {
    bq_error err;
    (void)bq_fail(&err, BQ_ENOMEM, "out of memory for a database connection");
    lose(connection, &err);
    return;
  }
  (void)PQsetNoticeReceiver(connection->pg, on_notice, connection);
  if (PQstatus(connection->pg) == CONNECTION_BAD) {
    lose_libpq(connection, "can't connect to the database");
  } else if (watch(connection, EV_WRITE) < 0) {
    bq_error err;
    (void)bq_fail(&err, BQ_ENOMEM, "out of memory to watch a database connection");
    lose(connection, &err);
  }
}

// --- a ready session ---

// A frozen server (a hung disk, a stopped process) breaks no connection and keeps no statement_timeout. Called whenever
// something was heard, and when the first answer is owed.
static void limit_silence(bq_pg_connection *connection) {
  if (connection->target->silence_limit_ms == 0) return;
  if (connection->load > 0) bq_timer_set(connection->timer, connection->target->silence_limit_ms);
  else bq_timer_clear(connection->timer);
}

static int send_now(bq_pg_connection *connection, bq_pg_request *request) {
  if (request->statement != NULL) {
    if (PQsendQueryPrepared(connection->pg, request->statement->name, request->param_count, request->params, NULL, NULL,
                            0) != 1) {
      return -1;
    }
  } else if (PQsendQueryParams(connection->pg, request->text, request->param_count, NULL, request->params, NULL, NULL,
                               0) != 1) {
    return -1;
  }
  if (request->max_bytes > 0 && PQsetSingleRowMode(connection->pg) != 1) return -1;
  return PQpipelineSync(connection->pg) == 1 ? 0 : -1;
}

static void append_and_send(bq_pg_connection *connection, bq_pg_request *request) {
  request->state = BQ_PG_SENT;
  request->connection = connection;
  request->next = NULL;
  if (connection->first == NULL) connection->first = request;
  else connection->last->next = request;
  connection->last = request;
  if (connection->load++ == 0) limit_silence(connection);
  if (send_now(connection, request) < 0 || flush_and_watch(connection) < 0) {
    lose_libpq(connection, "can't send to the database");
  }
}

void bq_pg_connection_send(bq_pg_connection *connection, bq_pg_request *request) {
  if (request->statement == NULL || bq_pg_names_has(&connection->prepared, request->statement->name)) {
    append_and_send(connection, request);
    return;
  }
  request->state = BQ_PG_PREPARING;
  request->connection = connection;
  connection->preparing = request;
  if (connection->load++ == 0) limit_silence(connection);
  if (PQsendPrepare(connection->pg, request->statement->name, request->statement->text, 0, NULL) != 1 ||
      PQpipelineSync(connection->pg) != 1 || flush_and_watch(connection) < 0) {
    lose_libpq(connection, "can't send to the database");
  }
}

static void end_preparation(bq_pg_connection *connection) {
  PGresult *result = connection->prepare_result;
  connection->prepare_result = NULL;
  bq_pg_request *request = pop_preparing(connection);
  if (PQresultStatus(result) != PGRES_COMMAND_OK) {
    bq_pg_request_fail_result(request, result);
    settle(connection, request);
  } else if (bq_pg_names_add(&connection->prepared, request->statement->name) < 0) {
    bq_pg_request_fail(request, BQ_ENOMEM, "%s: out of memory", bq_pg_request_name(request));
    connection->stale = 1; // the session knows the statement, we don't: it could never be prepared again
    settle(connection, request);
  } else {
    append_and_send(connection, request);
  }
  PQclear(result);
}

// Statements of scripts that change the session instead of the data: the next one must not inherit that.
static int changes_session(const PGresult *result) {
  static const char *const tags[] = {"SET", "RESET", "PREPARE", "DEALLOCATE", "LISTEN", "UNLISTEN", "DECLARE CURSOR",
                                     "DISCARD", "DISCARD ALL", "LOAD"};
  const char *tag = PQcmdStatus((PGresult *)(uintptr_t)result);
  for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
    if (strcmp(tag, tags[i]) == 0) return 1;
  }
  return 0;
}

// A prepared statement can outlive its use: 26000 it is gone (DISCARD, a proxy), 0A000 a migration has changed its
// result columns. Nothing was done; a new session prepares it anew.
static int is_stale_plan(const bq_pg_request *request, const PGresult *result) {
  if (request->statement == NULL || request->renewals >= BQ_PG_MAX_RENEWALS) return 0;
  const char *sqlstate = bq_pg_field(result, PG_DIAG_SQLSTATE);
  if (strcmp(sqlstate, "26000") == 0) return 1;
  // 0A000 is any unsupported feature; the place in the server says which, in every language.
  const char *place = bq_pg_field(result, PG_DIAG_SOURCE_FUNCTION);
  return strcmp(sqlstate, "0A000") == 0 && strcmp(place, "RevalidateCachedQuery") == 0;
}

static void end_request(bq_pg_connection *connection) {
  bq_pg_request *request = pop_sent(connection);
  PGresult *result = request->rows;
  // With more behind it this says PQTRANS_ACTIVE, and the last one finds it out.
  PGTransactionStatusType status = PQtransactionStatus(connection->pg);
  int open_transaction = status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
  switch (PQresultStatus(result)) {
  case PGRES_COMMAND_OK:
  case PGRES_TUPLES_OK:
    if (open_transaction) {
      bq_pg_request_fail(request, BQ_EINVAL, "%s: it left a transaction open, which was rolled back: a query is one "
                                             "statement and its own transaction", bq_pg_request_name(request));
    } else if (request->text != NULL && changes_session(result)) {
      connection->stale = 1;
    }
    break;
  case PGRES_EMPTY_QUERY: bq_pg_request_fail(request, BQ_EINVAL, "%s: it is empty", bq_pg_request_name(request)); break;
  default: // an error; also a result that no statement of ours can have
    if (is_stale_plan(request, result)) {
      connection->stale = 1;
      request->renewals++;
      give_back(connection, request);
      return;
    }
    bq_pg_request_fail_result(request, result);
    break;
  }
  if (request->canceled) {
    // PQcancel may still be on its way, and must not hit whoever comes next on this session.
    connection->stale = 1;
    bq_pg_request_fail(request, BQ_ECANCELED, "%s: canceled", bq_pg_request_name(request));
    request->sqlstate[0] = '\0';
  }
  if (request->error != NULL) {
    PQclear(request->rows);
    request->rows = NULL;
  }
  settle(connection, request);
  if (open_transaction) renew(connection, "a statement before it left a transaction open");
}

// Ends the request under way, and with it the session, which has more of it to come.
static void cut_short(bq_pg_connection *connection, int code, const char *why) {
  if (connection->first != NULL) {
    bq_pg_request *request = pop_sent(connection);
    PQclear(request->rows);
    request->rows = NULL;
    if (request->canceled) code = BQ_ECANCELED;
    bq_pg_request_fail(request, code, "%s: %s", bq_pg_request_name(request), why);
    settle(connection, request);
  }
  renew(connection, "a statement before it was cut short");
}

static void add_row(bq_pg_connection *connection, PGresult *row) {
  int result = connection->first != NULL ? bq_pg_request_add_row(connection->first, row) : 0;
  PQclear(row);
  if (result == BQ_ELIMIT) cut_short(connection, result, "its result is larger than a script may hold: use LIMIT");
  else if (result < 0) cut_short(connection, result, "out of memory for its result");
}

static void keep_result(bq_pg_connection *connection, PGresult *result) {
  // Sync comes after all that were sent, then the preparation: the oldest without an end is whose result this is.
  PGresult **slot = connection->first != NULL ? &connection->first->rows : &connection->prepare_result;
  // The first counts: behind the server's last words libpq has some of its own, behind rows that came one by one
  // comes an empty result. But an error can come behind such rows, too.
  int error_behind_rows = PQresultStatus(result) == PGRES_FATAL_ERROR && PQresultStatus(*slot) == PGRES_TUPLES_OK;
  if (*slot != NULL && !error_behind_rows) {
    PQclear(result);
    return;
  }
  PQclear(*slot);
  *slot = result;
}

static void collect(bq_pg_connection *connection) {
  int empty = 0; // NULLs in a row: one ends each query's results
  while (connection->state == BQ_PG_READY && connection->load > 0 && !PQisBusy(connection->pg)) {
    PGresult *result = PQgetResult(connection->pg);
    if (result == NULL) {
      if (++empty > 1) return; // nothing more without more input, or the connection is bad
      continue;
    }
    empty = 0;
    switch (PQresultStatus(result)) {
    case PGRES_PIPELINE_SYNC:
      PQclear(result);
      if (connection->first != NULL) end_request(connection);
      else end_preparation(connection);
      break;
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
      PQclear(result);
      cut_short(connection, BQ_EINVAL, "COPY from or to the client is not possible here");
      break;
    case PGRES_SINGLE_TUPLE: add_row(connection, result); break;
    default: keep_result(connection, result); break;
    }
  }
}

static void hand_out_notifications(bq_pg_connection *connection) {
  PGnotify *notify;
  while (connection->state == BQ_PG_READY && (notify = PQnotifies(connection->pg)) != NULL) {
    if (connection->events->on_notify != NULL) {
      connection->events->on_notify(connection->arg, notify->relname, notify->extra);
    }
    PQfreemem(notify);
  }
}

static void step_ready(bq_pg_connection *connection) {
  int ok = PQconsumeInput(connection->pg) == 1;
  collect(connection); // what came before the end counts
  if (connection->state == BQ_PG_READY) hand_out_notifications(connection);
  if (connection->state != BQ_PG_READY) return;
  if (!ok || PQstatus(connection->pg) == CONNECTION_BAD || flush_and_watch(connection) < 0) {
    lose_libpq(connection, "the database connection was lost");
  } else if (connection->stale && connection->load == 0) {
    renew(connection, "the session is renewed");
  } else {
    limit_silence(connection);
    if (connection->events->on_room != NULL) connection->events->on_room(connection->arg);
  }
}

// --- life ---

static void release(bq_pg_connection *connection) {
  if (connection->event != NULL) event_free(connection->event);
  bq_timer_free(connection->timer);
  bq_pg_names_clear(&connection->prepared);
  bq_free(connection);
}

static void leave(bq_pg_connection *connection) {
  if (--connection->depth == 0 && connection->freed) release(connection);
}

static void on_event(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  bq_pg_connection *connection = arg;
  connection->depth++;
  switch (connection->state) {
  case BQ_PG_CONNECTING: step_connect(connection); break;
  case BQ_PG_SETUP: step_setup(connection); break;
  case BQ_PG_READY: step_ready(connection); break;
  case BQ_PG_CLOSED:
  case BQ_PG_BACKOFF: break;
  }
  leave(connection);
}

static void on_timer(void *arg) {
  bq_pg_connection *connection = arg;
  connection->depth++;
  if (connection->state == BQ_PG_BACKOFF) {
    start_connecting(connection);
  } else if (connection->state == BQ_PG_CONNECTING || connection->state == BQ_PG_SETUP) {
    bq_error err;
    (void)bq_fail(&err, BQ_EUNAVAIL, "can't connect to the database: no session after %lld ms",
                  (long long)connection->target->connect_limit_ms);
    lose(connection, &err);
  } else if (connection->state == BQ_PG_READY && connection->load > 0) {
    bq_error err;
    (void)bq_fail(&err, BQ_EUNAVAIL, "the database owes an answer and was silent for %lld ms",
                  (long long)connection->target->silence_limit_ms);
    lose(connection, &err);
  }
  leave(connection);
}

int bq_pg_connection_new(bq_pg_connection **out, bq_loop *loop, const bq_pg_target *target,
                         const bq_pg_connection_events *events, void *arg, bq_error *err) {
  *out = NULL;
  bq_pg_connection *connection = bq_alloc(sizeof *connection);
  if (connection == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a database connection");
  connection->loop = loop;
  connection->target = target;
  connection->events = events;
  connection->arg = arg;
  connection->fd = -1;
  int result = bq_timer_new(&connection->timer, loop, on_timer, connection, err);
  if (result < 0) goto cleanup;
  connection->event = event_new(bq_loop_base(loop), -1, 0, on_event, connection);
  if (connection->event == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a database connection");
    goto cleanup;
  }
  *out = connection;
  connection = NULL;
cleanup:
  if (connection != NULL) release(connection);
  return result;
}

void bq_pg_connection_free(bq_pg_connection *connection) {
  if (connection == NULL) return;
  close_session(connection, BQ_PG_CLOSED, BQ_ECANCELED, "the database pool was closed");
  if (connection->depth > 0) connection->freed = 1;
  else release(connection);
}

void bq_pg_connection_open(bq_pg_connection *connection) {
  if (connection->state != BQ_PG_CLOSED) return;
  connection->depth++;
  start_connecting(connection);
  leave(connection);
}

bq_pg_connection_state bq_pg_connection_get_state(const bq_pg_connection *connection) {
  return connection->state;
}

uint64_t bq_pg_connection_sessions(const bq_pg_connection *connection) {
  return connection->sessions;
}

unsigned bq_pg_connection_load(const bq_pg_connection *connection) {
  return connection->load;
}

int bq_pg_connection_accepts(const bq_pg_connection *connection, const bq_pg_request *request) {
  if (connection->state != BQ_PG_READY || connection->stale || connection->preparing != NULL) return 0;
  if (connection->load == 0) return 1;
  // Text may run for long: it is alone on its connection, nothing goes before or behind it.
  return request->text == NULL && connection->first->text == NULL && connection->load < BQ_PG_PIPELINE_DEPTH;
}

PGcancel *bq_pg_connection_cancel_key(const bq_pg_connection *connection) {
  int canceled = connection->first != NULL && connection->first->canceled;
  return canceled ? PQgetCancel(connection->pg) : NULL;
}
