// `buildq run --set NAME=VALUE`: what a build is given instead of what its manifest says.
#ifndef BQ_QUEUE_RUN_SET_H
#define BQ_QUEUE_RUN_SET_H

#include <jansson.h>

#include "base/error.h"

// `assignment` is "tier=pro", "customer.name=Acme", "metadata.team=web", "manifest.build.system=make". A value of
// metadata and manifest is JSON when it can be read as such, else text. Changes `row` (of bq_attempt_start) or
// `manifest`; a changed manifest becomes the row's, still to be checked. BQ_EINVAL says what names there are.
int bq_run_set(json_t *row, json_t *manifest, const char *assignment, bq_error *err) BQ_MUSTCHECK;

#endif
