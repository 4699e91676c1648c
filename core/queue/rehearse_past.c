#include "queue/rehearse_past.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { NOTHING_KNOWN_US = 60 * 1000 * 1000 };

static const double LONGEST_S = 1e8; // what is longer is no duration
static const int64_t LATEST_US = 253370764800000000; // 9999-01-01T00:00:00Z

int bq_past_init(bq_past *past, int max_retries, bq_error *err) {
  past->max_retries = max_retries;
  past->texts = json_object();
  past->customer_by_id = json_object();
  past->tier_by_id = json_object();
  past->empty = json_object();
  if (past->texts != NULL && past->customer_by_id != NULL && past->tier_by_id != NULL && past->empty != NULL) return 0;
  bq_past_free(past);
  return bq_fail(err, BQ_ENOMEM, "out of memory for the history");
}

void bq_past_free(bq_past *past) {
  for (size_t i = 0; i < past->count; i++) json_decref(past->builds[i].metadata);
  bq_free(past->builds);
  bq_free(past->rounds);
  bq_free(past->attempts);
  bq_free(past->customers);
  bq_free(past->tiers);
  json_decref(past->texts);
  json_decref(past->customer_by_id);
  json_decref(past->tier_by_id);
  json_decref(past->empty);
  *past = (bq_past){0};
}

// A zeroed new entry at the end of a list; NULL when memory is out.
static void *append(void *list, size_t *count, size_t *capacity, size_t size) {
  char **entries = list;
  if (*count == *capacity) {
    size_t more = *capacity > 0 ? *capacity * 2 : 256;
    char *grown = bq_realloc(*entries, more * size);
    if (grown == NULL) return NULL;
    *entries = grown;
    *capacity = more;
  }
  char *entry = *entries + (*count)++ * size;
  memset(entry, 0, size);
  return entry;
}

// The one string of that text, borrowed from past->texts. NULL when memory is out.
static json_t *keep(bq_past *past, const char *text) {
  json_t *kept = json_object_get(past->texts, text);
  if (kept != NULL) return kept;
  if (json_object_set_new(past->texts, text, json_string(text)) < 0) return NULL;
  return json_object_get(past->texts, text);
}

static json_t *keep_member(bq_past *past, const json_t *object, const char *name) {
  const char *text = json_string_value(json_object_get(object, name));
  return keep(past, text != NULL ? text : "");
}

static int64_t time_of(const json_t *object, const char *name, int64_t otherwise) {
  const json_t *value = json_object_get(object, name);
  if (!json_is_integer(value)) return otherwise;
  int64_t us = json_integer_value(value);
  return us >= 0 && us <= LATEST_US ? us : otherwise;
}

// Seconds as microseconds; -1 when they aren't there or make no sense.
static int64_t duration_of(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  double seconds = json_is_number(value) ? json_number_value(value) : -1;
  return seconds >= 0 && seconds <= LONGEST_S ? llround(seconds * 1e6) : -1;
}

static int outcome_of(const json_t *object, bq_past_outcome *out) {
  static const struct {
    const char *word;
    bq_past_outcome outcome;
  } words[] = {{"success", BQ_PAST_SUCCESS},     {"failed", BQ_PAST_FAILED},       {"timedout", BQ_PAST_TIMEDOUT},
               {"cancelled", BQ_PAST_CANCELLED}, {"requeued", BQ_PAST_GIVEN_BACK}, {"lost", BQ_PAST_GIVEN_BACK}};
  const char *word = json_string_value(object);
  for (size_t i = 0; word != NULL && i < sizeof words / sizeof words[0]; i++) {
    if (strcmp(word, words[i].word) != 0) continue;
    *out = words[i].outcome;
    return 1;
  }
  return 0;
}

// Groups -------------------------------------------------------------------------------------------------------------

// The place of the customer or tier of that id, new if need be.
static int find_group(json_t *places, bq_past_group **groups, size_t *count, size_t *capacity, json_t *id,
                      size_t *out) {
  const json_t *place = json_object_get(places, json_string_value(id));
  if (place == NULL) {
    bq_past_group *group = append(groups, count, capacity, sizeof **groups);
    if (group == NULL) return -1;
    group->id = id;
    if (json_object_set_new(places, json_string_value(id), json_integer((json_int_t)(*count - 1))) < 0) return -1;
    *out = *count - 1;
  } else {
    *out = (size_t)json_integer_value(place);
  }
  (*groups)[*out].builds++;
  return 0;
}

