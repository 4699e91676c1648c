// What policies may look at, kept by the rehearsal itself as SQL counts it for the server (buildq_counts and
// buildq_surroundings): who waits, who runs, how much was accepted today and this month (UTC), fair queueing's tags.
// Pure.
#ifndef BQ_QUEUE_REHEARSE_FACTS_H
#define BQ_QUEUE_REHEARSE_FACTS_H

#include "lua/policies.h"
#include "queue/decide.h"
#include "queue/rehearse_heap.h"

// Counts of a customer, or of a tier.
typedef struct bq_tally {
  int64_t pending;
  int64_t running;
  int64_t day;   // since 1970, to which `today` belongs
  int64_t month; // since 1970, to which `in_month` belongs
  int64_t today; // accepted builds
  int64_t in_month;
  int64_t tags[BQ_PRIORITIES]; // the last at each priority
} bq_tally;

// What the policies ask for, by the names of queue/facts.h.
typedef struct bq_wanted {
  int customer, customer_usage, tier_usage, tags, queue;
} bq_wanted;

typedef struct bq_census {
  bq_wanted wants;
  bq_tally *customers;         // owned
  bq_tally *tiers;             // owned
  int64_t pending[BQ_PRIORITIES];
  int64_t running;
  int64_t highest[BQ_PRIORITIES];  // the largest tag given out at each priority
  bq_heap by_band[BQ_PRIORITIES];  // for tags: keys of what waits or waited for its first attempt, by priority
} bq_census;

// Says whether the entry of by_band is pending still.
typedef int (*bq_is_pending)(void *arg, uint64_t item);

// `policies` (NULL: none) say what is wanted.
int bq_census_init(bq_census *census, const bq_policies *policies, size_t customers, size_t tiers,
                   bq_error *err) BQ_MUSTCHECK;
void bq_census_clear(bq_census *census);

// A build is accepted at `now_us`; its customer's tag moves when the policy gave one.
void bq_census_accept(bq_census *census, size_t customer, size_t tier, int64_t now_us, const bq_placement *place);
// It waits (by 1), or no longer (by -1); and likewise runs.
void bq_census_wait(bq_census *census, size_t customer, int priority, int by);
void bq_census_run(bq_census *census, size_t customer, int by);
// A build that waits for its first attempt has this key.
int bq_census_note_key(bq_census *census, int64_t key, uint64_t item, bq_error *err) BQ_MUSTCHECK;

// What admission and priority are given, the caller's: what one of them asks for, and `now`. There is no "disk":
// history knows nothing of it. NULL: out of memory.
json_t *bq_census_facts(bq_census *census, size_t customer, size_t tier, int64_t now_us, bq_is_pending is_pending,
                        void *arg);

#endif
