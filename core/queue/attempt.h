// One attempt at a build: from a claimed row to its outcome.
//
//   PREPARING → RUNNING → DEFERRING → PUBLISHING → REPORTED → CLEANING → gone
//
// PREPARING reads secrets; directories are made by the first call that needs them, and the log's file when it is worth
// one (queue/attempt_log.h): a build that computes and waits, and makes nothing, touches no disk. RUNNING runs the pipeline's fibers; DEFERRING runs what build:defer
// registered; PUBLISHING (success only, and only when there is anything) makes the artifacts visible by one rename; REPORTED waits for the owner to
// record the outcome; CLEANING removes what is not kept. An end asked for from outside (cancel, timeout, shutdown,
// lost lease) is one path: the fibers are killed, which stops their processes, and the states follow in order.
//
// Thread rule: loop thread only. File work happens on the blocking pool, Lua on the compute pool.
#ifndef BQ_QUEUE_ATTEMPT_H
#define BQ_QUEUE_ATTEMPT_H

#include <jansson.h>
#include <stdint.h>

#include "base/config.h"
#include "base/error.h"
#include "event/loop.h"
#include "event/pool.h"
#include "io/process.h"
#include "lua/generation.h"
#include "lua/modules.h"
#include "lua/stock.h"
#include "queue/attempt_log.h"

typedef struct bq_attempt bq_attempt;

// What every attempt of this server shares. Borrowed: outlives all attempts.
typedef struct bq_attempt_env {
  bq_loop *loop;
  bq_pool *compute;
  bq_pool *blocking;
  const bq_config *config;
  const bq_sandbox *sandbox;
  const bq_mask_set *hidden;    // masked in the log of every build; NULL: nothing
  bq_stock *stock;              // of Lua states; made with bq_attempt_prepare
  bq_services *services;        // what the modules of `require "buildq"` find with bq_script_services
  const char *node_id;
  const char *server_url;       // "http://127.0.0.1:8080", as bound
  const char *version;          // of the program, for build.json
  int files_at_once;            // directories and log are there before the pipeline runs: for those who look at them
                                // without a database
  json_t *step_plans;           // what lib_progress.c knows of pipelines from their last success; on the loop; or NULL
  const char *stop_after;       // builds end as cancelled behind the step of this name; NULL: none does
  // The names of the secrets that a pipeline needs: an array, borrowed; NULL for none. On the loop.
  const json_t *(*needs)(void *arg, const char *pipeline);
  void *arg;
} bq_attempt_env;

// For the stock: puts what each build needs into a new state.
int bq_attempt_open_state(lua_State *L);

typedef enum bq_outcome_kind {
  BQ_OUTCOME_SUCCESS,
  BQ_OUTCOME_FAILED,
  BQ_OUTCOME_TIMEDOUT,
  BQ_OUTCOME_CANCELLED,
  BQ_OUTCOME_REQUEUED,  // shutdown: nobody's fault, not charged
  BQ_OUTCOME_SUPERSEDED // the lease is lost: nothing may be written
} bq_outcome_kind;

typedef struct bq_outcome {
  bq_outcome_kind kind;
  const char *message;    // errorMessage, NULL on success; masked
  const char *error_kind; // "step", "timeout", "limit", "memory", "manifest", "infrastructure", "script"; NULL on success
  int retryable;          // FAILED only
  const char *output_path; // SUCCESS: the published directory; NULL: nothing was
  const char *archive;    // SUCCESS: file name of the first artifact of kind "archive", or NULL
  const char *image_url;  // SUCCESS: or NULL
  json_t *artifacts;      // SUCCESS: array of {name, kind, size, sha256}; borrowed
  char *log_tail;         // the last lines, masked; borrowed
  char *log;              // SUCCESS: the whole log when it has no file, else NULL; borrowed
} bq_outcome;

typedef struct bq_attempt_events {
  // Progress or step has changed. Cheap: called for every change; the owner writes at its own pace.
  void (*progressed)(void *arg, bq_attempt *attempt);
  // A row that came by plain SQL has its manifest now (in bq_attempt_row): its copy is to be kept.
  void (*adopted)(void *arg, bq_attempt *attempt);
  // REPORTED: record this, then call bq_attempt_close. `outcome` is valid until then.
  void (*ended)(void *arg, bq_attempt *attempt, const bq_outcome *outcome);
  // The attempt is gone after this returns.
  void (*closed)(void *arg, bq_attempt *attempt);
  void *arg;
} bq_attempt_events;

// Starts an attempt. `row` is the claimed row as JSON, with the names of GET /builds/{id}, and customerEmail,
// manifest (object or null), manifestPath, trusted, and manifestUnchecked when that manifest is still to be checked; it
// is retained. `generation` is retained. `ended` and `closed` are
// always called when this returned 0, never inside this call.
int bq_attempt_start(bq_attempt **out, const bq_attempt_env *env, json_t *row, bq_generation *generation,
                     const bq_attempt_events *events, bq_error *err) BQ_MUSTCHECK;

// Asks for the end. The first call decides the outcome's kind and message; SUPERSEDED wins over all.
void bq_attempt_stop(bq_attempt *attempt, bq_outcome_kind kind, const char *message);

// After `ended`: `recorded` 1 when the outcome is in the database; 0 when the attempt turned out to be stale, and its
// published files are removed again.
void bq_attempt_close(bq_attempt *attempt, int recorded);

const char *bq_attempt_id(const bq_attempt *attempt);     // the build's UUID
int bq_attempt_number(const bq_attempt *attempt);
int bq_attempt_percent(const bq_attempt *attempt);
const char *bq_attempt_workspace(const bq_attempt *attempt); // from any thread
// The attempt whose pipeline calls, with its directories: they are made now when this is the first call that needs them.
// In a slice of its vm; raises.
bq_attempt *bq_attempt_with_dirs(lua_State *L);
const char *bq_attempt_step(const bq_attempt *attempt);   // "" before the first
const char *bq_attempt_text(const bq_attempt *attempt);   // what the pipeline says within the step; "" for nothing
json_t *bq_attempt_row(const bq_attempt *attempt);        // borrowed
uint64_t bq_attempt_disk_bytes(const bq_attempt *attempt); // from `closed` on: what its files took at the end
bq_attempt_log *bq_attempt_get_log(bq_attempt *attempt);  // borrowed; NULL while PREPARING
bq_generation *bq_attempt_generation(bq_attempt *attempt); // borrowed

#endif
