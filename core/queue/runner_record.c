// What is written about running attempts: progress while they run, and what became of them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/label.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "queue/runner_internal.h"
#include "queue/server_metrics.h"

const char *bq_row_text(json_t *row, const char *key) {
  const char *text = json_string_value(json_object_get(row, key));
  return text != NULL ? text : "";
}

void bq_running_free(bq_running *r) {
  json_decref(r->failure);
  bq_free(r);
}

static void record(bq_running *r);

// The outcome goes last.
static void record_when_written(bq_running *r) {
  r->ending = r->writing || r->keeping;
  if (!r->ending) record(r);
}

static void on_progress_written(void *arg, const bq_pg_result *result) {
  bq_running *r = arg;
  r->writing = 0;
  if (r->ending) {
    record_when_written(r);
    return;
  }
  if (result->error != NULL) {
    r->dirty = 1; // the next round tries again
    bq_timer_set(r->runner->progress_timer, BQ_PROGRESS_MS);
  } else if (PQntuples(result->rows) == 0 && r->outcome == NULL) {
    bq_attempt_stop(r->attempt, BQ_OUTCOME_SUPERSEDED, "another attempt has taken this build over");
  } else {
    // The timer may have come and gone while this write was under way.
    if (r->dirty) bq_timer_set(r->runner->progress_timer, BQ_PROGRESS_MS);
    r->runner->options.changed(r->runner->options.arg, r->id);
  }
  if (r->attempt == NULL) bq_running_free(r); // it ended meanwhile
}

static void write_progress(bq_running *r) {
  char percent[16];
  bq_error err;
  (void)snprintf(percent, sizeof percent, "%d", bq_attempt_percent(r->attempt));
  const char *step = bq_attempt_step(r->attempt);
  const char *params[] = {r->id, r->number, r->node_id, percent, step[0] != '\0' ? step : NULL,
                          bq_attempt_text(r->attempt)};
  r->dirty = 0;
  r->writing = 1;
  if (bq_store_query(r->runner->options.store, "progress", 6, params, on_progress_written, r, &err) == 0) return;
  r->writing = 0;
  r->dirty = 1;
  bq_timer_set(r->runner->progress_timer, BQ_PROGRESS_MS);
}

void bq_runner_write_progress(void *arg) {
  bq_runner *runner = arg;
  for (bq_running *r = runner->first; r != NULL; r = r->next) {
    if (r->dirty && !r->writing && r->outcome == NULL) write_progress(r);
  }
}

static void on_progressed(void *arg, bq_attempt *attempt) {
  (void)attempt;
  bq_running *r = arg;
  int quiet = !r->dirty;
  r->dirty = 1;
  if (quiet) bq_timer_set(r->runner->progress_timer, BQ_PROGRESS_MS);
}

// The end of an attempt ---------------------------------------------------------------------------------------------

static void note_end(bq_running *r, const char *status) {
  bq_metrics *metrics = r->runner->options.metrics;
  json_t *row = bq_attempt_row(r->attempt);
  const char *labels[] = {bq_row_text(row, "pipeline"), bq_row_text(row, "tier")};
  double seconds = (double)(bq_clock_mono_us() - r->started_us) / 1e6;
  bq_metrics_observe(metrics, BQ_M_DURATION, labels, seconds);
  bq_metrics_add(metrics, BQ_M_FINISHED, &status, 1);
  if (strcmp(status, "pending") == 0 && r->outcome->kind != BQ_OUTCOME_REQUEUED) {
    bq_metrics_add(metrics, BQ_M_RETRIES, NULL, 1);
  }
  char took[32];
  (void)snprintf(took, sizeof took, "%.3f", seconds);
  bq_log(r->outcome->kind == BQ_OUTCOME_FAILED ? BQ_WARN : BQ_INFO, "attempt ended", "build", r->id, "attempt",
         r->number, "status", status, "seconds", took, "error", r->outcome->message, NULL);
}

void bq_running_abandon(bq_running *r) {
  r->abandoned = 1;
  bq_attempt_close(r->attempt, 0);
}

static void requeue(bq_running *r, const char *why) {
  const char *params[] = {r->id, r->number, r->node_id, why};
  bq_error err;
  if (bq_store_write(r->runner->options.store, "requeue", 4, params, bq_running_on_recorded, r, &err) == 0) return;
  bq_log_error("a build could not be given back", &err);
  bq_running_abandon(r);
}

static void record_refused(bq_running *r, const bq_error *why);

