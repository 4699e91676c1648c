// The script host: which generation is running, and how the next one comes to be.
//
//   IDLE → READING (blocking pool) → COMPILING (compute pool) → CHECKING (a fiber on the compute pool) → swap → IDLE
//          (not for what is activated)
//
// Nothing is swapped unless everything went well. A change that comes meanwhile starts the next round.
// Thread rule: loop thread only.
#ifndef BQ_LUA_SCRIPT_HOST_H
#define BQ_LUA_SCRIPT_HOST_H

#include <jansson.h>

#include "lua/handlers.h"
#include "lua/policies.h"
#include "lua/sources.h"

typedef struct bq_script_host bq_script_host;

typedef struct bq_script_host_options {
  bq_loop *loop;
  bq_pool *compute;
  bq_pool *blocking;
  bq_source_directories directories; // strings are borrowed
  const bq_lua_module *check_modules;   // what any script may use: for the self-check
  const bq_lua_module *handler_modules; // what routes may use
  bq_services *services;
  bq_generation_set *generations;    // borrowed; what is made here is added. NULL: nobody counts
  unsigned max_generations;          // alive at a time: at it a round is refused
  size_t memory_bytes;               // of the check, and of the handlers
  int64_t handler_slice_us;          // see bq_handlers_options
  // After each round: `swapped` 1 when a new generation runs, 0 when nothing changed or it failed (error not NULL).
  void (*loaded)(void *arg, int swapped, const bq_error *error);
  void *arg;
} bq_script_host_options;

int bq_script_host_new(bq_script_host **out, const bq_script_host_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_script_host_free(bq_script_host *host); // when no round is under way (see bq_script_host_busy)

// Starts a round; `loaded` tells its end. While one is under way, another follows it.
void bq_script_host_reload(bq_script_host *host);
int bq_script_host_busy(const bq_script_host *host);

// Starts a round with these sources (taken over in every case) instead of the disk's. When it ends well they run, and go
// on running until bq_script_host_release: what changes on disk meanwhile is built and checked, not swapped. A round
// under way is finished first.
void bq_script_host_activate(bq_script_host *host, bq_sources *sources);
void bq_script_host_release(bq_script_host *host); // back to the disk; nothing to do when nothing was activated
int bq_script_host_is_held(const bq_script_host *host); // what runs was activated

// The hash of what the disk last had that could run; "" before the first round has ended well.
const char *bq_script_host_disk(const bq_script_host *host);

bq_generation *bq_script_host_current(bq_script_host *host); // borrowed; NULL before the first round has ended well
bq_handlers *bq_script_host_handlers(bq_script_host *host);  // borrowed; NULL likewise

// The policies of the current generation; borrowed until the next swap, NULL before the first.
bq_policies *bq_script_host_policies(bq_script_host *host);

// A handler reached a budget: the vm may be in a strange state, so its routes are loaded anew for later requests.
void bq_script_host_spoiled(bq_script_host *host, bq_handlers *handlers);

// Why the last round failed, with file, line and reason; NULL when it went well.
const char *bq_script_host_error(const bq_script_host *host);

// {"honua-server": {"pin": false, "secrets": []}, …} of the current generation; borrowed.
const json_t *bq_script_host_pipelines(const bq_script_host *host);

typedef struct bq_script_host_stats {
  uint64_t reloads;    // rounds that swapped, the first one included
  uint64_t failures;   // rounds that failed
  int64_t last_us;     // how long the last round took
} bq_script_host_stats;
void bq_script_host_get_stats(const bq_script_host *host, bq_script_host_stats *out);

#endif
