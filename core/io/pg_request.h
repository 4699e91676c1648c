// One query from bq_pg_query to its `done`, as the pool and its connections hand it to each other.
//
// Internal to io/pg*.c. Thread rule: loop thread only.
#ifndef BQ_IO_PG_REQUEST_H
#define BQ_IO_PG_REQUEST_H

#include <libpq-fe.h>
#include <stdint.h>

#include "base/error.h"
#include "io/pg.h"

enum {
  BQ_PG_MAX_PARAMS = 65535,  // the protocol's bound
  BQ_PG_MAX_RENEWALS = 32    // each connection of a pool may know an old form of a statement
};

typedef enum bq_pg_request_state {
  BQ_PG_WAITING,   // in the pool's queue
  BQ_PG_PREPARING, // its statement is being prepared on a connection; nothing of its own was sent
  BQ_PG_SENT,      // under way
  BQ_PG_SETTLED    // has its outcome, waits for its `done` to be called
} bq_pg_request_state;

// One query from bq_pg_query to its `done`. Owned by the pool; lent to a connection while PREPARING or SENT.
// Allocated in one piece: the struct, then the parameter pointers, then their bytes and the text.
struct bq_pg_request {
  struct bq_pg_request *next;    // in whichever list it is
  bq_pg *pool;                   // borrowed
  struct bq_pg_connection *connection; // borrowed; set while PREPARING or SENT
  bq_pg_request_state state;
  const bq_statement *statement; // borrowed until `done`; NULL for text
  const char *text;              // in this block; NULL for a named statement
  const char *const *params;     // in this block
  int param_count;
  size_t max_bytes;              // of the values of its rows, which then come one by one; 0: no bound
  size_t bytes;                  // of those that came
  int canceled;                  // bq_pg_cancel was called
  int renewals;                  // how often it was given back because a connection's prepared statement was stale
  int64_t enqueued_us;           // bq_clock_mono_us
  bq_pg_done done;
  void *arg;
  PGresult *rows;                // owned; the outcome, or the last thing heard of it
  bq_error *error;               // owned (or the static out-of-memory error); NULL on success
  char sqlstate[6];
};

// Copies everything; NULL without memory. `text` is NULL for a named statement.
bq_pg_request *bq_pg_request_new(const char *text, int param_count, const char *const *params);
void bq_pg_request_free(bq_pg_request *request);

// Its statement's name, or "SQL statement".
const char *bq_pg_request_name(const bq_pg_request *request);

// Sets the outcome to a failure; never fails itself (without memory, the failure is BQ_ENOMEM).
void bq_pg_request_fail(bq_pg_request *request, int code, const char *fmt, ...) BQ_PRINTF(3, 4);

// The same from what the server says: BQ_EDATABASE with its message, detail and SQLSTATE.
void bq_pg_request_fail_result(bq_pg_request *request, const PGresult *result);

// Adds a row that came alone (PGRES_SINGLE_TUPLE) to the request's rows. BQ_ELIMIT over its bound, BQ_ENOMEM.
int bq_pg_request_add_row(bq_pg_request *request, const PGresult *row) BQ_MUSTCHECK;

// A field of an error or notice; "" when absent.
const char *bq_pg_field(const PGresult *result, int code);

#endif
