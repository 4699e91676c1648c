#include "queue/rehearse.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "queue/estimate.h"
#include "queue/rehearse_internal.h"

typedef enum event_kind { EVENT_COME, EVENT_END, EVENT_CANCEL } event_kind;

static uint64_t item_of(size_t index, uint32_t number) {
  return (uint64_t)index << 32 | number;
}

static int out_of_memory(bq_error *err) {
  return bq_fail(err, BQ_ENOMEM, "out of memory for the rehearsal");
}

static void on_failed(void *arg, bq_hook hook, const bq_error *why) {
  bq_replay *replay = arg;
  if (replay->failures[hook]++ == 0) replay->first_failure[hook] = *why;
}

int bq_sim_is_pending(void *arg, uint64_t item) {
  const simulation *s = arg;
  const build *b = &s->builds[item >> 32];
  return b->state == BUILD_PENDING && b->ticket == (uint32_t)item;
}

// What policies see of a build ---------------------------------------------------------------------------------------

int bq_sim_describe(const simulation *s, const bq_past_build *from, int priority, json_t *out) {
  const bq_past_group *customer = &s->past->customers[from->customer];
  int failed = json_object_set_new(out, "id", json_string(from->id));
  failed |= json_object_set(out, "customerId", customer->id);
  failed |= json_object_set(out, "customerName", customer->name);
  failed |= json_object_set(out, "tier", s->past->tiers[from->tier].id);
  failed |= json_object_set(out, "architecture", from->architecture);
  failed |= json_object_set(out, "cloudProvider", from->cloud);
  failed |= json_object_set(out, "pipeline", from->pipeline);
  failed |= json_object_set(out, "configurationName", from->configuration);
  failed |= json_object_set(out, "metadata", from->metadata);
  failed |= json_object_set_new(out, "priority", json_integer(priority));
  return failed;
}

// 0 to 1, always the same for an attempt.
static double chance(const char *id, uint32_t attempt) {
  uint64_t hash = UINT64_C(14695981039346656037) ^ attempt;
  for (const char *c = id; *c != '\0'; c++) hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
  hash ^= hash >> 33;
  hash *= UINT64_C(0xff51afd7ed558ccd);
  hash ^= hash >> 33;
  return (double)(hash >> 11) / 9007199254740992.0;
}

static json_t *history_of(const simulation *s, const build *b, const bq_past_build *from) {
  static const char *const words[] = {"success", "failed", "timedout", "cancelled", "requeued"};
  json_t *list = json_array();
  const bq_past_round *round = &s->past->rounds[from->first + b->round];
  for (uint32_t i = 0; i < b->used && round->count > 0; i++) {
    const bq_past_attempt *a = &s->past->attempts[round->first + (i < round->count ? i : round->count - 1)];
    int number = (int)(b->attempt - b->used + i + 1);
    (void)json_array_append_new(list, json_pack("{s:i, s:s, s:O, s:O, s:O}", "attempt", number, "outcome",
                                                words[a->outcome], "errorMessage", a->message, "errorKind", a->kind,
                                                "currentStep", a->step));
  }
  return list;
}

// A time ends before it can overflow, however long the attempts of a file are.
static int64_t later(const simulation *s, int64_t us) {
  return us < INT64_MAX / 2 - s->now_us ? s->now_us + us : INT64_MAX / 2;
}

// Moves --------------------------------------------------------------------------------------------------------------

// Those that run, in the order of their starts.
static void link_running(simulation *s, uint32_t index) {
  build *b = &s->builds[index];
  b->previous = s->newest;
  b->next = NO_BUILD;
  if (s->newest != NO_BUILD) s->builds[s->newest].next = index;
  else s->oldest = index;
  s->newest = index;
}

static void unlink_running(simulation *s, uint32_t index) {
  const build *b = &s->builds[index];
  if (b->previous != NO_BUILD) s->builds[b->previous].next = b->next;
  else s->oldest = b->next;
  if (b->next != NO_BUILD) s->builds[b->next].previous = b->previous;
  else s->newest = b->previous;
}

