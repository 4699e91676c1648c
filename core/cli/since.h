// "1d" as a time: pure.
#ifndef BQ_CLI_SINCE_H
#define BQ_CLI_SINCE_H

#include <stddef.h>
#include <stdint.h>

// Reads a duration (a number and s, m, h, d or w) before `now_us`, or takes a time as it is. Writes RFC 3339. Returns 0
// when `text` is neither.
int bq_since_read(const char *text, int64_t now_us, char *out, size_t size);

#endif
