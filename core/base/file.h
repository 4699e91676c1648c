// Small files, read whole.
#ifndef BQ_BASE_FILE_H
#define BQ_BASE_FILE_H

#include <stddef.h>

#include "base/error.h"

// Reads the regular file `path`. `*out` is the caller's (bq_free) and has a NUL behind its `*length` bytes.
// BQ_ENOTFOUND when it does not exist, BQ_ELIMIT beyond `max` bytes, BQ_EINVAL for anything but a regular file (a pipe
// without a writer would hold the reader for ever), BQ_EIO otherwise. Blocks for the disk.
int bq_file_read(const char *path, size_t max, char **out, size_t *length, bq_error *err) BQ_MUSTCHECK;

#endif
