// The limit of build:exec: bench_spawn WORKSPACE COUNT starts `true` in the sandbox COUNT times, one after the other, with
// the arguments that the server gives bwrap, and waits for each. It prints how many a second.
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "io/sandbox.h"

enum { MAX_COUNT = 1000 * 1000 };

static const char *const arguments[] = {"true", NULL};
static const char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", NULL};

// Above those that bwrap expects, so that none is overwritten before it is placed.
static int above(int fd) {
  int raised = fcntl(fd, F_DUPFD_CLOEXEC, BQ_SANDBOX_FD_COUNT);
  if (fd < 0 || raised < 0) bench_fail("can't open what bwrap is given");
  (void)close(fd);
  return raised;
}

static void open_descriptors(int *fds) {
  bq_error err;
  for (int i = 0; i < BQ_SANDBOX_FD_COUNT; i++) {
    int fd;
    if (i != BQ_SANDBOX_FD_PASSWD && i != BQ_SANDBOX_FD_GROUP) fd = open("/dev/null", O_RDWR); // its end is no wait
    else if (bq_sandbox_accounts(&fd, i == BQ_SANDBOX_FD_GROUP, &err) < 0) bench_fail(err.message);
    fds[i] = above(fd);
  }
}

static void place_descriptors(posix_spawn_file_actions_t *actions, const int *fds) {
  if (posix_spawn_file_actions_init(actions) != 0) bench_fail("out of memory");
  for (int i = 0; i < BQ_SANDBOX_FD_COUNT; i++) {
    if (posix_spawn_file_actions_adddup2(actions, fds[i], i) != 0) bench_fail("out of memory");
  }
}

static void run_one(const bq_sandbox_command *command, const posix_spawn_file_actions_t *actions, const int *fds) {
  pid_t pid;
  int status;
  if (lseek(fds[BQ_SANDBOX_FD_PASSWD], 0, SEEK_SET) < 0 || lseek(fds[BQ_SANDBOX_FD_GROUP], 0, SEEK_SET) < 0) {
    bench_fail("can't rewind");
  }
  // posix_spawn takes pointers to char for history's sake and writes to nothing.
  if (posix_spawn(&pid, command->path, actions, NULL, command->argv, (char *const *)(uintptr_t)environment) != 0) {
    bench_fail("can't start bwrap");
  }
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) bench_fail("can't wait for bwrap");
  }
  if (status != 0) bench_fail("the sandbox does not work");
}

int main(int argc, char **argv) {
  long count = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
  if (count < 1 || count > MAX_COUNT) bench_fail("usage: bench_spawn WORKSPACE COUNT");
  const bq_process_spec spec = {.argv = arguments, .env = environment, .cwd = argv[1], .workspace = argv[1],
                                .sandbox = {.kind = BQ_SANDBOX_BWRAP, .bwrap_path = "/usr/bin/bwrap", .network = 1}};
  bq_sandbox_command command;
  bq_error err;
  if (bq_sandbox_command_new(&command, &spec, &err) < 0) bench_fail(err.message);
  int fds[BQ_SANDBOX_FD_COUNT];
  open_descriptors(fds);
  posix_spawn_file_actions_t actions;
  place_descriptors(&actions, fds);
  double began = bench_seconds(CLOCK_MONOTONIC);
  for (long i = 0; i < count; i++) run_one(&command, &actions, fds);
  printf("%.3f\n", (double)count / (bench_seconds(CLOCK_MONOTONIC) - began));
  (void)posix_spawn_file_actions_destroy(&actions);
  bq_sandbox_command_free(&command);
  return 0;
}
