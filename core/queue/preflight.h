// `buildq check`: everything that can be wrong before a start, without starting.
#ifndef BQ_QUEUE_PREFLIGHT_H
#define BQ_QUEUE_PREFLIGHT_H

#include "base/config.h"
#include "base/error.h"

typedef struct bq_preflight_options {
  const char *share; // directory with scripts/, templates/ and sql/
  int connect; // 1: also the database, the directories, the disk and the sandbox
  const char *conninfo; // with `connect`, the database to look at; NULL: it can't be found, which the caller has told
  void (*report)(void *arg, int fault, const char *subject, const char *text); // a line each; fault 0: all is well
  void *arg;
} bq_preflight_options;

// Returns how many faults there were. Blocks; for the main thread.
int bq_preflight(const bq_config *config, const bq_preflight_options *options);

#endif
