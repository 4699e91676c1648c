#include "cli/follow.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"

enum { POLL_MS = 250, MAX_LOST = 40, BAR_CELLS = 30 };

void bq_follow_bar(char *out, size_t size, int percent, const char *step, int width) {
  char cells[BAR_CELLS + 1];
  int full = percent * BAR_CELLS / 100;
  for (int i = 0; i < BAR_CELLS; i++) cells[i] = i < full ? '#' : '.';
  cells[BAR_CELLS] = '\0';
  int room = width - BAR_CELLS - 9;
  if (room < 0) room = 0;
  (void)snprintf(out, size, "[%s] %3d%% %.*s", cells, percent, room, step);
}

static int terminal_width(void) {
  struct winsize size;
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
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

static void show(const json_t *build, const char *line, int json, int terminal) {
  if (json) {
    char *text = json_dumps(build, JSON_COMPACT);
    if (text != NULL) (void)puts(text);
    bq_free(text);
  } else if (terminal) {
    char bar[512];
    const char *status = text_of(build, "status", "?");
    const char *step = text_of(build, "currentStep", strcmp(status, "pending") == 0 ? "waiting" : status);
    bq_follow_bar(bar, sizeof bar, (int)json_integer_value(json_object_get(build, "progressPercent")), step,
                  terminal_width());
    (void)printf("\r\033[K%s", bar);
  } else {
    (void)puts(line);
  }
  (void)fflush(stdout);
}

int bq_follow_build(bq_client *client, const char *id, int json, json_t **last) {
  char *escaped = bq_client_escape(id);
  char *path = escaped != NULL ? bq_format("/builds/%s", escaped) : NULL;
  const struct timespec pause = {.tv_nsec = (long)POLL_MS * 1000000};
  int terminal = isatty(STDOUT_FILENO);
  char *shown = NULL;
  json_t *build = NULL;
  int code = BQ_EXIT_FAILURE;
  for (int lost = 0; path != NULL && lost < MAX_LOST; (void)nanosleep(&pause, NULL)) {
    json_t *now = NULL;
    code = bq_client_call(client, "GET", path, NULL, NULL, &now);
    if (code == BQ_EXIT_UNREACHABLE) {
      lost++; // it may be restarting: the build is in the database
      continue;
    }
    if (code != BQ_EXIT_OK) break;
    lost = 0;
    json_decref(build);
    build = now;
    char *line = describe(build);
    if (line != NULL && (shown == NULL || strcmp(line, shown) != 0)) {
      show(build, line, json, terminal);
      bq_free(shown);
      shown = line;
    } else {
      bq_free(line);
    }
    if (!is_final(text_of(build, "status", "?"))) continue;
    if (terminal && !json) (void)putchar('\n');
    code = strcmp(text_of(build, "status", "?"), "success") == 0 ? BQ_EXIT_OK : BQ_EXIT_BUILD;
    break;
  }
  if (code == BQ_EXIT_BUILD && !json) {
    (void)fprintf(stderr, "buildq: the build ended %s: %s\n", text_of(build, "status", "?"),
                  text_of(build, "errorMessage", "no reason was recorded"));
  }
  if (last != NULL) *last = json_incref(build);
  json_decref(build);
  bq_free(shown);
  bq_free(escaped);
  bq_free(path);
  return code;
}
