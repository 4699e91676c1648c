#include "queue/decide.h"

#include <math.h>
#include <string.h>

#include "base/utf8.h"

enum { PRIORITY_BITS = 58 }; // microseconds since 1970 stay below them up to the year 9999

static const int64_t LATEST_US = 253370764800000000; // 9999-01-01T00:00:00Z

static void report(const bq_decider *decider, bq_hook hook, const bq_error *err) {
  if (decider->failed != NULL) decider->failed(decider->arg, hook, err);
}

static void report_answer(const bq_decider *decider, bq_hook hook, const char *wrong) {
  bq_error err;
  (void)bq_fail(&err, BQ_ESCRIPT, "scripts/policies/%s.lua: what %s returns: %s",
                bq_policies_file(decider->policies, hook), bq_hook_name(hook), wrong);
  report(decider, hook, &err);
}

// What the policy returned, JSON null for nil; NULL: there is none, or it failed.
static json_t *ask_any(const bq_decider *decider, bq_hook hook, const json_t *const *args, size_t count) {
  json_t *answer;
  bq_error err;
  if (bq_policies_file(decider->policies, hook) == NULL) return NULL;
  if (bq_policies_call(decider->policies, hook, args, count, &answer, &err) == 0) return answer;
  report(decider, hook, &err);
  return NULL;
}

// The policy's answer, an object; NULL when the built-in rule is to decide.
static json_t *ask(const bq_decider *decider, bq_hook hook, const json_t *const *args, size_t count) {
  json_t *answer = ask_any(decider, hook, args, count);
  if (answer == NULL || json_is_object(answer)) return answer;
  if (!json_is_null(answer)) report_answer(decider, hook, "it must be a table");
  json_decref(answer);
  return NULL;
}

static void copy_text(char *out, size_t size, const json_t *object, const char *name) {
  const char *text = json_string_value(json_object_get(object, name));
  (void)snprintf(out, size, "%s", text != NULL ? text : "");
  bq_utf8_clean(out); // it may have been cut within a character
}

int64_t bq_strict_key(int priority, int64_t enqueued_us) {
  if (enqueued_us < 0) enqueued_us = 0;
  if (enqueued_us > LATEST_US) enqueued_us = LATEST_US;
  return ((int64_t)(3 - priority) << PRIORITY_BITS) + enqueued_us;
}

// An integer field; absent (or JSON null) is `otherwise`. 0 when it is something else or out of range.
static int read_integer(const json_t *object, const char *name, int64_t low, int64_t high, int64_t otherwise,
                        int64_t *out) {
  const json_t *value = json_object_get(object, name);
  *out = otherwise;
  if (value == NULL || json_is_null(value)) return 1;
  if (json_is_real(value) && rint(json_real_value(value)) == json_real_value(value) &&
      fabs(json_real_value(value)) < 9e15) {
    *out = (int64_t)json_real_value(value);
  } else if (json_is_integer(value)) {
    *out = json_integer_value(value);
  } else {
    return 0;
  }
  return *out >= low && *out <= high;
}

void bq_decide_priority(const bq_decider *decider, const json_t *build, const json_t *facts, bq_placement *out) {
  const json_t *const args[] = {build, facts};
  int asked = (int)json_integer_value(json_object_get(build, "priority"));
  int64_t enqueued_us = json_integer_value(json_object_get(build, "enqueuedAt"));
  *out = (bq_placement){.priority = asked, .key = bq_strict_key(asked, enqueued_us)};
  json_t *answer = ask(decider, BQ_HOOK_PRIORITY, args, 2);
  if (answer == NULL) return;
  int64_t priority;
  int64_t key = 0;
  int64_t tag = 0;
  if (!read_integer(answer, "priority", 0, BQ_PRIORITIES - 1, asked, &priority)) {
    report_answer(decider, BQ_HOOK_PRIORITY, "priority must be an integer from 0 to 3");
  } else if (!read_integer(answer, "key", INT64_MIN, INT64_MAX, bq_strict_key((int)priority, enqueued_us), &key) ||
             key == 0) {
    report_answer(decider, BQ_HOOK_PRIORITY, "key must be an integer other than 0");
  } else if (!read_integer(answer, "tag", 0, INT64_MAX, 0, &tag)) {
    report_answer(decider, BQ_HOOK_PRIORITY, "tag must be an integer, not negative");
  } else {
    *out = (bq_placement){
        .priority = (int)priority, .key = key, .has_tag = json_is_number(json_object_get(answer, "tag")), .tag = tag};
    copy_text(out->reason, sizeof out->reason, answer, "reason");
  }
  json_decref(answer);
}

double bq_retry_delay(double minutes, int exponential, int retry_count, double random) {
  double doubled = exponential ? pow(2, retry_count < 30 ? retry_count : 30) : 1;
  double seconds = minutes * 60 * doubled * (0.9 + 0.2 * random);
  return seconds < BQ_MAX_RETRY_SECONDS ? seconds : BQ_MAX_RETRY_SECONDS;
}

