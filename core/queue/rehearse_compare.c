// Two replays of the same history beside each other: waiting times of all, of each tier and each customer, and totals.
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "queue/rehearse.h"

// How long a build of a group waited, in one round.
typedef struct wait {
  size_t group;
  int64_t us;
} wait;

typedef enum grouping { BY_NOTHING, BY_TIER, BY_CUSTOMER } grouping;

static int compare_waits(const void *a, const void *b) {
  const wait *x = a;
  const wait *y = b;
  if (x->group != y->group) return x->group < y->group ? -1 : 1;
  return x->us < y->us ? -1 : x->us > y->us;
}

static size_t group_of(const bq_past_build *build, grouping by) {
  switch (by) {
  case BY_TIER: return build->tier;
  case BY_CUSTOMER: return build->customer;
  case BY_NOTHING: break;
  }
  return 0;
}

// Sorted by group, then time. `replay` NULL: as it was recorded. The caller's; NULL: out of memory.
static wait *collect(const bq_past *past, const bq_replay *replay, grouping by, size_t *count) {
  wait *waits = bq_alloc_array(past->round_count + 1, sizeof *waits);
  *count = 0;
  if (waits == NULL) return NULL;
  for (size_t i = 0; i < past->count; i++) {
    const bq_past_build *build = &past->builds[i];
    for (size_t r = build->first; r < build->first + build->count; r++) {
      int64_t us = replay != NULL ? replay->waited_us[r] : past->rounds[r].waited_us;
      if (us >= 0) waits[(*count)++] = (wait){group_of(build, by), us};
    }
  }
  qsort(waits, *count, sizeof *waits, compare_waits);
  return waits;
}

// Seconds to a thousandth, so that they print alike everywhere.
static json_t *seconds(double us) {
  return json_real(rint(us / 1000) / 1000);
}

// The smallest that `percent` of all don't exceed.
static json_t *percentile(const wait *waits, size_t count, size_t percent) {
  size_t rank = (count * percent + 99) / 100;
  return seconds((double)waits[rank - 1].us);
}

static json_t *describe_waits(const wait *waits, size_t count) {
  if (count == 0) return json_pack("{s:i}", "started", 0);
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)waits[i].us;
  return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "started", (json_int_t)count, "p50",
                   percentile(waits, count, 50), "p95", percentile(waits, count, 95), "p99",
                   percentile(waits, count, 99), "longest", seconds((double)waits[count - 1].us), "mean",
                   seconds(sum / (double)count));
}

static json_t *waits_of_all(const bq_past *past, const bq_replay *replay) {
  size_t count;
  wait *waits = collect(past, replay, BY_NOTHING, &count);
  json_t *result = waits != NULL ? describe_waits(waits, count) : NULL;
  bq_free(waits);
  return result;
}

// Fills `list`, one object for each group, with `name`: what its builds waited.
static int add_waits(json_t *list, const bq_past *past, const bq_replay *replay, grouping by, const char *name) {
  size_t count;
  size_t from = 0;
  int failed = 0;
  wait *waits = collect(past, replay, by, &count);
  if (waits == NULL) return -1;
  for (size_t group = 0; group < json_array_size(list); group++) {
    size_t to = from;
    while (to < count && waits[to].group == group) to++;
    failed |= json_object_set_new(json_array_get(list, group), name, describe_waits(waits + from, to - from));
    from = to;
  }
  bq_free(waits);
  return failed;
}

// Who gained, who lost -----------------------------------------------------------------------------------------------

typedef struct change {
  int64_t earlier; // builds that start sooner under the new policies
  int64_t later;
  int64_t same;
  double sum_us;   // of new less old
} change;

static void note_change(change *c, int64_t old_us, int64_t new_us) {
  if (old_us < 0 || new_us < 0) return; // refused or cancelled under one of them
  if (new_us < old_us) c->earlier++;
  else if (new_us > old_us) c->later++;
  else c->same++;
  c->sum_us += (double)(new_us - old_us);
}

static int write_change(json_t *out, const change *c) {
  int64_t all = c->earlier + c->later + c->same;
  int failed = json_object_set_new(out, "earlier", json_integer(c->earlier));
  failed |= json_object_set_new(out, "later", json_integer(c->later));
  failed |= json_object_set_new(out, "same", json_integer(c->same));
  return failed | json_object_set_new(out, "meanChange", seconds(all > 0 ? c->sum_us / (double)all : 0));
}

