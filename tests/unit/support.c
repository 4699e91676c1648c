#include "support.h"

#include <event2/event.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/tree.h"

static void give_up(const char *what) {
  perror(what);
  exit(1);
}

char *support_make_directory(void) {
  char *path = bq_strdup("/tmp/buildq-test-XXXXXX");
  if (path == NULL || mkdtemp(path) == NULL) give_up("mkdtemp");
  return path;
}

void support_remove_directory(char *path) {
  bq_error err;
  if (path != NULL && bq_tree_remove("/tmp", path + strlen("/tmp/"), &err) < 0) {
    (void)fprintf(stderr, "%s\n", err.message);
    exit(1);
  }
  bq_free(path);
}

void support_drop_root(void) {
  if (geteuid() != 0) return;
  struct passwd *user = getpwnam("nobody");
  if (user == NULL) give_up("the user nobody");
  if (setgroups(0, NULL) < 0 || setgid(user->pw_gid) < 0 || setuid(user->pw_uid) < 0 || chdir("/") < 0) {
    give_up("becoming nobody");
  }
}

int support_run_until(bq_loop *loop, int (*is_true)(void *arg), void *arg, int64_t limit_ms) {
  int64_t until = bq_clock_mono_us() + limit_ms * 1000;
  struct event_base *base = bq_loop_base(loop);
  while (!is_true(arg) && bq_clock_mono_us() < until) {
    // Wakes at least this often, for conditions that change without an event.
    struct timeval step = {.tv_usec = 20000};
    (void)event_base_loopexit(base, &step);
    (void)event_base_loop(base, EVLOOP_ONCE);
  }
  return is_true(arg);
}

int support_wait_until(int (*is_true)(void *arg), void *arg, int64_t limit_ms) {
  int64_t until = bq_clock_mono_us() + limit_ms * 1000;
  while (!is_true(arg) && bq_clock_mono_us() < until) (void)poll(NULL, 0, 2);
  return is_true(arg);
}
