#include "io/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"

enum { CHILD_STACK_BYTES = 64 * 1024, FIRST_SPARE_FD = 32, EXEC_FAILED = 127 };

// Shared with the child, which runs in the parent's memory while the parent waits.
typedef struct child_arg {
  const bq_spawn *spawn;
  pid_t parent;
  const char *failed; // what went wrong in the child; NULL: the exec happened
  int errnum;
} child_arg;

static int limit(__rlimit_resource_t resource, uint64_t value) {
  if (value == 0) return 0;
  struct rlimit rl = {.rlim_cur = value, .rlim_max = value};
  struct rlimit old;
  if (getrlimit(resource, &old) < 0) return -1;
  // The hard limit can't be raised without privilege: the lower one holds.
  if (old.rlim_max < value) rl.rlim_cur = rl.rlim_max = old.rlim_max;
  return setrlimit(resource, &rl);
}

static int set_limits(const bq_process_limits *limits) {
  struct rlimit none = {0, 0};
  if (setrlimit(RLIMIT_CORE, &none) < 0) return -1;
  if (limits == NULL) return 0;
  if (limit(RLIMIT_AS, limits->address_space_bytes) < 0) return -1;
  if (limit(RLIMIT_FSIZE, limits->file_size_bytes) < 0) return -1;
  if (limit(RLIMIT_NOFILE, limits->open_files) < 0) return -1;
  return limit(RLIMIT_NPROC, limits->processes);
}

// Two rounds, because a source may have the number of another one's target.
static int place_fds(const bq_spawn *spawn) {
  int spare[BQ_SPAWN_MAX_FDS];
  for (size_t i = 0; i < spawn->fd_count; i++) {
    spare[i] = fcntl(spawn->fds[i], F_DUPFD, FIRST_SPARE_FD);
    if (spare[i] < 0) return -1;
  }
  for (size_t i = 0; i < spawn->fd_count; i++) {
    if (dup2(spare[i], (int)i) < 0) return -1;
  }
  closefrom((int)spawn->fd_count);
  return 0;
}

static void default_signals(void) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  for (int number = 1; number < NSIG; number++) (void)sigaction(number, &action, NULL); // some can't be set: fine
  sigset_t none;
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static int fail_child(child_arg *arg, const char *what) {
  arg->failed = what;
  arg->errnum = errno;
  return EXEC_FAILED;
}

// Runs in the child, in memory borrowed from the parent: only async-signal-safe calls, nothing allocated.
static int run_child(void *data) {
  child_arg *arg = data;
  const bq_spawn *spawn = arg->spawn;
  if (spawn->new_session && setsid() < 0) return fail_child(arg, "start a session");
  if (spawn->death_signal != 0) {
    if (prctl(PR_SET_PDEATHSIG, spawn->death_signal, 0, 0, 0) < 0) return fail_child(arg, "tie it to the server");
    if (getppid() != arg->parent) return EXEC_FAILED; // the server is gone already
  }
  if (spawn->cgroup_fd >= 0 && write(spawn->cgroup_fd, "0", 1) < 0) return fail_child(arg, "enter its cgroup");
  if (place_fds(spawn) < 0) return fail_child(arg, "place its descriptors");
  if (spawn->cwd != NULL && chdir(spawn->cwd) < 0) return fail_child(arg, "enter its working directory");
  (void)umask(022);
  if (set_limits(spawn->limits) < 0) return fail_child(arg, "set its limits");
  default_signals();
  // execve takes pointers to char for history's sake and writes to nothing.
  execve(spawn->path, (char *const *)(uintptr_t)spawn->argv, (char *const *)(uintptr_t)spawn->env);
  return fail_child(arg, "execute it");
}

// The child borrows the parent's memory: nothing is copied, however large the server is. ThreadSanitizer keeps what it knows
// of a thread in that memory too, and a child that never returns would leave it in disorder: under it the child has a copy.
#ifdef __SANITIZE_THREAD__
enum { CHILD_FLAGS = CLONE_VFORK | CLONE_PIDFD | SIGCHLD };
#else
enum { CHILD_FLAGS = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD };
#endif

int bq_spawn_start(const bq_spawn *spawn, pid_t *pid, int *pidfd, bq_error *err) {
  *pid = -1;
  *pidfd = -1;
  if (spawn->fd_count > BQ_SPAWN_MAX_FDS) return bq_fail(err, BQ_EINVAL, "too many descriptors for a child");
  int result = 0;
  char *stack = bq_alloc(CHILD_STACK_BYTES);
  // Shared, so that the child's word of what failed arrives in either case.
  child_arg *arg = mmap(NULL, sizeof *arg, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (stack == NULL || arg == MAP_FAILED) {
    bq_free(stack);
    if (arg != MAP_FAILED) (void)munmap(arg, sizeof *arg);
    return bq_fail(err, BQ_ENOMEM, "out of memory to start %s", spawn->path);
  }
  *arg = (child_arg){.spawn = spawn, .parent = getpid()};
  // A handler of the server must not run in the child: blocked until the child has put all back to their defaults.
  sigset_t all, old;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &old);
  int fd = -1;
  *pid = clone(run_child, stack + CHILD_STACK_BYTES, CHILD_FLAGS, arg, &fd);
  int errnum = errno;
  (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (*pid < 0) {
    result = bq_fail_errno(err, errnum, "can't start a process for %s", spawn->path);
    goto cleanup;
  }
  *pidfd = fd;
  if (arg->failed != NULL) {
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR) {}
    close(fd);
    *pid = *pidfd = -1;
    result = bq_fail_errno(err, arg->errnum, "can't start %s: can't %s", spawn->path, arg->failed);
    if (arg->errnum == ENOENT || arg->errnum == ENOTDIR) {
      result = BQ_ENOTFOUND;
      if (err != NULL) err->code = BQ_ENOTFOUND;
    }
  }
cleanup:
  (void)munmap(arg, sizeof *arg);
  bq_free(stack);
  return result;
}
