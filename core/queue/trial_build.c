// Builds of a trial: a pipeline run in the runtime itself, without the queue.
#include <stddef.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "queue/trial_internal.h"

enum { LOG_BYTES = 4 * 1024 * 1024, PIECE_BYTES = 64 * 1024, RECORD_BYTES = 16 * 1024 * 1024 };

struct bq_trial_build {
  bq_trial *trial;
  bq_trial_build *next;
  bq_attempt *attempt; // NULL once it is gone
  json_t *row;         // owned
  json_t *steps;       // owned list of {name, percent}
  json_t *result;      // owned; NULL while it runs
  char *log_path;      // owned
  char id[BQ_UUID_SIZE];
};

static const char *const status_names[] = {
    [BQ_OUTCOME_SUCCESS] = "success",     [BQ_OUTCOME_FAILED] = "failed",     [BQ_OUTCOME_TIMEDOUT] = "timedout",
    [BQ_OUTCOME_CANCELLED] = "cancelled", [BQ_OUTCOME_REQUEUED] = "requeued", [BQ_OUTCOME_SUPERSEDED] = "superseded"};

static void on_progressed(void *arg, bq_attempt *attempt) {
  bq_trial_build *build = arg;
  const char *step = bq_attempt_step(attempt);
  const json_t *last = json_array_get(build->steps, json_array_size(build->steps) - 1);
  const char *last_name = json_string_value(json_object_get(last, "name"));
  if (step[0] == '\0' || (last_name != NULL && strcmp(last_name, step) == 0)) return;
  (void)json_array_append_new(build->steps, json_pack("{s:s, s:i}", "name", step, "percent",
                                                      bq_attempt_percent(attempt)));
}

static void on_adopted(void *arg, bq_attempt *attempt) {
  (void)arg;
  (void)attempt; // the row has its manifest
}

// What build.json says: provenance and commands.
static json_t *read_record(const char *output) {
  char *path = bq_format("%s/build.json", output);
  char *text = NULL;
  size_t length;
  json_t *record = NULL;
  bq_error err;
  if (path != NULL && bq_file_read(path, RECORD_BYTES, &text, &length, &err) == 0 &&
      bq_json_parse(text, length, BQ_JSON_STRICT, &record, &err) < 0) {
    record = NULL;
  }
  bq_free(path);
  bq_free(text);
  return record;
}

static void on_ended(void *arg, bq_attempt *attempt, const bq_outcome *outcome) {
  bq_trial_build *build = arg;
  int good = outcome->kind == BQ_OUTCOME_SUCCESS;
  json_t *record = good ? read_record(outcome->output_path) : NULL;
  build->result = json_pack(
      "{s:s, s:s, s:s*, s:s*, s:b, s:i, s:s, s:s*, s:s*, s:O*, s:O*, s:O*, s:O}", "id", build->id, "status",
      status_names[outcome->kind], "message", outcome->message, "errorKind", outcome->error_kind, "retryable",
      good ? 0 : outcome->retryable, "percent", good ? 100 : bq_attempt_percent(attempt), "workspace",
      bq_attempt_workspace(attempt), "output", outcome->output_path, "imageUrl", outcome->image_url, "artifacts",
      outcome->artifacts, "provenance", json_object_get(record, "provenance"), "commands",
      json_object_get(record, "commands"), "steps", build->steps);
  json_decref(record);
  bq_attempt_close(attempt, 1);
}

static json_t *read_log(const char *path) {
  bq_buf text = {0};
  char *piece = bq_alloc(PIECE_BYTES);
  uint64_t offset = 0;
  bq_error err;
  for (size_t length = 1; piece != NULL && length > 0 && text.length < LOG_BYTES;) {
    if (bq_attempt_log_read(path, offset, piece, PIECE_BYTES, &length, &offset, &err) < 0) break;
    bq_buf_add(&text, piece, length);
  }
  bq_free(piece);
  json_t *log = json_stringn(text.data != NULL ? text.data : "", text.length);
  bq_buf_free(&text);
  return log;
}

static void on_closed(void *arg, bq_attempt *attempt) {
  (void)attempt;
  bq_trial_build *build = arg;
  build->attempt = NULL;
  if (build->result == NULL) build->result = json_pack("{s:s, s:s}", "id", build->id, "status", "failed");
  (void)json_object_set_new(build->result, "log", read_log(build->log_path));
}

static void free_build(bq_trial_build *build) {
  json_decref(build->row);
  json_decref(build->steps);
  json_decref(build->result);
  bq_free(build->log_path);
  bq_free(build);
}

static const char *text_or(const json_t *fields, const char *name, const char *absent) {
  const char *text = json_string_value(json_object_get(fields, name));
  return text != NULL ? text : absent;
}

