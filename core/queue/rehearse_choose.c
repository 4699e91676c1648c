// Claims by a policy's choice, as queue/runner_choose.c does them: the first builds that are due, in the order of their
// keys, and the policy says which go first. It is asked when something has happened, and again while it lets builds
// start and slots are free.
#include "queue/rehearse_internal.h"

enum { CANDIDATES = 200, RUNNING = 1000 }; // as the server's (runner_internal.h, the statement candidates)

typedef struct taken {
  int64_t key;
  uint64_t item;
} taken;

static int out_of_memory(bq_error *err) {
  return bq_fail(err, BQ_ENOMEM, "out of memory for the builds to choose from");
}

// What the policy is told of a build that is pending or runs; kept while its state lasts. Borrowed; NULL: out of
// memory.
static json_t *candidate_of(simulation *s, size_t index) {
  build *b = &s->builds[index];
  const bq_past_build *from = &s->past->builds[index];
  if (b->candidate != NULL) return b->candidate;
  json_t *candidate = json_pack("{s:I, s:I, s:I, s:I}", "enqueuedAt", (json_int_t)from->enqueued_us, "key",
                                (json_int_t)b->key, "attempt", (json_int_t)b->attempt, "retryCount",
                                (json_int_t)b->retry_count);
  if (candidate != NULL && bq_sim_describe(s, from, b->priority, candidate) != 0) {
    json_decref(candidate);
    return NULL;
  }
  b->candidate = candidate;
  return candidate;
}

// Takes what is due, at most CANDIDATES; their number, or negative.
static int take(simulation *s, taken list[CANDIDATES], bq_error *err) {
  int count = 0;
  while (count < CANDIDATES) {
    int got = bq_due_take(&s->due, s->now_us, &list[count].key, &list[count].item, err);
    if (got < 0) return got;
    if (got == 0) break;
    if (bq_sim_is_pending(s, list[count].item)) count++; // else it was cancelled meanwhile
  }
  return count;
}

// Those that are pending still wait on.
static int put_back(simulation *s, const taken *list, int count, bq_error *err) {
  int result = 0;
  for (int i = 0; i < count && result == 0; i++) {
    if (bq_sim_is_pending(s, list[i].item)) result = bq_due_put_back(&s->due, list[i].key, list[i].item, err);
  }
  return result;
}

static json_t *facts_of(simulation *s) {
  json_t *facts = json_pack("{s:I}", "now", (json_int_t)s->now_us);
  if (facts == NULL || !bq_policies_wants(s->options->policies, BQ_HOOK_CHOOSE, "running")) return facts;
  json_t *running = json_array();
  int failed = json_object_set_new(facts, "running", running) < 0;
  for (uint32_t i = s->oldest; !failed && i != NO_BUILD && json_array_size(running) < RUNNING; i = s->builds[i].next) {
    failed = json_array_append(running, candidate_of(s, i)) < 0;
  }
  if (!failed) return facts;
  json_decref(facts);
  return NULL;
}

// The policy's order; *order NULL: it has none.
static int ask(simulation *s, const taken *list, int count, json_t **order, bq_error *err) {
  json_t *candidates = json_array();
  json_t *facts = facts_of(s);
  int failed = candidates == NULL || facts == NULL;
  for (int i = 0; i < count && !failed; i++) {
    failed = json_array_append(candidates, candidate_of(s, list[i].item >> 32)) < 0;
  }
  if (!failed) *order = bq_decide_choose(&s->decider, candidates, facts);
  json_decref(candidates);
  json_decref(facts);
  return failed ? out_of_memory(err) : 0;
}

// Starts the builds of these ids as long as there are slots; how many, or negative.
static int start_chosen(simulation *s, const taken *list, int count, const json_t *order, bq_error *err) {
  size_t index;
  json_t *id;
  int started = 0;
  json_array_foreach(order, index, id) {
    for (int i = 0; i < count && s->free_slots > 0; i++) {
      size_t place = list[i].item >> 32;
      if (json_object_get(s->builds[place].candidate, "id") == NULL ||
          !json_equal(json_object_get(s->builds[place].candidate, "id"), id)) continue;
      int result = bq_sim_start(s, place, err);
      if (result < 0) return result;
      started++;
      break;
    }
  }
  return started;
}

int bq_sim_choose(simulation *s, bq_error *err) {
  taken list[CANDIDATES];
  if (bq_policies_file(s->options->policies, BQ_HOOK_CHOOSE) == NULL) return 0;
  s->held_back = 0;
  while (s->free_slots > 0) {
    json_t *order = NULL;
    int count = take(s, list, err);
    if (count <= 0) return count < 0 ? count : 1;
    int result = ask(s, list, count, &order, err);
    int by_key = result == 0 && order == NULL;
    int started = order != NULL ? start_chosen(s, list, count, order, err) : 0;
    json_decref(order);
    if (result == 0 && started < 0) result = started;
    if (result == 0) result = put_back(s, list, count, err);
    if (result < 0) return result;
    if (by_key) return 0;
    if (started == 0) {
      s->held_back = 1;
      return 1;
    }
  }
  return 1;
}
