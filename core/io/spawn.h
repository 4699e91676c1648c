// One fork and exec, fast and safe in a large threaded process: the child borrows the parent's memory until its exec.
//
// Thread rule: the main thread, when `death_signal` is set (it follows the thread that forked); else any.
#ifndef BQ_IO_SPAWN_H
#define BQ_IO_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "io/process.h"

typedef struct bq_spawn {
  const char *path;                // absolute, what is executed
  const char *const *argv;         // NULL-terminated
  const char *const *env;          // NULL-terminated, the whole environment
  const char *cwd;                 // NULL: the server's
  const int *fds;                  // become the child's descriptors 0, 1, …; every other one is closed
  size_t fd_count;                 // at most BQ_SPAWN_MAX_FDS
  const bq_process_limits *limits; // NULL: none. Core dumps are always off
  int new_session;                 // 1: the child leads a new session and process group
  int death_signal;                // sent to the child when the calling thread ends; 0: none
  int cgroup_fd;                   // an open cgroup.procs that the child enters first; -1: none
} bq_spawn;

enum { BQ_SPAWN_MAX_FDS = 8 };

// Signals are at their defaults and unblocked in the child, its umask is 022. `*pidfd` is the caller's to close,
// `*pid` to reap. A failing exec is reported here: BQ_ENOTFOUND when `path` or `cwd` doesn't exist, else BQ_EIO.
int bq_spawn_start(const bq_spawn *spawn, pid_t *pid, int *pidfd, bq_error *err) BQ_MUSTCHECK;

#endif
