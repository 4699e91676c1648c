// buildq mail list, show: what was sent, and what became of it.
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/mail.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/text.h"

enum { PAGE = 100, DEFAULT_LIMIT = 20 };

// list --------------------------------------------------------------------------------------------------------------

static char *page_path(const bq_mail_arguments *a, long limit, const char *cursor) {
  bq_buf path = {0};
  const char *const names[] = {"state", "channel", "event", "build", "customerId", "recipient", "cursor"};
  const char *const values[] = {a->state, a->channel, a->event, a->build, a->customer, a->recipient, cursor};
  bq_buf_addf(&path, "/notifications?limit=%ld", limit);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char *escaped = values[i] != NULL ? bq_client_escape(values[i]) : NULL;
    if (escaped != NULL) bq_buf_addf(&path, "&%s=%s", names[i], escaped);
    bq_free(escaped);
  }
  return bq_buf_take(&path);
}

enum { COLUMN_COUNT = 7 };
static const bq_table_column columns[COLUMN_COUNT] = {{"ID", 0, 0},        {"STATE", 0, 0}, {"CREATED (UTC)", 0, 0},
                                                      {"EVENT", 0, 0},     {"CHANNEL", 0, 1}, {"RECIPIENT", 0, 1},
                                                      {"LAST ANSWER", 0, 1}};

// What is worth knowing in a line: why it waits, or what the server said.
static const char *last_word(const json_t *item) {
  static const char *const keys[] = {"fault", "reason", "lastReply"};
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    if (bq_json_text(item, keys[i])[0] != '\0') return bq_json_text(item, keys[i]);
  }
  return "";
}

static int take_page(bq_table *table, const json_t *items, int json) {
  size_t index;
  json_t *item;
  bq_error err;
  json_array_foreach(items, index, item) {
    char created[20]; // without fractions and zone
    if (json) {
      bq_print_json(item, JSON_COMPACT);
      continue;
    }
    (void)snprintf(created, sizeof created, "%s", bq_json_text(item, "createdAt"));
    const char *cells[COLUMN_COUNT] = {bq_json_text(item, "id"),      bq_json_text(item, "state"),   created,
                                       bq_json_text(item, "event"),   bq_json_text(item, "channel"), bq_json_text(item, "recipient"),
                                       last_word(item)};
    if (bq_table_add(table, cells, &err) == 0) continue;
    (void)fprintf(stderr, "buildq: %s\n", err.message);
    return BQ_EXIT_FAILURE;
  }
  return BQ_EXIT_OK;
}

// Events that no script could be asked about have no notification yet, so no row.
static void tell_faults(const json_t *faults) {
  size_t index;
  json_t *fault;
  json_array_foreach(faults, index, fault) {
    (void)fprintf(stderr, "buildq: %s of build %s waits until a script is mended: ", bq_json_text(fault, "event"),
                  bq_json_text(fault, "buildId"));
    bq_text_print(stderr, bq_json_text(fault, "fault"));
    (void)fputc('\n', stderr);
  }
}

static int list_pages(bq_client *client, const bq_mail_arguments *a, bq_table *table) {
  char *cursor = NULL;
  int code = BQ_EXIT_OK;
  for (long left = a->limit > 0 ? a->limit : DEFAULT_LIMIT; left > 0 && code == BQ_EXIT_OK;) {
    json_t *page = NULL;
    long wanted = left < PAGE ? left : PAGE;
    char *path = page_path(a, wanted, cursor);
    code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &page) : BQ_EXIT_FAILURE;
    bq_free(path);
    bq_free(cursor);
    cursor = NULL;
    if (code == BQ_EXIT_OK) code = take_page(table, json_object_get(page, "notifications"), a->common.json);
    tell_faults(json_object_get(page, "faults"));
    if (code == BQ_EXIT_OK) cursor = bq_strdup(json_string_value(json_object_get(page, "nextCursor")));
    json_decref(page);
    left = cursor != NULL ? left - wanted : 0;
  }
  bq_free(cursor);
  return code;
}

int bq_mail_list(const bq_mail_arguments *a) {
  bq_table *table = NULL;
  char *text = NULL;
  bq_error err;
  int code = BQ_EXIT_FAILURE;
  bq_client *client = bq_client_new(&a->common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  int result = bq_table_new(&table, columns, COLUMN_COUNT, &err);
  if (result == 0) code = list_pages(client, a, table);
  if (result == 0 && code == BQ_EXIT_OK && !a->common.json) {
    result = bq_table_text(table, bq_text_terminal(stdout), &text, &err);
  }
  if (result < 0) {
    (void)fprintf(stderr, "buildq: %s\n", err.message);
    code = BQ_EXIT_FAILURE;
  } else if (text != NULL) {
    (void)fputs(text, stdout);
  }
  bq_free(text);
  bq_table_free(table);
  bq_client_free(client);
  return code;
}

// show --------------------------------------------------------------------------------------------------------------

// The fields worth a line, in an order for people.
static const char *const shown[] = {"id",         "state",  "event",    "channel", "recipient", "customerId", "buildId",
                                    "template",   "round",  "attempt",  "tries",   "resend",    "createdAt",  "nextTryAt",
                                    "sentAt",     "endedAt", "lastCode", "lastReply", "fault",  "reason",     "messageId"};

static void print_field(const char *name, const json_t *value) {
  if (value == NULL || json_is_null(value)) return;
  (void)printf("%-11s ", name);
  if (json_is_string(value)) bq_text_print(stdout, json_string_value(value));
  else (void)printf("%lld", json_integer_value(value));
  (void)putchar('\n');
}

static void print_attempts(const json_t *attempts) {
  size_t index;
  json_t *attempt;
  if (json_array_size(attempts) > 0) (void)puts("attempts");
  json_array_foreach(attempts, index, attempt) {
    (void)printf("  %.19sZ %-6s ", bq_json_text(attempt, "at"), bq_json_text(attempt, "outcome"));
    const json_t *code = json_object_get(attempt, "code");
    if (json_is_integer(code)) (void)printf("%lld ", json_integer_value(code));
    bq_text_print(stdout, bq_json_text(attempt, "reply"));
    (void)putchar('\n');
  }
}

int bq_mail_show(const bq_mail_arguments *a) {
  json_t *answer = NULL;
  bq_client *client = bq_client_new(&a->common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  char *escaped = bq_client_escape(a->subject);
  char *path = escaped != NULL ? bq_format("/notifications/%s", escaped) : NULL;
  int code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &answer) : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK && a->common.json) {
    bq_print_json(answer, JSON_COMPACT);
  } else if (code == BQ_EXIT_OK) {
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) print_field(shown[i], json_object_get(answer, shown[i]));
    print_attempts(json_object_get(answer, "attempts"));
  }
  json_decref(answer);
  bq_free(path);
  bq_free(escaped);
  bq_client_free(client);
  return code;
}
