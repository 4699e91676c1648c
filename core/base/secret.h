// Secrets that are kept elsewhere: what stands in the configuration may name a place instead of the value.
//
//   file:PATH        the content of a file            env:NAME     an environment variable
//   command:PROGRAM  what PROGRAM prints; arguments are separated by spaces, there is no shell and no quoting
//
// One line break at the end of a file or of a command's output is not part of the secret. Errors name the place and
// never the content. All functions may block (files; commands up to their limit): not for the loop's thread.
#ifndef BQ_BASE_SECRET_H
#define BQ_BASE_SECRET_H

#include "base/error.h"

enum {
  BQ_SECRET_MAX_BYTES = 64 * 1024,   // of one secret
  BQ_SECRET_COMMAND_LIMIT_MS = 10000 // for a command, from its start to its end
};

typedef struct bq_secret_source {
  const char *const *environment; // "NAME=value", NULL-terminated; NULL: the process's own. Also what commands get
  int command_limit_ms;           // 0: BQ_SECRET_COMMAND_LIMIT_MS
} bq_secret_source;

// The variable's value (borrowed), NULL when it is not set. `environment` NULL: the process's own.
const char *bq_environment_get(const char *const *environment, const char *name);

// 1 when `text` begins with one of the prefixes above (lower-case).
int bq_secret_is_reference(const char *text);

// The secret that `text` names, or a copy of `text` when it is no reference. `*out` is the caller's (bq_free). An empty
// secret and one with a NUL inside are BQ_EINVAL, a command that takes too long is BQ_ETIMEOUT (it is killed with its
// process group). A command's standard error goes nowhere: it might repeat the secret.
int bq_secret_resolve(const char *text, const bq_secret_source *source, char **out, bq_error *err) BQ_MUSTCHECK;

// Looks for $CREDENTIALS_DIRECTORY/<name> (systemd's LoadCredential=). `*out` is NULL, with result 0, when the variable
// is not set or the file does not exist; else the caller's. `name` may hold no slash.
int bq_secret_from_credentials(const char *name, const bq_secret_source *source, char **out,
                               bq_error *err) BQ_MUSTCHECK;

// The secret that scripts call `name`: the file <directory>/<name>, when `directory` is not "" and has one, else what
// bq_secret_from_credentials gives. Names with a slash or a dot at the beginning name none. Line breaks at its end are
// not part of it. Results as there.
int bq_secret_from_directory(const char *directory, const char *name, const bq_secret_source *source, char **out,
                             bq_error *err) BQ_MUSTCHECK;

#endif
