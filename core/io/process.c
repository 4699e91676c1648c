#include "io/process.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/cgroup.h"
#include "io/sandbox.h"
#include "io/spawn.h"

enum {
  READ_BYTES = 64 * 1024,   // of one read, and of one call of on_output
  INFO_BYTES = 512,         // of what bwrap says about itself
  HELD_PIPE_MS = 1000,      // how long descendants may hold the pipes after the command's end
  CUT_READS = 16,           // of a pipe that is cut off: more than a pipe holds
  NO_INFO_MS = 2000,        // how long a kill waits for bwrap to name the sandbox's first process
  SWEEP_MS = 10,            // between two looks at a cgroup that is being killed
  SWEEP_TRIES = 500         // looks at most
};

// STARTING → RUNNING → STOPPING → KILLING → DRAINING → SWEEPING → (on_exit, freed)
// Each may go to KILLING and, when the command has ended, to DRAINING; move() is the only function that changes it.
typedef enum process_state {
  STARTING, // bwrap has not named the sandbox's first process yet: nothing of the command runs
  RUNNING,
  STOPPING, // SIGTERM is sent; the timer runs for the grace time
  KILLING,  // SIGKILL is sent, or will be as soon as there is somebody to send it to
  DRAINING, // the command has ended; its pipes are read to their end
  SWEEPING  // without sandbox: what is left of the tree is being killed
} process_state;

struct bq_process {
  bq_loop *loop; // borrowed
  bq_process_events events;
  bq_sandbox_kind kind;
  process_state state;
  pid_t pid;                // of bwrap, or of the command without sandbox; not reaped until the end
  int pidfd;                // of the same
  int init_pidfd;           // of the sandbox's first process; -1 before it is known and without sandbox
  pid_t init_pid;           // the same; valid as long as init_pidfd
  int info_fd;              // bwrap writes here; -1 when read
  int block_fd;             // a socket; a byte lets bwrap go on; -1 when it was sent
  int out_fds[2];           // read ends of the command's pipes; -1 at the end of file
  char *cgroup;             // owned path; NULL: none
  struct event *ended;      // owned; on pidfd
  struct event *info_ready; // owned; on info_fd
  struct event *out_ready[2]; // owned; on out_fds
  bq_timer *timer;          // owned; what it means depends on the state
  int64_t started_us;       // bq_clock_mono_us()
  int64_t grace_ms;
  uint64_t max_processes;   // RLIMIT_NPROC inside the sandbox; 0: none
  int sweeps;               // looks at the cgroup so far
  char info[INFO_BYTES];    // what bwrap said, NUL-terminated
  size_t info_length;
  bq_process_exit exit;
};

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void free_event(struct event **event) {
  if (*event != NULL) event_free(*event);
  *event = NULL;
}

static void free_process(bq_process *p) {
  if (p == NULL) return;
  free_event(&p->ended);
  free_event(&p->info_ready);
  free_event(&p->out_ready[0]);
  free_event(&p->out_ready[1]);
  bq_timer_free(p->timer);
  close_fd(&p->pidfd);
  close_fd(&p->init_pidfd);
  close_fd(&p->info_fd);
  close_fd(&p->block_fd);
  close_fd(&p->out_fds[0]);
  close_fd(&p->out_fds[1]);
  bq_free(p->cgroup);
  bq_free(p);
}

// The parent of `pid`, or -1 when there is no such process (or it can't be seen).
static pid_t parent_of(pid_t pid) {
  char name[64], line[512];
  (void)snprintf(name, sizeof name, "/proc/%ld/stat", (long)pid);
  FILE *file = fopen(name, "re");
  if (file == NULL) return -1;
  size_t length = fread(line, 1, sizeof line - 1, file);
  (void)fclose(file);
  line[length] = '\0';
  const char *after = strrchr(line, ')'); // the name in front of it may hold anything
  long parent = -1;
  if (after == NULL || sscanf(after + 1, " %*c %ld", &parent) != 1) return -1;
  return (pid_t)parent;
}

// A pidfd of `pid`, if that is a child of `parent`: checked after the opening, so that a number that was given to
// another process meanwhile is noticed.
static int open_child(pid_t pid, pid_t parent) {
  int fd = pidfd_open(pid, 0);
  if (fd >= 0 && parent_of(pid) != parent) close_fd(&fd);
  return fd;
}

