// buildq generations list|show|diff|activate|release, and buildq reload
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/generation_diff.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/text.h"

enum { OPTION_SHARE = 0x600, SHORT_HASH = 12, LISTED_HISTORY = 5 };

typedef struct arguments {
  bq_common common;
  const char *action;
  const char *first;  // a hash, or the beginning of one
  const char *second; // for diff
  const char *reason;
  long share; // percent; 0: not given
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  char *end;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'r': a->reason = value; return 0;
  case OPTION_SHARE:
    a->share = strtol(value, &end, 10);
    if (end == value || (*end != '\0' && strcmp(end, "%") != 0) || a->share < 1 || a->share > 100) {
      argp_error(state, "--share is a part in percent, 1%% to 100%%, not %s", value);
    }
    return 0;
  case ARGP_KEY_ARG:
    if (a->action == NULL) a->action = value;
    else if (a->first == NULL) a->first = value;
    else if (a->second == NULL) a->second = value;
    else argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// list --------------------------------------------------------------------------------------------------------------

// Where a generation is in use: "running here", "on disk", "active 10%".
static void describe_use(char *out, size_t size, const json_t *answer, const char *hash) {
  const json_t *activation = json_object_get(answer, "activation");
  int active = strcmp(bq_json_text(activation, "generation"), hash) == 0;
  char share[24] = "";
  if (active) (void)snprintf(share, sizeof share, "active %lld%%", json_integer_value(json_object_get(activation, "share")));
  int current = strcmp(bq_json_text(answer, "current"), hash) == 0;
  int disk = strcmp(bq_json_text(answer, "disk"), hash) == 0;
  (void)snprintf(out, size, "%s%s%s%s%s", share, active && (current || disk) ? ", " : "", current ? "running" : "",
                 current && disk ? ", " : "", disk ? "on disk" : "");
}

static void seconds_text(char out[24], const json_t *item, const char *key) {
  const json_t *value = json_object_get(item, key);
  if (json_is_number(value)) (void)snprintf(out, 24, "%.1f s", json_number_value(value));
  else out[0] = '\0';
}

static int add_generation(bq_table *table, const json_t *answer, const json_t *item, bq_error *err) {
  char numbers[3][24];
  char seconds[2][24];
  char use[80];
  char hash[SHORT_HASH + 1];
  char used[24];
  static const char *const counts[] = {"builds", "succeeded", "failed"};
  for (int i = 0; i < 3; i++) {
    (void)snprintf(numbers[i], 24, "%lld", json_integer_value(json_object_get(item, counts[i])));
  }
  seconds_text(seconds[0], item, "p50Seconds");
  seconds_text(seconds[1], item, "p90Seconds");
  describe_use(use, sizeof use, answer, bq_json_text(item, "hash"));
  (void)snprintf(hash, sizeof hash, "%s", bq_json_text(item, "hash"));
  (void)snprintf(used, sizeof used, "%.19sZ", bq_json_text(item, "usedAt"));
  const char *cells[] = {hash, used, numbers[0], numbers[1], numbers[2], seconds[0], seconds[1], use};
  return bq_table_add(table, cells, err);
}

static void print_activation(const json_t *answer) {
  const json_t *activation = json_object_get(answer, "activation");
  if (bq_json_text(activation, "generation")[0] == '\0') return;
  (void)printf("\nActive since %.19sZ by ", bq_json_text(activation, "since"));
  bq_text_print(stdout, bq_json_text(activation, "who"));
  if (bq_json_text(activation, "reason")[0] != '\0') {
    (void)fputs(": ", stdout);
    bq_text_print(stdout, bq_json_text(activation, "reason"));
  }
  (void)fputs("\nbuildq generations release returns to the disk.\n", stdout);
}

// Who has changed what builds start on, newest first.
static void print_history(const json_t *history) {
  size_t i;
  const json_t *entry;
  if (json_array_size(history) > 0) (void)fputs("\nHistory\n", stdout);
  json_array_foreach(history, i, entry) {
    if (i == LISTED_HISTORY) break;
    const char *hash = bq_json_text(entry, "generation");
    (void)printf("%.19sZ  ", bq_json_text(entry, "at"));
    if (hash[0] == '\0') (void)fputs("released", stdout);
    else (void)printf("activated %.*s %lld%%", SHORT_HASH, hash, json_integer_value(json_object_get(entry, "share")));
    (void)fputs(" by ", stdout);
    bq_text_print(stdout, bq_json_text(entry, "who"));
    if (bq_json_text(entry, "reason")[0] != '\0') {
      (void)fputs(": ", stdout);
      bq_text_print(stdout, bq_json_text(entry, "reason"));
    }
    (void)fputc('\n', stdout);
  }
}

static int print_list(const json_t *answer) {
  static const bq_table_column columns[] = {{"GENERATION", 0, 0}, {"LAST USED (UTC)", 0, 0}, {"BUILDS", 1, 0},
                                            {"SUCCEEDED", 1, 0},  {"FAILED", 1, 0},          {"P50", 1, 0},
                                            {"P90", 1, 0},        {"USE", 0, 1}};
  bq_table *table = NULL;
  char *text = NULL;
  size_t index;
  json_t *item;
  bq_error err;
  int result = bq_table_new(&table, columns, sizeof columns / sizeof columns[0], &err);
  json_array_foreach(json_object_get(answer, "generations"), index, item) {
    if (result == 0) result = add_generation(table, answer, item, &err);
  }
  if (result == 0) result = bq_table_text(table, bq_text_terminal(stdout), &text, &err);
  if (result == 0) (void)fputs(text, stdout);
  else (void)fprintf(stderr, "buildq: %s\n", err.message);
  if (result == 0) print_activation(answer);
  if (result == 0) print_history(json_object_get(answer, "history"));
  bq_free(text);
  bq_table_free(table);
  return result == 0 ? BQ_EXIT_OK : BQ_EXIT_FAILURE;
}

static int print_files(const json_t *answer) {
  size_t index;
  json_t *file;
  (void)printf("%s\n", bq_json_text(answer, "hash"));
  json_array_foreach(json_object_get(answer, "files"), index, file) {
    (void)printf("%.*s  ", SHORT_HASH, bq_json_text(file, "hash"));
    bq_text_print(stdout, bq_json_text(file, "path"));
    (void)putchar('\n');
  }
  return BQ_EXIT_OK;
}

// Requests ----------------------------------------------------------------------------------------------------------

static int get_generation(bq_client *client, const char *hash, json_t **answer) {
  char *escaped = bq_client_escape(hash);
  char *path = escaped != NULL ? bq_format("/generations/%s", escaped) : NULL;
  int code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, answer) : BQ_EXIT_FAILURE;
  bq_free(path);
  bq_free(escaped);
  return code;
}

