// buildq enqueue
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/estimate.h"
#include "cli/follow.h"
#include "cli/text.h"

enum { MAX_FILE_BYTES = 1024 * 1024, FIRST_FIELD = 0x200, OPTION_MANIFEST = 0x300, OPTION_REQUEST, OPTION_KEY,
       OPTION_METADATA };

// Options that become a field of the request as they are.
typedef struct field {
  const char *option;
  const char *name; // in the request
  const char *help;
} field;

static const field fields[] = {
    {"customer-id", "customerId", "Who orders"},
    {"customer-name", "customerName", "Their name"},
    {"customer-email", "customerEmail", "Where their mails go"},
    {"configuration", "configurationName", "What the build is called"},
    {"manifest-path", "manifestPath", "A manifest below the server's ManifestDirectory"},
    {"tier", "tier", "Absent: as the manifest says"},
    {"architecture", "architecture", "Absent: as the manifest says"},
    {"cloud", "cloudProvider", "Absent: as the manifest says"},
    {"priority", "priority", "low, normal, high, critical or 0 to 3"},
    {"pipeline", "pipeline", "Absent: the manifest's, else honua-server"},
};
enum { FIELD_COUNT = sizeof fields / sizeof fields[0] };

typedef struct arguments {
  bq_common common;
  json_t *request; // owned
  const char *key; // Idempotency-Key
  int follow;
} arguments;

// Standard input may be a pipe, which bq_file_read refuses.
static int read_input(char **out, size_t *length, bq_error *err) {
  char piece[8192];
  bq_buf text = {0};
  for (size_t got; (got = fread(piece, 1, sizeof piece, stdin)) > 0 && text.length <= MAX_FILE_BYTES;) {
    bq_buf_add(&text, piece, got);
  }
  int result = ferror(stdin) ? bq_fail_errno(err, errno, "can't read standard input") : bq_buf_check(&text, err);
  if (result == 0 && text.length > MAX_FILE_BYTES) {
    result = bq_fail(err, BQ_ELIMIT, "standard input is larger than %d bytes", MAX_FILE_BYTES);
  }
  if (result < 0) {
    bq_buf_free(&text);
    return result;
  }
  *length = text.length;
  *out = text.data != NULL ? bq_buf_take(&text) : bq_strdup("");
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
}

// Reads a JSON file (- is standard input) into `*out`; ends the program with a sentence when it can't.
static void read_json(struct argp_state *state, const char *path, json_t **out) {
  char *text = NULL;
  size_t length = 0;
  bq_error err;
  int result = strcmp(path, "-") == 0 ? read_input(&text, &length, &err)
                                      : bq_file_read(path, MAX_FILE_BYTES, &text, &length, &err);
  if (result < 0 || bq_json_parse(text, length, BQ_JSON_STRICT, out, &err) < 0) {
    argp_failure(state, BQ_EXIT_USAGE, 0, "%s: %s", path, err.message);
  }
  bq_free(text);
}

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  json_t *read = NULL;
  if (key >= FIRST_FIELD && key < FIRST_FIELD + FIELD_COUNT) {
    (void)json_object_set_new(a->request, fields[key - FIRST_FIELD].name, json_string(value));
    return 0;
  }
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_MANIFEST:
    read_json(state, value, &read);
    (void)json_object_set_new(a->request, "manifest", read);
    return 0;
  case OPTION_METADATA:
    read_json(state, value, &read);
    (void)json_object_set_new(a->request, "metadata", read);
    return 0;
  case OPTION_REQUEST:
    read_json(state, value, &read);
    if (!json_is_object(read)) argp_failure(state, BQ_EXIT_USAGE, 0, "%s: a request is a JSON object", value);
    (void)json_object_update_missing(a->request, read);
    json_decref(read);
    return 0;
  case OPTION_KEY: a->key = value; return 0;
  case 'f': a->follow = 1; return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// To standard error, so that the id alone is what a script gets.
static void tell_estimate(const json_t *answer) {
  char *line = bq_estimate_line(json_object_get(answer, "estimate"));
  if (line == NULL) return;
  (void)fputs("estimate: ", stderr);
  bq_text_print(stderr, line);
  (void)fputc('\n', stderr);
  bq_free(line);
}

static int send_request(const arguments *a) {
  bq_client *client = bq_client_new(&a->common);
  json_t *answer = NULL;
  if (client == NULL) return BQ_EXIT_FAILURE;
  char *header = a->key != NULL ? bq_format("Idempotency-Key: %s", a->key) : NULL;
  int code = bq_client_call(client, "POST", "/builds", a->request, header, &answer);
  const char *id = json_string_value(json_object_get(answer, "jobId"));
  if (code == BQ_EXIT_OK && id != NULL) {
    size_t index;
    json_t *warning;
    json_array_foreach(json_object_get(answer, "warnings"), index, warning) {
      const char *path = json_string_value(json_object_get(warning, "path"));
      const char *message = json_string_value(json_object_get(warning, "message"));
      (void)fputs("warning: ", stderr);
      bq_text_print(stderr, path != NULL ? path : "?");
      (void)fputs(": ", stderr);
      bq_text_print(stderr, message != NULL ? message : "?");
      (void)fputc('\n', stderr);
    }
    tell_estimate(answer);
    char *text = a->common.json ? bq_json_dumps(answer, JSON_COMPACT) : bq_strdup(id);
    (void)puts(text != NULL ? text : id);
    (void)fflush(stdout);
    bq_free(text);
    if (a->follow) code = bq_follow_build(client, id, a->common.json, NULL);
  }
  bq_free(header);
  json_decref(answer);
  bq_client_free(client);
  return code;
}

int bq_command_enqueue(int argc, char **argv) {
  struct argp_option options[FIELD_COUNT + 6] = {{0}};
  for (int i = 0; i < FIELD_COUNT; i++) {
    options[i] = (struct argp_option){fields[i].option, FIRST_FIELD + i, "TEXT", 0, fields[i].help, 1};
  }
  options[FIELD_COUNT] = (struct argp_option){"manifest", OPTION_MANIFEST, "FILE", 0, "A manifest to send along", 2};
  options[FIELD_COUNT + 1] = (struct argp_option){
      "request", OPTION_REQUEST, "FILE", 0, "A whole request as JSON; other options win over its fields", 2};
  options[FIELD_COUNT + 2] = (struct argp_option){"metadata", OPTION_METADATA, "FILE", 0, "A JSON object to keep", 2};
  options[FIELD_COUNT + 3] = (struct argp_option){
      "idempotency-key", OPTION_KEY, "TEXT", 0, "The same key within a day is the same build", 2};
  options[FIELD_COUNT + 4] = (struct argp_option){"follow", 'f', NULL, 0, "Wait for the build's end", 2};
  const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  const struct argp argp = {
      .options = options,
      .parser = parse,
      .children = children,
      .doc = "Queues a build and prints its id. FILE may be - for standard input." BQ_EXIT_TEXT};
  arguments a = {.request = json_object()};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  int code = send_request(&a);
  json_decref(a.request);
  return code;
}