// The command is the oldest child of the sandbox's first process. -1: it isn't there yet, or not any more.
static int open_command(const bq_process *p) {
  char name[96], line[64];
  (void)snprintf(name, sizeof name, "/proc/%ld/task/%ld/children", (long)p->init_pid, (long)p->init_pid);
  FILE *file = fopen(name, "re");
  if (file == NULL) return -1;
  const char *got = fgets(line, sizeof line, file);
  (void)fclose(file);
  long pid = got == NULL ? 0 : strtol(line, NULL, 10);
  return pid > 0 ? open_child((pid_t)pid, p->init_pid) : -1;
}

// Without sandbox. The leader has not been reaped: the number of its group can't belong to anybody else.
static void kill_group(bq_process *p) {
  (void)kill(-p->pid, SIGKILL); // ESRCH: nobody is left
  if (p->cgroup != NULL) bq_cgroup_kill(p->cgroup);
}

static void send_kill(bq_process *p) {
  if (p->kind == BQ_SANDBOX_NONE) {
    kill_group(p);
  } else if (p->init_pidfd >= 0) {
    // The end of the namespace's first process is the end of all; bwrap waits for it and ends then.
    (void)pidfd_send_signal(p->init_pidfd, SIGKILL, NULL, 0);
  } else {
    bq_timer_set(p->timer, NO_INFO_MS); // bwrap names it in a moment; see take_info
  }
}

// 0: there is no command to send it to.
static int send_term(bq_process *p) {
  if (p->kind == BQ_SANDBOX_NONE) {
    (void)pidfd_send_signal(p->pidfd, SIGTERM, NULL, 0);
    return 1;
  }
  int fd = open_command(p);
  if (fd < 0) return 0;
  (void)pidfd_send_signal(fd, SIGTERM, NULL, 0); // ESRCH: it has ended just now
  close(fd);
  return 1;
}

static void move(bq_process *p, process_state to) {
  p->state = to;
  switch (to) {
  case STARTING:
  case RUNNING: break;
  case STOPPING:
    if (p->kind == BQ_SANDBOX_BWRAP && p->init_pidfd < 0) break; // see take_info
    if (send_term(p)) bq_timer_set(p->timer, p->grace_ms);
    else move(p, KILLING);
    break;
  case KILLING: send_kill(p); break;
  case DRAINING: bq_timer_set(p->timer, HELD_PIPE_MS); break;
  case SWEEPING: bq_timer_set(p->timer, SWEEP_MS); break;
  }
}

static int64_t timeval_us(struct timeval tv) {
  return (int64_t)tv.tv_sec * 1000000 + tv.tv_usec;
}

// bwrap and the shell in it report a signal as 128 + its number. Numbers that ordinary programs use as their exit code
// (git: 128, 129) are left alone.
static int signal_of_code(int code) {
  switch (code - 128) {
  case SIGINT:
  case SIGQUIT:
  case SIGILL:
  case SIGTRAP:
  case SIGABRT:
  case SIGBUS:
  case SIGFPE:
  case SIGKILL:
  case SIGSEGV:
  case SIGPIPE:
  case SIGALRM:
  case SIGTERM:
  case SIGXCPU:
  case SIGXFSZ:
  case SIGSYS: return code - 128;
  default: return 0;
  }
}

static void reap(bq_process *p) {
  int status = 0;
  struct rusage usage = {0};
  while (wait4(p->pid, &status, 0, &usage) < 0 && errno == EINTR) {}
  p->exit.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  p->exit.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (p->kind == BQ_SANDBOX_BWRAP && signal_of_code(p->exit.code) != 0) {
    p->exit.signal = signal_of_code(p->exit.code);
    p->exit.code = -1;
  }
  p->exit.max_rss_kb = usage.ru_maxrss;
  p->exit.cpu_us = timeval_us(usage.ru_utime) + timeval_us(usage.ru_stime);
}

static void finish(bq_process *p) {
  bq_process_events events = p->events;
  bq_process_exit result = p->exit;
  free_process(p);
  events.on_exit(events.arg, &result);
}

