#include "queue/run.h"

#include <event2/event.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/nearest.h"
#include "base/uuid.h"
#include "queue/run_set.h"
#include "queue/server_modules.h"
#include "queue/small_server.h"

enum { TICK_MS = 50, PIECE_BYTES = 16 * 1024, MAX_MANIFEST_BYTES = 1024 * 1024, HANDLER_SLICE_US = 1000000 };

typedef struct run {
  bq_server server;
  const bq_run_options *options;
  bq_run_result *result;
  bq_config config;         // a copy with directories of its own; strings borrowed
  char *root;               // owned; options->directory, absolute
  char *paths[4];           // owned; workspace, output, state, manifest directory
  char *manifest_name;      // owned; the file's name in its directory
  char *log_path;           // owned; of the attempt
  uint64_t log_offset;
  bq_attempt *attempt;      // NULL before and after
  bq_timer *timer;          // owned; prints what the log has gained
  struct event *signals[2]; // owned
  json_t *row;              // owned
  int signalled;            // somebody asked for its end
  int failed;               // it could not be started: `error` says why
  bq_error error;
} run;

static void stop(run *r) {
  bq_loop_stop(r->server.loop);
}

static void give_up(run *r, const bq_error *error) {
  r->failed = 1;
  r->error = *error;
  stop(r);
}

static void print_log(run *r) {
  char piece[PIECE_BYTES];
  size_t length = 0;
  bq_error err;
  do {
    uint64_t next;
    if (bq_attempt_log_read(r->log_path, r->log_offset, piece, sizeof piece, &length, &next, &err) < 0) return;
    (void)fwrite(piece, 1, length, r->options->log);
    r->log_offset = next;
  } while (length > 0);
  (void)fflush(r->options->log);
}

static void on_tick(void *arg) {
  run *r = arg;
  print_log(r);
  bq_timer_set(r->timer, TICK_MS);
}

static void on_signal(evutil_socket_t number, short what, void *arg) {
  (void)number;
  (void)what;
  run *r = arg;
  r->signalled = 1;
  if (r->attempt != NULL) bq_attempt_stop(r->attempt, BQ_OUTCOME_CANCELLED, "cancelled by a signal");
  else stop(r);
}

static void on_progressed(void *arg, bq_attempt *attempt) {
  (void)arg;
  (void)attempt; // the log names the steps
}

static void on_ended(void *arg, bq_attempt *attempt, const bq_outcome *outcome) {
  run *r = arg;
  r->result->success = outcome->kind == BQ_OUTCOME_SUCCESS;
  r->result->stopped = outcome->kind == BQ_OUTCOME_CANCELLED && !r->signalled;
  (void)snprintf(r->result->workspace, sizeof r->result->workspace, "%s", bq_attempt_workspace(attempt));
  if (outcome->message != NULL) {
    (void)snprintf(r->result->message, sizeof r->result->message, "%s", outcome->message);
  }
  if (outcome->output_path != NULL) {
    (void)snprintf(r->result->output, sizeof r->result->output, "%s", outcome->output_path);
  }
  bq_attempt_close(attempt, 1);
}

static void on_closed(void *arg, bq_attempt *attempt) {
  (void)attempt;
  run *r = arg;
  r->attempt = NULL;
  print_log(r);
  stop(r);
}

// 0 when there is such a pipeline.
static int check_pipeline(const run *r, bq_error *err) {
  enum { MOST = 200 };
  const char *wanted = r->options->pipeline;
  const char *names[MOST + 1] = {NULL};
  const char *name;
  json_t *info;
  size_t count = 0;
  json_t *pipelines = (json_t *)(uintptr_t)bq_script_host_pipelines(r->server.host);
  if (json_object_get(pipelines, wanted) != NULL) return 0;
  json_object_foreach(pipelines, name, info) {
    if (count < MOST) names[count++] = name;
  }
  const char *near = bq_nearest(wanted, names);
  return bq_fail(err, BQ_ENOTFOUND, "there is no pipeline %s, neither shipped nor in ScriptDirectory%s%s%s", wanted,
                 near != NULL ? "; did you mean " : "", near != NULL ? near : "", near != NULL ? "?" : "");
}

static void on_scripts(void *arg, int swapped, const bq_error *error) {
  run *r = arg;
  bq_error err;
  if (error != NULL) {
    give_up(r, error);
    return;
  }
  if (!swapped) return;
  if (check_pipeline(r, &err) < 0) {
    give_up(r, &err);
    return;
  }
  const bq_attempt_events events = {.progressed = on_progressed,
                                    .adopted = on_progressed,
                                    .ended = on_ended,
                                    .closed = on_closed,
                                    .arg = r};
  bq_generation *generation = bq_script_host_current(r->server.host);
  if (bq_attempt_start(&r->attempt, &r->server.env, r->row, generation, &events, &err) < 0) give_up(r, &err);
}

// The row -----------------------------------------------------------------------------------------------------------

static const char *text_of(const json_t *value) {
  const char *text = json_string_value(value);
  return text != NULL ? text : "";
}