static void on_row_recorded(void *arg, const bq_pg_result *result, int row) {
  bq_running *r = arg;
  if (result->error != NULL) {
    bq_log(BQ_ERROR, "the outcome of a build could not be recorded", "build", r->id, "attempt", r->number, "error",
           result->error->message, NULL);
    int refused = result->error->code == BQ_EDATABASE && r->outcome->kind != BQ_OUTCOME_REQUEUED;
    if (refused && !r->refused) record_refused(r, result->error);
    else if (refused) requeue(r, "its outcome could not be recorded");
    else bq_running_abandon(r);
    return;
  }
  const char *answer = PQntuples(result->rows) > row ? PQgetvalue(result->rows, row, 0) : "stale";
  int stale = strcmp(answer, "stale") == 0;
  static const char *const words[] = {"success", "failed", "timedout", "cancelled", "pending", "superseded"};
  const char *status = words[r->outcome->kind];
  if (PQnfields(result->rows) > 1 && !PQgetisnull(result->rows, row, 1)) status = PQgetvalue(result->rows, row, 1);
  note_end(r, stale ? "superseded" : status);
  r->runner->options.changed(r->runner->options.arg, r->id);
  bq_attempt_close(r->attempt, !stale && !r->refused);
}

void bq_running_on_recorded(void *arg, const bq_pg_result *result) {
  on_row_recorded(arg, result, 0);
}

static int record_success(bq_running *r, bq_error *err) {
  const bq_outcome *outcome = r->outcome;
  const char *base = r->runner->options.env->config->download_base_url;
  if (base[0] == '\0') base = r->runner->options.env->server_url;
  char *url = outcome->archive != NULL ? bq_format("%s/downloads/%s/%s", base, r->id, outcome->archive) : NULL;
  json_t *item = json_pack("{s:s, s:i, s:s, s:s?, s:s?, s:s?, s:O?, s:s?, s:s?}", "id", r->id, "attempt",
                           atoi(r->number), "node", r->node_id, "outputPath", outcome->output_path, "imageUrl",
                           outcome->image_url, "downloadUrl", url, "artifacts", outcome->artifacts, "logTail",
                           outcome->log_tail, "log", outcome->log);
  // Text that is no UTF-8 has no place in JSON, and none in the database.
  int result = item != NULL ? bq_batch_add(r->runner->finishes, item, on_row_recorded, r, err)
                            : bq_fail(err, BQ_EDATABASE, "the outcome can't be written as JSON");
  json_decref(item);
  bq_free(url);
  return result;
}

// PostgreSQL took the statement and not the data: it will not another time either. That is a failure like any other, and
// charged: given back uncharged, the build would start again for ever.
static void record_refused(bq_running *r, const bq_error *why) {
  bq_error err;
  char message[200];
  r->refused = 1;
  (void)snprintf(message, sizeof message, "the outcome (%s) was refused by the database: %.120s",
                 r->outcome->kind == BQ_OUTCOME_SUCCESS ? "success" : "failure", why->message);
  bq_utf8_clean(message);
  if (bq_running_record_failure(r, message, "infrastructure", 1, NULL, &err) == 0) return;
  bq_log_error("the outcome of a build could not be written", &err);
  bq_running_abandon(r);
}

int bq_running_record_end(bq_running *r, const char *status, bq_error *err) {
  const char *params[] = {r->id,           r->number, r->node_id, status, r->outcome->message, r->outcome->error_kind,
                          r->outcome->log_tail};
  return bq_store_write(r->runner->options.store, "finish_end", 7, params, bq_running_on_recorded, r, err);
}

static void record(bq_running *r) {
  const bq_outcome *outcome = r->outcome;
  bq_error err = {0};
  int result = 0;
  switch (outcome->kind) {
  case BQ_OUTCOME_SUCCESS: result = record_success(r, &err); break;
  case BQ_OUTCOME_FAILED:
    result = bq_running_record_failure(r, outcome->message, outcome->error_kind, outcome->retryable, outcome->log_tail, &err);
    break;
  case BQ_OUTCOME_TIMEDOUT:
    result = bq_running_record_failure(r, outcome->message, outcome->error_kind, 0, outcome->log_tail, &err);
    break;
  case BQ_OUTCOME_CANCELLED: result = bq_running_record_end(r, "cancelled", &err); break;
  case BQ_OUTCOME_REQUEUED: requeue(r, outcome->message); break;
  case BQ_OUTCOME_SUPERSEDED:
    note_end(r, "superseded");
    bq_attempt_close(r->attempt, 0);
    break;
  }
  if (result < 0) {
    bq_log_error("the outcome of a build could not be written", &err);
    bq_running_abandon(r);
  }
}

