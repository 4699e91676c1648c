// A rehearsal's figures as tables.
#ifndef BQ_CLI_REHEARSE_PRINT_H
#define BQ_CLI_REHEARSE_PRINT_H

#include <jansson.h>

#include "base/error.h"

// `figures` as of bq_rehearse_compare, with `policies`. To standard output.
int bq_rehearse_print(const json_t *figures, bq_error *err) BQ_MUSTCHECK;

#endif
