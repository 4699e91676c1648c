// Files of a build belong to the node that ran the attempt: what is not here is passed through from there.
//
// A request that was passed on once carries BQ_PASSED_HEADER and is never passed on again: nodes that point at each other,
// or at themselves, make no loop. Nothing is held: what the peer does not take is not read from the other node.
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_PASS_H
#define BQ_QUEUE_PASS_H

#include <stdint.h>

#include "io/http_server.h"
#include "queue/store.h"

#define BQ_PASSED_HEADER "X-Buildq-Passed"

typedef struct bq_passes bq_passes;

// `store` and `own_url` are borrowed; `*own_url` is this server's address, known before the first request.
int bq_passes_new(bq_passes **out, bq_loop *loop, bq_store *store, char *const *own_url, bq_error *err) BQ_MUSTCHECK;
void bq_passes_free(bq_passes *passes); // after the HTTP server and the store's pg pool; ends what is under way

// Where an attempt's files are. Called once, on a later turn. `url`: of another node; NULL: here, or nobody knows. `log`:
// the whole log, when it has no file; NULL: it has, or there is none yet. Both are valid until `done` returns. `err` is
// set when that could not be found out.
typedef void (*bq_place_done)(void *arg, const char *url, const char *log, const bq_error *err);
int bq_place_find(bq_passes *passes, const char *build, int64_t attempt, bq_place_done done, void *arg,
                  bq_error *err) BQ_MUSTCHECK;

typedef struct bq_pass_request {
  const char *url;     // of the node
  const char *build;
  int64_t attempt;
  const char *name;    // of an artifact; NULL: the log
  const char *etag;    // the artifact's, without quotes; NULL: not known
  uint64_t offset;     // of the log
  int follow;          // of the log
  int begun;           // the log's head has gone out
  const bq_http_header *headers; // of the answer, when it has a body of the node's
  size_t header_count;
} bq_pass_request;

// Answers `x` with what the node says, and takes it over. Everything is copied. A node that can't be reached is 503, one
// that answers oddly 502, what it has not 404.
void bq_pass_send(bq_passes *passes, bq_http_exchange *x, const bq_pass_request *request);

#endif
