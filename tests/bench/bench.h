// What the programs of this room share: clocks, medians, and how a figure is told to run.lua (one JSON object a line).
#ifndef BQ_TESTS_BENCH_H
#define BQ_TESTS_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// `clock`: CLOCK_MONOTONIC, or CLOCK_THREAD_CPUTIME_ID for what one thread computes: others on the machine don't count.
static inline double bench_seconds(clockid_t clock) {
  struct timespec now;
  (void)clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline int bench_compare(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

// Sorts `values`. The share is 0.5 for the median, 0.99 for p99.
static inline double bench_percentile(double *values, size_t count, double share) {
  qsort(values, count, sizeof *values, bench_compare);
  size_t at = (size_t)(share * (double)count);
  return values[at < count ? at : count - 1];
}

// One figure: `value` beside `limit`, what was measured in the same run for comparison. `ratio` is value / limit, or
// the median of such ratios. It should be `aim` at most.
static inline void bench_report(const char *group, const char *name, double value, const char *unit, const char *beside,
                                double limit, double ratio, double aim) {
  printf("{\"group\":\"%s\",\"name\":\"%s\",\"value\":%.4g,\"unit\":\"%s\",\"beside\":\"%s\",\"limit\":%.4g,"
         "\"ratio\":%.4g,\"aim\":%.4g,\"better\":\"lower\"}\n",
         group, name, value, unit, beside, limit, ratio, aim);
  (void)fflush(stdout);
}

_Noreturn static inline void bench_fail(const char *message) {
  (void)fprintf(stderr, "%s\n", message);
  exit(1);
}

#endif
