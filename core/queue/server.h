// The server: everything put together, from the first directory to the last log line.
#ifndef BQ_QUEUE_SERVER_H
#define BQ_QUEUE_SERVER_H

#include "base/config.h"
#include "base/error.h"

struct bq_server;

typedef struct bq_serve_options {
  const char *share;                 // directory with scripts/, templates/ and sql/
  const bq_config_source *source;    // where the configuration came from: read again at SIGHUP
  int migrate;                       // bring the schema up to date first
  int ends_with_parent;              // 1: stop as at SIGTERM when the process that started it ends (`make run`)
  // Everything is made, nothing runs yet: `buildq test` hangs on to the server. On the main thread. NULL: nothing.
  void (*opened)(void *arg, struct bq_server *server);
  // The loop has ended: what was hung on is to be taken off. NULL: nothing.
  void (*closing)(void *arg);
  void (*ready)(void *arg, const char *address); // once it answers; on a thread of its own; may block. NULL: nothing
  void *arg;
} bq_serve_options;

// Runs until SIGTERM or SIGINT. `config` is taken over. Started as root, it becomes RunAsUser first. Blocks; to be
// called from the main thread, with no other thread running. 1, or an error: it has not waited for the work under way,
// whose threads still run, so the process is to end by _exit.
int bq_serve(bq_config *config, const bq_serve_options *options, bq_error *err) BQ_MUSTCHECK;

#endif
