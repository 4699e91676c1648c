// Sources: the scripts and templates of one generation, read once and named by their contents.
//
// A path is relative to the share directory: "scripts/pipelines/honua-server.lua", "templates/email/layout.html".
// Shipped files lie below `share`; a team's overlay directories win over them file by file.
//
// Thread rule: reading blocks (blocking pool). A sealed bq_sources is immutable and may be read by any thread.
#ifndef BQ_LUA_SOURCES_H
#define BQ_LUA_SOURCES_H

#include <stddef.h>

#include "base/error.h"

enum {
  BQ_SOURCES_MAX_FILES = 2000,
  BQ_SOURCES_MAX_FILE_BYTES = 1024 * 1024,
  BQ_SOURCES_MAX_BYTES = 32 * 1024 * 1024,
  BQ_SOURCES_MAX_DEPTH = 8, // directories below "scripts" or "templates"
  BQ_HASH_SIZE = 65         // SHA-256 in hexadecimal and a NUL
};

typedef struct bq_source {
  char *path;              // see above
  char *text;              // owned; NUL behind `length`
  size_t length;           // bytes
  char hash[BQ_HASH_SIZE]; // of the text
  int overlaid;            // 1: from a team's directory
} bq_source;

typedef struct bq_source_directories {
  const char *share;     // has scripts/ and templates/
  const char *scripts;   // ScriptDirectory, or NULL
  const char *templates; // TemplateDirectory, or NULL
} bq_source_directories;

typedef struct bq_sources bq_sources;

// Reads every .lua file below scripts and every file below templates. Hidden files, editors' leftovers ("x~",
// "x.swp"), README.md, *.d.lua and tests (*_spec.lua, the directories scripts/spec and scripts/testing) are not part of a
// generation. A configured directory that is missing is an error.
int bq_sources_read(bq_sources **out, const bq_source_directories *directories, bq_error *err) BQ_MUSTCHECK;

// Builds a set by hand (from the database): new, add (copies), seal.
int bq_sources_new(bq_sources **out, bq_error *err) BQ_MUSTCHECK;
int bq_sources_add(bq_sources *sources, const char *path, const char *text, size_t length, int overlaid,
                   bq_error *err) BQ_MUSTCHECK;
int bq_sources_seal(bq_sources *sources, bq_error *err) BQ_MUSTCHECK; // sorts and names it
void bq_sources_free(bq_sources *sources);

const char *bq_sources_hash(const bq_sources *sources); // SHA-256 over the sorted (path, hash) pairs
size_t bq_sources_count(const bq_sources *sources);
const bq_source *bq_sources_at(const bq_sources *sources, size_t index); // sorted by path
typedef enum bq_difference { BQ_ADDED, BQ_CHANGED, BQ_REMOVED } bq_difference;

// Calls `each` for every file that differs, in the order of paths.
void bq_sources_compare(const bq_sources *before, const bq_sources *after,
                        void (*each)(void *arg, bq_difference difference, const char *path), void *arg);

// Whether both have the same files, by path and contents, among those whose paths begin with `room` ("templates/").
int bq_sources_are_same(const bq_sources *a, const bq_sources *b, const char *room);
const bq_source *bq_sources_find(const bq_sources *sources, const char *path); // NULL when absent

#endif
