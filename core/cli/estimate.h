// An estimate in one line.
#ifndef BQ_CLI_ESTIMATE_H
#define BQ_CLI_ESTIMATE_H

#include <jansson.h>

// "60 s, nine times of ten not over 75 s; 0.60 EUR" of the API's object `estimate`. The caller's (bq_free); NULL when it
// is absent or says nothing, and for want of memory.
char *bq_estimate_line(const json_t *estimate);

#endif
