// The private PostgreSQL: a cluster of our own under the state directory, for a server without a ConnectionString.
//
// Data in <state>/postgres, unix socket in <state>/pg (0700, no TCP), log in <state>/postgres.log (0640; moved to
// postgres.log.1 at a start that finds it over 10 MB). Runs as a child of this process in a session of its own, so that
// Ctrl-C in a terminal reaches only the server; it is shut down (fast) when this process dies in any way.
//
// Thread rule: all of this blocks and belongs to the main thread (the child's end is tied to the thread that started
// it), before the loop runs and after it has ended, but for what says otherwise. The state directory must be this process's alone: whatever still
// runs in its data directory is taken for a leftover of a killed server and is stopped first.
#ifndef BQ_IO_CLUSTER_H
#define BQ_IO_CLUSTER_H

#include "base/error.h"

typedef struct bq_cluster bq_cluster;

typedef struct bq_cluster_options {
  const char *state_directory; // must exist; made absolute; no comma in its path (libpq would split it)
  const char *bin_directory;   // where initdb and postgres are; NULL: /usr/lib/postgresql/*/bin, then PATH
} bq_cluster_options;

// Makes the cluster when there is none (initdb, UTF-8, C.UTF-8, peer authentication, superuser named as this user),
// starts it, waits up to 60 s until it accepts, makes the database `buildq`. Fails as root (BQ_EINVAL), when the
// socket's path would be too long, when another major version made the data directory, with the end of PostgreSQL's
// own log otherwise.
int bq_cluster_start(bq_cluster **out, const bq_cluster_options *options, bq_error *err) BQ_MUSTCHECK;

// What can be said without a start: whether PostgreSQL's programs are there, and of the version that made the data. The
// state directory need not exist.
int bq_cluster_probe(const bq_cluster_options *options, bq_error *err) BQ_MUSTCHECK;

// libpq keywords and values; borrowed, as long as the cluster. Holds no secret.
const char *bq_cluster_conninfo(const bq_cluster *cluster);

// The child's process id, and a descriptor (pidfd, borrowed) that turns readable when it has ended.
int bq_cluster_pid(const bq_cluster *cluster);
int bq_cluster_fd(const bq_cluster *cluster);

// Two steps to start one again that has ended by itself. First, on any thread, while nobody else uses the cluster: stops
// and removes what it has left; blocks for seconds. Then, on the main thread, also while the loop runs: starts it under
// the same address, and does not wait for it. bq_cluster_fd is another one then.
int bq_cluster_clear(bq_cluster *cluster, bq_error *err) BQ_MUSTCHECK;
int bq_cluster_spawn_again(bq_cluster *cluster, bq_error *err) BQ_MUSTCHECK;

// Fast shutdown (SIGINT), immediate after 30 s (SIGQUIT), SIGKILL after another 5 s; frees the cluster. NULL is fine.
void bq_cluster_stop(bq_cluster *cluster);

#endif
