// buildq stats
#include <stdio.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/text.h"

typedef struct arguments {
  bq_common common;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  (void)value;
  if (key == ARGP_KEY_INIT) {
    state->child_inputs[0] = &a->common;
    return 0;
  }
  if (key == ARGP_KEY_ARG) argp_usage(state);
  return ARGP_ERR_UNKNOWN;
}

static void print_statistics(const json_t *s) {
  const char *oldest = json_string_value(json_object_get(s, "oldestPendingBuild"));
  (void)printf("pending          %lld\n", json_integer_value(json_object_get(s, "pendingCount")));
  (void)printf("building         %lld\n", json_integer_value(json_object_get(s, "buildingCount")));
  (void)printf("completed today  %lld\n", json_integer_value(json_object_get(s, "completedToday")));
  (void)printf("failed today     %lld\n", json_integer_value(json_object_get(s, "failedToday")));
  (void)printf("average time     %.1f s\n", json_number_value(json_object_get(s, "averageBuildTimeSeconds")));
  (void)printf("success rate     %.1f %%\n", json_number_value(json_object_get(s, "successRate")));
  (void)printf("oldest pending   %s\n", oldest != NULL ? oldest : "none");
  if (json_is_true(json_object_get(s, "paused"))) {
    const char *reason = json_string_value(json_object_get(s, "pauseReason"));
    (void)fputs("paused           ", stdout);
    bq_text_print(stdout, reason != NULL ? reason : "");
    (void)putchar('\n');
  }
  size_t index;
  json_t *build;
  json_array_foreach(json_object_get(s, "activeBuilds"), index, build) {
    const char *step = json_string_value(json_object_get(build, "currentStep"));
    const char *id = json_string_value(json_object_get(build, "id"));
    (void)printf("  %s %3lld%% ", id != NULL ? id : "?", json_integer_value(json_object_get(build, "progressPercent")));
    bq_text_print(stdout, step != NULL ? step : "");
    (void)putchar('\n');
  }
}

int bq_command_stats(int argc, char **argv) {
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {.parser = parse, .doc = "Shows the queue's figures." BQ_EXIT_TEXT, .children = children};
  arguments a = {0};
  json_t *answer = NULL;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  int code = bq_client_call(client, "GET", "/builds/statistics", NULL, NULL, &answer);
  if (code == BQ_EXIT_OK && a.common.json) {
    bq_print_json(answer, JSON_COMPACT);
  } else if (code == BQ_EXIT_OK) {
    print_statistics(answer);
  }
  json_decref(answer);
  bq_client_free(client);
  return code;
}
