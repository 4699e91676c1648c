// Handlers: the routes of one generation, loaded into a vm on the loop and ready to be called.
//
// Thread rule: loop thread only. Counted: a request in progress keeps its handlers, so a swap disturbs nobody.
#ifndef BQ_LUA_HANDLERS_H
#define BQ_LUA_HANDLERS_H

#include "base/error.h"
#include "lua/modules.h"
#include "lua/router.h"

typedef struct bq_handlers bq_handlers;

typedef struct bq_handlers_options {
  bq_loop *loop;
  const bq_lua_module *modules; // borrowed
  bq_services *services;        // borrowed
  size_t memory_bytes;          // of the whole vm, above what loading took
  int64_t slice_us;             // of one handler between two waits: longer ends it
} bq_handlers_options;

// Loads every scripts/routes/*.lua of `generation` (retained) and puts its routes into a router. The new handlers have
// one reference. Two files that claim one route, or a route of a wrong shape, are BQ_ESCRIPT.
int bq_handlers_new(bq_handlers **out, const bq_handlers_options *options, bq_generation *generation,
                    bq_error *err) BQ_MUSTCHECK;
bq_handlers *bq_handlers_retain(bq_handlers *handlers); // returns its argument
void bq_handlers_release(bq_handlers *handlers);        // NULL is fine

const bq_router *bq_handlers_router(const bq_handlers *handlers);
bq_generation *bq_handlers_generation(bq_handlers *handlers); // borrowed

// The state to push a call on. bq_handlers_push pushes the function that a match named.
bq_vm *bq_handlers_vm(bq_handlers *handlers);
void bq_handlers_push(bq_handlers *handlers, lua_State *L, int handler);
int bq_handlers_takes_form(const bq_handlers *handlers, int handler); // the route has form = true

#endif
