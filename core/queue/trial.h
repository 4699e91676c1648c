// `buildq test`: specs of a team talk to this runtime, line by line, while it runs their pipelines, routes and modules.
//
// A line is one JSON object. From the spec:
//   {"id": 1, "call": "start", …}          a call; the rows of trial_calls.c say which there are
//   {"answer": 7, "result": {…}}           to a question
// To the spec:
//   {"id": 1, "result": …} or {"id": 1, "error": {"kind": …, "message": …}}
//   {"ask": 7, "what": "exec", "request": {…}}   a command or a request is about to start (lua/stand_in.h)
//   {"forget": 7}                          nobody waits for that answer any more
//   {"tell": 7, "result": {…}}             it was done really, and this came of it
// The spec calls one at a time and answers questions while it waits.
//
// Time. The clock is the machine's, set forward by `advance`; while a call waits and nothing is under way but what
// waits for the clock, the clock jumps to the next such moment: no spec waits for a sleep.
#ifndef BQ_QUEUE_TRIAL_H
#define BQ_QUEUE_TRIAL_H

#include "base/config.h"
#include "base/error.h"

typedef struct bq_trial_options {
  const char *share;     // directory with scripts/, templates/ and sql/
  const char *directory; // scratch: workspaces and all else are below it
  int in;                // descriptor of lines from the spec
  int out;               // descriptor of lines to it
} bq_trial_options;

// Runs until the spec closes its end. `config` is taken over; all its directories are below the scratch directory and
// it names no database: the first call that wants one starts a private cluster and a whole server. Blocks; to be called
// from the main thread of a process of its own, with no other thread running.
int bq_trial_run(bq_config *config, const bq_trial_options *options, bq_error *err) BQ_MUSTCHECK;

#endif