// What a request would have said, out of the manifest: tier and architecture, and the first cloud.
static int make_row(run *r, bq_error *err) {
  char *text = NULL;
  size_t length;
  json_t *manifest = NULL;
  char id[BQ_UUID_SIZE];
  int result = bq_file_read(r->options->manifest, MAX_MANIFEST_BYTES, &text, &length, err);
  if (result == 0) result = bq_json_parse(text, length, BQ_JSON_RELAXED, &manifest, err);
  if (result == 0) result = bq_uuid_new(id, err);
  if (result < 0) goto cleanup;
  // Of a build form, what its first target says.
  const json_t *cloud = json_array_get(bq_json_get_ci(manifest, "cloudTargets"), 0);
  const json_t *target = json_array_get(bq_json_get_ci(manifest, "targets"), 0);
  const json_t *what = target != NULL ? target : manifest;
  if (target != NULL) cloud = target;
  r->row = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:{}, s:b}", "id", id, "attempt", 1,
                     "pipeline", r->options->pipeline, "customerId", "local", "customerName", "local", "customerEmail",
                     "local@localhost", "configurationName", r->manifest_name, "tier",
                     text_of(bq_json_get_ci(what, "tier")), "architecture",
                     text_of(bq_json_get_ci(what, "architecture")), "cloudProvider",
                     text_of(bq_json_get_ci(cloud, "provider")), "manifestPath", r->manifest_name, "metadata",
                     "pipelineFixed", 1);
  if (r->row == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for the build");
  for (const char *const *set = r->options->sets; result == 0 && set != NULL && *set != NULL; set++) {
    result = bq_run_set(r->row, manifest, *set, err);
  }
cleanup:
  json_decref(manifest);
  bq_free(text);
  return result;
}

static int make_paths(run *r, bq_error *err) {
  char absolute[PATH_MAX];
  if (realpath(r->options->directory, absolute) == NULL) {
    return bq_fail(err, BQ_ENOTFOUND, "there is no directory %s", r->options->directory);
  }
  r->root = bq_strdup(absolute);
  if (realpath(r->options->manifest, absolute) == NULL) {
    return bq_fail(err, BQ_ENOTFOUND, "there is no manifest %s", r->options->manifest);
  }
  char *slash = strrchr(absolute, '/');
  r->manifest_name = bq_strdup(slash + 1);
  *slash = '\0';
  r->paths[0] = bq_format("%s/builds", r->root);
  r->paths[1] = bq_format("%s/output", r->root);
  r->paths[2] = bq_format("%s/state", r->root);
  r->paths[3] = bq_strdup(absolute[0] != '\0' ? absolute : "/");
  if (r->root == NULL || r->manifest_name == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the build");
  for (size_t i = 0; i < 4; i++) {
    if (r->paths[i] == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the build");
  }
  r->config.workspace_directory = r->paths[0];
  r->config.output_directory = r->paths[1];
  r->config.state_directory = r->paths[2];
  r->config.manifest_directory = r->paths[3];
  r->config.cleanup_workspace_after_build = !r->options->keep;
  return 0;
}

// The parts ---------------------------------------------------------------------------------------------------------

static int open_loop(run *r, bq_error *err) {
  bq_server *server = &r->server;
  static const int numbers[] = {SIGINT, SIGTERM};
  const bq_small_options options = {.config = &r->config,
                                    .share = r->options->share,
                                    .handler_modules = bq_check_modules,
                                    .handler_slice_us = HANDLER_SLICE_US,
                                    .stop_after = r->options->stop_after,
                                    .loaded = on_scripts,
                                    .arg = r};
  int result = bq_small_server_open(server, &options, err);
  if (result == 0) result = bq_timer_new(&r->timer, server->loop, on_tick, r, err);
  for (size_t i = 0; i < 2 && result == 0; i++) {
    r->signals[i] = evsignal_new(bq_loop_base(server->loop), numbers[i], on_signal, r);
    if (r->signals[i] == NULL || event_add(r->signals[i], NULL) < 0) {
      result = bq_fail(err, BQ_ENOMEM, "out of memory for signals");
    }
  }
  return result;
}

static void free_run(run *r) {
  bq_timer_free(r->timer);
  for (size_t i = 0; i < 2; i++) {
    if (r->signals[i] != NULL) event_free(r->signals[i]);
  }
  bq_small_server_close(&r->server);
  json_decref(r->row);
  for (size_t i = 0; i < 4; i++) bq_free(r->paths[i]);
  bq_free(r->root);
  bq_free(r->manifest_name);
  bq_free(r->log_path);
  bq_free(r);
}

int bq_run_pipeline(const bq_config *config, const bq_run_options *options, bq_run_result *result, bq_error *err) {
  run *r = bq_alloc(sizeof *r);
  if (r == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the build");
  *result = (bq_run_result){0};
  r->options = options;
  r->result = result;
  r->config = *config;
  int code = make_paths(r, err);
  if (code == 0) code = make_row(r, err);
  if (code == 0) {
    r->log_path = bq_format("%s/logs/%s/attempt-1.log", r->paths[2], text_of(json_object_get(r->row, "id")));
    if (r->log_path == NULL) code = bq_fail(err, BQ_ENOMEM, "out of memory for the build");
  }
  if (code == 0) code = open_loop(r, err);
  if (code == 0) {
    bq_script_host_reload(r->server.host);
    bq_timer_set(r->timer, TICK_MS);
    code = bq_loop_run(r->server.loop, err);
  }
  if (code == 0 && r->failed) {
    *err = r->error;
    code = r->error.code;
  }
  free_run(r);
  return code;
}
