// JSON as the core reads and writes it: jansson, with the same strictness everywhere.
//
// Text is UTF-8 (RFC 8259). Duplicate keys, NUL inside strings, invalid UTF-8, NaN and integers that do not fit 64 bits
// are refused. Thread rule: any thread; one value belongs to one thread at a time.
#ifndef BQ_BASE_JSON_H
#define BQ_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

enum {
  BQ_JSON_STRICT = 0,
  BQ_JSON_RELAXED = 1, // also // and /* */ comments, trailing commas and a byte order mark, as .NET reads its settings

  BQ_JSON_MAX_DEPTH = 100,              // objects and arrays inside each other; BQ_ELIMIT beyond
  BQ_JSON_MAX_BYTES = 64 * 1024 * 1024, // of one text; BQ_ELIMIT beyond. Callers set smaller bounds of their own
};

// Parses the whole of `text`; any JSON value may stand at the top. `*out` is the caller's (json_decref).
// BQ_EINVAL names line and column (both from 1, columns in characters) and what is wrong, and never quotes the text:
// it may hold a secret.
int bq_json_parse(const char *text, size_t length, unsigned flags, json_t **out, bq_error *err) BQ_MUSTCHECK;

// The member of that name: the exact one if there is one, else the first that differs only in the case of ASCII
// letters. Borrowed. NULL when absent or when `object` is no object.
json_t *bq_json_get_ci(const json_t *object, const char *name);

// The text of that member; "" when it is absent or no text. Borrowed.
const char *bq_json_text(const json_t *object, const char *name);

// json_dumps of jansson, numbers with the fewest digits that read back the same: 1.1 stays "1.1". The caller's (bq_free);
// NULL for want of memory, and for what `flags` refuse.
char *bq_json_dumps(const json_t *value, size_t flags);

// Compact text, keys in the order they were added. `*out` is the caller's (bq_free).
int bq_json_dump(const json_t *value, char **out, bq_error *err) BQ_MUSTCHECK;

#endif
