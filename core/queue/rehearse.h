// A rehearsal: recorded builds go through the queue once more, in simulated time, under a given set of policies.
//
// Keys, retries and admission are decided by the server's own code (queue/decide.h); only "the smallest due key" is a
// heap instead of SQL. The same input gives the same output, byte for byte. Nothing is written anywhere.
//
// What is simulated: a build comes when it came, waits, runs as long as its attempt ran and ends as that did. An
// attempt that history doesn't have takes duration and outcome of the build's last one. A manual retry comes when it
// came, or when the build has ended, if that is later. What is not: pauses, claims that take time, lost nodes beyond
// those of history, clients that react to a refusal. The queue is empty at the beginning.
// Thread rule: one thread, that of the policies.
#ifndef BQ_QUEUE_REHEARSE_H
#define BQ_QUEUE_REHEARSE_H

#include "queue/decide.h"
#include "queue/rehearse_past.h"

enum {
  BQ_REHEARSE_MAX_SLOTS = 100000,
  BQ_REHEARSE_MAX_ATTEMPTS = 100, // of one build in a round, under a policy that never gives up
  BQ_REHEARSE_CURRENCIES = 8      // costs in further ones are not added up
};

typedef struct bq_rehearse_options {
  bq_policies *policies; // borrowed
  int64_t slots;         // builds that run at the same time, 1 to BQ_REHEARSE_MAX_SLOTS
  int max_retries;       // of the configuration
  double retry_minutes;
  int exponential;
} bq_rehearse_options;

typedef enum bq_replay_outcome {
  BQ_REPLAY_PENDING, // still, because a choose policy never wants it
  BQ_REPLAY_REFUSED, // by the admission policy
  BQ_REPLAY_SUCCESS,
  BQ_REPLAY_FAILED,
  BQ_REPLAY_TIMEDOUT,
  BQ_REPLAY_CANCELLED
} bq_replay_outcome;

typedef struct bq_replay_cost {
  char currency[16];
  double cost;
} bq_replay_cost;

// What became of all builds under one set of policies.
typedef struct bq_replay {
  int64_t *waited_us;          // owned; of each round of the history until it first ran; -1: it never did
  bq_replay_outcome *outcomes; // owned; of each build
  int64_t attempts;
  int64_t retries;             // attempts after a failure
  int64_t lowered;             // builds accepted with another priority
  int64_t cut_off;             // builds that reached BQ_REHEARSE_MAX_ATTEMPTS
  double busy_us;              // of all slots together
  int64_t first_us;            // when the first build came
  int64_t last_us;             // when the last one ended
  bq_replay_cost costs[BQ_REHEARSE_CURRENCIES];
  int cost_count;
  int64_t failures[BQ_HOOK_COUNT];      // how often the built-in rule had to decide
  bq_error first_failure[BQ_HOOK_COUNT]; // why the first time
} bq_replay;

int bq_rehearse(bq_replay *out, const bq_past *past, const bq_rehearse_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_replay_clear(bq_replay *replay);

// The two beside each other, as `buildq rehearse --json` prints them; scripts/README.md describes it. The caller's
// reference; NULL: out of memory.
json_t *bq_rehearse_compare(const bq_past *past, const bq_replay *old, const bq_replay *new, int64_t slots);

#endif
