// What follows a failed attempt: the retry rule is asked (queue/decide.h), and what it says is written.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "queue/runner_internal.h"

// The build as policies see it, without what a rule has no business with (mail addresses, the manifest).
static json_t *build_of(json_t *row) {
  static const char *const names[] = {"id",       "customerId",        "customerName", "tier",     "architecture",
                                      "cloudProvider", "configurationName", "pipeline", "priority", "metadata"};
  json_t *build = json_object();
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    (void)json_object_set(build, names[i], json_object_get(row, names[i]));
  }
  return build;
}

static json_t *describe(bq_running *r, const char *message, const char *kind, int retryable) {
  const bq_config *config = r->runner->options.env->config;
  json_t *row = bq_attempt_row(r->attempt);
  int used = (int)json_integer_value(json_object_get(row, "retryCount"));
  double random = (double)(rand() % 1000000) / 1e6;
  double delay_s = bq_retry_delay(config->retry_delay_minutes, config->use_exponential_backoff, used, random);
  return json_pack("{s:o, s:s, s:s, s:s, s:b, s:i, s:i, s:i, s:f, s:f, s:[]}", "build", build_of(row), "message",
                   message, "kind", kind, "step", bq_attempt_step(r->attempt), "retryable", retryable, "attempt",
                   atoi(r->number), "retryCount", used, "maxRetries", config->max_retry_attempts, "delaySeconds",
                   delay_s, "random", random, "history");
}

static int write_failure(bq_running *r, const bq_retry *retry, bq_error *err) {
  const char *message = json_string_value(json_object_get(r->failure, "message"));
  const char *kind = json_string_value(json_object_get(r->failure, "kind"));
  const char *pipeline = bq_row_text(bq_attempt_row(r->attempt), "pipeline");
  int timed_out = r->outcome->kind == BQ_OUTCOME_TIMEDOUT && !r->refused;
  if (timed_out && !retry->again) return bq_running_record_end(r, "timedout", err);
  char delay[32];
  (void)snprintf(delay, sizeof delay, "%.3f", retry->after_s);
  const char *params[] = {r->id,
                          r->number,
                          r->node_id,
                          message,
                          kind,
                          timed_out ? "timedout" : "failed",
                          retry->again ? delay : NULL,
                          r->failure_tail,
                          r->runner->options.is_pinned(r->runner->options.arg, pipeline) ? "true" : "false"};
  return bq_store_write(r->runner->options.store, "finish_failure", 9, params, bq_running_on_recorded, r, err);
}

static int decide(bq_running *r, bq_error *err) {
  bq_retry retry;
  bq_decide_retry(r->runner->options.decider, r->failure, &retry);
  if (retry.reason[0] != '\0') {
    bq_log(BQ_INFO, retry.again ? "the attempt will be tried again" : "the attempt will not be tried again", "build",
           r->id, "attempt", r->number, "reason", retry.reason, NULL);
  }
  return write_failure(r, &retry, err);
}

static void on_history(void *arg, const bq_pg_result *result) {
  bq_running *r = arg;
  bq_error err;
  if (result->error != NULL) {
    bq_log(BQ_WARN, "a build's history could not be read for the retry policy", "build", r->id, "error",
           result->error->message, NULL);
  } else {
    (void)json_object_set_new(r->failure, "history", bq_store_json(result->rows, 0));
  }
  if (decide(r, &err) == 0) return;
  bq_log_error("the outcome of a build could not be written", &err);
  bq_running_abandon(r);
}

int bq_running_record_failure(bq_running *r, const char *message, const char *kind, int retryable, const char *log_tail,
                              bq_error *err) {
  json_decref(r->failure);
  r->failure = describe(r, message, kind, retryable);
  r->failure_tail = log_tail;
  if (r->failure == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a failure");
  if (!bq_policies_wants(r->runner->options.decider->policies, BQ_HOOK_RETRY, "history")) return decide(r, err);
  const char *params[] = {r->id};
  return bq_store_write(r->runner->options.store, "attempts", 1, params, on_history, r, err);
}
