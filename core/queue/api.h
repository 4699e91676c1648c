// The HTTP API: from an exchange to a Lua route and back.
//
// Before a route runs: request id, Host, Origin, path, method, Content-Type, body. After it: what it returned becomes
// the response; files and streams are written by C, so that a slow reader holds no handler and no generation.
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_API_H
#define BQ_QUEUE_API_H

#include "base/config.h"
#include "base/error.h"
#include "io/http_server.h"
#include "lua/handlers.h"
#include "queue/api_response.h"

typedef struct bq_api bq_api;

// The responses that C writes: files, logs, events. They take the exchange over and answer now or later.
typedef struct bq_api_streams {
  // `response` is borrowed until the call returns; `headers` are those of the response, X-Request-Id among them.
  void (*send)(void *arg, bq_http_exchange *x, const bq_api_response *response, const bq_http_header *headers,
               size_t header_count);
  void *arg;
} bq_api_streams;

typedef struct bq_api_options {
  bq_loop *loop;
  const bq_config *config;             // borrowed; may be replaced with bq_api_set_config
  bq_handlers *(*handlers)(void *arg); // the current ones, borrowed; NULL while there are none
  void (*spoiled)(void *arg, bq_handlers *handlers); // a handler reached a budget: these must be replaced
  void *arg;
  bq_api_streams streams;
} bq_api_options;

int bq_api_new(bq_api **out, const bq_api_options *options, bq_error *err) BQ_MUSTCHECK;
void bq_api_free(bq_api *api);
void bq_api_set_config(bq_api *api, const bq_config *config);
void bq_api_set_address(bq_api *api, const char *address); // as bound: "127.0.0.1:8080"

// The server's on_request, with the api as its argument.
void bq_api_on_request(void *arg, bq_http_exchange *x);

// Answers with application/problem+json (RFC 9457). `detail` may be NULL. `request_id` NULL: the exchange's.
void bq_api_problem(bq_http_exchange *x, int status, const char *detail, const char *request_id,
                    const bq_http_header *more, size_t more_count);

typedef struct bq_api_stats {
  unsigned active;   // requests in handlers now
  uint64_t failed;   // handlers that raised or were ended
  uint64_t handled;
} bq_api_stats;
void bq_api_get_stats(const bq_api *api, bq_api_stats *out);

#endif
