// buildq explain
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/estimate.h"
#include "cli/output.h"
#include "cli/text.h"

typedef struct arguments {
  bq_common common;
  const char *id;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
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

static void print_line(const char *title, const char *text) {
  (void)printf("%-10s ", title);
  bq_text_print(stdout, text != NULL ? text : "");
  (void)putchar('\n');
}

// "2026-01-31 12:00:00" of a time of the API.
static void print_times(const char *title, const json_t *times) {
  char text[120];
  const char *p50 = json_string_value(json_object_get(times, "p50At"));
  const char *p90 = json_string_value(json_object_get(times, "p90At"));
  if (p50 == NULL || p90 == NULL) return;
  (void)snprintf(text, sizeof text, "%.19sZ (nine times of ten not after %.19sZ)", p50, p90);
  print_line(title, text);
}

static void print_answer(const json_t *answer) {
  size_t index;
  json_t *reason;
  const char *position = json_string_value(json_object_get(answer, "positionText"));
  print_line("status", json_string_value(json_object_get(answer, "status")));
  print_line("why", json_string_value(json_object_get(answer, "summary")));
  json_array_foreach(json_object_get(answer, "heldBackBy"), index, reason) {
    if (index > 0) print_line("and", json_string_value(json_object_get(reason, "message")));
  }
  if (position != NULL) print_line("position", position);
  print_times("starts", json_object_get(answer, "start"));
  print_times("ends", json_object_get(answer, "end"));
  char *line = bq_estimate_line(json_object_get(answer, "estimate"));
  if (line != NULL) print_line("takes", line);
  bq_free(line);
}

int bq_command_explain(int argc, char **argv) {
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .parser = parse,
      .args_doc = "ID",
      .doc = "Says why a build waits, when it should start and end, and what it costs." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  json_t *answer = NULL;
  char *escaped = bq_client_escape(a.id);
  char *path = escaped != NULL ? bq_format("/builds/%s/explain", escaped) : NULL;
  int code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &answer) : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK && a.common.json) {
    bq_print_json(answer, JSON_INDENT(2));
  } else if (code == BQ_EXIT_OK) {
    print_answer(answer);
  }
  json_decref(answer);
  bq_free(path);
  bq_free(escaped);
  bq_client_free(client);
  return code;
}
