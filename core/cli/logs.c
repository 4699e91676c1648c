// buildq logs
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/log_position.h"

// PATIENCE_S covers a server's restart: the log is in its state directory meanwhile.
enum { AGAIN_MS = 500, PATIENCE_S = 60 };

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

// A log that is followed: what is needed to go on after the connection was lost.
typedef struct reader {
  bq_client *client;
  const arguments *a;
  bq_log_position position;
  char attempt[16];  // which one is being read; "" before the server has said so
  int64_t lost_us;   // when the first of the present failures was; 0: the last try had an answer
} reader;

static int print_piece(void *arg, const char *bytes, size_t length) {
  reader *r = arg;
  r->lost_us = 0;
  bq_log_position_feed(&r->position, bytes, length);
  return fwrite(bytes, 1, length, stdout) == length && fflush(stdout) == 0;
}

static int read_log(reader *r) {
  bq_buf path = {0};
  char *escaped = bq_client_escape(r->a->id);
  const char *attempt = r->attempt[0] != '\0' ? r->attempt : r->a->attempt;
  bq_buf_addf(&path, "/builds/%s/log?offset=%" PRIu64, escaped != NULL ? escaped : "", r->position.offset);
  if (r->a->follow) bq_buf_adds(&path, "&follow=1");
  if (attempt != NULL) bq_buf_addf(&path, "&attempt=%s", attempt);
  int code = path.failed ? BQ_EXIT_FAILURE : bq_client_stream(r->client, path.data, NULL, print_piece, r);
  bq_free(escaped);
  bq_buf_free(&path);
  return code;
}

// After an answer that broke off, or none. Returns 1 while it is worth to try again. Says so once.
static int is_patient(reader *r) {
  int64_t now = bq_clock_mono_us();
  if (r->attempt[0] == '\0') {
    bq_client_header(r->client, "X-Build-Attempt", r->attempt, sizeof r->attempt);
    if (r->attempt[0] == '\0') return 0; // it never was there: the client has said why
  }
  bq_log_position_cut(&r->position);
  if (r->lost_us == 0) {
    r->lost_us = now;
    (void)fprintf(stderr, "buildq: the connection to %s was lost; trying again for %d s\n", bq_client_url(r->client),
                  PATIENCE_S);
  }
  if (now - r->lost_us < (int64_t)PATIENCE_S * 1000000) return 1;
  (void)fprintf(stderr, "buildq: still no answer; the build may go on: buildq logs %s --follow\n", r->a->id);
  return 0;
}

static int follow_log(reader *r) {
  const struct timespec pause = {.tv_nsec = (long)AGAIN_MS * 1000000};
  for (;; (void)nanosleep(&pause, NULL)) {
    bq_client_quiet(r->client, r->attempt[0] != '\0');
    int code = read_log(r);
    if (code != BQ_EXIT_UNREACHABLE || !is_patient(r)) return code;
  }
}

int bq_command_logs(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"attempt", 'a', "NUMBER", 0, "Of this attempt; absent: the last one", 1},
      {"follow", 'f', NULL, 0, "Wait for the build to begin, go on while the attempt runs", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {.options = options,
                                   .parser = parse,
                                   .args_doc = "ID",
                                   .doc = "Prints the log of a build. With --follow it goes on after a lost "
                                          "connection, for a minute without an answer at most." BQ_EXIT_TEXT,
                                   .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  bq_client *client = bq_client_new(&a.common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  reader r = {.client = client, .a = &a};
  int code = a.follow ? follow_log(&r) : read_log(&r);
  bq_client_free(client);
  return code;
}
