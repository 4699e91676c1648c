// buildq list
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/text.h"

enum { OPTION_CUSTOMER = 0x400, PAGE = 100, DEFAULT_LIMIT = 20, MAX_LIMIT = 100 * 1000 };

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
    if (*end != '\0' || a->limit < 1 || a->limit > MAX_LIMIT) {
      argp_error(state, "--limit is a number from 1 to %d, not %s", MAX_LIMIT, value);
    }
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

enum { COLUMN_COUNT = 6 };
static const bq_table_column columns[COLUMN_COUNT] = {
    {"ID", 0, 0},      {"STATUS", 0, 0},        {"DONE", 1, 0}, {"ENQUEUED (UTC)", 0, 0}, {"CUSTOMER", 0, 1},
    {"CONFIGURATION", 0, 1}};

static int add_build(bq_table *table, const json_t *build, bq_error *err) {
  char done[32];
  char enqueued[20]; // without fractions and zone
  (void)snprintf(done, sizeof done, "%lld%%", json_integer_value(json_object_get(build, "progressPercent")));
  (void)snprintf(enqueued, sizeof enqueued, "%s", bq_json_text(build, "enqueuedAt"));
  const char *cells[COLUMN_COUNT] = {bq_json_text(build, "id"), bq_json_text(build, "status"), done, enqueued,
                                     bq_json_text(build, "customerId"), bq_json_text(build, "configurationName")};
  return bq_table_add(table, cells, err);
}

// Prints a page as JSON lines, or adds it to the table.
static int take_page(bq_table *table, const json_t *builds, int json) {
  size_t index;
  json_t *build;
  bq_error err;
  json_array_foreach(builds, index, build) {
    if (!json) {
      if (add_build(table, build, &err) == 0) continue;
      (void)fprintf(stderr, "buildq: %s\n", err.message);
      return BQ_EXIT_FAILURE;
    }
    bq_print_json(build, JSON_COMPACT);
  }
  return BQ_EXIT_OK;
}

static int list(bq_client *client, const arguments *a, bq_table *table) {
  char *cursor = NULL;
  int code = BQ_EXIT_OK;
  for (long left = a->limit; left > 0 && code == BQ_EXIT_OK;) {
    json_t *page = NULL;
    long wanted = left < PAGE ? left : PAGE;
    char *path = page_path(a, wanted, cursor);
    code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &page) : BQ_EXIT_FAILURE;
    bq_free(path);
    bq_free(cursor);
    cursor = NULL;
    if (code == BQ_EXIT_OK) code = take_page(table, json_object_get(page, "builds"), a->common.json);
    if (code == BQ_EXIT_OK) cursor = bq_strdup(json_string_value(json_object_get(page, "nextCursor")));
    json_decref(page);
    left = cursor != NULL ? left - wanted : 0;
  }
  bq_free(cursor);
  return code;
}

// In a pipe nothing is cut: somebody wants to look for it.
static int print_table(const bq_table *table, bq_error *err) {
  char *text = NULL;
  int result = bq_table_text(table, bq_text_terminal(stdout), &text, err);
  if (result == 0) (void)fputs(text, stdout);
  bq_free(text);
  return result;
}

int bq_command_list(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"status", 's', "STATUS", 0, "pending, building, success, failed, cancelled or timedout", 1},
      {"customer", OPTION_CUSTOMER, "ID", 0, "Builds of one customer", 1},
      {"limit", 'n', "COUNT", 0, "At most so many, newest first (20; 100000 at most)", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options, .parser = parse, .doc = "Lists builds, newest first." BQ_EXIT_TEXT, .children = children};
  arguments a = {.limit = DEFAULT_LIMIT};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  bq_table *table = NULL;
  bq_error err;
  int code = BQ_EXIT_FAILURE;
  int result = bq_table_new(&table, columns, COLUMN_COUNT, &err);
  if (result == 0) code = list(client, &a, table);
  if (result == 0 && code == BQ_EXIT_OK && !a.common.json) result = print_table(table, &err);
  if (result < 0) {
    (void)fprintf(stderr, "buildq: %s\n", err.message);
    code = BQ_EXIT_FAILURE;
  }
  bq_table_free(table);
  bq_client_free(client);
  return code;
}
