// UUIDs (RFC 9562): version 7 for what we make, any version for what we read.
#ifndef BQ_BASE_UUID_H
#define BQ_BASE_UUID_H

#define BQ_UUID_SIZE 37 // 36 characters and a NUL
enum { BQ_UUID_RANDOM = 10 }; // bytes of randomness in one

#include "base/error.h"

// A new version 7 UUID (section 5.7: milliseconds, then random bits), lower-case. Thread-safe.
int bq_uuid_new(char out[BQ_UUID_SIZE], bq_error *err) BQ_MUSTCHECK;

// The same of random bytes that the caller has: for whoever needs very many. Never use the same bytes twice.
void bq_uuid_make(char out[BQ_UUID_SIZE], const unsigned char random[BQ_UUID_RANDOM]);

// 1 when `text` has the form 8-4-4-4-12 of hexadecimal digits, any case, and nothing else.
int bq_uuid_is(const char *text);

#endif
