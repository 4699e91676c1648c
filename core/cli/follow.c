#include "cli/follow.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/text.h"

// PATIENCE_S covers a server's restart and a database that comes back: the build is in the database meanwhile.
enum { POLL_MS = 250, PATIENCE_S = 60, BAR_CELLS = 30, BAR_REST = 9 /* "[", "] ", "100%", " " and one to spare */ };

typedef struct follower {
  bq_client *client;
  const char *id;
  char *path;       // owned; of the build
  int json;
  int terminal;     // a bar is drawn; the cursor stands behind it
  char *shown;      // owned; what was shown last
  json_t *build;    // owned; as it was last seen, or NULL
  int64_t lost_us;  // when the first of the present failures was; 0: the last call had an answer
} follower;

void bq_follow_bar(char *out, size_t size, int percent, const char *step, int width) {
  char cells[BAR_CELLS + 1];
  char fitted[512];
  int count = width < BAR_CELLS + BAR_REST ? width - BAR_REST : BAR_CELLS;
  if (count < 0) count = 0;
  if (percent < 0) percent = 0;
  if (percent > 100) percent = 100;
  memset(cells, '.', (size_t)count);
  memset(cells, '#', (size_t)(percent * count / 100));
  cells[count] = '\0';
  int room = width - count - BAR_REST;
  (void)bq_text_fit(fitted, sizeof fitted, step, room > 0 ? (size_t)room : 0);
  (void)snprintf(out, size, "[%s] %3d%% %s", cells, percent, fitted);
}

static const char *text_of(const json_t *build, const char *key, const char *absent) {
  const char *text = json_string_value(json_object_get(build, key));
  return text != NULL ? text : absent;
}

static int is_final(const char *status) {
  return strcmp(status, "pending") != 0 && strcmp(status, "building") != 0;
}

// What has changed since the last look, or NULL; a copy to compare with later.
static char *describe(const json_t *build) {
  const char *status = text_of(build, "status", "?");
  int percent = (int)json_integer_value(json_object_get(build, "progressPercent"));
  const char *due = text_of(build, "nextAttemptAt", NULL);
  if (strcmp(status, "pending") == 0 && due != NULL) {
    return bq_format("%s  failed, tried again at %s: %s", status, due, text_of(build, "errorMessage", ""));
  }
  return bq_format("%s %3d%% %s", status, percent, text_of(build, "currentStep", ""));
}

static void show(const follower *f, const char *line) {
  if (f->json) {
    char *text = bq_json_dumps(f->build, JSON_COMPACT);
    if (text != NULL) (void)puts(text);
    bq_free(text);
  } else if (f->terminal) {
    char bar[600];
    const char *status = text_of(f->build, "status", "?");
    const char *step = text_of(f->build, "currentStep", strcmp(status, "pending") == 0 ? "waiting" : status);
    bq_follow_bar(bar, sizeof bar, (int)json_integer_value(json_object_get(f->build, "progressPercent")), step,
                  (int)bq_text_terminal(stdout));
    (void)printf("\r\033[K%s", bar);
  } else {
    bq_text_print(stdout, line);
    (void)putchar('\n');
  }
  (void)fflush(stdout);
}

// So that what is said next doesn't stand behind the bar.
static void leave_bar(const follower *f) {
  if (!f->terminal || f->shown == NULL) return;
  (void)putchar('\n');
  (void)fflush(stdout);
}

static void show_change(follower *f) {
  char *line = describe(f->build);
  if (line == NULL || (f->shown != NULL && strcmp(line, f->shown) == 0)) {
    bq_free(line);
    return;
  }
  show(f, line);
  bq_free(f->shown);
  f->shown = line;
}

// Returns 1 while it is worth to try again. Says so once.
static int is_patient(follower *f) {
  int64_t now = bq_clock_mono_us();
  if (f->build == NULL) return 0; // it never was there: the client has said why
  if (f->lost_us == 0) {
    f->lost_us = now;
    leave_bar(f);
    (void)fprintf(stderr, "buildq: %s does not answer any more; trying again for %d s\n", bq_client_url(f->client),
                  PATIENCE_S);
  }
  if (now - f->lost_us < (int64_t)PATIENCE_S * 1000000) return 1;
  (void)fprintf(stderr, "buildq: still no answer; the build may go on: buildq status %s --follow\n", f->id);
  return 0;
}

// Looks until the end. Returns an exit code.
static int look(follower *f) {
  const struct timespec pause = {.tv_nsec = (long)POLL_MS * 1000000};
  for (;; (void)nanosleep(&pause, NULL)) {
    json_t *now = NULL;
    bq_client_quiet(f->client, f->build != NULL);
    int code = bq_client_call(f->client, "GET", f->path, NULL, NULL, &now);
    bq_client_quiet(f->client, 0);
    if (code == BQ_EXIT_UNREACHABLE && is_patient(f)) continue;
    if (code != BQ_EXIT_OK) return code;
    f->lost_us = 0;
    json_decref(f->build);
    f->build = now;
    show_change(f);
    const char *status = text_of(f->build, "status", "?");
    if (is_final(status)) return strcmp(status, "success") == 0 ? BQ_EXIT_OK : BQ_EXIT_BUILD;
  }
}

int bq_follow_build(bq_client *client, const char *id, int json, json_t **last) {
  char *escaped = bq_client_escape(id);
  follower f = {.client = client,
                .id = id,
                .path = escaped != NULL ? bq_format("/builds/%s", escaped) : NULL,
                .json = json,
                .terminal = !json && isatty(STDOUT_FILENO)};
  int code = f.path != NULL ? look(&f) : BQ_EXIT_FAILURE;
  if (code == BQ_EXIT_OK || code == BQ_EXIT_BUILD) leave_bar(&f);
  if (code == BQ_EXIT_BUILD && !json) {
    (void)fprintf(stderr, "buildq: the build ended %s: ", text_of(f.build, "status", "?"));
    bq_text_print(stderr, text_of(f.build, "errorMessage", "no reason was recorded"));
    (void)fputc('\n', stderr);
  }
  if (last != NULL) *last = json_incref(f.build);
  json_decref(f.build);
  bq_free(f.shown);
  bq_free(f.path);
  bq_free(escaped);
  return code;
}
