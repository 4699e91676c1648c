// The commands' side of the HTTP API: blocking calls over libcurl, answers as JSON, problems as sentences.
#ifndef BQ_CLI_CLIENT_H
#define BQ_CLI_CLIENT_H

#include <jansson.h>
#include <stddef.h>

#include "cli/command.h"

typedef struct bq_client bq_client;

// `common` says which server: --server, else $BUILDQ_SERVER, else Listen of the configuration. On failure prints why
// and returns NULL. Ends the program for want of memory.
bq_client *bq_client_new(const bq_common *common);
void bq_client_free(bq_client *client);
const char *bq_client_url(const bq_client *client);
// Whether BQ_EXIT_UNREACHABLE is returned without a word: for callers that try again and have said so.
void bq_client_quiet(bq_client *client, int quiet);

// One request. `body` NULL: none. `header` is one more header line, or NULL. On 2xx returns BQ_EXIT_OK and `*answer` is
// the caller's (NULL for an answer without JSON). Else prints the problem and returns the exit code it means.
int bq_client_call(bq_client *client, const char *method, const char *path, json_t *body, const char *header,
                   json_t **answer);

// GET that hands the body on as it comes; `take` returns 0 to end it. Returns an exit code; printed likewise.
int bq_client_stream(bq_client *client, const char *path, const char *header,
                     int (*take)(void *arg, const char *bytes, size_t length), void *arg);

// A header of the last answer, "" when it had none of that name or there was no answer. Cut to `size`.
void bq_client_header(const bq_client *client, const char *name, char *out, size_t size);

// Percent-encodes one segment or value. The caller's (bq_free).
char *bq_client_escape(const char *text);

#endif