static void change_state(simulation *s, size_t index, build_state state) {
  build *b = &s->builds[index];
  size_t customer = s->past->builds[index].customer;
  if (b->state == BUILD_PENDING) bq_census_wait(&s->census, customer, b->priority, -1);
  if (b->state == BUILD_RUNNING) bq_census_run(&s->census, customer, -1);
  if (b->state == BUILD_RUNNING) unlink_running(s, (uint32_t)index);
  if (state == BUILD_PENDING) bq_census_wait(&s->census, customer, b->priority, 1);
  if (state == BUILD_RUNNING) bq_census_run(&s->census, customer, 1);
  if (state == BUILD_RUNNING) link_running(s, (uint32_t)index);
  json_decref(b->candidate);
  b->candidate = NULL;
  b->state = state;
  b->ticket++;
}

static int wait_for_slot(simulation *s, size_t index, int64_t not_before_us, bq_error *err) {
  build *b = &s->builds[index];
  change_state(s, index, BUILD_PENDING);
  int result = bq_due_add(&s->due, b->key, not_before_us, item_of(index, b->ticket), err);
  if (result == 0 && b->attempt == 0) result = bq_census_note_key(&s->census, b->key, item_of(index, b->ticket), err);
  return result;
}

static void add_cost(bq_replay *replay, const bq_estimate *estimate) {
  int i = 0;
  while (i < replay->cost_count && strcmp(replay->costs[i].currency, estimate->currency) != 0) i++;
  if (i == BQ_REHEARSE_CURRENCIES) return;
  if (i == replay->cost_count) {
    replay->costs[i] = (bq_replay_cost){.cost = 0};
    (void)snprintf(replay->costs[i].currency, sizeof replay->costs[i].currency, "%s", estimate->currency);
    replay->cost_count++;
  }
  replay->costs[i].cost += estimate->cost;
}

// The estimate policy's price of what the build has run. A kind without one is not asked about again.
static int charge(simulation *s, size_t index, bq_error *err) {
  const build *b = &s->builds[index];
  const bq_past_build *from = &s->past->builds[index];
  if (b->ran_us == 0 || bq_policies_file(s->options->policies, BQ_HOOK_ESTIMATE) == NULL) return 0;
  char kind[400];
  (void)snprintf(kind, sizeof kind, "%s\n%s\n%s", json_string_value(from->pipeline),
                 json_string_value(s->past->tiers[from->tier].id), json_string_value(from->architecture));
  if (json_object_get(s->priceless, kind) != NULL) return 0;
  bq_estimate estimate;
  double seconds = (double)b->ran_us / 1e6;
  json_t *history = json_pack("{s:i, s:f, s:f, s:f, s:s}", "count", 1, "p50", seconds, "p90", seconds, "mean", seconds,
                              "of", "rehearsal");
  if (history == NULL || bq_sim_describe(s, from, b->priority, s->args) < 0) {
    json_decref(history);
    return out_of_memory(err);
  }
  bq_decide_estimate(&s->decider, s->args, history, &estimate);
  json_decref(history);
  if (estimate.has_cost) add_cost(s->replay, &estimate);
  else if (json_object_set_new(s->priceless, kind, json_true()) < 0) return out_of_memory(err);
  return 0;
}

static int come_again(simulation *s, size_t index, bq_error *err) {
  const bq_past_build *from = &s->past->builds[index];
  build *b = &s->builds[index];
  if (b->round + 1 >= from->count) return 0;
  int64_t at_us = s->past->rounds[from->first + b->round + 1].at_us;
  b->round++;
  return bq_heap_add(&s->events, at_us > s->now_us ? at_us : s->now_us, EVENT_COME, item_of(index, b->ticket), err);
}