// Attempts and rounds ------------------------------------------------------------------------------------------------

static int is_charged(bq_past_outcome outcome) {
  return outcome == BQ_PAST_FAILED || outcome == BQ_PAST_TIMEDOUT;
}

static int kind_is(const bq_past_attempt *attempt, const char *kind) {
  const char *text = json_string_value(attempt->kind);
  return text != NULL && strcmp(text, kind) == 0;
}

// Lua's own: a command that got no memory may get it another time.
static int is_out_of_lua_memory(const bq_past_attempt *attempt) {
  const char *message = json_string_value(attempt->message);
  return kind_is(attempt, "memory") && message != NULL && strstr(message, "of Lua memory") != NULL;
}

static int add_attempt(bq_past *past, const json_t *from, bq_error *err) {
  bq_past_outcome outcome;
  int64_t took_us = duration_of(from, "seconds");
  if (took_us < 0 || !outcome_of(json_object_get(from, "outcome"), &outcome)) return 0; // it still runs
  bq_past_attempt *attempt = append(&past->attempts, &past->attempt_count, &past->attempt_capacity, sizeof *attempt);
  if (attempt == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the history's attempts");
  *attempt = (bq_past_attempt){.took_us = took_us, .outcome = outcome};
  attempt->message = keep_member(past, from, "message");
  attempt->kind = keep_member(past, from, "kind");
  attempt->step = keep_member(past, from, "step");
  if (attempt->message == NULL || attempt->kind == NULL || attempt->step == NULL) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for the history's texts");
  }
  attempt->retryable = !kind_is(attempt, "timeout") && !kind_is(attempt, "limit") &&
                       !is_out_of_lua_memory(attempt) && outcome != BQ_PAST_TIMEDOUT;
  return 0;
}

// What isn't recorded: whether the pipeline said that a failure is final. A build that ended by a failed step though it
// had retries left did so for that.
static void find_final(bq_past *past, const bq_past_round *round) {
  int charged = 0;
  if (round->count == 0) return;
  for (size_t i = 0; i + 1 < round->count; i++) charged += is_charged(past->attempts[round->first + i].outcome);
  bq_past_attempt *last = &past->attempts[round->first + round->count - 1];
  if (last->outcome == BQ_PAST_FAILED && kind_is(last, "step") && charged < past->max_retries) last->retryable = 0;
}

