// What this server offers to builds: its system, the tools that builds find here, and what its configuration adds.
//
// Found once, at the start. Thread rule: the loop's thread; finding looks at directories.
#ifndef BQ_QUEUE_LABELS_H
#define BQ_QUEUE_LABELS_H

#include <jansson.h>

#include "base/config.h"

typedef struct bq_labels bq_labels;

// "os=linux", "arch=x64" (or arm64, or the kernel's word), the name of each known tool in a place where builds look
// (`dotnet` only with an SDK: a runtime alone builds nothing), and BuildQueue.Labels.
int bq_labels_find(bq_labels **out, const bq_config *config, bq_error *err) BQ_MUSTCHECK;
void bq_labels_free(bq_labels *labels); // NULL is fine

const char *bq_labels_json(const bq_labels *labels);  // ["os=linux",…]
const char *bq_labels_array(const bq_labels *labels); // the same as PostgreSQL writes a text[]

// The first of `needs` (a list of texts) that is not offered here, NULL when all are; borrowed from `needs`.
const char *bq_labels_lacks(const bq_labels *labels, const json_t *needs);

#endif
