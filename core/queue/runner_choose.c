// Claims by a policy's choice: the first builds that are due are read, the policy says which of them go first, and those
// are claimed by their ids. What becomes of one in between is the claim's business: it takes only what is still due.
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "queue/runner_internal.h"

enum { REST_MS = 1000 }; // a policy that has failed is not asked again before

int bq_runner_chooses(const bq_runner *runner) {
  return bq_policies_file(runner->options.decider->policies, BQ_HOOK_CHOOSE) != NULL &&
         bq_clock_mono_us() >= runner->choose_after_us;
}

static void on_failed(void *arg, bq_hook hook, const bq_error *err) {
  bq_runner *runner = arg;
  const bq_decider *decider = runner->options.decider;
  runner->choose_after_us = bq_clock_mono_us() + (int64_t)REST_MS * 1000;
  if (decider->failed != NULL) decider->failed(decider->arg, hook, err);
}

static int claim_by_id(bq_runner *runner, const json_t *order, bq_error *err) {
  bq_buf ids = {0};
  size_t index;
  json_t *id;
  bq_buf_adds(&ids, "{");
  json_array_foreach(order, index, id) {
    bq_buf_addf(&ids, index > 0 ? ",%s" : "%s", json_string_value(id));
  }
  bq_buf_adds(&ids, "}");
  int result = bq_buf_check(&ids, err);
  if (result == 0) result = bq_runner_send_claim(runner, ids.data, err);
  bq_buf_free(&ids);
  return result;
}

// The policies may be others than those that were running when the candidates were asked for, or none.
static int decide(bq_runner *runner, const json_t *candidates, const json_t *facts, int *waits, bq_error *err) {
  const bq_decider decider = {.policies = runner->options.decider->policies, .failed = on_failed, .arg = runner};
  json_t *order = bq_decide_choose(&decider, candidates, facts);
  int result = 0;
  *waits = order != NULL && json_array_size(order) == 0;
  if (order == NULL) result = bq_runner_send_claim(runner, NULL, err);
  else if (!*waits) result = claim_by_id(runner, order, err);
  json_decref(order);
  return result;
}

static void on_candidates(void *arg, const bq_pg_result *result) {
  bq_runner *runner = arg;
  bq_error err;
  int waits = 1;
  int sent = 0;
  if (result->error != NULL) {
    if (result->error->code == BQ_EDATABASE) bq_log_error("the builds to choose from could not be read", result->error);
  } else if (!runner->stopping && PQntuples(result->rows) > 0) {
    json_t *candidates = bq_store_json(result->rows, 0);
    json_t *facts = json_loads(PQgetvalue(result->rows, 0, 1), 0, NULL);
    sent = candidates != NULL && facts != NULL ? decide(runner, candidates, facts, &waits, &err)
                                               : bq_fail(&err, BQ_ENOMEM, "out of memory for a choice");
    if (sent < 0) bq_log_error("a claim failed", &err);
    json_decref(candidates);
    json_decref(facts);
  }
  if (sent < 0 || waits) bq_runner_end_claim(runner);
}

int bq_runner_choose(bq_runner *runner, bq_error *err) {
  char limit[16];
  char low[24];
  int wants_running = bq_policies_wants(runner->options.decider->policies, BQ_HOOK_CHOOSE, "running");
  (void)snprintf(limit, sizeof limit, "%d", BQ_CANDIDATES);
  (void)snprintf(low, sizeof low, "%lld", (long long)runner->low_key);
  const char *params[] = {runner->node_id, limit, low, wants_running ? "true" : "false",
                          bq_labels_array(runner->options.labels)};
  return bq_store_query(runner->options.store, "candidates", 5, params, on_candidates, runner, err);
}
