// SHA-256.
//
// Thread rule: any thread, one at a time for each bq_hash. bq_hash_file blocks.
#ifndef BQ_IO_HASH_H
#define BQ_IO_HASH_H

#include <stddef.h>

#include "base/error.h"

#define BQ_HASH_TEXT_SIZE 65 // 64 lower-case hexadecimal digits and a NUL

typedef struct bq_hash bq_hash;
int bq_hash_new(bq_hash **out, bq_error *err) BQ_MUSTCHECK;
int bq_hash_add(bq_hash *hash, const void *bytes, size_t length, bq_error *err) BQ_MUSTCHECK;
int bq_hash_finish(bq_hash *hash, char out[BQ_HASH_TEXT_SIZE], bq_error *err) BQ_MUSTCHECK; // once, nothing after it
void bq_hash_free(bq_hash *hash);

int bq_hash_bytes(const void *bytes, size_t length, char out[BQ_HASH_TEXT_SIZE], bq_error *err) BQ_MUSTCHECK;
int bq_hash_fd(int fd, char out[BQ_HASH_TEXT_SIZE], bq_error *err) BQ_MUSTCHECK; // from its position to its end
int bq_hash_file(const char *path, char out[BQ_HASH_TEXT_SIZE], bq_error *err) BQ_MUSTCHECK;

#endif
