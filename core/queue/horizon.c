#include "queue/horizon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "io/sql_outline.h"
#include "queue/server_metrics.h"

enum {
  HOLDERS = 8,      // as many as the statement answers
  QUERY_BYTES = 200 // of a query, as it is shown
};

// One that was there at the last look.
typedef struct holder {
  char key[200];
  char xmin[24];    // what it holds
  int64_t since_us; // bq_clock_mono_us: it has held just that since
  int told;         // in the log
} holder;

struct bq_horizon {
  bq_horizon_options options;
  holder holders[HOLDERS];
  int count;
  int asking; // a look is under way
};

// Columns of the statement.
enum { KIND, PID, KEY, XMIN, SECONDS, ROLE, APPLICATION, QUERY };

int bq_horizon_new(bq_horizon **out, const bq_horizon_options *options, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for looking at what holds PostgreSQL back");
  (*out)->options = *options;
  return 0;
}

void bq_horizon_free(bq_horizon *horizon) {
  bq_free(horizon);
}

// A text of somebody else's, without secrets that we know, and not too long. The caller's.
static char *shown(const bq_horizon *horizon, const char *text) {
  bq_buf out = {0};
  bq_mask_text(*horizon->options.hidden, text, strlen(text), &out);
  bq_buf_adds(&out, ""); // a text of its own, also without a byte
  char *result = bq_buf_take(&out);
  if (result == NULL) return NULL;
  if (strlen(result) > QUERY_BYTES) memcpy(result + QUERY_BYTES - 3, "...", 4);
  bq_utf8_clean(result);
  return result;
}

static char *outline_of(const bq_horizon *horizon, const char *query) {
  bq_buf out = {0};
  bq_sql_outline(query, &out);
  bq_buf_adds(&out, "");
  char *outline = bq_buf_take(&out);
  char *result = outline != NULL ? shown(horizon, outline) : NULL;
  bq_free(outline);
  return result;
}

// What is known of it from the last look, or what is to be known from now on. What has no date (a slot) and holds something
// else now has begun anew: it is told again when it stays at that. A transaction that has one stays the same.
static holder recall(const bq_horizon *horizon, const char *key, const char *xmin, int is_dated) {
  holder h = {.since_us = bq_clock_mono_us()};
  (void)snprintf(h.key, sizeof h.key, "%s", key);
  (void)snprintf(h.xmin, sizeof h.xmin, "%s", xmin);
  for (int i = 0; i < horizon->count; i++) {
    const holder *known = &horizon->holders[i];
    if (strcmp(known->key, h.key) != 0) continue;
    int is_same = strcmp(known->xmin, h.xmin) == 0;
    if (is_same || is_dated) h.told = known->told;
    if (is_same) h.since_us = known->since_us;
  }
  return h;
}

static void name(const bq_horizon *horizon, holder *h, const bq_pg_result *result, int row, double seconds) {
  const PGresult *rows = result->rows;
  char took[32];
  char *kind = shown(horizon, PQgetvalue(rows, row, KIND));
  char *query = outline_of(horizon, PQgetvalue(rows, row, QUERY));
  char *role = shown(horizon, PQgetvalue(rows, row, ROLE));
  char *application = shown(horizon, PQgetvalue(rows, row, APPLICATION));
  const char *pid = PQgetvalue(rows, row, PID);
  if (kind == NULL || query == NULL || role == NULL || application == NULL) goto cleanup;
  const char *labels[] = {kind, pid, query};
  bq_metrics_set(horizon->options.metrics, BQ_M_HORIZON_HOLDER, labels, seconds);
  if (h->told) goto cleanup;
  h->told = 1;
  (void)snprintf(took, sizeof took, "%.0f", seconds);
  bq_log(BQ_WARN, "PostgreSQL can't clean up: tables and indexes grow until this ends", "holder", kind, "pid", pid, "seconds",
         took, "role", role, "application", application, "query", query, NULL);
cleanup:
  bq_free(kind);
  bq_free(query);
  bq_free(role);
  bq_free(application);
}

static void on_answer(void *arg, const bq_pg_result *result) {
  bq_horizon *horizon = arg;
  horizon->asking = 0;
  if (result->error != NULL) {
    if (result->error->code == BQ_EDATABASE) bq_log_error("what holds PostgreSQL back could not be asked", result->error);
    return;
  }
  holder now[HOLDERS] = {0};
  int count = PQntuples(result->rows);
  double oldest = 0;
  if (count > HOLDERS) count = HOLDERS;
  bq_metrics_clear(horizon->options.metrics, BQ_M_HORIZON_HOLDER);
  for (int row = 0; row < count; row++) {
    int is_dated = !PQgetisnull(result->rows, row, SECONDS);
    now[row] = recall(horizon, PQgetvalue(result->rows, row, KEY), PQgetvalue(result->rows, row, XMIN), is_dated);
    double seconds = is_dated ? strtod(PQgetvalue(result->rows, row, SECONDS), NULL)
                              : (double)(bq_clock_mono_us() - now[row].since_us) / 1e6;
    if (seconds > oldest) oldest = seconds;
    if (seconds >= (*horizon->options.config)->horizon_warning_seconds) name(horizon, &now[row], result, row, seconds);
  }
  bq_metrics_set(horizon->options.metrics, BQ_M_HORIZON, NULL, oldest);
  memcpy(horizon->holders, now, (size_t)count * sizeof now[0]);
  horizon->count = count;
}

void bq_horizon_look(bq_horizon *horizon) {
  bq_error err;
  if (horizon->asking) return;
  if (bq_store_query(horizon->options.store, "horizon", 0, NULL, on_answer, horizon, &err) == 0) horizon->asking = 1;
  else bq_log_error("what holds PostgreSQL back could not be asked", &err);
}