static int end(simulation *s, size_t index, bq_replay_outcome outcome, bq_error *err) {
  s->replay->outcomes[index] = outcome;
  change_state(s, index, BUILD_ENDED);
  if (s->now_us > s->replay->last_us) s->replay->last_us = s->now_us;
  int last = s->builds[index].round + 1 >= s->past->builds[index].count;
  int result = last && outcome != BQ_REPLAY_REFUSED ? charge(s, index, err) : 0;
  if (result == 0 && outcome != BQ_REPLAY_REFUSED) result = come_again(s, index, err);
  return result;
}

// Coming -------------------------------------------------------------------------------------------------------------

// Asks admission and priority, as queue/enqueue.c does. 1: it is accepted.
static int place(simulation *s, size_t index, bq_error *err) {
  const bq_past_build *from = &s->past->builds[index];
  build *b = &s->builds[index];
  bq_admission admission;
  bq_placement placement;
  json_t *facts = bq_census_facts(&s->census, from->customer, from->tier, s->now_us, bq_sim_is_pending, s);
  int failed = facts == NULL || bq_sim_describe(s, from, from->priority, s->args) < 0 ||
               json_object_set_new(s->args, "enqueuedAt", json_integer(from->enqueued_us)) < 0;
  if (failed) {
    json_decref(facts);
    return out_of_memory(err);
  }
  bq_decide_admission(&s->decider, s->args, facts, &admission);
  if (admission.action == BQ_ADMIT_LOWER) {
    failed = json_object_set_new(s->args, "priority", json_integer(admission.priority)) < 0;
  }
  if (!failed && admission.action != BQ_REFUSE) {
    bq_decide_priority(&s->decider, s->args, facts, &placement);
    b->priority = placement.priority;
    b->key = placement.key;
    if (b->priority != from->priority) s->replay->lowered++;
    bq_census_accept(&s->census, from->customer, from->tier, s->now_us, &placement);
  }
  json_decref(facts);
  (void)json_object_del(s->args, "enqueuedAt");
  return failed ? out_of_memory(err) : admission.action != BQ_REFUSE;
}

static int come(simulation *s, size_t index, bq_error *err) {
  build *b = &s->builds[index];
  const bq_past_round *round = &s->past->rounds[s->past->builds[index].first + b->round];
  if (b->state == BUILD_COMING) {
    int accepted = place(s, index, err);
    if (accepted < 0) return accepted;
    if (!accepted) return end(s, index, BQ_REPLAY_REFUSED, err);
  }
  b->came_us = s->now_us;
  b->used = 0;
  b->retry_count = 0;
  int result = wait_for_slot(s, index, s->now_us, err);
  if (result == 0 && round->cancelled_us >= 0) {
    int64_t at_us = round->cancelled_us > s->now_us ? round->cancelled_us : s->now_us;
    result = bq_heap_add(&s->events, at_us, EVENT_CANCEL, item_of(index, b->round), err);
  }
  return result;
}

// Running ------------------------------------------------------------------------------------------------------------

// The recorded attempt that comes now, or the last one again; NULL: history has none that says how this goes on.
static const bq_past_attempt *attempt_of(const simulation *s, size_t index) {
  const build *b = &s->builds[index];
  const bq_past_round *round = &s->past->rounds[s->past->builds[index].first + b->round];
  if (b->used < round->count) return &s->past->attempts[round->first + b->used];
  if (round->count == 0) return NULL;
  const bq_past_attempt *last = &s->past->attempts[round->first + round->count - 1];
  return last->outcome == BQ_PAST_GIVEN_BACK ? NULL : last;
}

int bq_sim_start(simulation *s, size_t index, bq_error *err) {
  const bq_past_build *from = &s->past->builds[index];
  build *b = &s->builds[index];
  const bq_past_attempt *attempt = attempt_of(s, index);
  int64_t *waited_us = &s->replay->waited_us[from->first + b->round];
  int64_t takes_us = attempt != NULL ? attempt->took_us : from->usual_us;
  if (*waited_us < 0) *waited_us = s->now_us - b->came_us;
  change_state(s, index, BUILD_RUNNING);
  b->started_us = s->now_us;
  b->attempt++;
  s->replay->attempts++;
  s->free_slots--;
  return bq_heap_add(&s->events, later(s, takes_us), EVENT_END, item_of(index, b->ticket), err);
}

