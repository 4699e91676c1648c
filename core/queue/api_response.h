// What a route's handler returned, taken out of Lua: plain C data, so that it can be sent when the vm has moved on.
#ifndef BQ_QUEUE_API_RESPONSE_H
#define BQ_QUEUE_API_RESPONSE_H

#include <lua.h>
#include <stdint.h>

#include "base/buf.h"

enum { BQ_RESPONSE_MAX_HEADERS = 64 };

typedef enum bq_response_kind {
  BQ_RESPONSE_BODY,  // status, headers, body
  BQ_RESPONSE_FILE,  // an artifact: build, attempt, name
  BQ_RESPONSE_LOG,   // an attempt's log: build, attempt, offset, follow
  BQ_RESPONSE_EVENTS, // server-sent events: build and after, or customer
  BQ_RESPONSE_STREAM // status, headers, and a producer that writes: field 3 of the value that was read
} bq_response_kind;

typedef struct bq_api_response {
  bq_response_kind kind;
  int status;         // of BODY and STREAM
  bq_buf headers;     // pairs of NUL-terminated strings, name then value
  size_t header_count;
  int has_type;       // a Content-Type is among them
  int is_problem;     // and it is application/problem+json
  bq_buf body;        // of BODY
  char *build;        // owned or NULL; lower-case UUID
  char *name;         // owned or NULL; of FILE
  char *etag;         // owned or NULL; without quotes
  char *customer;     // owned or NULL; of EVENTS
  int64_t attempt;
  int64_t offset;     // bytes
  int64_t after;      // event number
  int follow;
} bq_api_response;

// Reads the handler's result at `index` into `out` (zeroed before); a problem document (RFC 9457) gets `request_id` as its
// requestId. Raises a Lua error that says what is wrong with it.
void bq_api_response_read(lua_State *L, int index, const char *request_id, bq_api_response *out);
void bq_api_response_free(bq_api_response *response);

// The module `response`: file, log_stream, event_stream.
int bq_api_open_response(lua_State *L);

#endif
