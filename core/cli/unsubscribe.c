// buildq unsubscribe list|add|remove|enable
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/text.h"

enum { OPTION_CHANNEL = 0xd00, OPTION_CUSTOMER, OPTION_RECIPIENT };

typedef struct arguments {
  bq_common common;
  const char *action;
  const char *channel;
  const char *customer;
  const char *recipient;
  const char *event;
  const char *reason;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'e': a->event = value; return 0;
  case 'r': a->reason = value; return 0;
  case OPTION_CHANNEL: a->channel = value; return 0;
  case OPTION_CUSTOMER: a->customer = value; return 0;
  case OPTION_RECIPIENT: a->recipient = value; return 0;
  case ARGP_KEY_ARG:
    if (a->action != NULL) argp_usage(state);
    a->action = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// `path` with what was given as a query.
static char *with_query(const char *path, const arguments *a) {
  const char *const names[] = {"channel", "customerId", "recipient", "event"};
  const char *const values[] = {a->channel, a->customer, a->recipient, a->event};
  bq_buf text = {0};
  char sign = '?';
  bq_buf_adds(&text, path);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char *escaped = values[i] != NULL ? bq_client_escape(values[i]) : NULL;
    if (escaped != NULL) bq_buf_addf(&text, "%c%s=%s", sign, names[i], escaped);
    if (escaped != NULL) sign = '&';
    bq_free(escaped);
  }
  return bq_buf_take(&text);
}

// list --------------------------------------------------------------------------------------------------------------

static int add_rows(bq_table *table, const json_t *list, int disabled, bq_error *err) {
  size_t index;
  json_t *item;
  int result = 0;
  json_array_foreach(list, index, item) {
    char since[20]; // without fractions and zone
    const char *customer = bq_json_text(item, "customerId");
    const char *recipient = bq_json_text(item, "recipient");
    const char *event = bq_json_text(item, "event");
    (void)snprintf(since, sizeof since, "%s", bq_json_text(item, "createdAt"));
    const char *cells[] = {customer[0] != '\0' ? customer : "any",
                           recipient[0] != '\0' ? recipient : "any",
                           event[0] != '\0' ? event : "all",
                           bq_json_text(item, "channel"),
                           disabled ? "gone" : bq_json_text(item, "source"),
                           since,
                           bq_json_text(item, "reason")};
    if (result == 0) result = bq_table_add(table, cells, err);
  }
  return result;
}

