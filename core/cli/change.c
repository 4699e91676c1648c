// buildq cancel, retry, pause, resume: one small request each.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/since.h"

enum { OPTION_STATUS = 0x500, OPTION_SINCE };

typedef struct arguments {
  bq_common common;
  const char *id;
  const char *reason;
  const char *status;
  const char *since;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'r': a->reason = value; return 0;
  case OPTION_STATUS: a->status = value; return 0;
  case OPTION_SINCE: a->since = value; return 0;
  case ARGP_KEY_ARG:
    if (a->id != NULL) argp_usage(state);
    a->id = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int send_change(const arguments *a, const char *path, json_t *body) {
  bq_client *client = bq_client_new(&a->common);
  json_t *answer = NULL;
  if (client == NULL) return BQ_EXIT_FAILURE;
  int code = bq_client_call(client, "POST", path, body, NULL, &answer);
  if (code == BQ_EXIT_OK) {
    char *text = bq_json_dumps(answer, a->common.json ? JSON_COMPACT : JSON_INDENT(2));
    (void)puts(text != NULL ? text : "done");
    bq_free(text);
  }
  json_decref(answer);
  bq_client_free(client);
  return code;
}

// POST /builds/{id}/<action>
static int change_build(const arguments *a, const char *action, json_t *body) {
  char *escaped = bq_client_escape(a->id);
  char *path = escaped != NULL ? bq_format("/builds/%s/%s", escaped, action) : NULL;
  int code = path != NULL ? send_change(a, path, body) : BQ_EXIT_FAILURE;
  bq_free(path);
  bq_free(escaped);
  return code;
}

static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};

int bq_command_cancel(int argc, char **argv) {
  static const struct argp_option options[] = {{"reason", 'r', "TEXT", 0, "Recorded with the build", 1}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "ID",
      .doc = "Cancels a build; a running one has its processes ended." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (a.id == NULL) {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    return BQ_EXIT_USAGE;
  }
  json_t *body = json_object();
  if (a.reason != NULL) (void)json_object_set_new(body, "reason", json_string(a.reason));
  int code = change_build(&a, "cancel", body);
  json_decref(body);
  return code;
}

static int retry_many(const arguments *a) {
  char since[BQ_CLOCK_TEXT_SIZE + 8];
  json_t *body = json_pack("{s:s}", "status", a->status);
  if (a->since != NULL) {
    if (!bq_since_read(a->since, bq_clock_wall_us(), since, sizeof since)) {
      (void)fprintf(stderr, "buildq: --since %s is neither a duration (90m, 36h, 1d) nor a time "
                            "(2026-01-31T12:00:00Z)\n", a->since);
      json_decref(body);
      return BQ_EXIT_USAGE;
    }
    (void)json_object_set_new(body, "since", json_string(since));
  }
  int code = send_change(a, "/builds/retry", body);
  json_decref(body);
  return code;
}

int bq_command_retry(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"status", OPTION_STATUS, "STATUS", 0, "Instead of ID: all builds that are failed, timedout or cancelled", 1},
      {"since", OPTION_SINCE, "WHEN", 0, "Of those, the ones that ended since: 90m, 36h, 1d or a time", 1},
      {0}};
  static const struct argp argp = {.options = options,
                                   .parser = parse,
                                   .args_doc = "ID\n--status STATUS [--since WHEN]",
                                   .doc = "Puts an ended build into the queue again." BQ_EXIT_TEXT,
                                   .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if ((a.id == NULL) == (a.status == NULL) || (a.since != NULL && a.status == NULL)) {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    return BQ_EXIT_USAGE;
  }
  if (a.status != NULL) return retry_many(&a);
  json_t *body = json_object();
  int code = change_build(&a, "retry", body);
  json_decref(body);
  return code;
}

int bq_command_pause(int argc, char **argv) {
  static const struct argp_option options[] = {{"reason", 'r', "TEXT", 0, "Shown to everybody who asks", 1}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .doc = "Stops new builds from being started, on all servers; running ones go on." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (a.reason == NULL || a.id != NULL) {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    (void)fputs("A reason is needed: --reason TEXT\n", stderr);
    return BQ_EXIT_USAGE;
  }
  json_t *body = json_pack("{s:s}", "reason", a.reason);
  int code = send_change(&a, "/queue/pause", body);
  json_decref(body);
  return code;
}

int bq_command_resume(int argc, char **argv) {
  static const struct argp argp = {
      .parser = parse, .doc = "Lets builds start again after a pause." BQ_EXIT_TEXT, .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (a.id != NULL) {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    return BQ_EXIT_USAGE;
  }
  json_t *body = json_object();
  int code = send_change(&a, "/queue/resume", body);
  json_decref(body);
  return code;
}
