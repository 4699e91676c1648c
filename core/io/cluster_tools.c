#include "io/cluster_tools.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum {
  OUTPUT_KEPT = 8192,       // bytes of a program's output
  FAST_LIMIT_MS = 30000,    // from SIGINT to SIGQUIT
  IMMEDIATE_LIMIT_MS = 5000, // from SIGQUIT to SIGKILL
  STEP_MS = 10              // between two looks at something that can't be waited for
};

static const char version_root[] = "/usr/lib/postgresql";

// --- finding the programs ---

static int has_postgres(const char *directory) {
  char path[PATH_MAX];
  int length = snprintf(path, sizeof path, "%s/postgres", directory);
  if (length < 0 || (size_t)length >= sizeof path || access(path, X_OK) != 0) return 0;
  (void)snprintf(path, sizeof path, "%s/initdb", directory);
  return access(path, X_OK) == 0;
}

static int newest_version(int wanted) {
  DIR *dir = opendir(version_root);
  if (dir == NULL) return 0;
  int newest = 0;
  struct dirent *entry;
  while ((entry = readdir(dir)) != NULL) {
    char *end;
    long version = strtol(entry->d_name, &end, 10);
    if (version < 10 || version > 999 || *end != '\0') continue;
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%ld/bin", version_root, version);
    if ((wanted == 0 || wanted == version) && version > newest && has_postgres(path)) newest = (int)version;
  }
  closedir(dir);
  return newest;
}

static char *find_in_path(void) {
  const char *path = getenv("PATH");
  while (path != NULL && *path != '\0') {
    size_t length = strcspn(path, ":");
    char *directory = bq_strndup(path, length);
    if (directory == NULL || (directory[0] == '/' && has_postgres(directory))) return directory;
    bq_free(directory);
    path += length;
    if (*path == ':') path++;
  }
  return NULL;
}

int bq_cluster_find_bin(const char *wanted, int major, char **out, bq_error *err) {
  *out = NULL;
  if (wanted != NULL) {
    if (!has_postgres(wanted)) {
      return bq_fail(err, BQ_ENOTFOUND, "there are no programs `postgres` and `initdb` in %s", wanted);
    }
    *out = bq_strdup(wanted);
    return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  int version = newest_version(major);
  if (version == 0 && major != 0) version = newest_version(0); // the caller says that it is the wrong one
  *out = version > 0 ? bq_format("%s/%d/bin", version_root, version) : find_in_path();
  if (*out != NULL) return 0;
  return bq_fail(err, BQ_ENOTFOUND, "PostgreSQL is not installed (looked below %s and in PATH): install the package "
                                    "postgresql, or set ConnectionString to a server", version_root);
}

int bq_cluster_bin_major(const char *bin_directory, int *out, bq_error *err) {
  *out = 0;
  bq_buf output = {0};
  char *program = bq_format("%s/postgres", bin_directory);
  if (program == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  int result = bq_cluster_run((const char *const[]){program, "--version", NULL}, &output, err);
  if (result == 0) {
    // "postgres (PostgreSQL) 15.6 (Debian …)"; a warning may stand before it.
    static const char name[] = "(PostgreSQL) ";
    const char *version = output.data != NULL ? strstr(output.data, name) : NULL;
    *out = version != NULL ? atoi(version + strlen(name)) : 0;
    if (*out == 0) result = bq_fail(err, BQ_EIO, "%s does not tell its version", program);
  }
  bq_free(program);
  bq_buf_free(&output);
  return result;
}

// --- running them ---

// Nothing of the server's environment: PG* variables would change what the programs do.
static char *clean_environment[] = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", NULL};

typedef enum tie { TIE_NONE, TIE_LIFE } tie;

// Between fork and exec: only async-signal-safe calls. `parent` is the process that must still be there.
static void become(const char *const *argv, int output_fd, tie kind, pid_t parent) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  for (int number = 1; number < NSIG; number++) (void)sigaction(number, &standard, NULL);
  sigset_t none;
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  int input = open("/dev/null", O_RDONLY);
  if (input < 0 || dup2(input, 0) < 0 || dup2(output_fd, 1) < 0 || dup2(output_fd, 2) < 0) _exit(126);
  if (close_range(3, ~0U, 0) < 0) _exit(126);
  (void)umask(077);
  // PostgreSQL's programs complain of a working directory that they can't enter, as one of root's is.
  if (chdir("/") < 0) _exit(126);
  if (kind == TIE_LIFE) {
    (void)setsid();
    // A fast shutdown. The parent may be gone already: then nobody would ever send it.
    if (prctl(PR_SET_PDEATHSIG, SIGINT) < 0 || getppid() != parent) _exit(126);
  }
  (void)execve(argv[0], (char *const *)(uintptr_t)argv, clean_environment);
  _exit(127);
}

int bq_cluster_run(const char *const *argv, bq_buf *output, bq_error *err) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) < 0) return bq_fail_errno(err, errno, "can't run %s", argv[0]);
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) become(argv, pipes[1], TIE_NONE, parent);
  int errnum = errno;
  close(pipes[1]);
  if (pid < 0) {
    close(pipes[0]);
    return bq_fail_errno(err, errnum, "can't run %s", argv[0]);
  }
  char bytes[4096];
  ssize_t got;
  while ((got = read(pipes[0], bytes, sizeof bytes)) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) bq_buf_add(output, bytes, (size_t)got);
    if (output->length > OUTPUT_KEPT) bq_buf_consume(output, output->length - OUTPUT_KEPT);
  }
  close(pipes[0]);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return bq_fail_errno(err, errno, "can't wait for %s", argv[0]);
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return bq_buf_check(output, err);
  for (char *c = output->data; c != NULL && *c != '\0'; c++) {
    if (*c == '\n' || *c == '\t') *c = ' ';
  }
  // The end says what went wrong.
  size_t skip = output->length > 600 ? output->length - 600 : 0;
  return bq_fail(err, BQ_EIO, "%s failed (%s %d): %s", argv[0], WIFEXITED(status) ? "exit code" : "signal",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
                 output->data != NULL ? output->data + skip : "");
}