// scripts/policies/configured.lua says the same.
static void configured_retry(const json_t *failure, bq_retry *out) {
  const char *kind = json_string_value(json_object_get(failure, "kind"));
  int used = (int)json_integer_value(json_object_get(failure, "retryCount"));
  int most = (int)json_integer_value(json_object_get(failure, "maxRetries"));
  int timed_out = kind != NULL && strcmp(kind, "timeout") == 0;
  *out = (bq_retry){.after_s = json_number_value(json_object_get(failure, "delaySeconds"))};
  out->again = json_is_true(json_object_get(failure, "retryable")) && !timed_out && used < most;
}

void bq_decide_retry(const bq_decider *decider, const json_t *failure, bq_retry *out) {
  const json_t *const args[] = {failure};
  configured_retry(failure, out);
  json_t *answer = ask(decider, BQ_HOOK_RETRY, args, 1);
  if (answer == NULL) return;
  const json_t *again = json_object_get(answer, "retry");
  const json_t *after = json_object_get(answer, "after");
  if (!json_is_boolean(again)) {
    report_answer(decider, BQ_HOOK_RETRY, "retry must be true or false");
  } else if (after != NULL && !json_is_null(after) &&
             !(json_is_number(after) && json_number_value(after) >= 0 &&
               json_number_value(after) <= BQ_MAX_RETRY_SECONDS)) {
    report_answer(decider, BQ_HOOK_RETRY, "after must be seconds, 0 to 86400");
  } else {
    out->again = json_is_true(again);
    if (json_is_number(after)) out->after_s = json_number_value(after);
    copy_text(out->reason, sizeof out->reason, answer, "reason");
  }
  json_decref(answer);
}

static void refuse(const bq_decider *decider, const json_t *answer, bq_admission *out) {
  int64_t status;
  int64_t retry_after;
  if (!read_integer(answer, "status", 400, 599, 429, &status)) {
    report_answer(decider, BQ_HOOK_ADMISSION, "status must be 400 to 599");
    return;
  }
  if (!read_integer(answer, "retryAfter", 0, BQ_MAX_RETRY_SECONDS * 31, 0, &retry_after)) {
    report_answer(decider, BQ_HOOK_ADMISSION, "retryAfter must be whole seconds");
    return;
  }
  out->action = BQ_REFUSE;
  out->status = (int)status;
  out->retry_after_s = (int)retry_after;
  copy_text(out->title, sizeof out->title, answer, "title");
  copy_text(out->detail, sizeof out->detail, answer, "detail");
}

static void lower(const bq_decider *decider, const json_t *answer, bq_admission *out) {
  int64_t priority;
  if (!read_integer(answer, "priority", 0, BQ_PRIORITIES - 1, 0, &priority)) {
    report_answer(decider, BQ_HOOK_ADMISSION, "priority must be an integer from 0 to 3");
    return;
  }
  out->action = BQ_ADMIT_LOWER;
  out->priority = (int)priority;
  copy_text(out->reason, sizeof out->reason, answer, "reason");
}

void bq_decide_admission(const bq_decider *decider, const json_t *build, const json_t *facts, bq_admission *out) {
  const json_t *const args[] = {build, facts};
  *out = (bq_admission){.action = BQ_ADMIT};
  json_t *answer = ask(decider, BQ_HOOK_ADMISSION, args, 2);
  if (answer == NULL) return;
  const char *action = json_string_value(json_object_get(answer, "action"));
  if (action != NULL && strcmp(action, "refuse") == 0) refuse(decider, answer, out);
  else if (action != NULL && strcmp(action, "lower") == 0) lower(decider, answer, out);
  else if (action == NULL || strcmp(action, "accept") != 0) {
    report_answer(decider, BQ_HOOK_ADMISSION, "action must be \"accept\", \"lower\" or \"refuse\"");
  }
  json_decref(answer);
}

// Whether `order` is a list of ids of candidates, none twice.
static int is_choice(const json_t *order, const json_t *candidates) {
  size_t index;
  json_t *value;
  json_t *left = json_object(); // ids that may be named
  int right = left != NULL;
  json_array_foreach(candidates, index, value) {
    right = right && json_object_set(left, json_string_value(json_object_get(value, "id")), json_true()) == 0;
  }
  json_array_foreach(order, index, value) {
    right = right && json_is_string(value) && json_object_del(left, json_string_value(value)) == 0;
  }
  json_decref(left);
  return right;
}

json_t *bq_decide_choose(const bq_decider *decider, const json_t *candidates, const json_t *facts) {
  const json_t *const args[] = {candidates, facts};
  json_t *answer = ask_any(decider, BQ_HOOK_CHOOSE, args, 2);
  if (answer == NULL) return NULL;
  if (json_is_object(answer) && json_object_size(answer) == 0) { // Lua's {}
    json_decref(answer);
    return json_array();
  }
  if (json_is_array(answer) && is_choice(answer, candidates)) return answer;
  if (!json_is_null(answer)) {
    report_answer(decider, BQ_HOOK_CHOOSE, "it must be a list of ids of candidates, none twice");
  }
  json_decref(answer);
  return NULL;
}
