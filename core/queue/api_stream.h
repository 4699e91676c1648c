// response.stream: a body that a route's producer writes by and by.
//
// Thread rule: loop thread; routes run there.
#ifndef BQ_QUEUE_API_STREAM_H
#define BQ_QUEUE_API_STREAM_H

#include <lua.h>

#include "io/http_server.h"
#include "lua/fiber.h"

// Part of the call that answers; zeroed before bq_api_stream_push.
typedef struct bq_api_stream {
  bq_http_exchange *x;          // NULL: not begun, or the peer has gone
  int full;                     // the peer is slow: a write waits
  bq_op *waiting;               // the write that does; NULL: none
  struct bq_api_stream **slot;  // what the write function finds it by; the Lua state's
  int slot_ref;                 // keeps it in the registry
} bq_api_stream;

// Pushes `write`. The response has begun on stream->x.
void bq_api_stream_push(lua_State *L, bq_api_stream *stream);

void bq_api_stream_wake(bq_api_stream *stream); // the peer has taken what was queued, or has gone (x is NULL then)

// The producer has ended. A `write` that a script has kept raises from now on. Fine for one that never began.
void bq_api_stream_close(lua_State *L, bq_api_stream *stream);

#endif
