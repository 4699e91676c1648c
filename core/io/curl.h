// Outgoing transfers: libcurl's multi interface over the loop (HTTP requests of scripts; mail uses it as well).
//
// Thread rule: loop thread only. Nothing blocks: names are looked up by libcurl's threaded resolver.
#ifndef BQ_IO_CURL_H
#define BQ_IO_CURL_H

#include <curl/curl.h>
#include <stddef.h>

#include "base/error.h"
#include "event/loop.h"

// An option that could not be set (memory was out) must not be done without: a limit, the proxy that is not to be used.
// `code` begins as CURLE_OK and keeps the first failure; what follows it is left out.
#define BQ_CURL_SET(code, easy, option, value) \
  ((code) = (code) == CURLE_OK ? curl_easy_setopt(easy, option, value) : (code))

typedef struct bq_curl bq_curl;

// `max_transfers` run at once; later ones wait inside libcurl.
int bq_curl_new(bq_curl **out, bq_loop *loop, unsigned max_transfers, bq_error *err) BQ_MUSTCHECK;
// Ends what runs: `done` is called with CURLE_ABORTED_BY_CALLBACK. The loop does not run afterwards.
void bq_curl_free(bq_curl *curl);

// Called once, on a later turn of the loop. `easy` is the owner's again and may be reused or cleaned up.
typedef void (*bq_curl_done)(void *arg, CURL *easy, CURLcode code);

// Starts a transfer. CURLOPT_PRIVATE is this module's while it runs.
int bq_curl_start(bq_curl *curl, CURL *easy, bq_curl_done done, void *arg, bq_error *err) BQ_MUSTCHECK;

// Ends a transfer early: `done` follows with CURLE_ABORTED_BY_CALLBACK.
void bq_curl_cancel(bq_curl *curl, CURL *easy);

#endif
