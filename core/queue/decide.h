// Decisions that a team may change: asked of the policies, with the built-in rule as the fallback.
//
// The server and `buildq rehearse` decide here alike. A policy that fails, overruns or answers nonsense is reported
// through `failed`, and the built-in rule decides: no build ever waits for a broken policy.
// Thread rule: that of the policies.
#ifndef BQ_QUEUE_DECIDE_H
#define BQ_QUEUE_DECIDE_H

#include <jansson.h>

#include "lua/policies.h"

enum { BQ_REASON_SIZE = 200, BQ_PRIORITIES = 4, BQ_MAX_RETRY_SECONDS = 86400 };

typedef struct bq_decider {
  bq_policies *policies; // borrowed; NULL: only built-in rules
  void (*failed)(void *arg, bq_hook hook, const bq_error *err); // NULL: nobody wants to know
  void *arg;
} bq_decider;

// Where a build stands among the pending ones.
typedef struct bq_placement {
  int priority;                // 0 to 3
  int64_t key;                 // the smallest is claimed first
  int has_tag;                 // a tag came with it
  int64_t tag;                 // the customer's tag at that priority from now on (fair queueing)
  char reason[BQ_REASON_SIZE]; // "" for none
} bq_placement;

// The key of the built-in rule: higher priority first, then earlier. The same as SQL's buildq_claim_key.
int64_t bq_strict_key(int priority, int64_t enqueued_us);

// `build` has priority (0 to 3) and enqueuedAt (µs since 1970); `facts` is an object. Contract: scripts/README.md.
void bq_decide_priority(const bq_decider *decider, const json_t *build, const json_t *facts, bq_placement *out);

// Fills what the configured rule says of a failure's delay, in seconds: `minutes`, doubled with each charged failure
// when `exponential`, spread by `random` (0 to 1) over a tenth to either side, a day at most.
double bq_retry_delay(double minutes, int exponential, int retry_count, double random);

typedef struct bq_retry {
  int again;                   // 1: the build waits and is tried again
  double after_s;              // 0 to BQ_MAX_RETRY_SECONDS
  char reason[BQ_REASON_SIZE]; // "" for none
} bq_retry;

// `failure` has kind, message, retryable, attempt, retryCount, maxRetries, delaySeconds, random, build, history.
void bq_decide_retry(const bq_decider *decider, const json_t *failure, bq_retry *out);

typedef enum bq_admission_action { BQ_ADMIT, BQ_ADMIT_LOWER, BQ_REFUSE } bq_admission_action;

typedef struct bq_admission {
  bq_admission_action action;
  int priority;                // for BQ_ADMIT_LOWER
  int status;                  // for BQ_REFUSE: 400 to 599, usually 429
  int retry_after_s;           // for BQ_REFUSE; 0: not said
  char title[BQ_REASON_SIZE];
  char detail[BQ_REASON_SIZE * 2];
  char reason[BQ_REASON_SIZE]; // for BQ_ADMIT_LOWER
} bq_admission;

// The built-in rule accepts everything.
void bq_decide_admission(const bq_decider *decider, const json_t *build, const json_t *facts, bq_admission *out);

// The order in which the policy wants `candidates` (a list of {id, …}) claimed: their ids, the first goes first; those that
// are left out wait. The caller's reference. NULL: in the order of their keys (no policy, it failed, or it returned nil).
json_t *bq_decide_choose(const bq_decider *decider, const json_t *candidates, const json_t *facts);

#endif