// The pipes are done with. Without sandbox something may be left of the tree.
static void sweep(bq_process *p) {
  if (p->state != SWEEPING) {
    if (p->kind == BQ_SANDBOX_NONE) kill_group(p);
    reap(p);
    move(p, SWEEPING);
  }
  int gone = p->cgroup == NULL || bq_cgroup_remove(p->cgroup);
  if (!gone && ++p->sweeps < SWEEP_TRIES) {
    bq_cgroup_kill(p->cgroup);
    bq_timer_set(p->timer, SWEEP_MS);
    return;
  }
  if (!gone) bq_log(BQ_ERROR, "processes of a command can't be killed", "cgroup", p->cgroup, NULL);
  finish(p);
}

static void close_output(bq_process *p, int index) {
  free_event(&p->out_ready[index]);
  close_fd(&p->out_fds[index]);
}

static void sweep_when_drained(bq_process *p) {
  if (p->state == DRAINING && p->out_fds[0] < 0 && p->out_fds[1] < 0) sweep(p);
}

static void read_output(bq_process *p, int index) {
  char bytes[READ_BYTES];
  ssize_t n = read(p->out_fds[index], bytes, sizeof bytes);
  if (n > 0) {
    p->events.on_output(p->events.arg, index + 1, bytes, (size_t)n);
    return;
  }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) bq_log(BQ_ERROR, "the output of a command can't be read to its end", "error", strerror(errno), NULL);
  close_output(p, index);
  sweep_when_drained(p);
}

static void on_stdout(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  read_output(arg, 0);
}

static void on_stderr(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  read_output(arg, 1);
}

// The pipes' time is over: what is in them is still read, what descendants might write later is not.
static void cut_output(bq_process *p) {
  if (p->kind == BQ_SANDBOX_NONE) kill_group(p);
  for (int i = 0; i < 2; i++) {
    for (int reads = 0; p->out_fds[i] >= 0 && reads < CUT_READS; reads++) {
      char bytes[READ_BYTES];
      ssize_t n = read(p->out_fds[i], bytes, sizeof bytes);
      if (n <= 0) break;
      p->events.on_output(p->events.arg, i + 1, bytes, (size_t)n);
    }
    close_output(p, i);
  }
}

static void on_ended(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  bq_process *p = arg;
  free_event(&p->ended);
  free_event(&p->info_ready);
  p->exit.duration_us = bq_clock_mono_us() - p->started_us;
  move(p, DRAINING);
  sweep_when_drained(p);
}

// bwrap has said all it says. Its first process waits for the byte, so it is there, whatever comes next.
static void take_info(bq_process *p) {
  free_event(&p->info_ready);
  close_fd(&p->info_fd);
  const char *at = strstr(p->info, "\"child-pid\":");
  pid_t pid = at == NULL ? -1 : (pid_t)strtol(at + strlen("\"child-pid\":"), NULL, 10);
  if (pid > 0) p->init_pidfd = open_child(pid, p->pid);
  if (p->init_pidfd < 0) { // bwrap has failed; why is on its standard error
    close_fd(&p->block_fd);
    return;
  }
  p->init_pid = pid;
  if (p->max_processes != 0) {
    // Only now: before, the limit would count every process of the server's user.
    struct rlimit rl = {.rlim_cur = p->max_processes, .rlim_max = p->max_processes};
    if (prlimit(pid, RLIMIT_NPROC, &rl, NULL) < 0) {
      bq_log(BQ_ERROR, "can't limit the processes of a command, it is ended", "reason", strerror(errno), NULL);
      p->state = KILLING;
    }
  }
  switch (p->state) {
  case STARTING: move(p, RUNNING); break;
  case STOPPING:
  case KILLING: move(p, KILLING); break; // nothing of the command has run yet: no grace needed
  case RUNNING:
  case DRAINING:
  case SWEEPING: break;
  }
  if (send(p->block_fd, "", 1, MSG_NOSIGNAL) < 0) { /* EPIPE: killed meanwhile, on_ended tells */ }
  close_fd(&p->block_fd);
}

static void on_info(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  bq_process *p = arg;
  size_t room = sizeof p->info - 1 - p->info_length;
  ssize_t n = read(fd, p->info + p->info_length, room);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) p->info_length += (size_t)n;
  p->info[p->info_length] = '\0';
  if (n <= 0 || (size_t)n == room || strchr(p->info, '}') != NULL) take_info(p);
}

