// Asynchronous PostgreSQL: a pool of connections over the loop, with named prepared statements.
//
// Thread rule: loop thread only. Nothing here blocks, with one exception named at bq_pg_new (host names).
// A lost connection is opened again by itself, with backoff and jitter; queries that wait meanwhile fail with
// BQ_EUNAVAIL after `wait_ms`.
#ifndef BQ_IO_PG_H
#define BQ_IO_PG_H

#include <libpq-fe.h>
#include <stddef.h>

#include "base/error.h"
#include "event/loop.h"
#include "event/pool.h"

typedef struct bq_pg bq_pg;

// One named statement, from sql/queries/*.sql (see io/statements.h).
typedef struct bq_statement {
  const char *name; // unique; also its name as a prepared statement
  const char *text; // one SQL statement with $1, $2, …
} bq_statement;

typedef struct bq_pg_options {
  const char *conninfo;         // libpq URI or keywords; copied
  const char *application_name; // shown in pg_stat_activity; copied
  const char *role;             // "core" or "scripts": for logs and metrics; copied
  unsigned size;                // connections, opened when first needed, 1 at least, 1000 at most
  size_t max_waiting;           // queries waiting for a connection; beyond it a query fails with BQ_ELIMIT, 1 at least
  int64_t wait_ms;              // how long a query waits for a connection while the database is away
  int64_t backoff_most_ms;      // between two tries to connect at most, 5 s at most; 0: 5 s
  int64_t statement_timeout_ms; // set on each connection; 0: none. A connection that owes an answer and is silent for
                                // 5 s longer is given up: the server is frozen
  size_t max_result_bytes;      // of the rows of one bq_pg_query_text, beyond it BQ_ELIMIT; 0: no bound
  const char *session_sql;      // statements run on each new connection, or NULL; copied
  bq_pool *blocking;            // where bq_pg_cancel does its work (libpq's PQcancel blocks); borrowed, outlives this
                                // pool. NULL: a canceled query that is under way runs to its own end
} bq_pg_options;

// The outcome of one query. Valid until the callback returns.
typedef struct bq_pg_result {
  PGresult *rows;      // NULL when `error` is set
  const bq_error *error; // NULL on success. BQ_EUNAVAIL: not sent; BQ_EUNKNOWN: lost after sending; BQ_EDATABASE
  char sqlstate[6];    // "" unless error->code is BQ_EDATABASE
} bq_pg_result;

typedef void (*bq_pg_done)(void *arg, const bq_pg_result *result);

// Reads conninfo (BQ_EINVAL when it is malformed; what it holds is never repeated) and opens nothing yet. What it
// leaves open is set: TCP keepalives (30 s idle, 3 probes 10 s apart), tcp_user_timeout 30 s, 5 s for connecting,
// UTF-8, no GSS encryption. A connection is opened on the loop, which looks up a host name there, blocking: use an
// address, a socket directory or `hostaddr=` where the resolver may hang.
int bq_pg_new(bq_pg **out, bq_loop *loop, const bq_pg_options *options, bq_error *err) BQ_MUSTCHECK;

// Fails what waits or is under way with BQ_ECANCELED (callbacks run inside; new queries are refused), closes the
// connections. What was under way may still happen in the database. Allowed inside a callback.
void bq_pg_free(bq_pg *pg);

// Runs a named statement. `statement` is borrowed until `done`. `params` are text (NULL is SQL NULL) and are copied.
// `done` is called exactly once, on a later turn of the loop. Each query is its own transaction. Queries may overtake
// each other. Up to 64 are in flight on one connection. When this returns an error (BQ_ELIMIT, BQ_EINVAL, BQ_ENOMEM,
// BQ_ECANCELED) `done` is not called.
int bq_pg_query(bq_pg *pg, const bq_statement *statement, int param_count, const char *const *params, bq_pg_done done,
                void *arg, bq_error *err) BQ_MUSTCHECK;

// The same for SQL text that a script wrote; not prepared. `text` is copied. Has a connection to itself; one statement,
// no COPY from or to the client, no transaction left open, and what it SETs is gone with its connection. A result over
// max_result_bytes is BQ_ELIMIT; the statement may have happened. PQcmdStatus of a result with rows is "". Returns a
// handle through `out` (which may be NULL) for bq_pg_cancel, valid until `done` is called.
typedef struct bq_pg_request bq_pg_request;
int bq_pg_query_text(bq_pg *pg, const char *text, int param_count, const char *const *params, bq_pg_done done,
                     void *arg, bq_pg_request **out, bq_error *err) BQ_MUSTCHECK;

// Asks for an early end; `done` is still called, with BQ_ECANCELED, on a later turn. The query may have happened.
void bq_pg_cancel(bq_pg_request *request);

typedef struct bq_pg_state {
  unsigned open;      // connections ready or busy
  unsigned busy;      // connections with a query under way
  size_t waiting;     // queries that wait for a connection
  int64_t down_since_us; // bq_clock_mono_us() when the database went away; 0: it is there
  char last_error[256];  // why the last connection failed; "" when it is there
  uint64_t queries;      // since start
  uint64_t reconnects;   // since start
} bq_pg_state;
void bq_pg_get_state(const bq_pg *pg, bq_pg_state *out);

// One LISTEN connection of its own, opened at once and again whenever it is lost. `channels` (64 at most) are copied.
// `notify` is called for each notification, and once with channel and payload NULL after every (re)connection: whatever
// was missed meanwhile must be looked up. It may free the listener.
typedef struct bq_pg_listener bq_pg_listener;
typedef void (*bq_pg_notify)(void *arg, const char *channel, const char *payload);
int bq_pg_listen(bq_pg_listener **out, bq_loop *loop, const char *conninfo, const char *const *channels,
                 size_t channel_count, bq_pg_notify notify, void *arg, bq_error *err) BQ_MUSTCHECK;
void bq_pg_listener_free(bq_pg_listener *listener);

#endif
