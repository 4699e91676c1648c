// Forecasts: against what can be computed by hand.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>

#include "queue/forecast.h"

static bq_forecast forecast(const bq_forecast_input *input) {
  bq_forecast out;
  bq_error err;
  assert_int_equal(bq_forecast_start(input, &out, &err), 0);
  assert_true(out.start_p50_s <= out.start_p90_s);
  assert_true(out.end_p50_s <= out.end_p90_s);
  assert_true(out.end_p50_s >= out.start_p50_s);
  return out;
}

static void expect_near(double expected, double tolerance, double value) {
  if (value < expected - tolerance || value > expected + tolerance) fail_msg("%f is not %f", value, expected);
}

static void an_empty_cluster_starts_at_once(void **state) {
  (void)state;
  bq_forecast f = forecast(&(bq_forecast_input){.slots = 2, .own = {.median_s = 60, .high_s = 60}});
  expect_near(0, 0, f.start_p90_s);
  expect_near(60, 0.001, f.end_p50_s);
}

static void fixed_durations_add_up(void **state) {
  (void)state;
  const bq_work running[] = {{.median_s = 100, .high_s = 100, .elapsed_s = 40},
                             {.median_s = 100, .high_s = 100, .elapsed_s = 70}};
  const bq_work ahead[] = {{.median_s = 100, .high_s = 100, .count = 3}};
  // Free after 30 and 60; three of 100 each end at 130, 160 and 230: the second slot is free at 160.
  bq_forecast_input input = {.slots = 2, .running = running, .running_count = 2, .ahead = ahead, .ahead_count = 1,
                             .own = {.median_s = 10, .high_s = 10}};
  bq_forecast f = forecast(&input);
  expect_near(160, 0.001, f.start_p50_s);
  expect_near(160, 0.001, f.start_p90_s);
  expect_near(170, 0.001, f.end_p90_s);
  input.slots = 3; // one is free now: 30, 60, 100 → 100, 130, 160
  expect_near(100, 0.001, forecast(&input).start_p50_s);
  input.not_before_s = 500;
  expect_near(500, 0.001, forecast(&input).start_p50_s);
}

static void what_runs_longer_than_ever_ends_soon(void **state) {
  (void)state;
  const bq_work late = {.median_s = 60, .high_s = 90, .elapsed_s = 100000};
  double p50;
  double p90;
  bq_forecast_rest(&late, &p50, &p90);
  expect_near(5001, 0.5, p50);
  const bq_work fixed = {.median_s = 60, .high_s = 60, .elapsed_s = 20};
  bq_forecast_rest(&fixed, &p50, &p90);
  expect_near(40, 0.001, p50);
  expect_near(40, 0.001, p90);
}

// The longer it has run, the less is expected, but never nothing.
static void the_rest_shrinks(void **state) {
  (void)state;
  double last = 1e9;
  for (int elapsed = 0; elapsed < 60; elapsed += 10) {
    const bq_work work = {.median_s = 60, .high_s = 120, .elapsed_s = elapsed};
    double p50;
    double p90;
    bq_forecast_rest(&work, &p50, &p90);
    assert_true(p50 > 0 && p50 < last && p90 > p50);
    last = p50;
  }
}

static void spread_durations_give_a_later_p90(void **state) {
  (void)state;
  const bq_work ahead[] = {{.median_s = 60, .high_s = 180, .count = 1}};
  bq_forecast f = forecast(&(bq_forecast_input){
      .slots = 1, .ahead = ahead, .ahead_count = 1, .own = {.median_s = 60, .high_s = 180}});
  expect_near(60, 12, f.start_p50_s);
  expect_near(180, 40, f.start_p90_s);
}

// What is played one by one and what is poured agree where both can be done.
static void water_agrees_with_grains(void **state) {
  (void)state;
  bq_work ahead[] = {{.median_s = 60, .high_s = 120, .count = 600}, {.median_s = 300, .high_s = 400, .count = 400}};
  bq_forecast_input input = {.slots = 8, .ahead = ahead, .ahead_count = 2, .own = {.median_s = 60, .high_s = 90}};
  bq_forecast grains = forecast(&input);
  ahead[0].count++;
  bq_forecast water = forecast(&input);
  expect_near(grains.start_p50_s, grains.start_p50_s * 0.03, water.start_p50_s);
  expect_near(grains.start_p90_s, grains.start_p90_s * 0.03, water.start_p90_s);
}

static void the_same_input_gives_the_same_answer(void **state) {
  (void)state;
  const bq_work ahead[] = {{.median_s = 60, .high_s = 120, .count = 50}};
  bq_forecast_input input = {.slots = 3, .ahead = ahead, .ahead_count = 1, .own = {.median_s = 60, .high_s = 90}};
  bq_forecast first = forecast(&input);
  bq_forecast second = forecast(&input);
  assert_memory_equal(&first, &second, sizeof first);
}

static void odd_numbers_are_bounded(void **state) {
  (void)state;
  bq_work running[3] = {{.elapsed_s = 5}, {.median_s = -1}, {.median_s = 1e12, .high_s = 1}};
  bq_work ahead[] = {{.count = 1000000, .median_s = 1e6, .high_s = 1e9}};
  struct timespec from;
  struct timespec to;
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
  bq_forecast f = forecast(&(bq_forecast_input){.slots = 1000000, .running = running, .running_count = 3,
                                                .ahead = ahead, .ahead_count = 1});
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
  assert_true(f.start_p50_s > 0);
  assert_true(to.tv_sec - from.tv_sec < 5);
  f = forecast(&(bq_forecast_input){.slots = 0});
  expect_near(0, 0, f.start_p50_s);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(an_empty_cluster_starts_at_once),
                                     cmocka_unit_test(fixed_durations_add_up),
                                     cmocka_unit_test(what_runs_longer_than_ever_ends_soon),
                                     cmocka_unit_test(the_rest_shrinks),
                                     cmocka_unit_test(spread_durations_give_a_later_p90),
                                     cmocka_unit_test(water_agrees_with_grains),
                                     cmocka_unit_test(the_same_input_gives_the_same_answer),
                                     cmocka_unit_test(odd_numbers_are_bounded)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
