// Decisions: what a policy says counts when it makes sense, else the built-in rule, and somebody hears of it.
#include "queue/decide.h"

#include "script_test.h"

static const bq_lua_module no_modules[] = {{NULL, NULL}};

typedef struct asked {
  bench b;
  bq_policies *policies;
  bq_decider decider;
  int failures;
  bq_error last; // why the last one failed
} asked;

static void on_failed(void *arg, bq_hook hook, const bq_error *err) {
  asked *a = arg;
  (void)hook;
  a->failures++;
  a->last = *err;
}

// A policy p.lua whose hook `name` is `function(a, b) body end`.
static void open_asked(asked *a, const char *name, const char *body) {
  char active[100];
  char text[1000];
  (void)snprintf(active, sizeof active, "return {%s = 'p'}", name);
  (void)snprintf(text, sizeof text, "return {%s = function(a, b) %s end}", name, body);
  const char *const files[][2] = {{"scripts/policies/active.lua", active}, {"scripts/policies/p.lua", text}, {NULL, NULL}};
  bq_error err;
  memset(a, 0, sizeof *a);
  bench_open(&a->b, no_modules, files);
  const bq_policies_options options = {.loop = a->b.w.loop,
                                       .services = &a->b.services,
                                       .memory_bytes = BQ_POLICY_MEMORY_BYTES,
                                       .call_us = BQ_POLICY_CALL_US};
  if (bq_policies_new(&a->policies, &options, a->b.generation, &err) < 0) fail_msg("%s", err.message);
  a->decider = (bq_decider){.policies = a->policies, .failed = on_failed, .arg = a};
}

static void close_asked(asked *a) {
  bq_policies_free(a->policies);
  bench_close(&a->b);
}

static void keys_are_ordered_by_priority_then_time(void **state) {
  (void)state;
  assert_int_equal(bq_strict_key(3, 1767225600000000), 1767225600000000);
  assert_true(bq_strict_key(3, 2) > bq_strict_key(3, 1));
  assert_true(bq_strict_key(2, 0) > bq_strict_key(3, 253370764800000000));
  assert_int_equal(bq_strict_key(0, -5), (int64_t)3 << 58);
  assert_int_equal(bq_strict_key(0, INT64_MAX), ((int64_t)3 << 58) + 253370764800000000);
}

static void delays_double_and_are_bounded(void **state) {
  (void)state;
  static const struct {
    double minutes;
    int exponential;
    int count;
    double random;
    double seconds;
  } rows[] = {{5, 1, 0, 0.5, 300},  {5, 1, 1, 0, 540},      {5, 1, 2, 1, 1320},     {5, 0, 7, 0.5, 300},
              {5, 1, 40, 1, 86400}, {2000, 0, 0, 0.5, 86400}, {0, 1, 3, 1, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    double seconds = bq_retry_delay(rows[i].minutes, rows[i].exponential, rows[i].count, rows[i].random);
    if (seconds < rows[i].seconds - 0.001 || seconds > rows[i].seconds + 0.001) fail_msg("row %zu: %f", i, seconds);
  }
}

typedef struct priority_row {
  const char *body;
  int priority;
  int64_t key;
  int failures;
} priority_row;

static void places_a_build(void **state) {
  (void)state;
  static const int64_t at = 1767225600000000;
  const priority_row rows[] = {
      {"return {}", 1, bq_strict_key(1, at), 0},
      {"return nil", 1, bq_strict_key(1, at), 0},
      {"return {priority = 3}", 3, bq_strict_key(3, at), 0},
      {"return {key = a.enqueuedAt - 1, tag = 7}", 1, at - 1, 0},
      {"return {key = -9007199254740993}", 1, -9007199254740993, 0},
      {"return {key = 8.0}", 1, 8, 0},
      {"return {priority = 4}", 1, bq_strict_key(1, at), 1},
      {"return {priority = 'high'}", 1, bq_strict_key(1, at), 1},
      {"return {key = 0}", 1, bq_strict_key(1, at), 1},
      {"return {key = 1.5}", 1, bq_strict_key(1, at), 1},
      {"return {key = 1e300}", 1, bq_strict_key(1, at), 1},
      {"return {key = 5, tag = -1}", 1, bq_strict_key(1, at), 1},
      {"return 7", 1, bq_strict_key(1, at), 1},
      {"error('no')", 1, bq_strict_key(1, at), 1},
      {"while true do end", 1, bq_strict_key(1, at), 1},
  };
  json_t *build = json_pack("{s:i, s:I}", "priority", 1, "enqueuedAt", (json_int_t)at);
  json_t *facts = json_object();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    asked a;
    bq_placement placement;
    open_asked(&a, "priority", rows[i].body);
    bq_decide_priority(&a.decider, build, facts, &placement);
    if (placement.priority != rows[i].priority || placement.key != rows[i].key || a.failures != rows[i].failures) {
      fail_msg("%s: priority %d, key %lld, failures %d %s", rows[i].body, placement.priority, (long long)placement.key,
               a.failures, a.last.message);
    }
    close_asked(&a);
  }
  bq_placement placement;
  bq_decide_priority(&(bq_decider){0}, build, facts, &placement); // without any policy
  assert_int_equal(placement.key, bq_strict_key(1, at));
  json_decref(build);
  json_decref(facts);
}

typedef struct retry_row {
  const char *body; // NULL: no policy
  const char *failure;
  int again;
  double after_s;
  int failures;
} retry_row;

