// The inside of an attempt, shared by the files that make it: attempt.c (its states), attempt_files.c (blocking file
// work), attempt_script.c (its vm) and the bindings lib_build.c and lib_exec.c. Nobody else includes this.
#ifndef BQ_QUEUE_ATTEMPT_INTERNAL_H
#define BQ_QUEUE_ATTEMPT_INTERNAL_H

#include "base/buf.h"
#include "io/mask.h"
#include "queue/attempt.h"

typedef enum bq_attempt_state {
  BQ_ATTEMPT_PREPARING,
  BQ_ATTEMPT_RUNNING,
  BQ_ATTEMPT_DEFERRING,
  BQ_ATTEMPT_PUBLISHING,
  BQ_ATTEMPT_REPORTED,
  BQ_ATTEMPT_CLEANING
} bq_attempt_state;

// Workspace and directory for artifacts.
typedef enum bq_attempt_dirs {
  BQ_DIRS_NONE,
  BQ_DIRS_BEGUN, // something may be there
  BQ_DIRS_READY
} bq_attempt_dirs;

enum {
  BQ_ATTEMPT_LOG_MS = 250,                // a line of the log is in memory only for so long at most
  BQ_ATTEMPT_DEFER_MS = 60 * 1000,        // for all deferred functions together
  BQ_ATTEMPT_MAX_DEFERRED = 1000,
  BQ_ATTEMPT_MAX_STEPS = 100,             // kept for the next build's progress
  BQ_ATTEMPT_MAX_PLANS = 1000,            // pipelines whose steps are kept
  BQ_ATTEMPT_MAX_ARTIFACTS = 1000,
  BQ_ATTEMPT_MAX_PROVENANCE = 64 * 1024,  // bytes of JSON
  BQ_ATTEMPT_MAX_COMMANDS = 1000,         // recorded in build.json; later ones are counted only
  BQ_ATTEMPT_MESSAGE_BYTES = 2000,        // of errorMessage; longer ones are cut
  BQ_ATTEMPT_MASKED_BYTES = 64 * 1024     // of a message, in which secrets are looked for before that
};

struct bq_attempt {
  const bq_attempt_env *env;
  bq_attempt_events events;
  bq_generation *generation; // retained
  json_t *row;               // retained
  const char *id;            // inside row
  int number;                // the attempt, from 1
  bq_attempt_state state;
  bq_post turn;              // moves to the next state on a later turn of the loop
  bq_task task;              // the blocking work of PREPARING, PUBLISHING, CLEANING
  int task_result;           // of that work …
  bq_error task_error;       // … and why, when it is negative
  bq_timer *deadline;        // owned; BuildTimeoutMinutes, then the deferred functions' limit
  bq_timer *log_timer;       // owned; BQ_ATTEMPT_LOG_MS from the first line that is in memory
  int64_t started_us;        // bq_clock_wall_us at the start

  // Paths, owned.
  char *workspace;           // WorkspaceDirectory/{id}/attempt-{n}
  char *partial;             // OutputDirectory/{id}/.attempt-{n}.partial: artifacts until they are published
  char *output;              // OutputDirectory/{id}/attempt-{n}
  char *log_path;            // StateDirectory/logs/{id}/attempt-{n}.log
  bq_attempt_dirs dirs;      // a slice's while one is under way, or the blocking task's
  bq_attempt_log *log;       // owned
  bq_mask_set *secrets;      // owned; what its output must not show

  json_t *secret_names;      // owned array; what the pipeline's needs.secrets names, or NULL
  json_t *credentials;       // owned object; name → {username, value, hosts} of those for this customer
  json_t *secret_values;     // owned object; name → value of those that there are

  bq_vm *vm;                 // owned; from RUNNING on
  bq_fiber *fiber;           // the pipeline's, while it runs
  int *deferred;             // owned; registry references, oldest first
  size_t deferred_count;

