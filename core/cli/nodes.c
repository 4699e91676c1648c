// buildq nodes list|drain|resume
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/text.h"

typedef struct arguments {
  bq_common common;
  const char *action;
  const char *name;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case ARGP_KEY_ARG:
    if (a->name != NULL) argp_usage(state);
    if (a->action == NULL) a->action = value;
    else a->name = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static char *joined(const json_t *list) {
  bq_buf text = {0};
  size_t index;
  json_t *each;
  bq_buf_adds(&text, "");
  json_array_foreach(list, index, each) {
    bq_buf_addf(&text, "%s%s", index > 0 ? " " : "", json_string_value(each));
  }
  return bq_buf_take(&text);
}

static int add_node(bq_table *table, const json_t *node, bq_error *err) {
  char busy[48];
  char seen[48];
  (void)snprintf(busy, sizeof busy, "%lld/%lld", json_integer_value(json_object_get(node, "running")),
                 json_integer_value(json_object_get(node, "slots")));
  (void)snprintf(seen, sizeof seen, "%.0f s", json_number_value(json_object_get(node, "heartbeatSeconds")));
  char *labels = joined(json_object_get(node, "labels"));
  const char *cells[] = {bq_json_text(node, "id"), bq_json_text(node, "name"),    bq_json_text(node, "state"), busy, seen,
                         bq_json_text(node, "url"), bq_json_text(node, "version"), labels != NULL ? labels : ""};
  int result = bq_table_add(table, cells, err);
  bq_free(labels);
  return result;
}

static int print_nodes(const json_t *nodes) {
  static const bq_table_column columns[] = {{"ID", 0, 0},  {"NAME", 0, 0}, {"STATE", 0, 0},   {"BUILDS", 1, 0},
                                            {"SEEN", 1, 0}, {"URL", 0, 0},  {"VERSION", 0, 0}, {"LABELS", 0, 1}};
  return bq_print_list(columns, sizeof columns / sizeof columns[0], nodes, add_node);
}

static int is_meant(const json_t *node, const char *name) {
  const char *url = bq_json_text(node, "url");
  const char *address = strstr(url, "://");
  return strcmp(bq_json_text(node, "name"), name) == 0 || strcmp(url, name) == 0 ||
         (address != NULL && strcmp(address + 3, name) == 0) || strncmp(bq_json_text(node, "id"), name, strlen(name)) == 0;
}

// The one server that is meant by a name, an address, or the beginning of an id. Those that have ended are not.
static const json_t *find(const json_t *nodes, const char *name) {
  const json_t *found = NULL;
  size_t index;
  json_t *node;
  json_array_foreach(nodes, index, node) {
    const char *state = bq_json_text(node, "state");
    if (strcmp(state, "dead") == 0 || strcmp(state, "stopped") == 0 || !is_meant(node, name)) continue;
    if (found != NULL) {
      (void)fprintf(stderr, "buildq: several servers are called %s: give the address or the id of one\n", name);
      return NULL;
    }
    found = node;
  }
  if (found == NULL) (void)fprintf(stderr, "buildq: no running server is called %s (see `buildq nodes list`)\n", name);
  return found;
}

static int change(bq_client *client, const arguments *a, const json_t *nodes) {
  const json_t *node = find(nodes, a->name);
  if (node == NULL) return BQ_EXIT_FAILURE;
  json_t *answer = NULL;
  json_t *body = json_object();
  char *path = bq_format("/nodes/%s/%s", bq_json_text(node, "id"), a->action);
  int code = path != NULL ? bq_client_call(client, "POST", path, body, NULL, &answer) : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK) bq_print_json(answer, a->common.json ? JSON_COMPACT : JSON_INDENT(2));
  bq_free(path);
  json_decref(body);
  json_decref(answer);
  return code;
}

static int perform(const arguments *a) {
  bq_client *client = bq_client_new(&a->common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  json_t *answer = NULL;
  int code = bq_client_call(client, "GET", "/nodes", NULL, NULL, &answer);
  const json_t *nodes = json_object_get(answer, "nodes");
  if (code == BQ_EXIT_OK && a->name != NULL) code = change(client, a, nodes);
  else if (code == BQ_EXIT_OK && a->common.json) bq_print_json(answer, JSON_COMPACT);
  else if (code == BQ_EXIT_OK) code = print_nodes(nodes);
  json_decref(answer);
  bq_client_free(client);
  return code;
}

int bq_command_nodes(int argc, char **argv) {
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .parser = parse,
      .args_doc = "list\ndrain SERVER\nresume SERVER",
      .doc = "The servers of the queue, and what each offers to builds. drain: SERVER (its name, its address or the "
             "beginning of its id) starts no more builds, those that run go on; until resume, or until it is started "
             "again." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (a.action != NULL) {
    int lists = strcmp(a.action, "list") == 0 && a.name == NULL;
    int changes = (strcmp(a.action, "drain") == 0 || strcmp(a.action, "resume") == 0) && a.name != NULL;
    if (lists || changes) return perform(&a);
  }
  argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
  return BQ_EXIT_USAGE;
}