static void decides_about_a_retry(void **state) {
  (void)state;
  static const char usual[] = "{\"kind\": \"step\", \"retryable\": true, \"retryCount\": 1, \"maxRetries\": 3, \"delaySeconds\": 300}";
  static const char used_up[] = "{\"kind\": \"step\", \"retryable\": true, \"retryCount\": 3, \"maxRetries\": 3, \"delaySeconds\": 300}";
  static const char final[] = "{\"kind\": \"step\", \"retryable\": false, \"retryCount\": 0, \"maxRetries\": 3, \"delaySeconds\": 300}";
  static const char late[] = "{\"kind\": \"timeout\", \"retryable\": true, \"retryCount\": 0, \"maxRetries\": 3, \"delaySeconds\": 300}";
  const retry_row rows[] = {
      {NULL, usual, 1, 300, 0},
      {NULL, used_up, 0, 300, 0},
      {NULL, final, 0, 300, 0},
      {NULL, late, 0, 300, 0},
      {"return {retry = true, after = 2.5}", late, 1, 2.5, 0},
      {"return {retry = true}", used_up, 1, 300, 0},
      {"return {retry = false}", usual, 0, 300, 0},
      {"return {retry = a.kind == 'step', after = 0}", usual, 1, 0, 0},
      {"return {retry = 1}", usual, 1, 300, 1},
      {"return {}", used_up, 0, 300, 1},
      {"return {retry = false, after = -1}", usual, 1, 300, 1},
      {"return {retry = false, after = 1e9}", usual, 1, 300, 1},
      {"return a.none.x", usual, 1, 300, 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    asked a;
    bq_retry retry;
    json_t *failure = json_loads(rows[i].failure, 0, NULL);
    open_asked(&a, "retry", rows[i].body != NULL ? rows[i].body : "return");
    if (rows[i].body == NULL) a.decider.policies = NULL;
    bq_decide_retry(&a.decider, failure, &retry);
    if (retry.again != rows[i].again || retry.after_s < rows[i].after_s - 0.01 || retry.after_s > rows[i].after_s + 0.01 ||
        a.failures != rows[i].failures) {
      fail_msg("row %zu: again %d, after %f, failures %d %s", i, retry.again, retry.after_s, a.failures, a.last.message);
    }
    json_decref(failure);
    close_asked(&a);
  }
}

static void decides_about_admission(void **state) {
  (void)state;
  static const struct {
    const char *body;
    bq_admission_action action;
    int number; // the priority or the status
    int failures;
  } rows[] = {
      {"return {action = 'accept'}", BQ_ADMIT, 0, 0},
      {"return nil", BQ_ADMIT, 0, 0},
      {"return {action = 'lower', priority = 2, reason = 'busy'}", BQ_ADMIT_LOWER, 2, 0},
      {"return {action = 'refuse', title = 'Too many', detail = 'x', retryAfter = 60}", BQ_REFUSE, 429, 0},
      {"return {action = 'refuse', status = 503}", BQ_REFUSE, 503, 0},
      {"return {action = 'refuse', status = 200}", BQ_ADMIT, 0, 1},
      {"return {action = 'refuse', retryAfter = 'soon'}", BQ_ADMIT, 0, 1},
      {"return {action = 'lower', priority = 9}", BQ_ADMIT, 0, 1},
      {"return {action = 'no'}", BQ_ADMIT, 0, 1},
      {"return {}", BQ_ADMIT, 0, 1},
      {"return true", BQ_ADMIT, 0, 1},
  };
  json_t *nothing = json_object();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    asked a;
    bq_admission admission;
    open_asked(&a, "admission", rows[i].body);
    bq_decide_admission(&a.decider, nothing, nothing, &admission);
    int number = admission.action == BQ_REFUSE ? admission.status : admission.priority;
    if (admission.action != rows[i].action || number != rows[i].number || a.failures != rows[i].failures) {
      fail_msg("%s: %d, %d, failures %d %s", rows[i].body, (int)admission.action, number, a.failures, a.last.message);
    }
    close_asked(&a);
  }
  json_decref(nothing);
}

static void chooses_among_candidates(void **state) {
  (void)state;
  static const struct {
    const char *body;
    const char *order; // NULL: by key
    int failures;
  } rows[] = {
      {"return {a[2].id, a[1].id}", "[\"y\", \"x\"]", 0},
      {"return {'x'}", "[\"x\"]", 0},
      {"if b.now == 7 then return {} end", "[]", 0},
      {"return nil", NULL, 0},
      {"return {'x', 'x'}", NULL, 1},
      {"return {'z'}", NULL, 1},
      {"return {1}", NULL, 1},
      {"return {a[1]}", NULL, 1},
      {"return {x = true}", NULL, 1},
      {"return 'x'", NULL, 1},
      {"return a[3].id", NULL, 1},
      {"while true do end", NULL, 1},
  };
  json_t *candidates = json_pack("[{s:s}, {s:s}]", "id", "x", "id", "y");
  json_t *facts = json_pack("{s:i}", "now", 7);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    asked a;
    open_asked(&a, "choose", rows[i].body);
    json_t *order = bq_decide_choose(&a.decider, candidates, facts);
    char *text = order != NULL ? json_dumps(order, 0) : NULL;
    if ((text == NULL) != (rows[i].order == NULL) || (text != NULL && strcmp(text, rows[i].order) != 0) ||
        a.failures != rows[i].failures) {
      fail_msg("%s: %s, failures %d %s", rows[i].body, text != NULL ? text : "by key", a.failures, a.last.message);
    }
    bq_free(text);
    json_decref(order);
    close_asked(&a);
  }
  assert_null(bq_decide_choose(&(bq_decider){0}, candidates, facts));
  json_decref(candidates);
  json_decref(facts);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(keys_are_ordered_by_priority_then_time), cmocka_unit_test(delays_double_and_are_bounded),
      cmocka_unit_test(places_a_build),                         cmocka_unit_test(decides_about_a_retry),
      cmocka_unit_test(decides_about_admission),                cmocka_unit_test(chooses_among_candidates),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
