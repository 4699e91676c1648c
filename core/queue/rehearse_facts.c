#include "queue/rehearse_facts.h"

#include "base/memory.h"
#include "queue/facts.h"

enum { BAND_BITS = 58 }; // of a strict key: bq_strict_key

static const int64_t DAY_US = 86400 * INT64_C(1000000);

static int is_wanted(const bq_policies *policies, const char *fact) {
  return bq_policies_wants(policies, BQ_HOOK_PRIORITY, fact) || bq_policies_wants(policies, BQ_HOOK_ADMISSION, fact);
}

int bq_census_init(bq_census *census, const bq_policies *policies, size_t customers, size_t tiers, bq_error *err) {
  *census = (bq_census){.wants = {.customer = is_wanted(policies, "customer"),
                                  .customer_usage = is_wanted(policies, "customerUsage"),
                                  .tier_usage = is_wanted(policies, "tierUsage"),
                                  .tags = is_wanted(policies, "tags"),
                                  .queue = is_wanted(policies, "queue")}};
  census->customers = bq_alloc_array(customers + 1, sizeof *census->customers);
  census->tiers = bq_alloc_array(tiers + 1, sizeof *census->tiers);
  if (census->customers != NULL && census->tiers != NULL) return 0;
  bq_census_clear(census);
  return bq_fail(err, BQ_ENOMEM, "out of memory for the counts of customers");
}

void bq_census_clear(bq_census *census) {
  for (int p = 0; p < BQ_PRIORITIES; p++) bq_heap_free(&census->by_band[p]);
  bq_free(census->customers);
  bq_free(census->tiers);
  *census = (bq_census){0};
}

// Months since 1970 of a day since 1970, in the Gregorian calendar: years begin in March, so that the leap day is their
// last.
static int64_t month_of(int64_t day) {
  int64_t shifted = day + 719468; // since 0000-03-01
  int64_t era = shifted / 146097;
  int64_t of_era = shifted % 146097;
  int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  int64_t march_month = (5 * of_year + 2) / 153;
  return (era * 400 + year - 1970) * 12 + march_month + 2;
}

// Forgets what belongs to another day or month.
static void turn(bq_tally *tally, int64_t now_us) {
  int64_t day = now_us / DAY_US;
  if (tally->day == day) return;
  int64_t month = month_of(day);
  tally->day = day;
  tally->today = 0;
  if (tally->month != month) tally->in_month = 0;
  tally->month = month;
}

static void count_accepted(bq_tally *tally, int64_t now_us) {
  turn(tally, now_us);
  tally->today++;
  tally->in_month++;
}

void bq_census_accept(bq_census *census, size_t customer, size_t tier, int64_t now_us, const bq_placement *place) {
  bq_tally *tally = &census->customers[customer];
  count_accepted(tally, now_us);
  count_accepted(&census->tiers[tier], now_us);
  if (!place->has_tag) return;
  tally->tags[place->priority] = place->tag;
  if (place->tag > census->highest[place->priority]) census->highest[place->priority] = place->tag;
}

void bq_census_wait(bq_census *census, size_t customer, int priority, int by) {
  census->customers[customer].pending += by;
  census->pending[priority] += by;
}

void bq_census_run(bq_census *census, size_t customer, int by) {
  census->customers[customer].running += by;
  census->running += by;
}

int bq_census_note_key(bq_census *census, int64_t key, uint64_t item, bq_error *err) {
  int64_t band = key >> BAND_BITS;
  if (!census->wants.tags || band < 0 || band >= BQ_PRIORITIES) return 0;
  return bq_heap_add(&census->by_band[BQ_PRIORITIES - 1 - band], key, 0, item, err);
}

// The virtual time of a priority: the tag of the first that waits there for its first attempt, else the largest that
// was given out. As buildq_virtual_time.
static int64_t virtual_time(bq_census *census, int priority, bq_is_pending is_pending, void *arg) {
  bq_heap *band = &census->by_band[priority];
  const bq_heap_entry *top;
  while ((top = bq_heap_top(band)) != NULL && !is_pending(arg, top->item)) bq_heap_pop(band);
  if (top == NULL) return census->highest[priority];
  return top->rank - ((int64_t)(BQ_PRIORITIES - 1 - priority) << BAND_BITS);
}

static json_t *list_of(const int64_t numbers[BQ_PRIORITIES]) {
  return json_pack("[I, I, I, I]", (json_int_t)numbers[0], (json_int_t)numbers[1], (json_int_t)numbers[2],
                   (json_int_t)numbers[3]);
}

static json_t *usage_of(bq_tally *tally, int64_t now_us) {
  turn(tally, now_us);
  return json_pack("{s:I, s:I}", "today", (json_int_t)tally->today, "month", (json_int_t)tally->in_month);
}

static json_t *count(bq_census *census, size_t customer, size_t tier, int64_t now_us) {
  bq_tally *own = &census->customers[customer];
  json_t *counts = json_object();
  int failed = counts == NULL;
  if (census->wants.customer) {
    failed |= json_object_set_new(counts, "customer", json_pack("{s:I, s:I}", "pending", (json_int_t)own->pending,
                                                                "running", (json_int_t)own->running));
  }
  if (census->wants.customer_usage) failed |= json_object_set_new(counts, "customerUsage", usage_of(own, now_us));
  if (census->wants.tier_usage) {
    failed |= json_object_set_new(counts, "tierUsage", usage_of(&census->tiers[tier], now_us));
  }
  if (census->wants.tags) failed |= json_object_set_new(counts, "customerTags", list_of(own->tags));
  if (!failed) return counts;
  json_decref(counts);
  return NULL;
}

static json_t *look_around(bq_census *census, int64_t now_us, bq_is_pending is_pending, void *arg) {
  json_t *surroundings = json_pack("{s:I}", "now", (json_int_t)now_us);
  int failed = surroundings == NULL;
  if (census->wants.queue) {
    failed |= json_object_set_new(surroundings, "queue", json_pack("{s:o, s:I}", "pending", list_of(census->pending),
                                                                   "running", (json_int_t)census->running));
  }
  if (census->wants.tags) {
    int64_t tags[BQ_PRIORITIES];
    for (int p = 0; p < BQ_PRIORITIES; p++) tags[p] = virtual_time(census, p, is_pending, arg);
    failed |= json_object_set_new(surroundings, "queueTags", list_of(tags));
  }
  if (!failed) return surroundings;
  json_decref(surroundings);
  return NULL;
}

json_t *bq_census_facts(bq_census *census, size_t customer, size_t tier, int64_t now_us, bq_is_pending is_pending,
                        void *arg) {
  json_t *counts = count(census, customer, tier, now_us);
  json_t *surroundings = look_around(census, now_us, is_pending, arg);
  json_t *facts = counts != NULL && surroundings != NULL ? bq_facts_join(counts, surroundings, NULL, NULL) : NULL;
  json_decref(counts);
  json_decref(surroundings);
  return facts;
}
