// When a waiting build starts and ends: the queue is played through some times with chance durations. Pure.
//
// A duration is log-normal, by its median and its 90th percentile. A running build's is at least what has passed. The
// same input gives the same answer.
#ifndef BQ_QUEUE_FORECAST_H
#define BQ_QUEUE_FORECAST_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// Builds of one kind.
typedef struct bq_work {
  double median_s;  // above 0
  double high_s;    // 90 of 100 take no longer; below the median counts as the median
  double elapsed_s; // of a running one
  int64_t count;    // of waiting ones
} bq_work;

typedef struct bq_forecast_input {
  int64_t slots;         // of the cluster, at least 1
  const bq_work *running; // one entry a build; more than slots are taken as the first `slots`
  size_t running_count;
  const bq_work *ahead;  // kinds that are claimed first
  size_t ahead_count;
  bq_work own;           // the build itself
  double not_before_s;   // from now: a retry waits for its time
} bq_forecast_input;

// Seconds from now.
typedef struct bq_forecast {
  double start_p50_s;
  double start_p90_s;
  double end_p50_s;
  double end_p90_s;
} bq_forecast;

enum {
  BQ_FORECAST_ROUNDS = 64,     // how often the queue is played
  BQ_FORECAST_EXACT = 1000,    // builds ahead that are played one by one; more are poured into the slots like water
  BQ_FORECAST_MAX_SLOTS = 4096 // more count as so many
};

// BQ_ENOMEM. Some milliseconds of computing at most.
int bq_forecast_start(const bq_forecast_input *input, bq_forecast *out, bq_error *err) BQ_MUSTCHECK;

// What is left of a running build.
void bq_forecast_rest(const bq_work *running, double *p50_s, double *p90_s);

#endif
