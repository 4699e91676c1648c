// A team's files that stand in the place of shipped ones, and whether the originals have changed since they were copied.
//
// What a file was copied from is kept in `.overrides` of the overlay directory, a line each, as sha256sum(1) writes them:
// the original's SHA-256, two spaces, the path below the directory. Hidden files are no part of a generation.
// Thread rule: blocking; any thread.
#ifndef BQ_QUEUE_OVERRIDES_H
#define BQ_QUEUE_OVERRIDES_H

#include "lua/sources.h"

typedef enum bq_override_state {
  BQ_OVERRIDE_CURRENT, // the original is still the one that was copied
  BQ_OVERRIDE_CHANGED, // it is another one since
  BQ_OVERRIDE_UNKNOWN  // nobody noted what was copied
} bq_override_state;

// Calls `each` for every file of the overlays that has a shipped original, by path ("scripts/…").
int bq_overrides_check(const bq_source_directories *directories,
                       void (*each)(void *arg, const char *path, bq_override_state state), void *arg,
                       bq_error *err) BQ_MUSTCHECK;

// Notes that the overlay's `path` ("scripts/policies/limits.lua") stands for the shipped file as it is now. BQ_ENOTFOUND
// when there is no such shipped file or no overlay directory for it.
int bq_overrides_note(const bq_source_directories *directories, const char *path, bq_error *err) BQ_MUSTCHECK;

#endif
