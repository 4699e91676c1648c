// This server as a node of the cluster: joining, heartbeats, judging others, learning of its own death.
//
// One `nodes` row, one small UPDATE every third of the lease. Thread rule: loop thread only. The heartbeat is on the
// loop by design: a server whose loop hangs must lose its builds.
#ifndef BQ_QUEUE_NODE_H
#define BQ_QUEUE_NODE_H

#include "base/config.h"
#include "queue/store.h"

typedef struct bq_node bq_node;

typedef struct bq_node_options {
  bq_loop *loop;
  bq_store *store;
  const bq_config *config;
  const char *name;        // the host's name; borrowed
  char *const *url;        // where the text is kept that says where this server answers; set before the join
  const char *version;     // of the program; borrowed
  const char *labels;      // JSON list; borrowed
  const char *predecessor; // the node that worked in this state directory before, or NULL; buried at the first join
  // A new identity has joined: remember it. Also after this node was declared dead.
  void (*joined)(void *arg, const char *node_id);
  // A build of this node is to be cancelled.
  void (*cancel)(void *arg, const char *build_id, const char *reason);
  void (*resumed)(void *arg);                   // an operator has ended the drain
  void (*taken_over)(void *arg, size_t builds); // builds came back to the queue
  void *arg;
} bq_node_options;

int bq_node_new(bq_node **out, const bq_node_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_node_free(bq_node *node);

void bq_node_join(bq_node *node);   // keeps trying until it has joined
void bq_node_beat(bq_node *node);   // a heartbeat now: a notification says that there is something to learn
void bq_node_leave(bq_node *node, void (*done)(void *arg), void *arg); // tells the cluster; `done` when told, or failed

const char *bq_node_id(const bq_node *node); // "" before the first join
int bq_node_is_drained(const bq_node *node); // by an operator, as of the last heartbeat
const char *bq_node_pause_reason(const bq_node *node); // as of the last heartbeat; NULL: the queue is not paused

// Which of this server's identities works now: 0 before the first join, one more with each.
unsigned bq_node_term(const bq_node *node);
// Whether nobody else can have taken over what was claimed in that term: by our own clock, without asking. It says no
// before others may, also after this process was stopped or the system suspended. A virtual machine that its host has
// frozen is not told how long: until its next heartbeat is answered, this may still say yes. The database then refuses what
// such a server records, but a mail may go out from both (with one Message-ID). Any thread.
int bq_node_holds(const bq_node *node, unsigned term);

#endif
