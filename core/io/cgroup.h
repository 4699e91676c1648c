// A cgroup (version 2) around one command that runs without a sandbox: it names every process of the tree, also those
// that left the process group.
//
// Thread rule: any thread.
#ifndef BQ_IO_CGROUP_H
#define BQ_IO_CGROUP_H

#include "base/error.h"

// Makes a cgroup below the server's own. `*path` is NULL, and the result 0, where the server may not make one: then a
// process group is all there is. `*path` is the caller's (bq_free), `*procs_fd` an open cgroup.procs, the caller's to
// close.
int bq_cgroup_new(char **path, int *procs_fd, bq_error *err) BQ_MUSTCHECK;

// SIGKILL to every process in it. Without memory or with processes being born meanwhile some may be left: call it
// again until bq_cgroup_remove succeeds.
void bq_cgroup_kill(const char *path);

// 1: removed (or gone); 0: processes are left in it.
int bq_cgroup_remove(const char *path);

#endif
