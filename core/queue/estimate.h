// How long a build takes and what it costs: the estimate policy, asked with what is known of builds of its kind.
//
// Thread rule: that of the policies.
#ifndef BQ_QUEUE_ESTIMATE_H
#define BQ_QUEUE_ESTIMATE_H

#include "queue/decide.h"

// What is known, in memory: one entry for each kind of builds, narrow ones and wide ones (migration 0006).
typedef struct bq_history bq_history;

int bq_history_new(bq_history **out, bq_error *err) BQ_MUSTCHECK;
void bq_history_free(bq_history *history); // NULL is fine

// Replaces all by `list`: [{level, pipeline, tier, architecture, count, p50, p90, mean}], of the statement
// build_statistics. BQ_ENOMEM: nothing has changed.
int bq_history_set(bq_history *history, const json_t *list, bq_error *err) BQ_MUSTCHECK;

// What the estimate policy is given for a build of this kind: {count, p50, p90, mean, of}, seconds. Of the narrowest
// kind that has BQ_HISTORY_ENOUGH builds, else the narrowest that has any; {count: 0} when there is none. `of`:
// "pipeline, tier, architecture", "pipeline, architecture", "pipeline" or "all". Borrowed until the next bq_history_set.
const json_t *bq_history_find(const bq_history *history, const char *pipeline, const char *tier,
                              const char *architecture);

enum { BQ_HISTORY_ENOUGH = 5 };

typedef struct bq_estimate {
  int known;         // 1: seconds and seconds_high are there
  double seconds;    // the middle: half take longer
  double seconds_high; // 90 of 100 take no longer
  int has_cost;
  double cost;
  char currency[16]; // "" when not said
} bq_estimate;

// `build` has the fields that the priority policy is given, as far as they are known; pipeline, tier and architecture
// are. The built-in rule: the history's p50 and p90, without a cost.
void bq_decide_estimate(const bq_decider *decider, const json_t *build, const json_t *history, bq_estimate *out);

// {seconds, secondsHigh, cost, currency, basedOn: {count, of}}, without what isn't known; NULL when nothing is, or for
// want of memory. The caller's reference.
json_t *bq_estimate_json(const bq_estimate *estimate, const json_t *history);

#endif