static int list(const arguments *a, bq_client *client) {
  json_t *answer = NULL;
  int code = bq_client_call(client, "GET", "/generations", NULL, NULL, &answer);
  if (code == BQ_EXIT_OK && a->common.json) bq_print_json(answer, JSON_COMPACT);
  else if (code == BQ_EXIT_OK) code = print_list(answer);
  json_decref(answer);
  return code;
}

static int show(const arguments *a, bq_client *client) {
  json_t *answer = NULL;
  int code = get_generation(client, a->first, &answer);
  if (code == BQ_EXIT_OK && a->common.json) bq_print_json(answer, JSON_COMPACT);
  else if (code == BQ_EXIT_OK) code = print_files(answer);
  json_decref(answer);
  return code;
}

static int compare(const arguments *a, bq_client *client) {
  json_t *first = NULL;
  json_t *second = NULL;
  bq_error err;
  int code = get_generation(client, a->first, &first);
  if (code == BQ_EXIT_OK) code = get_generation(client, a->second, &second);
  if (code == BQ_EXIT_OK && bq_generation_diff(first, second, &err) < 0) {
    (void)fprintf(stderr, "buildq: %s\n", err.message);
    code = BQ_EXIT_FAILURE;
  }
  json_decref(first);
  json_decref(second);
  return code;
}

// Who asks, for the history: "user@host".
static json_t *who(void) {
  char host[200] = "";
  const struct passwd *user = getpwuid(getuid());
  if (gethostname(host, sizeof host - 1) < 0) host[0] = '\0';
  return json_sprintf("%s@%s", user != NULL ? user->pw_name : "unknown", host);
}

