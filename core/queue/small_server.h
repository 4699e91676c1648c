// A server without a queue: loop, pools, scripts and what builds need, for `buildq run` and `buildq test`.
//
// It has neither a database nor an API: the fields of bq_server for those stay NULL.
// Thread rule: the main thread; the loop's own once it runs.
#ifndef BQ_QUEUE_SMALL_SERVER_H
#define BQ_QUEUE_SMALL_SERVER_H

#include "queue/server_internal.h"

typedef struct bq_small_options {
  bq_config *config;                    // borrowed; with the directories to be used
  const char *share;                    // directory with scripts/ and templates/; borrowed
  const bq_lua_module *handler_modules; // what routes may use
  int64_t handler_slice_us;             // of a route between two waits
  const char *stop_after;               // builds end behind the step of that name; NULL: none does
  void (*loaded)(void *arg, int swapped, const bq_error *error); // as of bq_script_host_options
  void *arg;
} bq_small_options;

// Fills the zeroed `server`; its loop does not run yet, its scripts are not read yet (bq_script_host_reload). After a
// failure bq_small_server_close is still the caller's to call.
int bq_small_server_open(bq_server *server, const bq_small_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_small_server_close(bq_server *server); // no build runs in it

#endif
