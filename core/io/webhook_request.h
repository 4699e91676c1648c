// What a webhook call sends: from the script's table to URL, headers and signature. Only for webhook.c.
//
// Three steps, because secrets' files are read on the blocking pool: new (loop) → read (any thread, blocks) → finish.
#ifndef BQ_IO_WEBHOOK_REQUEST_H
#define BQ_IO_WEBHOOK_REQUEST_H

#include <curl/curl.h>
#include <jansson.h>
#include <stdint.h>

#include "base/config.h"
#include "io/mask.h"

typedef struct bq_webhook_request {
  char *url;                  // owned
  char *host;                 // owned; what of the URL may be told
  struct curl_slist *headers; // owned
  char *body;                 // owned
  size_t body_length;
  bq_mask_set *mask;          // owned; what must not be told
  json_t *http;               // owned; the script's table
  json_t *secrets;            // owned; name → list of values, null while it is not read
  const char *directory;      // borrowed; SecretsDirectory
} bq_webhook_request;

// Checks `http`, keeps a copy, and takes the secrets that the configuration has.
int bq_webhook_request_new(bq_webhook_request *request, const bq_config *config, const json_t *http,
                           bq_error *err) BQ_MUSTCHECK;
// Reads the other secrets.
int bq_webhook_request_read(bq_webhook_request *request, bq_error *err) BQ_MUSTCHECK;
// Fills url, host, headers and mask. `now_s` is the time that is signed.
int bq_webhook_request_finish(bq_webhook_request *request, int64_t now_s, bq_error *err) BQ_MUSTCHECK;
void bq_webhook_request_clear(bq_webhook_request *request); // also a half-made one

// The host of a URL ("[::1]:8080" with a port that was given), NULL when it is no http or https URL. The caller's.
char *bq_webhook_host(const char *url);

#endif
