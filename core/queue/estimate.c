#include "queue/estimate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"

enum { LEVELS = 4, KEY_SIZE = 1024 };

static const char *const level_names[LEVELS] = {"pipeline, tier, architecture", "pipeline, architecture", "pipeline",
                                                "all"};
static const double longest_s = 366 * 86400.0;

struct bq_history {
  json_t *kinds;   // owned; key_of → what the policy is given
  json_t *nothing; // owned; {count: 0}
};

int bq_history_new(bq_history **out, bq_error *err) {
  bq_history *history = bq_alloc(sizeof *history);
  *out = history;
  if (history == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the history of builds");
  history->kinds = json_object();
  history->nothing = json_pack("{s:i}", "count", 0);
  if (history->kinds != NULL && history->nothing != NULL) return 0;
  bq_history_free(history);
  *out = NULL;
  return bq_fail(err, BQ_ENOMEM, "out of memory for the history of builds");
}

void bq_history_free(bq_history *history) {
  if (history == NULL) return;
  json_decref(history->kinds);
  json_decref(history->nothing);
  bq_free(history);
}

// Names hold no control characters, so a line break keeps them apart. A key that is cut finds nothing of another kind
// but its own like.
static void key_of(char out[KEY_SIZE], int level, const char *pipeline, const char *tier, const char *architecture) {
  (void)snprintf(out, KEY_SIZE, "%d\n%s\n%s\n%s", level, level < 3 ? pipeline : "", level < 1 ? tier : "",
                 level < 2 ? architecture : "");
  bq_utf8_clean(out);
}

static int add_kind(json_t *kinds, const json_t *entry) {
  char key[KEY_SIZE];
  int level = (int)json_integer_value(json_object_get(entry, "level"));
  if (level < 0 || level >= LEVELS) return 0;
  key_of(key, level, bq_json_text(entry, "pipeline"), bq_json_text(entry, "tier"), bq_json_text(entry, "architecture"));
  json_t *kind = json_pack("{s:O, s:O, s:O, s:O, s:s}", "count", json_object_get(entry, "count"), "p50",
                           json_object_get(entry, "p50"), "p90", json_object_get(entry, "p90"), "mean",
                           json_object_get(entry, "mean"), "of", level_names[level]);
  return kind != NULL ? json_object_set_new(kinds, key, kind) : -1;
}

int bq_history_set(bq_history *history, const json_t *list, bq_error *err) {
  json_t *kinds = json_object();
  size_t index;
  json_t *entry;
  int failed = kinds == NULL;
  json_array_foreach(list, index, entry) {
    if (!failed) failed = add_kind(kinds, entry) < 0;
  }
  if (failed) {
    json_decref(kinds);
    return bq_fail(err, BQ_ENOMEM, "the history of builds can't be kept");
  }
  json_decref(history->kinds);
  history->kinds = kinds;
  return 0;
}

const json_t *bq_history_find(const bq_history *history, const char *pipeline, const char *tier,
                              const char *architecture) {
  const json_t *narrowest = NULL;
  for (int level = 0; level < LEVELS; level++) {
    char key[KEY_SIZE];
    key_of(key, level, pipeline, tier, architecture);
    const json_t *kind = json_object_get(history->kinds, key);
    if (kind == NULL) continue;
    if (json_integer_value(json_object_get(kind, "count")) >= BQ_HISTORY_ENOUGH) return kind;
    if (narrowest == NULL) narrowest = kind;
  }
  return narrowest != NULL ? narrowest : history->nothing;
}

// The decision --------------------------------------------------------------------------------------------------------

static void report(const bq_decider *decider, const char *wrong) {
  bq_error err;
  (void)bq_fail(&err, BQ_ESCRIPT, "scripts/policies/%s.lua: what estimate returns: %s",
                bq_policies_file(decider->policies, BQ_HOOK_ESTIMATE), wrong);
  if (decider->failed != NULL) decider->failed(decider->arg, BQ_HOOK_ESTIMATE, &err);
}

// A number from 0 to `high`; absent (or null): 0 and `*there` 0. Answers 0 when it is something else.
static int read_number(const json_t *object, const char *name, double high, double *out, int *there) {
  const json_t *value = json_object_get(object, name);
  *there = json_is_number(value);
  *out = json_number_value(value);
  return value == NULL || json_is_null(value) || (*there && *out >= 0 && *out <= high);
}

static void built_in(const json_t *history, bq_estimate *out) {
  *out = (bq_estimate){.seconds = json_number_value(json_object_get(history, "p50")),
                       .seconds_high = json_number_value(json_object_get(history, "p90")),
                       .known = json_integer_value(json_object_get(history, "count")) > 0};
}

static const char *take_answer(const json_t *answer, bq_estimate *out) {
  bq_estimate read = {0};
  int has_high;
  const char *currency = bq_json_text(answer, "currency");
  if (!json_is_object(answer)) return "it must be a table";
  if (!read_number(answer, "seconds", longest_s, &read.seconds, &read.known)) return "seconds must be a number from 0";
  if (!read_number(answer, "secondsHigh", longest_s, &read.seconds_high, &has_high)) {
    return "secondsHigh must be a number from 0";
  }
  if (!read_number(answer, "cost", 1e15, &read.cost, &read.has_cost)) return "cost must be a number from 0";
  if (strlen(currency) >= sizeof read.currency) return "currency is a word as EUR";
  if (!has_high || read.seconds_high < read.seconds) read.seconds_high = read.seconds;
  (void)snprintf(read.currency, sizeof read.currency, "%s", currency);
  *out = read;
  return NULL;
}

void bq_decide_estimate(const bq_decider *decider, const json_t *build, const json_t *history, bq_estimate *out) {
  const json_t *const args[] = {build, history};
  json_t *answer;
  bq_error err;
  built_in(history, out);
  if (bq_policies_file(decider->policies, BQ_HOOK_ESTIMATE) == NULL) return;
  if (bq_policies_call(decider->policies, BQ_HOOK_ESTIMATE, args, 2, &answer, &err) < 0) {
    if (decider->failed != NULL) decider->failed(decider->arg, BQ_HOOK_ESTIMATE, &err);
    return;
  }
  const char *wrong = json_is_null(answer) ? NULL : take_answer(answer, out);
  if (wrong != NULL) report(decider, wrong);
  json_decref(answer);
}

// Rounded to what a reader can use: milliseconds and hundredths of a cent.
static json_t *rounded(double value, double unit) {
  return json_real(round(value * unit) / unit);
}

json_t *bq_estimate_json(const bq_estimate *estimate, const json_t *history) {
  if (!estimate->known && !estimate->has_cost) return NULL;
  json_t *json = json_object();
  if (estimate->known) {
    (void)json_object_set_new(json, "seconds", rounded(estimate->seconds, 1e3));
    (void)json_object_set_new(json, "secondsHigh", rounded(estimate->seconds_high, 1e3));
  }
  if (estimate->has_cost) (void)json_object_set_new(json, "cost", rounded(estimate->cost, 1e4));
  if (estimate->currency[0] != '\0') (void)json_object_set_new(json, "currency", json_string(estimate->currency));
  if (json_integer_value(json_object_get(history, "count")) > 0) {
    (void)json_object_set_new(json, "basedOn", json_pack("{s:O, s:O}", "count", json_object_get(history, "count"), "of",
                                                         json_object_get(history, "of")));
  }
  return json;
}
