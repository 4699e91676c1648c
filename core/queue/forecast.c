#include "queue/forecast.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

// The upper half of 64 evenly likely values of the standard normal distribution; the lower half is its mirror.
static const double upper[32] = {0.0196, 0.0588, 0.0981, 0.1375, 0.1772, 0.2171, 0.2574, 0.2981, 0.3393, 0.3811, 0.4236,
                                 0.4668, 0.5110, 0.5561, 0.6024, 0.6501, 0.6993, 0.7502, 0.8032, 0.8585, 0.9166, 0.9779,
                                 1.0432, 1.1132, 1.1892, 1.2727, 1.3662, 1.4735, 1.6010, 1.7617, 1.9874, 2.4176};
enum { QUANTILES = 64, P50 = BQ_FORECAST_ROUNDS / 2, P90 = BQ_FORECAST_ROUNDS * 9 / 10 };

static const double z90 = 1.2816; // the 90th percentile of the standard normal distribution

static double quantile(unsigned i) {
  return i < QUANTILES / 2 ? -upper[QUANTILES / 2 - 1 - i] : upper[i - QUANTILES / 2];
}

// Logarithms of a duration: normally distributed.
typedef struct duration {
  double mu;
  double sigma;
} duration;

static duration duration_of(const bq_work *work) {
  double median = work->median_s > 0.001 ? work->median_s : 0.001;
  return (duration){.mu = log(median), .sigma = work->high_s > median ? log(work->high_s / median) / z90 : 0};
}

// xorshift64*: the same sequence for the same input.
static uint64_t chance(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(2685821657736338717) >> 32;
}

static double sample(const duration *d, uint64_t *state) {
  return exp(d->mu + d->sigma * quantile((unsigned)(chance(state) % QUANTILES)));
}

// The first quantile that lasts longer than what has passed; QUANTILES when none does.
static unsigned first_left(const duration *d, double elapsed_s) {
  unsigned first = 0;
  double passed = log(elapsed_s > 0.001 ? elapsed_s : 0.001);
  while (first < QUANTILES && d->mu + d->sigma * quantile(first) <= passed) first++;
  return first;
}

// What is left at quantile `i` of those from `first`. A build that outlasts all its kind ends any moment.
static double rest_at(const duration *d, double elapsed_s, unsigned first, unsigned i) {
  if (first == QUANTILES) return 1 + elapsed_s / 20;
  return exp(d->mu + d->sigma * quantile(first + i)) - elapsed_s;
}

void bq_forecast_rest(const bq_work *running, double *p50_s, double *p90_s) {
  duration d = duration_of(running);
  unsigned first = first_left(&d, running->elapsed_s);
  unsigned left = QUANTILES - first;
  *p50_s = rest_at(&d, running->elapsed_s, first, left / 2);
  *p90_s = rest_at(&d, running->elapsed_s, first, left * 9 / 10);
}

// One playing of the queue ------------------------------------------------------------------------------------------

typedef struct game {
  const bq_forecast_input *input;
  uint64_t state;       // of chance
  size_t slots;
  double *free_at;      // a heap, the smallest first; or sorted, when water is poured
  duration *kinds;      // of ahead
  size_t *jobs;         // places in kinds, one a build; NULL when water is poured
  size_t job_count;
  double work_mean_s;   // of all ahead
  double work_var;
} game;

static void sift_down(double *heap, size_t count, size_t at) {
  double value = heap[at];
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= value) break;
    heap[at] = heap[child];
  }
  heap[at] = value;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static void fill_slots(game *g) {
  const bq_forecast_input *in = g->input;
  for (size_t i = 0; i < g->slots; i++) {
    g->free_at[i] = 0;
    if (i >= in->running_count) continue;
    duration d = duration_of(&in->running[i]);
    unsigned first = first_left(&d, in->running[i].elapsed_s);
    unsigned left = first < QUANTILES ? QUANTILES - first : 1;
    g->free_at[i] = rest_at(&d, in->running[i].elapsed_s, first, (unsigned)(chance(&g->state) % left));
  }
}

