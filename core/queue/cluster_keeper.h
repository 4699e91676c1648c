// Keeps the private PostgreSQL running: one that ends by itself (a crash, the kernel's want of memory, somebody's kill) is
// started again, and meanwhile the server does what it does while any database is away.
//
// Thread rule: loop thread, which must be the thread that started the cluster.
#ifndef BQ_QUEUE_CLUSTER_KEEPER_H
#define BQ_QUEUE_CLUSTER_KEEPER_H

#include "event/loop.h"
#include "event/pool.h"
#include "io/cluster.h"

typedef struct bq_cluster_keeper bq_cluster_keeper;

// All are borrowed and outlive the keeper.
int bq_cluster_keeper_new(bq_cluster_keeper **out, bq_loop *loop, bq_pool *blocking, bq_cluster *cluster,
                          bq_error *err) BQ_MUSTCHECK;
void bq_cluster_keeper_free(bq_cluster_keeper *keeper); // not while it is busy

int bq_cluster_keeper_busy(const bq_cluster_keeper *keeper); // a thread works on the cluster: it must not be stopped

// The pause before the next start when so many starts in a row came to nothing.
int64_t bq_cluster_keeper_pause_ms(unsigned failures);

#endif
