// Removes files that belong to nothing: of builds that have no row any more, and workspaces and output of attempts that
// another one has replaced (their server was killed half-way).
//
// Directories are read a batch at a time, however many there are, on the blocking pool; the database says which may go.
// Thread rule: the loop's thread.
#ifndef BQ_QUEUE_SWEEP_H
#define BQ_QUEUE_SWEEP_H

#include "queue/server_internal.h"

typedef struct bq_sweep bq_sweep;

int bq_sweep_new(bq_sweep **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_sweep_free(bq_sweep *sweep); // not while it is busy

// Begins one pass through all directories; nothing while one is under way.
void bq_sweep_begin(bq_sweep *sweep);
void bq_sweep_stop(bq_sweep *sweep); // as soon as it can
int bq_sweep_busy(const bq_sweep *sweep);

#endif