int bq_cluster_spawn(const char *const *argv, int log_fd, pid_t *pid, int *pidfd, bq_error *err) {
  pid_t parent = getpid();
  *pid = fork();
  if (*pid == 0) become(argv, log_fd, TIE_LIFE, parent);
  if (*pid < 0) return bq_fail_errno(err, errno, "can't start %s", argv[0]);
  *pidfd = pidfd_open(*pid, 0);
  if (*pidfd >= 0) return 0;
  int errnum = errno;
  (void)kill(*pid, SIGKILL);
  (void)waitpid(*pid, NULL, 0);
  return bq_fail_errno(err, errnum, "can't watch %s", argv[0]);
}

int bq_cluster_wait_end(int pidfd, int64_t timeout_ms) {
  int64_t until = bq_clock_mono_us() + timeout_ms * 1000;
  for (;;) {
    int64_t left_ms = (until - bq_clock_mono_us() + 999) / 1000;
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};
    int ready = poll(&wait, 1, left_ms > 0 ? (int)left_ms : 0);
    if (ready > 0) return 0;
    if (ready == 0 || errno != EINTR) return -1;
  }
}

// --- leftovers of a killed server ---

// 1 when process `pid` is a PostgreSQL that works in the directory: every one of them has it as its current directory.
static int works_in(const char *pid, const char *data_directory) {
  char path[64], target[PATH_MAX];
  (void)snprintf(path, sizeof path, "/proc/%.20s/cwd", pid);
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) return 0;
  target[length] = '\0';
  if (strcmp(target, data_directory) != 0) return 0;
  (void)snprintf(path, sizeof path, "/proc/%.20s/exe", pid);
  length = readlink(path, target, sizeof target - 1);
  if (length < 0) return 0;
  target[length] = '\0';
  const char *name = strrchr(target, '/');
  // An upgraded package leaves "postgres (deleted)".
  return name != NULL && strncmp(name, "/postgres", 9) == 0;
}

// Signals every one of them (0 only counts) and returns how many there are.
static int for_leftovers(const char *data_directory, int number) {
  DIR *dir = opendir("/proc");
  if (dir == NULL) return 0;
  int count = 0;
  struct dirent *entry;
  while ((entry = readdir(dir)) != NULL) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !works_in(entry->d_name, data_directory)) continue;
    count++;
    if (number != 0) (void)kill((pid_t)atoi(entry->d_name), number);
  }
  closedir(dir);
  return count;
}

static int wait_for_leftovers(const char *data_directory, int64_t limit_ms) {
  int64_t until = bq_clock_mono_us() + limit_ms * 1000;
  int count;
  while ((count = for_leftovers(data_directory, 0)) > 0 && bq_clock_mono_us() < until) {
    (void)poll(NULL, 0, STEP_MS);
  }
  return count;
}

int bq_cluster_end_leftovers(const char *data_directory, pid_t postmaster, bq_error *err) {
  char text[24];
  (void)snprintf(text, sizeof text, "%d", (int)postmaster);
  if (postmaster > 0 && works_in(text, data_directory)) {
    (void)kill(postmaster, SIGINT);
    if (wait_for_leftovers(data_directory, FAST_LIMIT_MS) == 0) return 0;
    (void)kill(postmaster, SIGQUIT);
  }
  // Without a postmaster the others end by themselves.
  if (wait_for_leftovers(data_directory, IMMEDIATE_LIMIT_MS) == 0) return 0;
  (void)for_leftovers(data_directory, SIGKILL);
  int count = wait_for_leftovers(data_directory, IMMEDIATE_LIMIT_MS);
  if (count == 0) return 0;
  return bq_fail(err, BQ_ECONFLICT, "%d PostgreSQL processes of an earlier server still run in %s and can't be ended",
                 count, data_directory);
}
