// `buildq check`: everything that can be wrong before a start, without starting.
#ifndef BQ_QUEUE_PREFLIGHT_H
#define BQ_QUEUE_PREFLIGHT_H

#include "base/config.h"
#include "base/error.h"

typedef struct bq_preflight_options {
  const char *share; // directory with scripts/, templates/ and sql/
  int connect; // 1: also the database, the directories, the disk, the sandbox and the mail server
  const char *conninfo; // with `connect`, the database to look at; NULL: the private one, which does not run
  void (*report)(void *arg, int fault, const char *subject, const char *text); // a line each; fault 0: all is well
  void *arg;
} bq_preflight_options;

// Returns how many faults there were. Blocks; for the main thread. With `connect` and as root, the process is RunAsUser's
// afterwards (when there is that user): what the server may do is what it can see.
int bq_preflight(const bq_config *config, const bq_preflight_options *options);

#endif
