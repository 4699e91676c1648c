// The inside of the runner, shared by runner.c (claims, the end of the server), runner_start.c (starts), runner_choose.c
// (claims by a policy's choice), runner_record.c (progress, and what becomes of attempts) and runner_retry.c (what follows
// a failure). Nobody else includes this.
#ifndef BQ_QUEUE_RUNNER_INTERNAL_H
#define BQ_QUEUE_RUNNER_INTERNAL_H

#include "base/uuid.h"
#include "queue/batch.h"
#include "queue/runner.h"

enum { BQ_PROGRESS_MS = 250 }; // progress reaches the row at most this late

// One attempt of ours and what is to be written about it.
typedef struct bq_running {
  bq_runner *runner;
  bq_attempt *attempt;
  char id[BQ_UUID_SIZE];
  char number[16];                // the attempt, as text for SQL
  char node_id[BQ_UUID_SIZE];     // as which it was claimed
  int64_t started_us;             // bq_clock_mono_us
  int dirty;                      // progress or step is not written yet
  int writing;                    // a progress write is under way
  int keeping;                    // the copy of its manifest is being written
  int ending;                     // the outcome is recorded when the progress, or the copy, is written
  int abandoned;                  // its outcome could not be sent: the database still takes it for running
  int refused;                    // PostgreSQL did not take the outcome: a failure is recorded in its place
  const bq_outcome *outcome;      // from `ended` to the answer
  json_t *failure;                // owned; what the retry rule is asked about, or NULL
  const char *failure_tail;       // borrowed from the outcome: the log's end; NULL when it was refused
  struct bq_running *next;
  struct bq_running *previous;
} bq_running;

typedef struct bq_claimed bq_claimed;

struct bq_runner {
  bq_runner_options options;
  char node_id[BQ_UUID_SIZE]; // "" before the node has joined
  bq_running *first;
  size_t count;               // running, and claimed to run
  bq_claimed *claimed_first;  // owned; not started yet, in the order of their keys
  bq_claimed *claimed_last;
  int start_posted;           // they will be
  bq_post start_post;
  int claiming;               // a claim is under way, or a choice for one
  int wake_again;             // something came due meanwhile
  int adrift;                 // a claim's answer was lost, or an outcome: look for what we hold without knowing
  int stopping;               // bq_runner_stop was called
  int told_idle;              // `idle` was called, or is about to be
  int64_t low_key;            // no pending build has a smaller claim key, as far as we know
  int64_t low_key_us;         // when that was looked up
  int looking;                // it is being looked up, and a claim follows
  int chosen;                 // the claim under way is a policy's choice
  int missed;                 // choices running that others were faster with
  int64_t choose_after_us;    // until then claims go by key: the policy has failed
  bq_batch *finishes;         // owned; of the statement finish_success
  int claim_posted;           // slots have become free in this turn of the loop: a claim follows
  bq_post claim_post;
  bq_timer *progress_timer;   // owned
  bq_timer *grace_timer;      // owned
  bq_timer *poll_timer;       // owned
  bq_post idle_post;
};

const char *bq_row_text(json_t *row, const char *key); // "" when absent

// runner_record.c
extern const bq_attempt_events bq_running_events; // of every attempt; `arg` is its bq_running
void bq_runner_write_progress(void *arg);         // the timer's function, with the runner: writes what has changed

void bq_running_on_recorded(void *arg, const bq_pg_result *result); // the answer to every outcome, with its bq_running
int bq_running_record_end(bq_running *r, const char *status, bq_error *err) BQ_MUSTCHECK; // final, no retry
void bq_running_free(bq_running *r);
// Ends an attempt whose outcome can't be written: the runner finds that the database has a build here that runs no more,
// and gives it back.
void bq_running_abandon(bq_running *r);

// runner_retry.c: asks the retry rule about a charged failure (or a timeout) and writes what it says. Strings are
// copied, but for `log_tail`, which lives until the attempt is closed.
int bq_running_record_failure(bq_running *r, const char *message, const char *kind, int retryable, const char *log_tail,
                              bq_error *err) BQ_MUSTCHECK;

// runner_start.c
void bq_runner_start_row(bq_runner *runner, json_t *row); // takes the claimed row; it counts from here on
void bq_runner_drop_claimed(bq_runner *runner);           // what was not started is another server's
// One that is not started yet will be, to be stopped at once. No such build: nothing.
void bq_runner_cancel_claimed(bq_runner *runner, const char *build_id, const char *reason);
// For a claimed build that has no attempt object: back to the queue, uncharged.
void bq_runner_give_back(bq_runner *runner, const char *id, const char *attempt, const char *node_id, const char *why);

// runner.c
void bq_runner_count_less(bq_runner *runner); // an attempt is gone: its slot is free
void bq_runner_end_claim(bq_runner *runner);  // nothing is claimed this time
// Sends the claim: of what has the smallest keys, or of the ids in `chosen` (a uuid[], in their order; NULL: none).
int bq_runner_send_claim(bq_runner *runner, const char *chosen, bq_error *err) BQ_MUSTCHECK;

// runner_choose.c: claims by a policy's choice among the first BQ_CANDIDATES that are due
enum { BQ_CANDIDATES = 200 };
int bq_runner_chooses(const bq_runner *runner);                        // whether there is such a policy
int bq_runner_choose(bq_runner *runner, bq_error *err) BQ_MUSTCHECK;   // asks for candidates; the claim follows

#endif
