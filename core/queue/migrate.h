// Bringing the schema up to date, forward only.
//
// Thread rule: blocks for the database; for the main thread before the loop runs, and for `buildq migrate`.
#ifndef BQ_QUEUE_MIGRATE_H
#define BQ_QUEUE_MIGRATE_H

#include "base/error.h"

typedef struct bq_migrate_options {
  int max_retry_attempts; // of the configuration: which rows of the old service have used up their retries
  int check_only;         // 1: change nothing; a schema that isn't up to date is BQ_ECONFLICT
  int dry_run;            // 1: change nothing; report what would be applied
} bq_migrate_options;

// Applies what is missing of directory/NNNN_name.sql, in order, each file in a transaction of its own, under an advisory
// lock: several servers may start at once (one waits a minute at most). `report` hears a line about each thing done, and
// what the adoption of an old table leaves to be confirmed; and a warning for each file that was changed after it was
// applied; NULL: nobody does.
// BQ_EUNAVAIL: no connection, or no lock; BQ_ECONFLICT: the schema asks for a newer program (its "oldest program" is
// above the newest file here), belongs to another one, or is incomplete (check_only); BQ_EINVAL: the files are not
// numbered from 0001 without a gap or don't begin with `-- oldest program: N`, conninfo is malformed, PostgreSQL is older
// than 15, or a pooler gives each transaction another session; BQ_EDATABASE: a migration failed and left no trace.
int bq_migrate(const char *conninfo, const char *directory, const bq_migrate_options *options,
               void (*report)(void *arg, const char *line), void *arg, bq_error *err) BQ_MUSTCHECK;

#endif