static json_t *make_row(const char *id, const char *pipeline, const json_t *fields) {
  const json_t *customer = json_object_get(fields, "customer");
  json_t *manifest = json_object_get(fields, "manifest");
  json_t *metadata = json_object_get(fields, "metadata");
  const json_t *attempt = json_object_get(fields, "attempt");
  const json_t *trusted = json_object_get(fields, "trusted");
  return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:b}", "id", id, "attempt",
                   attempt != NULL ? (int)json_integer_value(attempt) : 1, "pipeline", pipeline, "customerId",
                   text_or(customer, "id", "acme"), "customerName", text_or(customer, "name", "Acme"), "customerEmail",
                   text_or(customer, "email", "ops@acme.example"), "configurationName",
                   text_or(fields, "configuration", "default"), "tier", text_or(fields, "tier", "pro"), "architecture",
                   text_or(fields, "architecture", "linux-x64"), "cloudProvider", text_or(fields, "cloud", "none"),
                   "manifestPath", text_or(fields, "manifest_path", "manifest.json"), "metadata",
                   metadata != NULL ? json_incref(metadata) : json_object(), "manifest",
                   manifest != NULL ? json_incref(manifest) : json_object(), "trusted",
                   trusted == NULL || json_is_true(trusted));
}

int bq_trial_start(bq_trial *trial, const json_t *call, bq_trial_build **out, bq_error *err) {
  const char *pipeline = json_string_value(json_object_get(call, "pipeline"));
  bq_generation *generation = bq_script_host_current(trial->server->host);
  if (pipeline == NULL) return bq_fail(err, BQ_EINVAL, "run: expected the name of a pipeline");
  if (json_object_get(bq_script_host_pipelines(trial->server->host), pipeline) == NULL) {
    return bq_fail(err, BQ_ENOTFOUND, "there is no pipeline %s: neither shipped nor in ScriptDirectory", pipeline);
  }
  bq_trial_build *build = bq_alloc(sizeof *build);
  if (build == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a build");
  build->trial = trial;
  build->steps = json_array();
  int result = bq_uuid_new(build->id, err);
  if (result < 0) goto cleanup;
  build->row = make_row(build->id, pipeline, json_object_get(call, "build"));
  if (build->row == NULL) {
    result = bq_fail(err, BQ_EINVAL, "run: a field of the build has a wrong type");
    goto cleanup;
  }
  build->log_path = bq_format("%s/logs/%s/attempt-%d.log", trial->server->config->state_directory, build->id,
                              (int)json_integer_value(json_object_get(build->row, "attempt")));
  const bq_attempt_events events = {.progressed = on_progressed,
                                    .adopted = on_adopted,
                                    .ended = on_ended,
                                    .closed = on_closed,
                                    .arg = build};
  result = bq_attempt_start(&build->attempt, &trial->server->env, build->row, generation, &events, err);
  if (result < 0) goto cleanup;
  build->next = trial->builds;
  trial->builds = build;
  *out = build;
  build = NULL;
cleanup:
  if (build != NULL) free_build(build);
  return result;
}

const char *bq_trial_id(const bq_trial_build *build) {
  return build->id;
}

json_t *bq_trial_present(const bq_trial_build *build) {
  if (build->attempt == NULL) return json_incref(build->result);
  return json_pack("{s:s, s:s, s:i}", "status", "building", "step", bq_attempt_step(build->attempt), "percent",
                   bq_attempt_percent(build->attempt));
}

bq_trial_build *bq_trial_next(bq_trial *trial, bq_trial_build *build) {
  return build != NULL ? build->next : trial->builds;
}

bq_trial_build *bq_trial_find(bq_trial *trial, const char *id) {
  bq_trial_build *build = trial->builds;
  while (build != NULL && (id == NULL || strcmp(build->id, id) != 0)) build = build->next;
  return build;
}

int bq_trial_stop(bq_trial_build *build, const char *how, const char *message, bq_error *err) {
  static const bq_outcome_kind kinds[] = {BQ_OUTCOME_CANCELLED, BQ_OUTCOME_TIMEDOUT, BQ_OUTCOME_REQUEUED};
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    if (strcmp(status_names[kinds[i]], how) != 0) continue;
    if (build->attempt != NULL) bq_attempt_stop(build->attempt, kinds[i], message);
    return 0;
  }
  return bq_fail(err, BQ_EINVAL, "stop: %s given, expected cancelled, timedout or requeued", how);
}

json_t *bq_trial_result(const bq_trial_build *build) {
  return build->attempt == NULL ? build->result : NULL;
}

int bq_trial_builds_run(const bq_trial *trial) {
  for (const bq_trial_build *build = trial->builds; build != NULL; build = build->next) {
    if (build->attempt != NULL) return 1;
  }
  return 0;
}

void bq_trial_free_builds(bq_trial *trial) {
  while (trial->builds != NULL) {
    bq_trial_build *build = trial->builds;
    trial->builds = build->next;
    free_build(build);
  }
}