static int add_changes(json_t *result, json_t *customers, const bq_past *past, const bq_replay *old,
                       const bq_replay *new) {
  change all = {0};
  int failed = 0;
  change *each = bq_alloc_array(past->customer_count + 1, sizeof *each);
  if (each == NULL) return -1;
  for (size_t i = 0; i < past->count; i++) {
    const bq_past_build *build = &past->builds[i];
    for (size_t r = build->first; r < build->first + build->count; r++) {
      note_change(&all, old->waited_us[r], new->waited_us[r]);
      note_change(&each[build->customer], old->waited_us[r], new->waited_us[r]);
    }
  }
  for (size_t i = 0; i < past->customer_count; i++) failed |= write_change(json_array_get(customers, i), &each[i]);
  bq_free(each);
  return failed | write_change(result, &all);
}

// Totals -------------------------------------------------------------------------------------------------------------

static json_t *costs_of(const bq_replay *replay) {
  json_t *costs = json_object();
  for (int i = 0; i < replay->cost_count; i++) {
    (void)json_object_set_new(costs, replay->costs[i].currency, json_real(rint(replay->costs[i].cost * 100) / 100));
  }
  return costs;
}

static json_t *failures_of(const bq_replay *replay) {
  json_t *failures = json_object();
  for (int i = 0; i < BQ_HOOK_COUNT; i++) {
    if (replay->failures[i] == 0) continue;
    (void)json_object_set_new(failures, bq_hook_name((bq_hook)i),
                              json_pack("{s:I, s:s}", "count", (json_int_t)replay->failures[i], "first",
                                        replay->first_failure[i].message));
  }
  return failures;
}

static json_t *totals_of(const bq_past *past, const bq_replay *replay, int64_t slots) {
  static const char *const outcomes[] = {"pending", "refused", "success", "failed", "timedout", "cancelled"};
  int64_t counts[BQ_REPLAY_CANCELLED + 1] = {0};
  for (size_t i = 0; i < past->count; i++) counts[replay->outcomes[i]]++;
  int64_t ended = counts[BQ_REPLAY_SUCCESS] + counts[BQ_REPLAY_FAILED] + counts[BQ_REPLAY_TIMEDOUT];
  double span_us = (double)(replay->last_us - replay->first_us);
  double hourly = span_us > 0 ? (double)ended / span_us * 3.6e9 : 0;
  double used = span_us > 0 ? replay->busy_us / span_us / (double)slots : 0;
  json_t *totals = json_pack(
      "{s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:f, s:o, s:o}", "wait", waits_of_all(past, replay), "otherPriority",
      (json_int_t)replay->lowered, "attempts", (json_int_t)replay->attempts, "retries", (json_int_t)replay->retries,
      "cutOff", (json_int_t)replay->cut_off, "busySeconds", seconds(replay->busy_us), "spanSeconds",
      seconds(span_us), "buildsPerHour", rint(hourly * 1000) / 1000, "slotsUsed", rint(used * 10000) / 10000, "cost",
      costs_of(replay), "fallbacks", failures_of(replay));
  int failed = totals == NULL;
  for (int i = 0; i <= BQ_REPLAY_CANCELLED; i++) {
    failed |= json_object_set_new(totals, outcomes[i], json_integer(counts[i]));
  }
  if (!failed) return totals;
  json_decref(totals);
  return NULL;
}

static json_t *groups_of(const bq_past_group *groups, size_t count, const char *id, const char *name) {
  json_t *list = json_array();
  for (size_t i = 0; i < count; i++) {
    json_t *group = json_pack("{s:O, s:I}", id, groups[i].id, "builds", (json_int_t)groups[i].builds);
    if (name != NULL && group != NULL) (void)json_object_set(group, name, groups[i].name);
    if (json_array_append_new(list, group) < 0) {
      json_decref(list);
      return NULL;
    }
  }
  return list;
}

json_t *bq_rehearse_compare(const bq_past *past, const bq_replay *old, const bq_replay *new, int64_t slots) {
  json_t *tiers = groups_of(past->tiers, past->tier_count, "tier", NULL);
  json_t *customers = groups_of(past->customers, past->customer_count, "customerId", "customerName");
  json_t *result = json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "builds", (json_int_t)past->count, "slots",
                             (json_int_t)slots, "firstAt", (json_int_t)old->first_us, "lastAt",
                             (json_int_t)(past->count > 0 ? past->builds[past->count - 1].enqueued_us : 0), "recorded",
                             waits_of_all(past, NULL), "old", totals_of(past, old, slots), "new",
                             totals_of(past, new, slots));
  int failed = result == NULL || tiers == NULL || customers == NULL;
  if (!failed) {
    failed = add_changes(result, customers, past, old, new);
    failed |= add_waits(tiers, past, old, BY_TIER, "old") | add_waits(tiers, past, new, BY_TIER, "new");
    failed |= add_waits(customers, past, old, BY_CUSTOMER, "old") | add_waits(customers, past, new, BY_CUSTOMER, "new");
    failed |= json_object_set(result, "tiers", tiers) | json_object_set(result, "customers", customers);
  }
  json_decref(tiers);
  json_decref(customers);
  if (!failed) return result;
  json_decref(result);
  return NULL;
}
