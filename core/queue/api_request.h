// The Request that a route's handler is given (see scripts/lib/buildq.d.lua).
//
// In Lua it is a table that is empty at first: a field is made when it is first read. Most handlers read one or two, and
// making all of them was a quarter of a small request's work.
#ifndef BQ_QUEUE_API_REQUEST_H
#define BQ_QUEUE_API_REQUEST_H

#include <lua.h>

#include "io/http_server.h"
#include "lua/router.h"

typedef struct bq_api_request bq_api_request;

// Those whose handlers run, found by their tables.
enum { BQ_API_REQUEST_BUCKETS = 256 };
typedef struct bq_api_requests {
  bq_api_request *buckets[BQ_API_REQUEST_BUCKETS];
} bq_api_requests;

struct bq_api_request {
  const bq_http_exchange *http; // of bq_http_retain_request
  bq_route_match match;         // points into `http`
  char id[BQ_HTTP_REQUEST_ID_BYTES + 1];
  char *body;                   // owned; NULL when it is empty
  size_t body_length;           // bytes
  bq_api_requests *requests;    // NULL until it was pushed
  const void *table;            // its identity there
  bq_api_request *next;         // in its bucket
};

// Pushes the request's table. It must stay on a stack until bq_api_request_end: its address is what it is known by.
// `requests` must outlive L. May raise.
void bq_api_request_push(lua_State *L, bq_api_requests *requests, bq_api_request *request);

// The handler has ended: from now on to read a field that was not read before is an error. Frees what is the request's.
void bq_api_request_end(bq_api_request *request);

#endif
