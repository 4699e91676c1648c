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
  const char *const *sets; // "NAME=VALUE" each, NULL at the end: what the build is given instead (BQ_RUN_SET_NAMES)
  const char *stop_after; // ends the build behind the step of that name; NULL: it runs to its end
  int keep;             // the workspace stays
  FILE *log;            // gets the build's log as it comes
} bq_run_options;

typedef struct bq_run_result {
  int success;
  int stopped;          // the build ended behind the step of stop_after: that is no failure
  char message[1000]; // why not, when it wasn't
  char output[1000];  // the directory with the artifacts; "" unless it was a success
  char workspace[1000]; // its workspace, which is there when it was to be kept or the build was stopped
} bq_run_result;

// What `sets` may name, for people.
#define BQ_RUN_SET_NAMES                                                                                               \
  "tier, architecture, cloud, configuration, customer.id, customer.name, customer.email, metadata.KEY, manifest.PATH"

// Runs the build to its end; SIGINT and SIGTERM cancel it. Fails only when it could not be started. Blocks.
// `config` is borrowed; its directories are not used.
int bq_run_pipeline(const bq_config *config, const bq_run_options *options, bq_run_result *result,
                    bq_error *err) BQ_MUSTCHECK;

#endif
