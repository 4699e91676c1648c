// The Request that a route's handler is given (see scripts/lib/buildq.d.lua).
#ifndef BQ_QUEUE_API_REQUEST_H
#define BQ_QUEUE_API_REQUEST_H

#include <lua.h>

#include "io/http_server.h"
#include "lua/router.h"

// Pushes the request as one table. Nothing of it points to the exchange afterwards.
void bq_api_push_request(lua_State *L, bq_http_exchange *x, const bq_route_match *match, const char *request_id,
                         const char *body, size_t length);

#endif