static void on_timer(void *arg) {
  bq_process *p = arg;
  switch (p->state) {
  case STARTING:
  case RUNNING: break;
  case STOPPING: move(p, KILLING); break;
  case KILLING: // bwrap never said a word: nothing of the command has run
    (void)pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
    break;
  case DRAINING:
    cut_output(p);
    sweep(p);
    break;
  case SWEEPING: sweep(p); break;
  }
}

// --- starting -------------------------------------------------------------------------------------------------------

// The descriptors that the child gets; the server keeps none of them.
typedef struct child_fds {
  int fds[BQ_SANDBOX_FD_COUNT];
  size_t count;
} child_fds;

static int open_input(int *fd, const bq_process_spec *spec, bq_error *err) {
  if (spec->input != NULL) return bq_sandbox_memory_file(fd, "input", spec->input, spec->input_length, err);
  *fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return *fd < 0 ? bq_fail_errno(err, errno, "can't open /dev/null") : 0;
}

// `ours` doesn't block; `theirs` does, as programs expect.
static int open_pipe(int *ours, int *theirs, bq_error *err) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return bq_fail_errno(err, errno, "can't make a pipe for a command");
  *ours = ends[0];
  *theirs = ends[1];
  if (fcntl(*ours, F_SETFL, O_NONBLOCK) < 0) return bq_fail_errno(err, errno, "can't make a pipe for a command");
  return 0;
}

// A socket, because writing to a pipe that nobody reads is a signal.
static int open_block(int *ours, int *theirs, bq_error *err) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
    return bq_fail_errno(err, errno, "can't make a socket for a command");
  }
  *ours = ends[0];
  *theirs = ends[1];
  return 0;
}

static int open_fds(bq_process *p, child_fds *child, const bq_process_spec *spec, bq_error *err) {
  int result = open_input(&child->fds[0], spec, err);
  if (result == 0) result = open_pipe(&p->out_fds[0], &child->fds[1], err);
  if (result == 0) result = open_pipe(&p->out_fds[1], &child->fds[2], err);
  child->count = 3;
  if (p->kind == BQ_SANDBOX_NONE) return result;
  if (result == 0) result = open_pipe(&p->info_fd, &child->fds[BQ_SANDBOX_FD_INFO], err);
  if (result == 0) result = open_block(&p->block_fd, &child->fds[BQ_SANDBOX_FD_BLOCK], err);
  if (result == 0) result = bq_sandbox_accounts(&child->fds[BQ_SANDBOX_FD_PASSWD], 0, err);
  if (result == 0) result = bq_sandbox_accounts(&child->fds[BQ_SANDBOX_FD_GROUP], 1, err);
  child->count = BQ_SANDBOX_FD_COUNT;
  return result;
}

static int add_event(struct event **out, bq_process *p, int fd, short what, event_callback_fn fn, bq_error *err) {
  *out = event_new(bq_loop_base(p->loop), fd, what, fn, p);
  if (*out == NULL || event_add(*out, NULL) < 0) return bq_fail(err, BQ_ENOMEM, "out of memory to watch a command");
  return 0;
}

// Everything but the end itself, whose descriptor exists only once the command does.
static int watch_fds(bq_process *p, bq_error *err) {
  int result = add_event(&p->out_ready[0], p, p->out_fds[0], EV_READ | EV_PERSIST, on_stdout, err);
  if (result == 0) result = add_event(&p->out_ready[1], p, p->out_fds[1], EV_READ | EV_PERSIST, on_stderr, err);
  if (result == 0 && p->info_fd >= 0) {
    result = add_event(&p->info_ready, p, p->info_fd, EV_READ | EV_PERSIST, on_info, err);
  }
  if (result == 0) result = bq_timer_new(&p->timer, p->loop, on_timer, p, err);
  return result;
}

static int check_directories(const bq_process_spec *spec, bq_error *err) {
  const char *const paths[] = {spec->workspace, spec->cwd};
  for (size_t i = 0; i < 2; i++) {
    struct stat st;
    if (stat(paths[i], &st) < 0 || !S_ISDIR(st.st_mode)) {
      return bq_fail(err, BQ_ENOTFOUND, "can't start %s: there is no directory %s", spec->argv[0], paths[i]);
    }
  }
  return 0;
}

