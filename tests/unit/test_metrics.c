// Metrics: the text that Prometheus reads, byte for byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/metrics.h"

enum { BUILDS, DEPTH, WAIT };

static const bq_metric_info table[] = {
    {"buildq_builds_total", "Builds that ended.", BQ_COUNTER, {"status", "tier"}},
    {"buildq_depth", "Builds that wait.", BQ_GAUGE, {NULL}},
    {"buildq_wait_seconds", "How long builds wait.", BQ_HISTOGRAM, {"tier"}},
};

static bq_metrics *make(void) {
  bq_metrics *metrics;
  bq_error err;
  assert_int_equal(bq_metrics_new(&metrics, table, sizeof table / sizeof table[0], &err), 0);
  return metrics;
}

static void writes_the_text_format(void **state) {
  (void)state;
  bq_metrics *metrics = make();
  bq_metrics_add(metrics, BUILDS, (const char *[]){"success", "pro"}, 1);
  bq_metrics_add(metrics, BUILDS, (const char *[]){"a\"b\\c\nd", "pro"}, 1);
  bq_metrics_add(metrics, BUILDS, (const char *[]){"success", "pro"}, 2);
  bq_metrics_set(metrics, DEPTH, NULL, 7);
  bq_metrics_set(metrics, DEPTH, NULL, 4.5);
  bq_metrics_observe(metrics, WAIT, (const char *[]){"pro"}, 0.01); // a bound belongs to its bucket
  bq_metrics_observe(metrics, WAIT, (const char *[]){"pro"}, 2.25);
  bq_metrics_observe(metrics, WAIT, (const char *[]){"pro"}, 4000);
  bq_buf out = {0};
  bq_metrics_write(metrics, &out);
  assert_string_equal(out.data,
                      "# HELP buildq_builds_total Builds that ended.\n# TYPE buildq_builds_total counter\n"
                      "buildq_builds_total{status=\"success\",tier=\"pro\"} 3\n"
                      "buildq_builds_total{status=\"a\\\"b\\\\c\\nd\",tier=\"pro\"} 1\n"
                      "# HELP buildq_depth Builds that wait.\n# TYPE buildq_depth gauge\nbuildq_depth 4.5\n"
                      "# HELP buildq_wait_seconds How long builds wait.\n# TYPE buildq_wait_seconds histogram\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"0.01\"} 1\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"0.05\"} 1\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"0.25\"} 1\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"1\"} 1\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"2.5\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"5\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"10\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"30\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"60\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"120\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"300\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"900\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"1800\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"3600\"} 2\n"
                      "buildq_wait_seconds_bucket{tier=\"pro\",le=\"+Inf\"} 3\n"
                      "buildq_wait_seconds_sum{tier=\"pro\"} 4002.2600000000002\n"
                      "buildq_wait_seconds_count{tier=\"pro\"} 3\n");
  bq_buf_free(&out);
  bq_metrics_free(metrics);
}

static void forgets_a_gauge(void **state) {
  (void)state;
  bq_metrics *metrics = make();
  bq_buf out = {0};
  bq_metrics_set(metrics, DEPTH, NULL, 7);
  bq_metrics_clear(metrics, DEPTH);
  bq_metrics_write(metrics, &out);
  assert_null(strstr(out.data, "\nbuildq_depth "));
  bq_buf_free(&out);
  bq_metrics_free(metrics);
}

static void bounds_label_sets(void **state) {
  (void)state;
  bq_metrics *metrics = make();
  bq_buf out = {0};
  for (int i = 0; i < BQ_METRIC_MAX_SERIES + 50; i++) {
    char status[20];
    (void)snprintf(status, sizeof status, "s%d", i);
    bq_metrics_add(metrics, BUILDS, (const char *[]){status, "t"}, 1);
  }
  bq_metrics_write(metrics, &out);
  size_t lines = 0;
  for (const char *at = out.data; (at = strstr(at, "\nbuildq_builds_total{")) != NULL; at++) lines++;
  assert_int_equal(lines, BQ_METRIC_MAX_SERIES + 1);
  assert_non_null(strstr(out.data, "buildq_builds_total{status=\"other\",tier=\"other\"} 50\n"));
  bq_buf_free(&out);
  bq_metrics_free(metrics);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(writes_the_text_format), cmocka_unit_test(forgets_a_gauge),
                                     cmocka_unit_test(bounds_label_sets)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