static void leave_slot(simulation *s, build *b) {
  int64_t ran_us = s->now_us - b->started_us;
  b->ran_us += ran_us;
  s->replay->busy_us += (double)ran_us;
  s->free_slots++;
}

static int fail(simulation *s, size_t index, const bq_past_attempt *attempt, bq_error *err) {
  build *b = &s->builds[index];
  const bq_past_build *from = &s->past->builds[index];
  const bq_rehearse_options *o = s->options;
  bq_retry retry;
  double random = chance(from->id, b->attempt);
  double delay_s = bq_retry_delay(o->retry_minutes, o->exponential, (int)b->retry_count, random);
  int wants_history = bq_policies_wants(o->policies, BQ_HOOK_RETRY, "history");
  if (bq_sim_describe(s, from, b->priority, s->args) < 0) return out_of_memory(err);
  json_t *failure = json_pack("{s:O, s:O, s:O, s:O, s:b, s:i, s:i, s:i, s:f, s:f, s:o}", "build", s->args, "message",
                              attempt->message, "kind", attempt->kind, "step", attempt->step, "retryable",
                              attempt->retryable, "attempt", (int)b->attempt, "retryCount", (int)b->retry_count,
                              "maxRetries", o->max_retries, "delaySeconds", delay_s, "random", random, "history",
                              wants_history ? history_of(s, b, from) : json_array());
  if (failure == NULL) return out_of_memory(err);
  bq_decide_retry(&s->decider, failure, &retry);
  json_decref(failure);
  int cut_off = retry.again && b->used >= BQ_REHEARSE_MAX_ATTEMPTS;
  if (cut_off) s->replay->cut_off++;
  if (!retry.again || cut_off) {
    return end(s, index, attempt->outcome == BQ_PAST_TIMEDOUT ? BQ_REPLAY_TIMEDOUT : BQ_REPLAY_FAILED, err);
  }
  b->retry_count++;
  s->replay->retries++;
  return wait_for_slot(s, index, later(s, (int64_t)(retry.after_s * 1e6)), err);
}

static int attempt_ended(simulation *s, size_t index, bq_error *err) {
  build *b = &s->builds[index];
  const bq_past_round *round = &s->past->rounds[s->past->builds[index].first + b->round];
  const bq_past_attempt *attempt = attempt_of(s, index);
  leave_slot(s, b);
  b->used++;
  if (attempt == NULL) return end(s, index, BQ_REPLAY_SUCCESS, err);
  switch (attempt->outcome) {
  case BQ_PAST_SUCCESS: return end(s, index, BQ_REPLAY_SUCCESS, err);
  case BQ_PAST_CANCELLED: return end(s, index, BQ_REPLAY_CANCELLED, err);
  case BQ_PAST_FAILED:
  case BQ_PAST_TIMEDOUT: return fail(s, index, attempt, err);
  case BQ_PAST_GIVEN_BACK: break;
  }
  if (round->given_up && b->used >= round->count) return end(s, index, BQ_REPLAY_FAILED, err);
  return wait_for_slot(s, index, s->now_us, err);
}

static int cancel(simulation *s, size_t index, uint32_t round, bq_error *err) {
  build *b = &s->builds[index];
  if (b->round != round || (b->state != BUILD_PENDING && b->state != BUILD_RUNNING)) return 0;
  if (b->state == BUILD_RUNNING) leave_slot(s, b);
  return end(s, index, BQ_REPLAY_CANCELLED, err);
}

// Time ---------------------------------------------------------------------------------------------------------------

static int happen(simulation *s, const bq_heap_entry *event, bq_error *err) {
  size_t index = event->item >> 32;
  uint32_t number = (uint32_t)event->item;
  switch ((event_kind)event->value) {
  case EVENT_COME: return come(s, index, err);
  case EVENT_END: return s->builds[index].ticket == number ? attempt_ended(s, index, err) : 0;
  case EVENT_CANCEL: return cancel(s, index, number, err);
  }
  return 0;
}

