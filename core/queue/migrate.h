// Bringing the schema up to date, forward only.
//
// Blocks; for the main thread before the loop runs, and for `buildq migrate`.
#ifndef BQ_QUEUE_MIGRATE_H
#define BQ_QUEUE_MIGRATE_H

#include "base/error.h"

typedef struct bq_migrate_options {
  int max_retry_attempts; // of the configuration: which rows of the old service have used up their retries
  int check_only;         // 1: change nothing; a schema that isn't up to date is BQ_ECONFLICT
} bq_migrate_options;

// Applies what is missing of directory/NNNN_name.sql, in order, each file in a transaction of its own, under an advisory
// lock: several servers may start at once. A schema that asks for a newer program (its "oldest program" is above the
// newest file here) is BQ_ECONFLICT. `report` hears a line about each thing done.
int bq_migrate(const char *conninfo, const char *directory, const bq_migrate_options *options,
               void (*report)(void *arg, const char *line), void *arg, bq_error *err) BQ_MUSTCHECK;

#endif