static int add_round(bq_past *past, const json_t *from, int64_t at_us, int over, bq_error *err) {
  size_t index;
  json_t *attempt;
  const json_t *attempts = json_object_get(from, "attempts");
  int64_t cancelled_us = time_of(from, "cancelledAt", -1);
  bq_past_round round = {.at_us = at_us, .cancelled_us = cancelled_us, .first = past->attempt_count};
  int64_t started_us = time_of(from, "startedAt", -1);
  round.waited_us = started_us >= 0 ? (started_us > at_us ? started_us - at_us : 0) : -1;
  json_array_foreach(attempts, index, attempt) {
    if (index == BQ_PAST_MAX_ATTEMPTS) break;
    int result = add_attempt(past, attempt, err);
    if (result < 0) return result;
  }
  round.count = past->attempt_count - round.first;
  if (round.count > 0) {
    bq_past_outcome last = past->attempts[past->attempt_count - 1].outcome;
    if (last == BQ_PAST_CANCELLED) round.cancelled_us = -1; // that attempt's duration says it
    if (over && round.count == json_array_size(attempts)) find_final(past, &round);
    round.given_up = over && last == BQ_PAST_GIVEN_BACK && round.cancelled_us < 0;
  }
  bq_past_round *entry = append(&past->rounds, &past->round_count, &past->round_capacity, sizeof *entry);
  if (entry == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the history's rounds");
  *entry = round;
  return 0;
}

// A row of the old service has no attempts: its status and duration are one.
static int add_summary(bq_past *past, const json_t *line, bq_past_build *build, bq_error *err) {
  json_t *round = json_pack("{s:[{s:O?, s:O?, s:O?}]}", "attempts", "outcome", json_object_get(line, "status"),
                            "seconds", json_object_get(line, "seconds"), "message", json_object_get(line, "message"));
  if (round == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the history");
  int result = add_round(past, round, build->enqueued_us, 1, err);
  json_decref(round);
  return result;
}

static int is_over(const json_t *line) {
  const char *status = json_string_value(json_object_get(line, "status"));
  return status == NULL || (strcmp(status, "pending") != 0 && strcmp(status, "building") != 0);
}

static int add_rounds(bq_past *past, const json_t *line, bq_past_build *build, bq_error *err) {
  size_t index;
  json_t *round;
  const json_t *rounds = json_object_get(line, "rounds");
  int64_t at_us = build->enqueued_us;
  build->first = past->round_count;
  json_array_foreach(rounds, index, round) {
    if (index == BQ_PAST_MAX_ROUNDS) break;
    int64_t queued_us = index > 0 ? time_of(round, "at", at_us) : at_us;
    at_us = queued_us > at_us ? queued_us : at_us;
    int result = add_round(past, round, at_us, index + 1 < json_array_size(rounds) || is_over(line), err);
    if (result < 0) return result;
  }
  if (past->round_count == build->first) {
    int result = add_summary(past, line, build, err);
    if (result < 0) return result;
  }
  build->count = past->round_count - build->first;
  return 0;
}

// Builds -------------------------------------------------------------------------------------------------------------

static int read_texts(bq_past *past, const json_t *line, bq_past_build *build, bq_error *err) {
  json_t *customer = keep_member(past, line, "customerId");
  json_t *name = keep_member(past, line, "customerName");
  json_t *tier = keep_member(past, line, "tier");
  build->architecture = keep_member(past, line, "architecture");
  build->cloud = keep_member(past, line, "cloudProvider");
  build->pipeline = keep_member(past, line, "pipeline");
  build->configuration = keep_member(past, line, "configurationName");
  if (customer == NULL || name == NULL || tier == NULL || build->architecture == NULL || build->cloud == NULL ||
      build->pipeline == NULL || build->configuration == NULL ||
      find_group(past->customer_by_id, &past->customers, &past->customer_count, &past->customer_capacity, customer,
                 &build->customer) < 0 ||
      find_group(past->tier_by_id, &past->tiers, &past->tier_count, &past->tier_capacity, tier, &build->tier) < 0) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for the history's texts");
  }
  past->customers[build->customer].name = name;
  return 0;
}

static int read_build(bq_past *past, const json_t *line, bq_past_build *build, bq_error *err) {
  const char *id = json_string_value(json_object_get(line, "id"));
  json_t *metadata = json_object_get(line, "metadata");
  build->enqueued_us = time_of(line, "enqueuedAt", -1);
  if (id == NULL || !bq_uuid_is(id)) return bq_fail(err, BQ_EINVAL, "a build without an id (a UUID)");
  if (build->enqueued_us < 0) {
    return bq_fail(err, BQ_EINVAL, "build %s: enqueuedAt must be microseconds since 1970", id);
  }
  if (!json_is_string(json_object_get(line, "customerId"))) {
    return bq_fail(err, BQ_EINVAL, "build %s: customerId must be a string", id);
  }
  (void)snprintf(build->id, sizeof build->id, "%s", id);
  const json_t *priority = json_object_get(line, "priority");
  build->priority = json_is_integer(priority) ? (int)json_integer_value(priority) : 1;
  if (build->priority < 0 || build->priority > 3) {
    return bq_fail(err, BQ_EINVAL, "build %s: priority must be 0 to 3", id);
  }
  int result = read_texts(past, line, build, err);
  if (result == 0) result = add_rounds(past, line, build, err);
  if (result < 0) return result;
  build->metadata = json_incref(json_is_object(metadata) && json_object_size(metadata) > 0 ? metadata : past->empty);
  return 0;
}

static int read_head(bq_past *past, const json_t *line, bq_error *err) {
  const char *format = json_string_value(json_object_get(line, "format"));
  if (format == NULL || strcmp(format, "buildq history 1") != 0) {
    return bq_fail(err, BQ_EINVAL, "its format is not \"buildq history 1\": another version has exported it");
  }
  int64_t slots = json_integer_value(json_object_get(line, "slots"));
  past->slots = slots > 0 && slots <= INT32_MAX ? slots : 0;
  return 0;
}

int bq_past_add(bq_past *past, const json_t *line, bq_error *err) {
  if (!json_is_object(line)) return bq_fail(err, BQ_EINVAL, "it is no JSON object");
  if (json_object_get(line, "format") != NULL) return read_head(past, line, err);
  if (past->count == BQ_PAST_MAX_BUILDS) {
    return bq_fail(err, BQ_ELIMIT, "there are more than %d builds: give a later --since", BQ_PAST_MAX_BUILDS);
  }
  bq_past_build build = {0};
  int result = read_build(past, line, &build, err);
  if (result < 0) return result;
  bq_past_build *entry = append(&past->builds, &past->count, &past->build_capacity, sizeof *entry);
  if (entry == NULL) {
    json_decref(build.metadata);
    return bq_fail(err, BQ_ENOMEM, "out of memory for the history's builds");
  }
  *entry = build;
  return 0;
}

// Order and usual durations ------------------------------------------------------------------------------------------

static int compare_builds(const void *a, const void *b) {
  const bq_past_build *x = a;
  const bq_past_build *y = b;
  if (x->enqueued_us != y->enqueued_us) return x->enqueued_us < y->enqueued_us ? -1 : 1;
  return strcmp(x->id, y->id);
}

// A duration of a pipeline's successful attempt.
typedef struct sample {
  const char *pipeline; // interned: the same text is the same pointer
  int64_t took_us;
} sample;

static int compare_samples(const void *a, const void *b) {
  const sample *x = a;
  const sample *y = b;
  int order = strcmp(x->pipeline, y->pipeline);
  if (order != 0) return order;
  return x->took_us < y->took_us ? -1 : x->took_us > y->took_us;
}

static size_t collect(const bq_past *past, sample *samples) {
  size_t count = 0;
  for (size_t i = 0; i < past->count; i++) {
    const bq_past_build *build = &past->builds[i];
    for (size_t r = build->first; r < build->first + build->count; r++) {
      const bq_past_round *round = &past->rounds[r];
      for (size_t a = round->first; a < round->first + round->count; a++) {
        if (past->attempts[a].outcome != BQ_PAST_SUCCESS) continue;
        samples[count++] = (sample){json_string_value(build->pipeline), past->attempts[a].took_us};
      }
    }
  }
  return count;
}

// The median of each pipeline, by its name.
static int find_medians(const sample *samples, size_t count, json_t *medians) {
  for (size_t from = 0; from < count;) {
    size_t to = from;
    while (to < count && strcmp(samples[to].pipeline, samples[from].pipeline) == 0) to++;
    json_t *median = json_integer(samples[from + (to - from) / 2].took_us);
    if (json_object_set_new(medians, samples[from].pipeline, median) < 0) return -1;
    from = to;
  }
  return 0;
}

static int set_usual(bq_past *past, bq_error *err) {
  sample *samples = bq_alloc_array(past->attempt_count + 1, sizeof *samples);
  json_t *medians = json_object();
  int result = -1;
  if (samples != NULL && medians != NULL) {
    size_t count = collect(past, samples);
    qsort(samples, count, sizeof *samples, compare_samples);
    result = find_medians(samples, count, medians);
  }
  for (size_t i = 0; result == 0 && i < past->count; i++) {
    const json_t *median = json_object_get(medians, json_string_value(past->builds[i].pipeline));
    past->builds[i].usual_us = median != NULL ? json_integer_value(median) : NOTHING_KNOWN_US;
  }
  json_decref(medians);
  bq_free(samples);
  return result == 0 ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for the history's durations");
}

static int compare_groups(const void *a, const void *b) {
  const bq_past_group *x = a;
  const bq_past_group *y = b;
  return strcmp(json_string_value(x->id), json_string_value(y->id));
}

// Sorts by id; `builds` name their groups by place, `tier` says which of the two.
static int sort_groups(bq_past *past, bq_past_group *groups, size_t count, json_t *places, int tier) {
  size_t *moved = bq_alloc_array(count + 1, sizeof *moved);
  if (moved == NULL) return -1;
  qsort(groups, count, sizeof *groups, compare_groups);
  for (size_t i = 0; i < count; i++) {
    moved[json_integer_value(json_object_get(places, json_string_value(groups[i].id)))] = i;
  }
  for (size_t i = 0; i < past->count; i++) {
    size_t *place = tier ? &past->builds[i].tier : &past->builds[i].customer;
    *place = moved[*place];
  }
  bq_free(moved);
  return 0;
}

int bq_past_finish(bq_past *past, bq_error *err) {
  if (past->count > 0) qsort(past->builds, past->count, sizeof *past->builds, compare_builds);
  if (past->count > 0 &&
      (sort_groups(past, past->customers, past->customer_count, past->customer_by_id, 0) < 0 ||
       sort_groups(past, past->tiers, past->tier_count, past->tier_by_id, 1) < 0)) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for the history's customers");
  }
  return set_usual(past, err);
}
