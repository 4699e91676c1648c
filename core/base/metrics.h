// Metrics: counters, gauges and histograms with labels, written as Prometheus text (exposition format 0.0.4).
//
// A room declares its metrics as one const table of bq_metric_info; an index into that table names a metric.
// Thread rule: the loop's thread only.
#ifndef BQ_BASE_METRICS_H
#define BQ_BASE_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

typedef enum bq_metric_kind { BQ_COUNTER, BQ_GAUGE, BQ_HISTOGRAM } bq_metric_kind;

enum {
  BQ_METRIC_MAX_LABELS = 3,
  BQ_METRIC_MAX_SERIES = 1000, // of one metric; later label sets are counted in the series whose labels are "other"
  BQ_METRIC_BUCKETS = 14       // of a histogram, besides +Inf: see bucket_bounds in metrics.c, in seconds
};

typedef struct bq_metric_info {
  const char *name;                         // "buildq_build_wait_seconds"
  const char *help;                         // one sentence; says whether it counts this server or the whole database
  bq_metric_kind kind;
  const char *labels[BQ_METRIC_MAX_LABELS]; // names; NULL ends the list early
} bq_metric_info;

typedef struct bq_metrics bq_metrics;

// `table` is borrowed and must outlive the metrics.
int bq_metrics_new(bq_metrics **out, const bq_metric_info *table, size_t count, bq_error *err) BQ_MUSTCHECK;
void bq_metrics_free(bq_metrics *metrics);

// `labels` has as many values as the metric has label names; NULL when it has none. Without memory for a new series
// the observation is dropped: a metric is never a reason to fail.
void bq_metrics_add(bq_metrics *metrics, size_t index, const char *const *labels, double amount);     // counter
void bq_metrics_set(bq_metrics *metrics, size_t index, const char *const *labels, double value);      // gauge
void bq_metrics_observe(bq_metrics *metrics, size_t index, const char *const *labels, double seconds); // histogram
void bq_metrics_clear(bq_metrics *metrics, size_t index); // forgets all series of one gauge, before it is set anew

void bq_metrics_write(const bq_metrics *metrics, bq_buf *out);

#endif
