// One build in the foreground, without a queue and a database: `buildq run PIPELINE --manifest FILE`.
#ifndef BQ_QUEUE_RUN_H
#define BQ_QUEUE_RUN_H

#include <stdio.h>

#include "base/config.h"
#include "base/error.h"

typedef struct bq_run_options {
  const char *share;    // directory with scripts/ and templates/
  const char *pipeline; // its name
  const char *manifest; // path of the manifest's file; it is trusted, as those in ManifestDirectory are
  const char *directory; // where workspace and output go: an existing directory
  int keep;             // the workspace stays
  FILE *log;            // gets the build's log as it comes
} bq_run_options;

typedef struct bq_run_result {
  int success;
  char message[1000]; // why not, when it wasn't
  char output[1000];  // the directory with the artifacts; "" unless it was a success
} bq_run_result;

// Runs the build to its end; SIGINT and SIGTERM cancel it. Fails only when it could not be started. Blocks.
// `config` is borrowed; its directories are not used.
int bq_run_pipeline(const bq_config *config, const bq_run_options *options, bq_run_result *result,
                    bq_error *err) BQ_MUSTCHECK;

#endif
