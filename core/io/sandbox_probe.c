// bq_sandbox_probe: the one blocking use of the sandbox, before the loop runs.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/process.h"
#include "io/sandbox.h"
#include "io/spawn.h"

enum { PROBE_MS = 5000, SAID_BYTES = 400 };

static int explain(const bq_sandbox *sandbox, int status, const char *said, bq_error *err) {
  if (WIFSIGNALED(status)) {
    return bq_fail(err, BQ_ETIMEOUT, "%s did not run a command within 5 s", sandbox->bwrap_path);
  }
  return bq_fail(err, BQ_EIO,
                 "%s can't make a sandbox (%s); allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
                 "kernel.unprivileged_userns_clone, AppArmor), or set Sandbox to \"none\" to run builds without one",
                 sandbox->bwrap_path, said);
}

// The first words of what was said on `fd`, as one line.
static void read_said(int fd, char *said, size_t size) {
  ssize_t n = read(fd, said, size - 1); // the writer has ended: what there is, is there
  said[n > 0 ? n : 0] = '\0';
  said[strcspn(said, "\n")] = '\0';
}

int bq_sandbox_probe(const bq_sandbox *sandbox, bq_error *err) {
  if (sandbox->kind == BQ_SANDBOX_NONE) return 0;
  static const char *const argv[] = {"true", NULL};
  static const char *const env[] = {"PATH=/usr/bin:/bin", NULL};
  bq_process_spec spec = {.argv = argv, .env = env, .cwd = "/", .workspace = "/usr", .sandbox = *sandbox};
  int fds[BQ_SANDBOX_FD_COUNT] = {-1, -1, -1, -1, -1, -1, -1};
  int said_fds[2] = {-1, -1};
  int pidfd = -1;
  pid_t pid = -1;
  char said[SAID_BYTES];
  bq_sandbox_command command;
  int result = bq_sandbox_command_new(&command, &spec, err);
  if (result < 0) goto cleanup;
  fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
  fds[1] = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
  fds[BQ_SANDBOX_FD_INFO] = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
  fds[BQ_SANDBOX_FD_BLOCK] = fcntl(fds[0], F_DUPFD_CLOEXEC, 0); // at its end: bwrap goes on at once
  if (fds[0] < 0 || fds[BQ_SANDBOX_FD_BLOCK] < 0 || pipe2(said_fds, O_CLOEXEC | O_NONBLOCK) < 0) {
    result = bq_fail_errno(err, errno, "can't try the sandbox");
    goto cleanup;
  }
  fds[2] = said_fds[1];
  said_fds[1] = -1;
  result = bq_sandbox_accounts(&fds[BQ_SANDBOX_FD_PASSWD], 0, err);
  if (result == 0) result = bq_sandbox_accounts(&fds[BQ_SANDBOX_FD_GROUP], 1, err);
  if (result < 0) goto cleanup;
  bq_spawn spawn = {.path = command.path, .argv = (const char *const *)command.argv, .env = env, .cwd = "/",
                    .fds = fds, .fd_count = BQ_SANDBOX_FD_COUNT, .new_session = 1, .death_signal = SIGKILL,
                    .cgroup_fd = -1};
  result = bq_spawn_start(&spawn, &pid, &pidfd, err);
  if (result == BQ_ENOTFOUND) {
    result = bq_fail(err, BQ_ENOTFOUND,
                     "there is no sandbox program %s; install bubblewrap (apt-get install bubblewrap), or set Sandbox "
                     "to \"none\" to run builds without a sandbox",
                     command.path);
  }
  if (result < 0) goto cleanup;
  struct pollfd ended = {.fd = pidfd, .events = POLLIN};
  if (poll(&ended, 1, PROBE_MS) == 0) (void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) goto cleanup;
  read_said(said_fds[0], said, sizeof said);
  result = explain(sandbox, status, said, err);
cleanup:
  for (size_t i = 0; i < BQ_SANDBOX_FD_COUNT; i++) {
    if (fds[i] >= 0) close(fds[i]);
  }
  if (said_fds[0] >= 0) close(said_fds[0]);
  if (said_fds[1] >= 0) close(said_fds[1]);
  if (pidfd >= 0) close(pidfd);
  bq_sandbox_command_free(&command);
  return result;
}