static void on_ended(void *arg, bq_attempt *attempt, const bq_outcome *outcome) {
  (void)attempt;
  bq_running *r = arg;
  int tells_where = outcome->kind == BQ_OUTCOME_FAILED || outcome->kind == BQ_OUTCOME_TIMEDOUT ||
                    outcome->kind == BQ_OUTCOME_CANCELLED;
  // The row shows the step in which the build ended, however quickly it came there.
  if (tells_where && r->dirty && !r->writing) write_progress(r);
  r->outcome = outcome;
  if (r->keeping || (tells_where && r->writing)) r->ending = 1;
  else record(r);
}

static void on_size_noted(void *arg, const bq_pg_result *result) {
  (void)arg;
  if (result->error != NULL && result->error->code == BQ_EDATABASE) {
    bq_log_error("what a build took of the disk could not be noted", result->error);
  }
}

// For admission policies. An estimate: when the database is away, the next build brings another.
static void note_size(bq_runner *runner, bq_attempt *attempt) {
  char megabytes[24];
  bq_error err;
  uint64_t bytes = bq_attempt_disk_bytes(attempt);
  if (bytes == 0) return;
  (void)snprintf(megabytes, sizeof megabytes, "%llu", (unsigned long long)((bytes + 1024 * 1024 - 1) / (1024 * 1024)));
  const char *params[] = {bq_row_text(bq_attempt_row(attempt), "pipeline"), megabytes};
  if (bq_store_query(runner->options.store, "note_size", 2, params, on_size_noted, NULL, &err) < 0) {
    bq_log_error("what a build took of the disk could not be noted", &err);
  }
}

static void on_closed(void *arg, bq_attempt *attempt) {
  bq_running *r = arg;
  bq_runner *runner = r->runner;
  note_size(runner, attempt);
  if (r->abandoned) runner->adrift = 1;
  if (r->previous != NULL) r->previous->next = r->next;
  else runner->first = r->next;
  if (r->next != NULL) r->next->previous = r->previous;
  r->attempt = NULL;
  if (!r->writing) bq_running_free(r); // what is being kept comes before the outcome
  bq_runner_count_less(runner);
}

static void on_kept(void *arg, const bq_pg_result *result) {
  bq_running *r = arg;
  r->keeping = 0;
  if (result->error != NULL) bq_log_error("a manifest's copy could not be kept", result->error);
  if (r->ending) record_when_written(r);
}

// A row of plain SQL says only now what it needs, and this may be the wrong server. Then it goes back, after its copy has
// been kept: the next claim is by a server that has it all.
static void check_needs(bq_running *r, const json_t *needs) {
  char reason[BQ_LABEL_MAX + 64];
  const char *lacks = bq_labels_lacks(r->runner->options.labels, needs);
  if (lacks == NULL) return;
  (void)snprintf(reason, sizeof reason, "this server does not offer %s, which the build needs", lacks);
  bq_attempt_stop(r->attempt, BQ_OUTCOME_REQUEUED, reason);
}

static char *array_of(const json_t *texts) {
  bq_buf out = {0};
  size_t index;
  json_t *text;
  bq_buf_addc(&out, '{');
  json_array_foreach(texts, index, text) {
    bq_buf_addf(&out, "%s\"%s\"", index > 0 ? "," : "", json_string_value(text));
  }
  bq_buf_addc(&out, '}');
  return bq_buf_take(&out);
}

static void on_adopted(void *arg, bq_attempt *attempt) {
  bq_running *r = arg;
  bq_error err;
  json_t *row = bq_attempt_row(attempt);
  char *manifest = bq_json_dumps(json_object_get(row, "manifest"), JSON_COMPACT);
  char *needs = array_of(json_object_get(row, "needs"));
  const char *params[] = {r->id, r->number, r->node_id, manifest, bq_row_text(row, "pipeline"), needs};
  if (manifest != NULL && needs != NULL &&
      bq_store_write(r->runner->options.store, "keep_manifest", 6, params, on_kept, r, &err) == 0) {
    r->keeping = 1;
  } else {
    bq_log(BQ_ERROR, "a manifest's copy could not be kept", "build", r->id, NULL);
  }
  bq_free(needs);
  bq_free(manifest);
  check_needs(r, json_object_get(row, "needs"));
}

const bq_attempt_events bq_running_events = {
    .progressed = on_progressed, .adopted = on_adopted, .ended = on_ended, .closed = on_closed};