static int claim(simulation *s, bq_error *err) {
  int chosen = bq_sim_choose(s, err);
  if (chosen != 0) return chosen < 0 ? chosen : 0;
  int64_t key;
  uint64_t item;
  while (s->free_slots > 0) {
    int taken = bq_due_take(&s->due, s->now_us, &key, &item, err);
    if (taken <= 0) return taken;
    if (!bq_sim_is_pending(s, item)) continue; // it was cancelled meanwhile
    int result = bq_sim_start(s, item >> 32, err);
    if (result < 0) return result;
  }
  return 0;
}

// The next moment at which something happens; INT64_MAX: never more.
static int64_t next_us(const simulation *s) {
  const bq_heap_entry *top = bq_heap_top(&s->events);
  int64_t due_us = s->held_back ? bq_due_next_later(&s->due) : bq_due_next(&s->due);
  if (s->free_slots <= 0) due_us = INT64_MAX;
  int64_t event_us = top != NULL ? top->rank : INT64_MAX;
  return due_us < event_us ? due_us : event_us;
}

static int play(simulation *s, bq_error *err) {
  for (int64_t at_us; (at_us = next_us(s)) != INT64_MAX;) {
    s->now_us = at_us;
    for (const bq_heap_entry *top; (top = bq_heap_top(&s->events)) != NULL && top->rank <= at_us;) {
      const bq_heap_entry event = *top;
      bq_heap_pop(&s->events);
      int result = happen(s, &event, err);
      if (result < 0) return result;
    }
    int result = claim(s, err);
    if (result < 0) return result;
  }
  return 0;
}

static int prepare(simulation *s, bq_error *err) {
  const bq_past *past = s->past;
  s->builds = bq_alloc_array(past->count + 1, sizeof *s->builds);
  s->replay->waited_us = bq_alloc_array(past->round_count + 1, sizeof *s->replay->waited_us);
  s->replay->outcomes = bq_alloc_array(past->count + 1, sizeof *s->replay->outcomes);
  s->args = json_object();
  s->priceless = json_object();
  if (s->builds == NULL || s->replay->waited_us == NULL || s->replay->outcomes == NULL || s->args == NULL ||
      s->priceless == NULL) {
    return out_of_memory(err);
  }
  for (size_t i = 0; i < past->round_count; i++) s->replay->waited_us[i] = -1;
  s->replay->first_us = past->count > 0 ? past->builds[0].enqueued_us : 0;
  s->replay->last_us = s->replay->first_us;
  int result = bq_census_init(&s->census, s->options->policies, past->customer_count, past->tier_count, err);
  for (size_t i = 0; i < past->count && result == 0; i++) {
    result = bq_heap_add(&s->events, past->builds[i].enqueued_us, EVENT_COME, item_of(i, 0), err);
  }
  return result;
}

int bq_rehearse(bq_replay *out, const bq_past *past, const bq_rehearse_options *options, bq_error *err) {
  *out = (bq_replay){0};
  simulation s = {.past = past,
                  .options = options,
                  .decider = {.policies = options->policies, .failed = on_failed, .arg = out},
                  .replay = out,
                  .free_slots = options->slots,
                  .oldest = NO_BUILD,
                  .newest = NO_BUILD};
  int result = prepare(&s, err);
  if (result == 0) result = play(&s, err);
  for (size_t i = 0; s.builds != NULL && i < past->count; i++) json_decref(s.builds[i].candidate);
  bq_free(s.builds);
  bq_heap_free(&s.events);
  bq_due_free(&s.due);
  bq_census_clear(&s.census);
  json_decref(s.args);
  json_decref(s.priceless);
  if (result < 0) bq_replay_clear(out);
  return result;
}

void bq_replay_clear(bq_replay *replay) {
  bq_free(replay->waited_us);
  bq_free(replay->outcomes);
  *replay = (bq_replay){0};
}
