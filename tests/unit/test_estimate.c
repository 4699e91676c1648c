// What is known of builds of a kind, and the estimate that is made of it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "queue/estimate.h"

#define KIND(level, pipeline, tier, architecture, count, p50)                                                          \
  "{\"level\":" #level ",\"pipeline\":\"" pipeline "\",\"tier\":\"" tier "\",\"architecture\":\"" architecture             \
  "\",\"count\":" #count ",\"p50\":" #p50 ",\"p90\":90,\"mean\":70}"

static const bq_decider built_in_only = {0};

static bq_history *history_of(const char *json) {
  bq_history *history;
  bq_error err;
  json_t *list = json_loads(json, 0, NULL);
  assert_non_null(list);
  assert_int_equal(bq_history_new(&history, &err), 0);
  assert_int_equal(bq_history_set(history, list, &err), 0);
  json_decref(list);
  return history;
}

static void expect_kind(const bq_history *history, const char *pipeline, const char *tier, const char *architecture,
                        const char *of, int p50) {
  const json_t *kind = bq_history_find(history, pipeline, tier, architecture);
  assert_string_equal(json_string_value(json_object_get(kind, "of")), of);
  assert_int_equal(json_number_value(json_object_get(kind, "p50")), p50);
}

static void the_narrowest_kind_with_enough_builds_counts(void **state) {
  (void)state;
  bq_history *history = history_of("[" KIND(0, "p", "t", "a", 5, 1) "," KIND(0, "p", "few", "a", 4, 2) ","
                                   KIND(1, "p", "", "a", 9, 3) "," KIND(2, "p", "", "", 9, 4) ","
                                   KIND(3, "", "", "", 9, 5) "]");
  expect_kind(history, "p", "t", "a", "pipeline, tier, architecture", 1);
  expect_kind(history, "p", "few", "a", "pipeline, architecture", 3);
  expect_kind(history, "p", "new", "a", "pipeline, architecture", 3);
  expect_kind(history, "p", "t", "new", "pipeline", 4);
  expect_kind(history, "new", "t", "a", "all", 5);
  bq_history_free(history);
}

static void with_few_builds_the_narrowest_counts(void **state) {
  (void)state;
  bq_history *history = history_of("[" KIND(0, "p", "t", "a", 1, 1) "," KIND(3, "", "", "", 1, 5) "]");
  expect_kind(history, "p", "t", "a", "pipeline, tier, architecture", 1);
  expect_kind(history, "p", "t", "b", "all", 5);
  bq_history_free(history);
}

static void odd_lists_are_taken_for_what_they_are(void **state) {
  (void)state;
  bq_history *history = history_of("[]");
  bq_estimate estimate;
  bq_error err;
  const json_t *nothing = bq_history_find(history, "p", "t", "a");
  assert_int_equal(json_integer_value(json_object_get(nothing, "count")), 0);
  bq_decide_estimate(&built_in_only, NULL, nothing, &estimate);
  assert_false(estimate.known);
  assert_null(bq_estimate_json(&estimate, nothing));
  json_t *broken = json_loads("[{\"level\":9}, {\"level\":0}]", 0, NULL);
  assert_int_equal(bq_history_set(history, broken, &err), BQ_ENOMEM); // an entry without its figures
  json_decref(broken);
  char huge[4000];
  memset(huge, 'x', sizeof huge - 1);
  huge[sizeof huge - 1] = '\0';
  assert_ptr_equal(bq_history_find(history, huge, huge, huge), nothing);
  bq_history_free(history);
}

static void the_built_in_rule_is_p50_and_p90(void **state) {
  (void)state;
  bq_history *history = history_of("[" KIND(3, "", "", "", 7, 61.23456) "]");
  bq_estimate estimate;
  const json_t *kind = bq_history_find(history, "p", "t", "a");
  bq_decide_estimate(&built_in_only, NULL, kind, &estimate);
  json_t *json = bq_estimate_json(&estimate, kind);
  char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(12));
  assert_string_equal(text, "{\"basedOn\":{\"count\":7,\"of\":\"all\"},\"seconds\":61.235,\"secondsHigh\":90.0}");
  free(text);
  json_decref(json);
  bq_history_free(history);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_narrowest_kind_with_enough_builds_counts),
                                     cmocka_unit_test(with_few_builds_the_narrowest_counts),
                                     cmocka_unit_test(odd_lists_are_taken_for_what_they_are),
                                     cmocka_unit_test(the_built_in_rule_is_p50_and_p90)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
