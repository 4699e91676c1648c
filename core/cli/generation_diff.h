// The difference of two generations, as diff(1) shows it.
#ifndef BQ_CLI_GENERATION_DIFF_H
#define BQ_CLI_GENERATION_DIFF_H

#include <jansson.h>

#include "base/error.h"

// Prints it to standard output. Both are answers of GET /generations/{hash}: {files: [{path, content}]}. The files are
// written below a temporary directory, which is removed again.
int bq_generation_diff(const json_t *first, const json_t *second, bq_error *err) BQ_MUSTCHECK;

#endif
