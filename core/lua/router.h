// The router: which handler answers a method and a path. Pure, no I/O, no Lua.
//
// A pattern is a path whose segments are words or parameters: "/builds/{id}/log". A word wins over a parameter at the
// same place, from left to right, so "/builds/statistics" wins over "/builds/{id}". HEAD is answered by GET's handler.
#ifndef BQ_LUA_ROUTER_H
#define BQ_LUA_ROUTER_H

#include <stddef.h>

#include "base/error.h"

enum { BQ_ROUTE_MAX_SEGMENTS = 12, BQ_ROUTE_MAX = 1000, BQ_ROUTE_ALLOW_SIZE = 128 };

typedef struct bq_router bq_router;

// One parameter of a match; neither string is NUL-terminated. Borrowed from the pattern and the path.
typedef struct bq_route_param {
  const char *name;
  size_t name_length;
  const char *value;
  size_t value_length;
} bq_route_param;

typedef struct bq_route_match {
  int handler;                                          // what bq_router_add was given
  size_t param_count;
  bq_route_param params[BQ_ROUTE_MAX_SEGMENTS];
  char allow[BQ_ROUTE_ALLOW_SIZE];                      // "GET, HEAD, POST" when only the method is wrong
} bq_route_match;

typedef enum bq_route_outcome { BQ_ROUTE_FOUND, BQ_ROUTE_NO_PATH, BQ_ROUTE_NO_METHOD } bq_route_outcome;

int bq_router_new(bq_router **out, bq_error *err) BQ_MUSTCHECK;
void bq_router_free(bq_router *router);

// Fails with BQ_EINVAL for a pattern that can't be read and BQ_ECONFLICT when the same method and shape exist.
int bq_router_add(bq_router *router, const char *method, const char *pattern, int handler, bq_error *err) BQ_MUSTCHECK;

bq_route_outcome bq_router_match(const bq_router *router, const char *method, const char *path, bq_route_match *out);

#endif
