// buildq schedule list|next|runs|run|pause|resume
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/text.h"

enum { MAX_COUNT = 1000 };

typedef struct arguments {
  bq_common common;
  const char *action;
  const char *name;
  const char *reason;
  long count; // 0: not given
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  char *end;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'r': a->reason = value; return 0;
  case 'n':
    a->count = strtol(value, &end, 10);
    if (*end != '\0' || a->count < 1 || a->count > MAX_COUNT) {
      argp_error(state, "--count is a number from 1 to %d, not %s", MAX_COUNT, value);
    }
    return 0;
  case ARGP_KEY_ARG:
    if (a->name != NULL) argp_usage(state);
    if (a->action == NULL) a->action = value;
    else a->name = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// "2026-01-31T12:00:00.000000Z" without what is always zero; "" for none.
static void cut_time(char out[24], const json_t *object, const char *key) {
  const char *text = bq_json_text(object, key);
  (void)snprintf(out, 24, "%.19s%s", text, text[0] != '\0' ? "Z" : "");
}

static int add_schedule(bq_table *table, const json_t *item, bq_error *err) {
  char next[24];
  cut_time(next, item, "nextAt");
  const char *cells[] = {bq_json_text(item, "name"),
                         bq_json_text(item, "cron"),
                         bq_json_text(item, "zone"),
                         bq_json_text(item, "missed"),
                         next,
                         bq_json_text(json_object_get(item, "lastRun"), "outcome"),
                         bq_json_text(item, "pauseReason")};
  return bq_table_add(table, cells, err);
}

// Entries of the policy that the server can't use.
static void tell_faults(const json_t *answer) {
  size_t index;
  json_t *fault;
  json_array_foreach(json_object_get(answer, "faults"), index, fault) {
    (void)fputs("not used: ", stderr);
    bq_text_print(stderr, bq_json_text(fault, "name"));
    (void)fputs(": ", stderr);
    bq_text_print(stderr, bq_json_text(fault, "message"));
    (void)fputc('\n', stderr);
  }
}

static int print_schedules(const json_t *answer) {
  static const bq_table_column columns[] = {{"NAME", 0, 0},       {"CRON", 0, 0}, {"ZONE", 0, 0},
                                            {"MISSED", 0, 0},     {"NEXT (UTC)", 0, 0}, {"LAST", 0, 0},
                                            {"PAUSED", 0, 1}};
  tell_faults(answer);
  return bq_print_list(columns, sizeof columns / sizeof columns[0], json_object_get(answer, "schedules"), add_schedule);
}

static int add_run(bq_table *table, const json_t *item, bq_error *err) {
  char first[24];
  char count[32];
  cut_time(first, item, "occurrence");
  (void)snprintf(count, sizeof count, "%lld", json_integer_value(json_object_get(item, "occurrences")));
  const char *cells[] = {first, count, bq_json_text(item, "outcome"), bq_json_text(item, "buildId"), bq_json_text(item, "reason")};
  return bq_table_add(table, cells, err);
}

static int print_runs(const json_t *answer) {
  static const bq_table_column columns[] = {
      {"OCCURRENCE (UTC)", 0, 0}, {"COUNT", 1, 0}, {"OUTCOME", 0, 0}, {"BUILD", 0, 0}, {"REASON", 0, 1}};
  return bq_print_list(columns, sizeof columns / sizeof columns[0], json_object_get(answer, "runs"), add_run);
}

static int print_next(const json_t *answer) {
  size_t index;
  json_t *time;
  json_array_foreach(json_object_get(answer, "next"), index, time) {
    (void)printf("%.19sZ\n", json_string_value(time) != NULL ? json_string_value(time) : "");
  }
  return BQ_EXIT_OK;
}

static int add_next(bq_table *table, const json_t *item, bq_error *err) {
  char next[24];
  cut_time(next, item, "nextAt");
  const char *cells[] = {next, bq_json_text(item, "name")};
  return next[0] != '\0' ? bq_table_add(table, cells, err) : 0;
}

static int by_next(const void *a, const void *b) {
  const json_t *first = *(json_t *const *)a;
  const json_t *second = *(json_t *const *)b;
  return strcmp(bq_json_text(first, "nextAt"), bq_json_text(second, "nextAt")); // all of one form
}

// Of each schedule the next occurrence, the soonest first.
static int print_soonest(const json_t *answer) {
  static const bq_table_column columns[] = {{"NEXT (UTC)", 0, 0}, {"NAME", 0, 1}};
  const json_t *list = json_object_get(answer, "schedules");
  size_t count = json_array_size(list);
  json_t **items = bq_alloc((count + 1) * sizeof(json_t *));
  json_t *sorted = json_array();
  for (size_t i = 0; items != NULL && i < count; i++) items[i] = json_array_get(list, i);
  if (items != NULL) qsort(items, count, sizeof(json_t *), by_next);
  for (size_t i = 0; items != NULL && i < count; i++) (void)json_array_append(sorted, items[i]);
  bq_free(items);
  int code = bq_print_list(columns, sizeof columns / sizeof columns[0], sorted, add_next);
  json_decref(sorted);
  return code;
}

static int print_change(const json_t *answer) {
  bq_print_json(answer, JSON_INDENT(2));
  return BQ_EXIT_OK;
}

// What an action asks and how its answer looks.
typedef struct action {
  const char *name;
  const char *method;
  const char *query;      // of a GET of one schedule: the count follows; NULL: the path ends in the action's name
  int needs_name;
  long count;             // when --count is not given; 0: it takes none
  int (*print)(const json_t *answer);
} action;

static const action actions[] = {
    {"list", "GET", NULL, 0, 0, print_schedules},
    {"next", "GET", NULL, 0, 0, print_soonest},
    {"next", "GET", "runs=0&next=", 1, 10, print_next},
    {"runs", "GET", "next=0&runs=", 1, 20, print_runs},
    {"run", "POST", NULL, 1, 0, print_change},
    {"pause", "POST", NULL, 1, 0, print_change},
    {"resume", "POST", NULL, 1, 0, print_change},
};

static char *path_of(const arguments *a, const action *act) {
  char *escaped = bq_client_escape(a->name != NULL ? a->name : "");
  if (escaped == NULL) return NULL;
  char *path;
  long count = a->count > 0 ? a->count : act->count;
  if (!act->needs_name) path = bq_strdup("/schedules");
  else if (act->query != NULL) path = bq_format("/schedules/%s?%s%ld", escaped, act->query, count);
  else path = bq_format("/schedules/%s/%s", escaped, act->name);
  bq_free(escaped);
  return path;
}

static int perform(const arguments *a, const action *act) {
  bq_client *client = bq_client_new(&a->common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  json_t *body = strcmp(act->method, "POST") == 0 ? json_object() : NULL;
  if (a->reason != NULL) (void)json_object_set_new(body, "reason", json_string(a->reason));
  json_t *answer = NULL;
  char *path = path_of(a, act);
  int code = path != NULL ? bq_client_call(client, act->method, path, body, NULL, &answer) : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK && a->common.json) bq_print_json(answer, JSON_COMPACT);
  else if (code == BQ_EXIT_OK) code = act->print(answer);
  json_decref(answer);
  json_decref(body);
  bq_free(path);
  bq_client_free(client);
  return code;
}

int bq_command_schedule(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"count", 'n', "COUNT", 0, "next, runs: so many (10, 20; 1000 at most)", 1},
      {"reason", 'r', "TEXT", 0, "pause: why, shown to everybody who asks", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "list\nnext [NAME]\nruns NAME\nrun NAME\npause NAME --reason TEXT\nresume NAME",
      .doc = "Schedules: builds that enqueue themselves. next prints what comes next, or all occurrences to come "
             "of one; runs what became of those that were (newest first); run enqueues a build now, also of a paused schedule; pause lasts until resume, "
             "on all servers." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  for (size_t i = 0; a.action != NULL && i < sizeof actions / sizeof actions[0]; i++) {
    if (strcmp(actions[i].name, a.action) != 0 || actions[i].needs_name != (a.name != NULL)) continue;
    if ((strcmp(a.action, "pause") == 0) != (a.reason != NULL)) break;
    if (a.count > 0 && actions[i].count == 0) break;
    return perform(&a, &actions[i]);
  }
  argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
  if (a.action != NULL && strcmp(a.action, "pause") == 0 && a.reason == NULL) {
    (void)fputs("A reason is needed: --reason TEXT\n", stderr);
  }
  return BQ_EXIT_USAGE;
}
