// One PostgreSQL connection as a state machine over the loop; the pool (pg.h) and the listener are made of these.
//
// Internal to io/pg*.c. Thread rule: loop thread only.
//
// A ready connection is in pipeline mode: every request is followed by a Sync of its own, so each is its own
// transaction and an error in one does not touch its neighbours. A statement is prepared on first use; nothing is
// sent behind a preparation until it is done, so a request that was only being prepared counts as not sent.
#ifndef BQ_IO_PG_CONNECTION_H
#define BQ_IO_PG_CONNECTION_H

#include <libpq-fe.h>
#include <stdint.h>

#include "base/error.h"
#include "event/loop.h"
#include "io/pg.h"
#include "io/pg_request.h"

enum {
  BQ_PG_PIPELINE_DEPTH = 64,   // requests in flight on one connection
  BQ_PG_CONNECT_LIMIT_MS = 5000, // from the start of an attempt to a ready session, unless connect_timeout says else
  BQ_PG_SILENCE_MARGIN_MS = 5000, // beyond statement_timeout, which a server that works would have kept
  BQ_PG_BACKOFF_FIRST_MS = 100, // upper bound of the random delay before the first new attempt; doubles …
  BQ_PG_BACKOFF_MOST_MS = 5000  // … up to this
};

// Where and how to connect. Made once, shared by the connections of one owner.
typedef struct bq_pg_target {
  char **keywords;          // owned, NULL-terminated, for PQconnectStartParams
  char **values;            // owned; never logged: one of them is the password
  size_t count;
  char *setup_sql;          // owned; run on each new session before anything else; NULL: nothing
  char *role;               // owned; for logs
  int64_t connect_limit_ms;
  int64_t backoff_most_ms; // between two tries to connect
  int64_t silence_limit_ms; // how long a ready session may owe an answer without a byte from the server; 0: for ever
} bq_pg_target;

// Fills `target` from conninfo, adding keepalive settings that it leaves open. `setup_sql` may be NULL.
int bq_pg_target_init(bq_pg_target *target, const char *conninfo, const char *application_name, const char *role,
                      const char *setup_sql, bq_error *err) BQ_MUSTCHECK;
void bq_pg_target_clear(bq_pg_target *target);

typedef struct bq_pg_connection bq_pg_connection;

typedef enum bq_pg_connection_state {
  BQ_PG_CLOSED,     // → CONNECTING by bq_pg_connection_open
  BQ_PG_CONNECTING, // → SETUP, or BACKOFF on failure
  BQ_PG_SETUP,      // session settings are being made: → READY, or BACKOFF on failure
  BQ_PG_READY,      // → BACKOFF when lost or renewed
  BQ_PG_BACKOFF     // waits to connect again: → CONNECTING
} bq_pg_connection_state; // every state → CLOSED by bq_pg_connection_free

// What the owner hears. All of these are called from the loop, or from inside bq_pg_connection_send.
typedef struct bq_pg_connection_events {
  void (*on_ready)(void *arg);                            // a new session is ready
  void (*on_down)(void *arg, const bq_error *why);        // an attempt failed or the session was lost; will retry
  void (*on_settled)(void *arg, bq_pg_request *request);  // its outcome is in; the request is the owner's again
  void (*on_unsent)(void *arg, bq_pg_request *request);   // not done and safe to send again; the owner's again
  void (*on_room)(void *arg);                             // more can be sent
  void (*on_notify)(void *arg, const char *channel, const char *payload); // a NOTIFY came; NULL when not listening
} bq_pg_connection_events;

// `target` and `events` are borrowed and outlive the connection.
int bq_pg_connection_new(bq_pg_connection **out, bq_loop *loop, const bq_pg_target *target,
                         const bq_pg_connection_events *events, void *arg, bq_error *err) BQ_MUSTCHECK;

// Closes it; requests that are lent to it come back by on_settled with BQ_ECANCELED. No callback comes after this
// returns. Allowed inside a callback.
void bq_pg_connection_free(bq_pg_connection *connection);

void bq_pg_connection_open(bq_pg_connection *connection); // CLOSED → CONNECTING
bq_pg_connection_state bq_pg_connection_get_state(const bq_pg_connection *connection);

// Sessions it has made so far.
uint64_t bq_pg_connection_sessions(const bq_pg_connection *connection);

// Requests lent to it now.
unsigned bq_pg_connection_load(const bq_pg_connection *connection);

// 1 when this request may be sent now: ready, room in the pipeline, alone for text.
int bq_pg_connection_accepts(const bq_pg_connection *connection, const bq_pg_request *request);

// Takes the request; its end is reported by on_settled or on_unsent (also inside this call).
void bq_pg_connection_send(bq_pg_connection *connection, bq_pg_request *request);

// A key for PQcancel on another thread when the request under way was canceled; else NULL. Free with PQfreeCancel.
PGcancel *bq_pg_connection_cancel_key(const bq_pg_connection *connection);

#endif