static int spawn_command(const bq_process_spec *spec, const bq_sandbox_command *command, const child_fds *child,
                         int cgroup_fd, pid_t *pid, int *pidfd, bq_error *err) {
  int boxed = spec->sandbox.kind == BQ_SANDBOX_BWRAP;
  bq_process_limits limits = spec->limits;
  if (boxed) limits.processes = 0; // see take_info
  bq_spawn spawn = {
      .path = command->path,
      .argv = (const char *const *)command->argv,
      .env = spec->env,
      .cwd = boxed ? "/" : spec->cwd,
      .fds = child->fds,
      .fd_count = child->count,
      .limits = &limits,
      .new_session = 1,
      .death_signal = SIGKILL,
      .cgroup_fd = cgroup_fd,
  };
  int result = bq_spawn_start(&spawn, pid, pidfd, err);
  if (result == BQ_ENOTFOUND && boxed) {
    return bq_fail(err, BQ_ENOTFOUND,
                   "can't start %s: there is no sandbox program %s; install bubblewrap (apt-get install bubblewrap), or "
                   "set Sandbox to \"none\" to run builds without a sandbox",
                   spec->argv[0], command->path);
  }
  return result < 0 ? bq_fail_in(err, "can't start %s", spec->argv[0]) : 0;
}

static int spawn_in_group(bq_process *p, const bq_process_spec *spec, const bq_sandbox_command *command,
                          const child_fds *child, bq_error *err) {
  int procs_fd = -1;
  int result = bq_cgroup_new(&p->cgroup, &procs_fd, err);
  if (result < 0) return result;
  result = spawn_command(spec, command, child, procs_fd, &p->pid, &p->pidfd, err);
  if (procs_fd >= 0) close(procs_fd);
  if (result == 0 || p->cgroup == NULL) return result;
  // The cgroup could be made, but perhaps not entered: the process group is left.
  (void)bq_cgroup_remove(p->cgroup);
  bq_free(p->cgroup);
  p->cgroup = NULL;
  return spawn_command(spec, command, child, -1, &p->pid, &p->pidfd, err);
}

// The command runs but can't be watched: it is ended here and now.
static void abandon(bq_process *p) {
  if (p->pid <= 0) return;
  if (p->kind == BQ_SANDBOX_NONE) kill_group(p);
  else (void)pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
  while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR) {}
}

int bq_process_start(bq_process **out, bq_loop *loop, const bq_process_spec *spec, const bq_process_events *events,
                     bq_error *err) {
  *out = NULL;
  bq_sandbox_command command;
  child_fds child = {.fds = {-1, -1, -1, -1, -1, -1, -1}};
  bq_process *p = NULL;
  int result = bq_sandbox_command_new(&command, spec, err);
  if (result == 0) result = check_directories(spec, err);
  if (result < 0) goto cleanup;
  p = bq_alloc(sizeof *p);
  if (p == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory to start %s", spec->argv[0]);
    goto cleanup;
  }
  p->loop = loop;
  p->events = *events;
  p->kind = spec->sandbox.kind;
  p->state = p->kind == BQ_SANDBOX_BWRAP ? STARTING : RUNNING;
  p->pidfd = p->init_pidfd = p->info_fd = p->block_fd = p->out_fds[0] = p->out_fds[1] = -1;
  p->grace_ms = spec->grace_ms;
  p->max_processes = spec->limits.processes;
  p->started_us = bq_clock_mono_us();
  result = open_fds(p, &child, spec, err);
  if (result == 0) result = watch_fds(p, err);
  if (result < 0) goto cleanup;
  if (p->kind == BQ_SANDBOX_NONE) result = spawn_in_group(p, spec, &command, &child, err);
  else result = spawn_command(spec, &command, &child, -1, &p->pid, &p->pidfd, err);
  if (result == 0) result = add_event(&p->ended, p, p->pidfd, EV_READ, on_ended, err);
  if (result < 0) {
    abandon(p);
    goto cleanup;
  }
  *out = p;
  p = NULL;
cleanup:
  for (size_t i = 0; i < BQ_SANDBOX_FD_COUNT; i++) close_fd(&child.fds[i]);
  bq_sandbox_command_free(&command);
  free_process(p);
  return result;
}

void bq_process_stop(bq_process *p) {
  if (p->state == STARTING || p->state == RUNNING) move(p, STOPPING);
}

void bq_process_kill(bq_process *p) {
  if (p->state == STARTING || p->state == RUNNING || p->state == STOPPING) move(p, KILLING);
}