  // Progress. The loop's alone: slices change it by operations.
  int percent;               // 0 to 100, never falls
  double step_end;           // where the present step ends, percent
  json_t *steps;             // owned array of {name, at, weight} of those that have begun; at -1: it said none
  int in_step;
  char step[256];            // "" before the first
  char text[256];            // of build:progress, within the step; "" when it said none

  // What build:result, build:artifact and build:exec left for the end.
  char *image_url;           // owned or NULL
  json_t *provenance;        // owned object
  json_t *artifacts;         // owned array of {name, kind, size, sha256}
  json_t *commands;          // owned array of {argv, code, durationSeconds}
  size_t commands_left_out;

  // The end.
  int stopping;              // bq_attempt_stop was called
  bq_outcome outcome;        // message, output_path, archive, log_tail and log point to owned copies below
  char *message;
  char *error_kind;
  char *log_tail;
  char *log_text;
  int recorded;              // bq_attempt_close's argument
  uint64_t disk_bytes;       // in its directories before they were removed
};

// attempt.c
void bq_attempt_fail(bq_attempt *attempt, bq_outcome_kind kind, const char *error_kind, int retryable,
                     const char *message); // the first one stays
void bq_attempt_advance(bq_attempt *attempt, bq_attempt_state next);

// attempt_credentials.c: on the blocking pool, before the build's first line.
int bq_attempt_read_credentials(bq_attempt *attempt, bq_error *err) BQ_MUSTCHECK;

// attempt_files.c: the three pieces of blocking work.
void bq_attempt_prepare(bq_task *task);
void bq_attempt_publish(bq_task *task);
void bq_attempt_clean(bq_task *task);
int bq_attempt_make_paths(bq_attempt *attempt, bq_error *err) BQ_MUSTCHECK;
int bq_attempt_make_dirs(bq_attempt *attempt, bq_error *err) BQ_MUSTCHECK; // what there is already is left
int bq_attempt_publishes(const bq_attempt *attempt); // whether it has anything to publish

// attempt_script.c
int bq_attempt_run(bq_attempt *attempt, bq_error *err) BQ_MUSTCHECK;      // starts the pipeline's fiber
int bq_attempt_run_deferred(bq_attempt *attempt, bq_error *err) BQ_MUSTCHECK; // 1: nothing to run

// lib_build.c: pushes the `build` object. lib_progress.c, lib_artifact.c, lib_exec.c: methods of it.
void bq_attempt_push_build(lua_State *L, bq_attempt *attempt);
bq_attempt *bq_attempt_of(lua_State *L);
void bq_build_add_progress(lua_State *L); // step, progress, log, fail, into the table on top
void bq_attempt_keep_steps(const bq_attempt *attempt); // it has succeeded: the next build of its pipeline knows its steps
int bq_build_fail(lua_State *L);
int bq_build_artifact(lua_State *L);
int bq_build_import(lua_State *L);
int bq_build_exec(lua_State *L);
int bq_build_shared(lua_State *L);     // lib_shared.c
int bq_is_shared_name(const char *name); // what may stand behind StateDirectory/shared/
int bq_build_credential(lua_State *L); // lib_credential.c

// An operation that is done by one function on the loop, at once. `run` gets `attempt` and the text.
typedef struct bq_note {
  bq_op op;
  bq_later later;
  bq_attempt *attempt; // borrowed: outlives its vm
  void (*run)(struct bq_note *note);
  char *text;          // owned or NULL
  double number;       // what run makes of it
  double second;
  int flag;
} bq_note;
// Makes one; raises without memory. To be ended with bq_note_put_off, or with bq_op_yield(L, &note->op) when the script
// must not go on before it is done. Both return what is left of the stack.
bq_note *bq_note_new(lua_State *L, void (*run)(bq_note *note), const char *text);
int bq_note_put_off(lua_State *L, bq_note *note); // done at the end of this slice

#endif