static int print_list(const json_t *answer) {
  static const bq_table_column columns[] = {{"CUSTOMER", 0, 1}, {"RECIPIENT", 0, 1}, {"EVENT", 0, 0}, {"CHANNEL", 0, 0},
                                            {"BY", 0, 0},       {"SINCE (UTC)", 0, 0}, {"REASON", 0, 1}};
  bq_table *table = NULL;
  char *text = NULL;
  bq_error err;
  int result = bq_table_new(&table, columns, sizeof columns / sizeof columns[0], &err);
  if (result == 0) result = add_rows(table, json_object_get(answer, "suppressions"), 0, &err);
  if (result == 0) result = add_rows(table, json_object_get(answer, "disabled"), 1, &err);
  if (result == 0) result = bq_table_text(table, bq_text_terminal(stdout), &text, &err);
  if (result == 0) (void)fputs(text, stdout);
  else (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_free(text);
  bq_table_free(table);
  return result == 0 ? BQ_EXIT_OK : BQ_EXIT_FAILURE;
}

// Changes -----------------------------------------------------------------------------------------------------------

static int print_added(const json_t *answer) {
  long long skipped = json_integer_value(json_object_get(answer, "skipped"));
  (void)printf("unsubscribed");
  if (skipped > 0) (void)printf("; %lld that waited %s not sent", skipped, skipped == 1 ? "is" : "are");
  (void)putchar('\n');
  return BQ_EXIT_OK;
}

static int print_removed(const json_t *answer) {
  (void)answer;
  (void)puts("subscribed again");
  return BQ_EXIT_OK;
}

static int print_enabled(const json_t *answer) {
  (void)answer;
  (void)puts("enabled");
  return BQ_EXIT_OK;
}

static json_t *body_of(const arguments *a) {
  json_t *body = json_pack("{s:s, s:s*, s:s*, s:s*, s:s*, s:s*}", "source", "command", "channel", a->channel, "customerId",
                           a->customer, "recipient", a->recipient, "event", a->event, "reason", a->reason);
  if (body == NULL) (void)fputs("buildq: an argument is not UTF-8\n", stderr);
  return body;
}

typedef struct action {
  const char *name;
  const char *method;
  const char *path;
  int (*print)(const json_t *answer);
} action;

static const action actions[] = {
    {"list", "GET", "/notifications/suppressions", print_list},
    {"add", "POST", "/notifications/suppressions", print_added},
    {"remove", "DELETE", "/notifications/suppressions", print_removed},
    {"enable", "DELETE", "/notifications/disabled", print_enabled},
};

static int perform(const arguments *a, const action *act) {
  int posts = strcmp(act->method, "POST") == 0;
  json_t *body = posts ? body_of(a) : NULL;
  if (posts && body == NULL) return BQ_EXIT_USAGE;
  json_t *answer = NULL;
  bq_client *client = bq_client_new(&a->common);
  char *path = posts ? bq_strdup(act->path) : with_query(act->path, a);
  int code = client != NULL && path != NULL ? bq_client_call(client, act->method, path, body, NULL, &answer)
                                            : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK && a->common.json) bq_print_json(answer, JSON_COMPACT);
  else if (code == BQ_EXIT_OK) code = act->print(answer);
  bq_free(path);
  bq_client_free(client);
  json_decref(answer);
  json_decref(body);
  return code;
}

// Why these arguments make no sense; NULL: they do.
static const char *fault_of(const arguments *a) {
  int list = strcmp(a->action, "list") == 0;
  int enable = strcmp(a->action, "enable") == 0;
  if (a->reason != NULL && strcmp(a->action, "add") != 0) return "--reason goes with add.";
  if (list && (a->event != NULL || a->channel != NULL)) return "list takes --customer and --recipient.";
  if (enable && (a->channel == NULL || a->recipient == NULL)) return "enable needs --channel NAME and --recipient TEXT.";
  if (enable && (a->event != NULL || a->customer != NULL)) return "enable takes --channel and --recipient.";
  if (!list && a->customer == NULL && a->recipient == NULL) return "Who? --customer ID, --recipient ADDRESS, or both.";
  return NULL;
}

int bq_command_unsubscribe(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"customer", OPTION_CUSTOMER, "ID", 0, "Mails about builds of this customer", 1},
      {"recipient", OPTION_RECIPIENT, "ADDRESS", 0, "Mails to this address", 1},
      {"event", 'e', "EVENT", 0, "add, remove: of this event, such as started (all)", 1},
      {"channel", OPTION_CHANNEL, "NAME", 0, "add, remove, enable: another channel than email", 1},
      {"reason", 'r', "TEXT", 0, "add: why, shown by list", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "list\nadd [--customer ID] [--recipient ADDRESS] [--event EVENT]\nremove (the same)\n"
                  "enable --channel NAME --recipient TEXT",
      .doc = "Who gets no notifications: add stops them (what waits is not sent either), remove takes exactly that "
             "back, list shows who stopped what: an operator, or a recipient by the link in a mail. Recipients that "
             "have answered that they are gone (HTTP 410) are listed too; enable lets messages go to them again.\v"
             "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no server answers, 4 nobody is unsubscribed with just these.",
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const char *fault = a.action != NULL ? "There is no such action." : NULL;
  for (size_t i = 0; a.action != NULL && i < sizeof actions / sizeof actions[0]; i++) {
    if (strcmp(actions[i].name, a.action) != 0) continue;
    fault = fault_of(&a);
    if (fault == NULL) return perform(&a, &actions[i]);
  }
  argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
  if (fault != NULL) (void)fprintf(stderr, "%s\n", fault);
  return BQ_EXIT_USAGE;
}
