// Where a rehearsal's history comes from and goes to: the queue's own tables, a file of JSON lines, the scripts.
//
// Thread rule: blocks for the database and the disk; for commands.
#ifndef BQ_QUEUE_REHEARSE_SOURCE_H
#define BQ_QUEUE_REHEARSE_SOURCE_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "lua/generation.h"

// Hears each line of a history, {format: "buildq history 1", …} first. Borrowed; it may be changed. A negative result
// ends the reading, with `err` filled.
typedef int (*bq_history_line)(void *arg, json_t *line, bq_error *err);

// Reads the builds that were enqueued at `since` (RFC 3339) or later from one snapshot, a build at a time: nothing is
// written or locked, and memory doesn't grow. `queries`: the directory of named statements. BQ_EUNAVAIL, BQ_EDATABASE.
int bq_history_read_database(const char *conninfo, const char *queries, const char *since, bq_history_line line,
                             void *arg, bq_error *err) BQ_MUSTCHECK;

// Reads what was exported. Errors name the line.
int bq_history_read_file(FILE *file, const char *name, bq_history_line line, void *arg, bq_error *err) BQ_MUSTCHECK;

// Makes customers unrecognizable in `line`: ids, names and configurations become hashes of them and `salt`, metadata
// goes. Equal ones stay equal within one salt.
int bq_history_anonymize(json_t *line, const char *salt, bq_error *err) BQ_MUSTCHECK;

// The scripts of the generation that is activated for all builds of the cluster. *out is the caller's; NULL: none is,
// and each server has its own. BQ_EUNAVAIL, BQ_EDATABASE.
int bq_rehearse_activated(bq_sources **out, const char *conninfo, const char *queries, bq_error *err) BQ_MUSTCHECK;

// A generation of `base` (borrowed); `path` NULL: as it is. Else with the file at `path` as scripts/policies/<name>.lua,
// whatever is there, and `name` is filled: the file's, without .lua.
enum { BQ_POLICY_NAME_SIZE = 65 };
int bq_rehearse_generation(bq_generation **out, const bq_sources *base, const char *path,
                           char name[BQ_POLICY_NAME_SIZE], bq_error *err) BQ_MUSTCHECK;

#endif
