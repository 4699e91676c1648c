// buildq logs
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"
#include "cli/client.h"

typedef struct arguments {
  bq_common common;
  const char *id;
  const char *attempt;
  int follow;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'f': a->follow = 1; return 0;
  case 'a':
    if (value[0] == '\0' || strspn(value, "0123456789") != strlen(value)) argp_error(state, "--attempt is a number");
    a->attempt = value;
    return 0;
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

static int print_piece(void *arg, const char *bytes, size_t length) {
  (void)arg;
  return fwrite(bytes, 1, length, stdout) == length && fflush(stdout) == 0;
}

int bq_command_logs(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"attempt", 'a', "NUMBER", 0, "Of this attempt; absent: the last one", 1},
      {"follow", 'f', NULL, 0, "Go on while the attempt runs", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {.options = options,
                                   .parser = parse,
                                   .args_doc = "ID",
                                   .doc = "Prints the log of a build." BQ_EXIT_TEXT,
                                   .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  bq_buf path = {0};
  char *escaped = bq_client_escape(a.id);
  bq_buf_addf(&path, "/builds/%s/log?%s%s%s", escaped != NULL ? escaped : "", a.follow ? "follow=1&" : "",
              a.attempt != NULL ? "attempt=" : "", a.attempt != NULL ? a.attempt : "");
  int code = path.failed ? BQ_EXIT_FAILURE : bq_client_stream(client, path.data, NULL, print_piece, NULL);
  bq_free(escaped);
  bq_buf_free(&path);
  bq_client_free(client);
  return code;
}
