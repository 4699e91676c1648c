#include "base/metrics.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

// Builds last from tens of milliseconds to hours; one scale serves waits and durations, so that they can be compared.
static const double bucket_bounds[BQ_METRIC_BUCKETS] = {0.01, 0.05, 0.25, 1,   2.5,  5,    10,
                                                        30,   60,   120,  300, 900, 1800, 3600};

typedef struct series {
  char *labels[BQ_METRIC_MAX_LABELS]; // owned values
  double value;                       // of a counter or gauge; the sum of a histogram
  uint64_t count;                     // of a histogram
  uint64_t buckets[BQ_METRIC_BUCKETS]; // observations up to each bound (not cumulative)
} series;

typedef struct family {
  series *series; // owned, `count` in use
  size_t count;
  size_t capacity;
} family;

struct bq_metrics {
  const bq_metric_info *table; // borrowed
  size_t count;
  family families[]; // one for each row of the table
};

int bq_metrics_new(bq_metrics **out, const bq_metric_info *table, size_t count, bq_error *err) {
  bq_metrics *metrics = bq_alloc(sizeof *metrics + count * sizeof metrics->families[0]);
  *out = metrics;
  if (metrics == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for metrics");
  metrics->table = table;
  metrics->count = count;
  return 0;
}

static size_t label_count(const bq_metric_info *info) {
  size_t count = 0;
  while (count < BQ_METRIC_MAX_LABELS && info->labels[count] != NULL) count++;
  return count;
}

static void clear_family(family *f) {
  for (size_t i = 0; i < f->count; i++) {
    for (size_t j = 0; j < BQ_METRIC_MAX_LABELS; j++) bq_free(f->series[i].labels[j]);
  }
  f->count = 0;
}

void bq_metrics_free(bq_metrics *metrics) {
  if (metrics == NULL) return;
  for (size_t i = 0; i < metrics->count; i++) {
    clear_family(&metrics->families[i]);
    bq_free(metrics->families[i].series);
  }
  bq_free(metrics);
}

void bq_metrics_clear(bq_metrics *metrics, size_t index) {
  clear_family(&metrics->families[index]);
}

static int same_labels(const series *s, const char *const *labels, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (strcmp(s->labels[i], labels[i]) != 0) return 0;
  }
  return 1;
}

static series *find(family *f, const char *const *labels, size_t count) {
  for (size_t i = 0; i < f->count; i++) {
    if (same_labels(&f->series[i], labels, count)) return &f->series[i];
  }
  return NULL;
}

static series *add_series(family *f, const char *const *labels, size_t count) {
  if (f->count == f->capacity) {
    size_t capacity = f->capacity > 0 ? 2 * f->capacity : 4;
    series *grown = bq_realloc(f->series, capacity * sizeof *grown);
    if (grown == NULL) return NULL;
    f->series = grown;
    f->capacity = capacity;
  }
  series *s = &f->series[f->count];
  *s = (series){0};
  for (size_t i = 0; i < count; i++) {
    s->labels[i] = bq_strdup(labels[i]);
    if (s->labels[i] != NULL) continue;
    for (size_t j = 0; j < i; j++) bq_free(s->labels[j]);
    return NULL;
  }
  f->count++;
  return s;
}

static series *series_of(bq_metrics *metrics, size_t index, const char *const *labels) {
  static const char *const other[BQ_METRIC_MAX_LABELS] = {"other", "other", "other"};
  family *f = &metrics->families[index];
  size_t count = label_count(&metrics->table[index]);
  series *s = find(f, labels, count);
  if (s != NULL) return s;
  if (f->count < BQ_METRIC_MAX_SERIES) return add_series(f, labels, count);
  s = find(f, other, count);
  return s != NULL ? s : add_series(f, other, count);
}

void bq_metrics_add(bq_metrics *metrics, size_t index, const char *const *labels, double amount) {
  series *s = series_of(metrics, index, labels);
  if (s != NULL) s->value += amount;
}

void bq_metrics_set(bq_metrics *metrics, size_t index, const char *const *labels, double value) {
  series *s = series_of(metrics, index, labels);
  if (s != NULL) s->value = value;
}

void bq_metrics_observe(bq_metrics *metrics, size_t index, const char *const *labels, double seconds) {
  series *s = series_of(metrics, index, labels);
  if (s == NULL) return;
  s->value += seconds;
  s->count++;
  for (size_t i = 0; i < BQ_METRIC_BUCKETS; i++) {
    if (seconds > bucket_bounds[i]) continue;
    s->buckets[i]++;
    return;
  }
}

static void write_escaped(bq_buf *out, const char *value) {
  for (const char *c = value; *c != '\0'; c++) {
    if (*c == '\\' || *c == '"') bq_buf_addc(out, '\\');
    if (*c == '\n') bq_buf_adds(out, "\\n");
    else bq_buf_addc(out, *c);
  }
}

// Writes "name<suffix>{labels,extra} "; `extra` is an already formed label or NULL.
static void write_name(bq_buf *out, const bq_metric_info *info, const char *suffix, const series *s,
                       const char *extra) {
  bq_buf_addf(out, "%s%s", info->name, suffix);
  size_t count = label_count(info);
  if (count > 0 || extra != NULL) {
    bq_buf_addc(out, '{');
    for (size_t i = 0; i < count; i++) {
      bq_buf_addf(out, "%s%s=\"", i > 0 ? "," : "", info->labels[i]);
      write_escaped(out, s->labels[i]);
      bq_buf_addc(out, '"');
    }
    if (extra != NULL) bq_buf_addf(out, "%s%s", count > 0 ? "," : "", extra);
    bq_buf_addc(out, '}');
  }
  bq_buf_addc(out, ' ');
}

static void write_histogram(bq_buf *out, const bq_metric_info *info, const series *s) {
  uint64_t sum = 0;
  for (size_t i = 0; i < BQ_METRIC_BUCKETS; i++) {
    char bound[32];
    sum += s->buckets[i];
    (void)snprintf(bound, sizeof bound, "le=\"%g\"", bucket_bounds[i]);
    write_name(out, info, "_bucket", s, bound);
    bq_buf_addf(out, "%llu\n", (unsigned long long)sum);
  }
  write_name(out, info, "_bucket", s, "le=\"+Inf\"");
  bq_buf_addf(out, "%llu\n", (unsigned long long)s->count);
  write_name(out, info, "_sum", s, NULL);
  bq_buf_addf(out, "%.17g\n", s->value);
  write_name(out, info, "_count", s, NULL);
  bq_buf_addf(out, "%llu\n", (unsigned long long)s->count);
}

void bq_metrics_write(const bq_metrics *metrics, bq_buf *out) {
  static const char *const kinds[] = {"counter", "gauge", "histogram"};
  for (size_t i = 0; i < metrics->count; i++) {
    const bq_metric_info *info = &metrics->table[i];
    const family *f = &metrics->families[i];
    bq_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", info->name, info->help, info->name, kinds[info->kind]);
    for (size_t j = 0; j < f->count; j++) {
      if (info->kind == BQ_HISTOGRAM) {
        write_histogram(out, info, &f->series[j]);
        continue;
      }
      write_name(out, info, "", &f->series[j], NULL);
      bq_buf_addf(out, "%.17g\n", f->series[j].value);
    }
  }
}
