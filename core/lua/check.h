// The self-check of a generation before it may run: every script is loaded, its shape is looked at, its check() is run.
#ifndef BQ_LUA_CHECK_H
#define BQ_LUA_CHECK_H

#include <jansson.h>
#include <lua.h>

#include "base/buf.h"
#include "lua/generation.h"

typedef struct bq_check {
  const bq_generation *generation; // borrowed
  const bq_generation *like;       // borrowed; one that passed its check, or NULL: what comes out as then is left out
  const char *current;             // the script being checked: to be blamed when a budget ends the check
  size_t current_index;            // its place in the generation's sources
  bq_buf faults;                   // one line each; empty: all is well
  size_t fault_count;
  json_t *pipelines;               // owned object: name → {"pin": bool, "secrets": [names]}
  size_t route_count;
} bq_check;

int bq_check_init(bq_check *check, const bq_generation *generation, const bq_generation *like,
                  bq_error *err) BQ_MUSTCHECK;
void bq_check_free(bq_check *check);

// A lua_CFunction to be run in a fiber of a vm of that generation, with the check as a light userdata argument. Finds
// all faults, not only the first.
int bq_check_run(lua_State *L);

#endif
