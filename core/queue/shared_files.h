// What builds share below StateDirectory/shared (build:shared), bounded by the janitor.
#ifndef BQ_QUEUE_SHARED_FILES_H
#define BQ_QUEUE_SHARED_FILES_H

#include <stdint.h>

// Removes each directory two levels down (git/…, nuget/…) that no build has asked for in `seconds`. What can't be
// removed is told to the log. Blocks: for the blocking pool.
void bq_shared_files_clean(const char *state_directory, int64_t seconds);

#endif