static int change(const arguments *a, bq_client *client, const char *path) {
  json_t *body = json_pack("{s:o*}", "who", who());
  json_t *answer = NULL;
  if (a->first != NULL) (void)json_object_set_new(body, "generation", json_string(a->first));
  if (a->share > 0) (void)json_object_set_new(body, "share", json_integer(a->share));
  if (a->reason != NULL) (void)json_object_set_new(body, "reason", json_string(a->reason));
  int code = bq_client_call(client, "POST", path, body, NULL, &answer);
  if (code == BQ_EXIT_OK && a->common.json) {
    bq_print_json(answer, JSON_COMPACT);
  } else if (code == BQ_EXIT_OK && bq_json_text(answer, "generation")[0] != '\0') {
    (void)printf("active: %s, %lld%% of new builds\n", bq_json_text(answer, "generation"),
                 json_integer_value(json_object_get(answer, "share")));
  } else if (code == BQ_EXIT_OK) {
    (void)puts("released: new builds start on what the servers have on disk");
  }
  json_decref(answer);
  json_decref(body);
  return code;
}

static int activate(const arguments *a, bq_client *client) {
  return change(a, client, "/generations/activate");
}

static int release(const arguments *a, bq_client *client) {
  return change(a, client, "/generations/release");
}

typedef struct action {
  const char *name;
  int names; // hashes it takes
  int (*run)(const arguments *a, bq_client *client);
} action;

static const action actions[] = {
    {"list", 0, list}, {"show", 1, show}, {"diff", 2, compare}, {"activate", 1, activate}, {"release", 0, release}};

static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};

int bq_command_generations(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"share", OPTION_SHARE, "PERCENT", 0, "activate: of new builds; the rest start on the disk's (100%)", 1},
      {"reason", 'r', "TEXT", 0, "activate, release: why, kept in the history", 1},
      {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "list\nshow HASH\ndiff HASH HASH\nactivate HASH\nrelease",
      .doc = "Generations: snapshots of all scripts and templates, named by their contents; the beginning of a HASH is "
             "enough. list shows what builds did on each; activate makes one the cluster's, whatever lies on the servers' "
             "disks, until release." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  int names = (a.first != NULL) + (a.second != NULL);
  for (size_t i = 0; a.action != NULL && i < sizeof actions / sizeof actions[0]; i++) {
    if (strcmp(actions[i].name, a.action) != 0 || actions[i].names != names) continue;
    if (a.share > 0 && actions[i].run != activate) break;
    bq_client *client = bq_client_new(&a.common);
    if (client == NULL) return BQ_EXIT_FAILURE;
    int code = actions[i].run(&a, client);
    bq_client_free(client);
    return code;
  }
  argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
  return BQ_EXIT_USAGE;
}

// reload ------------------------------------------------------------------------------------------------------------

static void print_paths(const json_t *answer, const char *key) {
  size_t index;
  json_t *path;
  json_array_foreach(json_object_get(answer, key), index, path) {
    (void)printf("%-8s ", key);
    bq_text_print(stdout, json_string_value(path) != NULL ? json_string_value(path) : "");
    (void)putchar('\n');
  }
}

static int print_reload(const json_t *answer) {
  int same = strcmp(bq_json_text(answer, "generation"), bq_json_text(answer, "previous")) == 0;
  print_paths(answer, "added");
  print_paths(answer, "changed");
  print_paths(answer, "removed");
  if (json_is_true(json_object_get(answer, "held"))) {
    (void)printf("%s was activated and goes on; the disk has %s\n", bq_json_text(answer, "generation"),
                 bq_json_text(answer, "disk"));
  } else {
    (void)printf("%s %s\n", bq_json_text(answer, "generation"), same ? "was running already" : "is running");
  }
  return BQ_EXIT_OK;
}

int bq_command_reload(int argc, char **argv) {
  static const struct argp argp = {
      .parser = parse,
      .doc = "Has the server read its scripts and templates again, waits for the check, and says what has changed; what is "
             "wrong with them when they are not used. The configuration is read again by SIGHUP." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  json_t *answer = NULL;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (a.action != NULL) {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    return BQ_EXIT_USAGE;
  }
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  json_t *body = json_object();
  int code = bq_client_call(client, "POST", "/admin/reload", body, NULL, &answer);
  if (code == BQ_EXIT_OK && a.common.json) bq_print_json(answer, JSON_COMPACT);
  else if (code == BQ_EXIT_OK) code = print_reload(answer);
  json_decref(body);
  json_decref(answer);
  bq_client_free(client);
  return code;
}
