// The inside of a trial, shared by trial.c (its life), trial_wire.c (lines, questions), trial_calls.c (what can be
// called), trial_build.c (builds) and trial_desk.c (modules and policies). Nobody else includes this.
#ifndef BQ_QUEUE_TRIAL_INTERNAL_H
#define BQ_QUEUE_TRIAL_INTERNAL_H

#include "base/buf.h"
#include "lua/stand_in.h"
#include "queue/server_internal.h"
#include "queue/trial.h"

typedef struct bq_trial bq_trial;
typedef struct bq_trial_build bq_trial_build;

// What a call that can't be answered at once waits for.
typedef enum bq_trial_wait {
  BQ_TRIAL_NOTHING,
  BQ_TRIAL_BUILD,    // its end
  BQ_TRIAL_DESK,     // a fiber's end
  BQ_TRIAL_RELOAD,   // a round of the script host
  BQ_TRIAL_ADVANCE,  // everything that is due by then
  BQ_TRIAL_DATABASE, // the whole server
  BQ_TRIAL_TURN      // a moment
} bq_trial_wait;

struct bq_trial {
  bq_stand_in stand_in;     // first: a bq_stand_in pointer is a bq_trial pointer
  const bq_trial_options *options;
  char *share;              // owned; as this process's user can read it
  bq_config *config;        // owned until a whole server takes it over
  bq_server *server;        // borrowed: the small or the whole one
  struct event *readable;   // owned
  bq_timer *pump;           // owned; looks what the call waits for
  bq_buf input;             // what has come of the next line
  bq_ask *asks;             // questions without an answer
  int64_t last_ask;
  unsigned real;            // commands and requests that are done really
  unsigned quiet;           // looks in a row at which nothing was under way, nor had been since the look before
  uint64_t ran;             // bq_loop_ran at the last look
  int64_t call;             // id of the call under way; 0: none
  bq_trial_wait wait;       // what it waits for
  bq_trial_build *wanted;   // of BQ_TRIAL_BUILD
  int64_t left_ms;          // of BQ_TRIAL_ADVANCE
  int jump;                 // of BQ_TRIAL_TURN: the clock still has to jump once, if anything waits for it
  bq_trial_build *builds;   // owned; those started here
  bq_vm *desk;              // owned; where modules of scripts/lib run; NULL until one is wanted
  int desk_glue;            // registry reference of its function
  bq_fiber *desk_fiber;     // of BQ_TRIAL_DESK
  int whole;                // the server is a whole one, with a database
  int want_database;        // the small server's loop has ended for it
  int ended;                // the spec has closed its end
};

// trial_wire.c
void bq_trial_write(bq_trial *trial, json_t *line); // consumes
void bq_trial_reply(bq_trial *trial, json_t *result); // to the call under way; consumes; NULL is null
void bq_trial_refuse(bq_trial *trial, const bq_error *error);
void bq_trial_on_readable(int fd, short what, void *arg);
void bq_trial_init_stand_in(bq_trial *trial);
void bq_trial_wait_for(bq_trial *trial, bq_trial_wait wait);

// trial_calls.c
void bq_trial_call(bq_trial *trial, const char *name, const json_t *call);
void bq_trial_look(void *arg); // the pump

// trial_build.c
int bq_trial_start(bq_trial *trial, const json_t *call, bq_trial_build **out, bq_error *err) BQ_MUSTCHECK;
const char *bq_trial_id(const bq_trial_build *build);
json_t *bq_trial_present(const bq_trial_build *build); // {status, step, percent}, the caller's
bq_trial_build *bq_trial_next(bq_trial *trial, bq_trial_build *build); // NULL: the first; NULL at the end
bq_trial_build *bq_trial_find(bq_trial *trial, const char *id); // NULL: there is none
int bq_trial_stop(bq_trial_build *build, const char *how, const char *message, bq_error *err) BQ_MUSTCHECK;
json_t *bq_trial_result(const bq_trial_build *build); // NULL while it runs; borrowed
void bq_trial_free_builds(bq_trial *trial);           // none runs
int bq_trial_builds_run(const bq_trial *trial);

// trial_desk.c
int bq_trial_desk_call(bq_trial *trial, const json_t *call, bq_error *err) BQ_MUSTCHECK; // leads to a reply
int bq_trial_policy(bq_trial *trial, const json_t *call, json_t **out, bq_error *err) BQ_MUSTCHECK;
void bq_trial_desk_free(bq_trial *trial);

#endif
