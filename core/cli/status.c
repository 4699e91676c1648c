// buildq status
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/estimate.h"
#include "cli/follow.h"
#include "cli/output.h"
#include "cli/text.h"

typedef struct arguments {
  bq_common common;
  const char *id;
  int follow;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'f': a->follow = 1; return 0;
  case ARGP_KEY_ARG:
    if (a->id != NULL) argp_usage(state);
    a->id = value;
    return 0;
  case ARGP_KEY_END:
    if (a->id == NULL) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// The fields worth a line, in an order for people.
static const char *const shown[] = {"id",          "status",      "progressPercent", "currentStep",   "errorMessage",
                                    "pipeline",    "customerId",  "configurationName", "tier",        "architecture",
                                    "cloudProvider", "priority",  "attempt",         "retryCount",    "nextAttemptAt",
                                    "enqueuedAt",  "startedAt",   "completedAt",     "buildDurationSeconds",
                                    "outputPath",  "downloadUrl", "imageUrl",        "generation"};

static void print_build(const json_t *build) {
  for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
    const json_t *value = json_object_get(build, shown[i]);
    if (value == NULL || json_is_null(value)) continue;
    if (json_is_string(value)) {
      (void)printf("%-21s ", shown[i]);
      bq_text_print(stdout, json_string_value(value));
      (void)putchar('\n');
    } else if (json_is_integer(value)) {
      (void)printf("%-21s %lld\n", shown[i], json_integer_value(value));
    } else {
      (void)printf("%-21s %.3f\n", shown[i], json_number_value(value));
    }
  }
}

// What it should take, until it has ended.
static void print_estimate(const json_t *build) {
  char *line = bq_estimate_line(json_object_get(build, "estimate"));
  if (line == NULL) return;
  (void)printf("%-21s ", "estimate");
  bq_text_print(stdout, line);
  (void)putchar('\n');
  bq_free(line);
}

static void print_list(const char *title, const json_t *list) {
  size_t index;
  json_t *text;
  if (json_array_size(list) == 0) return;
  (void)printf("%-21s", title);
  json_array_foreach(list, index, text) {
    (void)fputs(index > 0 ? ", " : " ", stdout);
    bq_text_print(stdout, json_string_value(text));
  }
  (void)putchar('\n');
}

static int show_once(bq_client *client, const arguments *a) {
  json_t *build = NULL;
  char *escaped = bq_client_escape(a->id);
  char *path = escaped != NULL ? bq_format("/builds/%s", escaped) : NULL;
  int code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &build) : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK && a->common.json) {
    bq_print_json(build, JSON_INDENT(2));
  } else if (code == BQ_EXIT_OK) {
    print_build(build);
    print_list("needs", json_object_get(build, "needs"));
    print_list("no server offers", json_object_get(build, "unmetNeeds"));
    print_estimate(build);
  }
  json_decref(build);
  bq_free(path);
  bq_free(escaped);
  return code;
}

int bq_command_status(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"follow", 'f', NULL, 0, "Until the build has ended: a bar in a terminal, plain lines in a pipe", 1}, {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {.options = options,
                                   .parser = parse,
                                   .args_doc = "ID",
                                   .doc = "Shows one build." BQ_EXIT_TEXT,
                                   .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  int code = a.follow ? bq_follow_build(client, a.id, a.common.json, NULL) : show_once(client, &a);
  bq_client_free(client);
  return code;
}