// One by one, in an order of chance: which kinds come first is not known.
static double play_jobs(game *g) {
  for (size_t i = g->slots / 2; i-- > 0;) sift_down(g->free_at, g->slots, i);
  for (size_t left = g->job_count; left > 0; left--) {
    size_t pick = (size_t)(chance(&g->state) % left);
    size_t job = g->jobs[pick];
    g->jobs[pick] = g->jobs[left - 1];
    g->jobs[left - 1] = job;
    g->free_at[0] += sample(&g->kinds[job], &g->state);
    sift_down(g->free_at, g->slots, 0);
  }
  return g->free_at[0];
}

// All work ahead at once: the level it reaches over the slots as they get free.
static double pour(game *g) {
  double work = g->work_mean_s + sqrt(g->work_var) * quantile((unsigned)(chance(&g->state) % QUANTILES));
  if (work < 0) work = 0;
  qsort(g->free_at, g->slots, sizeof *g->free_at, by_value);
  double sum = 0;
  size_t wet = 0;
  while (wet < g->slots && g->free_at[wet] * (double)wet - sum <= work) sum += g->free_at[wet++];
  return wet > 0 ? (work + sum) / (double)wet : 0;
}

static int64_t count_ahead(const bq_forecast_input *input) {
  int64_t count = 0;
  for (size_t i = 0; i < input->ahead_count; i++) count += input->ahead[i].count;
  return count;
}

static void add_work(game *g, const duration *d, int64_t count) {
  double mean = exp(d->mu + d->sigma * d->sigma / 2);
  g->work_mean_s += mean * (double)count;
  g->work_var += (exp(d->sigma * d->sigma) - 1) * mean * mean * (double)count;
}

static int set_up(game *g, bq_error *err) {
  const bq_forecast_input *in = g->input;
  int64_t count = count_ahead(in);
  g->slots = (size_t)(in->slots < 1 ? 1 : in->slots > BQ_FORECAST_MAX_SLOTS ? BQ_FORECAST_MAX_SLOTS : in->slots);
  g->free_at = bq_alloc(g->slots * sizeof *g->free_at);
  g->kinds = bq_alloc((in->ahead_count + 1) * sizeof *g->kinds);
  if (count <= BQ_FORECAST_EXACT) g->jobs = bq_alloc(((size_t)count + 1) * sizeof *g->jobs);
  if (g->free_at == NULL || g->kinds == NULL || (count <= BQ_FORECAST_EXACT && g->jobs == NULL)) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for a forecast");
  }
  for (size_t kind = 0; kind < in->ahead_count; kind++) {
    g->kinds[kind] = duration_of(&in->ahead[kind]);
    add_work(g, &g->kinds[kind], in->ahead[kind].count);
    for (int64_t i = 0; g->jobs != NULL && i < in->ahead[kind].count; i++) g->jobs[g->job_count++] = kind;
  }
  return 0;
}

int bq_forecast_start(const bq_forecast_input *input, bq_forecast *out, bq_error *err) {
  game g = {.input = input, .state = UINT64_C(0x9E3779B97F4A7C15)};
  double starts[BQ_FORECAST_ROUNDS];
  double ends[BQ_FORECAST_ROUNDS];
  duration own = duration_of(&input->own);
  int result = set_up(&g, err);
  if (result < 0) goto cleanup;
  for (int round = 0; round < BQ_FORECAST_ROUNDS; round++) {
    fill_slots(&g);
    double start = g.jobs != NULL ? play_jobs(&g) : pour(&g);
    if (start < input->not_before_s) start = input->not_before_s;
    starts[round] = start;
    ends[round] = start + sample(&own, &g.state);
  }
  qsort(starts, BQ_FORECAST_ROUNDS, sizeof starts[0], by_value);
  qsort(ends, BQ_FORECAST_ROUNDS, sizeof ends[0], by_value);
  *out = (bq_forecast){
      .start_p50_s = starts[P50], .start_p90_s = starts[P90], .end_p50_s = ends[P50], .end_p90_s = ends[P90]};
cleanup:
  bq_free(g.free_at);
  bq_free(g.kinds);
  bq_free(g.jobs);
  return result;
}
