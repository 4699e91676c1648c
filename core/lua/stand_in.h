// What `buildq test` puts in the world's place: commands and outgoing requests are asked of it first.
//
// Thread rule: loop thread only.
#ifndef BQ_LUA_STAND_IN_H
#define BQ_LUA_STAND_IN_H

#include <jansson.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

typedef struct bq_stand_in bq_stand_in;

// One question; embedded in the operation that asks, which waits until `answered` is called.
typedef struct bq_ask {
  // Once, on a later turn. `answer` is an object (below), borrowed.
  void (*answered)(struct bq_ask *ask, const json_t *answer);
  int64_t number;      // the stand-in's own …
  int counted;         // … likewise …
  struct bq_ask *next; // … likewise
} bq_ask;

struct bq_stand_in {
  // `what` is "exec" or "http", `request` a JSON object, borrowed. `answered` follows, unless it is forgotten before.
  void (*ask)(bq_stand_in *stand_in, bq_ask *ask, const char *what, const json_t *request);
  void (*forget)(bq_stand_in *stand_in, bq_ask *ask);
  // It was done really, and this came of it: an object as an answer is, borrowed; NULL: it can't be kept.
  void (*tell)(bq_stand_in *stand_in, const bq_ask *ask, const json_t *result);
};

// What an answer may say beside its results:
//   {"real": true}                           do it; with "record": true, and tell what files a command has written
//   {"hang": true}                           never ends by itself
//   {"error": "timeout", "message": "…"}     it fails so, with a word of the vocabulary of errors
int bq_answer_is(const json_t *answer, const char *word); // "real", "hang", or a stand-in's own
int bq_answer_error(const json_t *answer, bq_error *err); // 0 when it is no failure

// Bytes cross as a string, or as {"hex": "00ff"} when JSON can't hold them.
void bq_answer_bytes(const json_t *value, bq_buf *out); // appends; nothing for what is neither
json_t *bq_answer_from_bytes(const char *bytes, size_t length); // the caller's

// Adds to an answer, as `files`, what below the directory `root` was written since `since_us` (real time, us since 1970):
// at most 200 files, 4 MiB of bytes together. `filesLeftOut` counts the rest. Blocks for the disk.
int bq_answer_add_files(json_t *answer, const char *root, int64_t since_us, bq_error *err) BQ_MUSTCHECK;

// Writes the `files` of an answer, {path: bytes}, below the directory `root`; blocks for the disk.
int bq_answer_write_files(const json_t *answer, const char *root, bq_error *err) BQ_MUSTCHECK;

#endif
