// buildq list
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"
#include "cli/client.h"

enum { OPTION_CUSTOMER = 0x400, PAGE = 100, DEFAULT_LIMIT = 20 };

typedef struct arguments {
  bq_common common;
  const char *status;
  const char *customer;
  long limit;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  char *end;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 's': a->status = value; return 0;
  case OPTION_CUSTOMER: a->customer = value; return 0;
  case 'n':
    a->limit = strtol(value, &end, 10);
    if (*end != '\0' || a->limit < 1) argp_error(state, "--limit is a number from 1, not %s", value);
    return 0;
  case ARGP_KEY_ARG: argp_usage(state); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static char *page_path(const arguments *a, long limit, const char *cursor) {
  bq_buf path = {0};
  bq_buf_addf(&path, "/builds?limit=%ld", limit);
  const char *const names[] = {"status", "customerId", "cursor"};
  const char *const values[] = {a->status, a->customer, cursor};
  for (size_t i = 0; i < 3; i++) {
    char *escaped = values[i] != NULL ? bq_client_escape(values[i]) : NULL;
    if (escaped != NULL) bq_buf_addf(&path, "&%s=%s", names[i], escaped);
    bq_free(escaped);
  }
  return bq_buf_take(&path);
}

static const char *text_of(const json_t *build, const char *key) {
  const char *text = json_string_value(json_object_get(build, key));
  return text != NULL ? text : "";
}

static void print_builds(const json_t *builds, int json) {
  size_t index;
  json_t *build;
  json_array_foreach(builds, index, build) {
    if (json) {
      char *text = json_dumps(build, JSON_COMPACT);
      (void)puts(text != NULL ? text : "{}");
      bq_free(text);
      continue;
    }
    (void)printf("%-36s %-9s %4lld%% %-19.19s %-16.16s %s\n", text_of(build, "id"), text_of(build, "status"),
                 json_integer_value(json_object_get(build, "progressPercent")), text_of(build, "enqueuedAt"),
                 text_of(build, "customerId"), text_of(build, "configurationName"));
  }
}

static int list(bq_client *client, const arguments *a) {
  char *cursor = NULL;
  int code = BQ_EXIT_OK;
  if (!a->common.json) {
    (void)printf("%-36s %-9s %5s %-19s %-16s %s\n", "ID", "STATUS", "DONE", "ENQUEUED (UTC)", "CUSTOMER",
                 "CONFIGURATION");
  }
  for (long left = a->limit; left > 0 && code == BQ_EXIT_OK;) {
    json_t *page = NULL;
    long wanted = left < PAGE ? left : PAGE;
    char *path = page_path(a, wanted, cursor);
    code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &page) : BQ_EXIT_FAILURE;
    bq_free(path);
    bq_free(cursor);
    cursor = NULL;
    if (code == BQ_EXIT_OK) {
      print_builds(json_object_get(page, "builds"), a->common.json);
      cursor = bq_strdup(json_string_value(json_object_get(page, "nextCursor")));
    }
    json_decref(page);
    left = cursor != NULL ? left - wanted : 0;
  }
  bq_free(cursor);
  return code;
}

int bq_command_list(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"status", 's', "STATUS", 0, "pending, building, success, failed, cancelled or timedout", 1},
      {"customer", OPTION_CUSTOMER, "ID", 0, "Builds of one customer", 1},
      {"limit", 'n', "COUNT", 0, "At most so many (20), newest first", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options, .parser = parse, .doc = "Lists builds, newest first." BQ_EXIT_TEXT, .children = children};
  arguments a = {.limit = DEFAULT_LIMIT};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  int code = list(client, &a);
  bq_client_free(client);
  return code;
}
