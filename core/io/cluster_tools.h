// What cluster.c needs of the operating system: finding and running PostgreSQL's programs, finding leftovers.
//
// Internal to io/cluster*.c. Everything here blocks.
#ifndef BQ_IO_CLUSTER_TOOLS_H
#define BQ_IO_CLUSTER_TOOLS_H

#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"

// The directory of `postgres` and `initdb`: `wanted` itself; or with NULL that of version `major` (0: the newest) below
// /usr/lib/postgresql, or from PATH. `out` is the caller's (bq_free).
int bq_cluster_find_bin(const char *wanted, int major, char **out, bq_error *err) BQ_MUSTCHECK;

// The major version of the `postgres` there.
int bq_cluster_bin_major(const char *bin_directory, int *out, bq_error *err) BQ_MUSTCHECK;

// Runs a program with a clean environment to its end; the last 8 kB or so of its output go to `output`.
// BQ_EIO with its exit code and last lines when that is not 0.
int bq_cluster_run(const char *const *argv, bq_buf *output, bq_error *err) BQ_MUSTCHECK;

// Starts `argv` in a session of its own with its output going to `log_fd`; it gets SIGINT when this thread ends.
// `pidfd` is the caller's.
int bq_cluster_spawn(const char *const *argv, int log_fd, pid_t *pid, int *pidfd, bq_error *err) BQ_MUSTCHECK;

// Waits until the process of `pidfd` has ended; 0 when it has, -1 when it still runs after `timeout_ms`.
int bq_cluster_wait_end(int pidfd, int64_t timeout_ms);

// Stops every PostgreSQL process that works in `data_directory`. `postmaster` (0: none) is asked first, the way a
// shutdown is asked for.
int bq_cluster_end_leftovers(const char *data_directory, pid_t postmaster, bq_error *err) BQ_MUSTCHECK;

#endif
