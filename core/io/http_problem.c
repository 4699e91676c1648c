// The errors that the codec answers by itself, as application/problem+json (RFC 9457).
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "io/http_internal.h"

static int is_request_id(const char *text) {
  size_t length = strlen(text);
  return length > 0 && length <= BQ_HTTP_REQUEST_ID_BYTES &&
         strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-") == length;
}

static void make_id(bq_http_server *server, char out[BQ_HTTP_REQUEST_ID_BYTES + 1]) {
  if (server->random_left < BQ_UUID_RANDOM) {
    ssize_t got = getrandom(server->random, sizeof server->random, 0);
    server->random_left = got > 0 ? (size_t)got : 0;
  }
  out[0] = '\0';
  if (server->random_left < BQ_UUID_RANDOM) return;
  server->random_left -= BQ_UUID_RANDOM;
  bq_uuid_make(out, server->random + server->random_left);
}

const char *bq_http_request_id(bq_http_exchange *x) {
  if (x->request_id[0] != '\0') return x->request_id;
  const char *given = x->text != NULL ? bq_http_get_header(x, "X-Request-Id") : NULL;
  if (given != NULL && is_request_id(given)) memcpy(x->request_id, given, strlen(given) + 1);
  else make_id(x->connection->server, x->request_id);
  return x->request_id;
}

void bq_http_problem_write(bq_http_problem *out, const char *request_id, int status, const char *detail) {
  out->text[0] = '\0';
  int length = snprintf(out->text, sizeof out->text,
                        "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":\"%s\",\"requestId\":\"%s\"}",
                        bq_http_reason(status), status, detail, request_id);
  out->length = length > 0 && (size_t)length < sizeof out->text ? (size_t)length : 0;
}

// What a peer did wrong, by the status it gets.
static void describe(const bq_http_server *server, int status, char *out, size_t size) {
  const bq_http_options *options = &server->options;
  switch (status) {
  case 408:
    (void)snprintf(out, size, "the request did not come whole in time: its head has %lld s, its body %lld s",
                   (long long)options->head_deadline_ms / 1000, (long long)options->body_deadline_ms / 1000);
    break;
  case 413: (void)snprintf(out, size, "a body has at most %zu bytes here", options->max_body); break;
  case 414: (void)snprintf(out, size, "a request line has at most %zu bytes here", options->max_line); break;
  case 417: (void)snprintf(out, size, "the only expectation that is met is 100-continue"); break;
  case 431:
    (void)snprintf(out, size, "a request has at most %u headers here, of at most %zu bytes together",
                   options->max_headers, options->max_header_bytes);
    break;
  case 501: (void)snprintf(out, size, "the only transfer coding that is understood is chunked"); break;
  case 503: (void)snprintf(out, size, "out of memory for a request"); break;
  case 505: (void)snprintf(out, size, "this server speaks HTTP/1.1 and HTTP/1.0"); break;
  default: (void)snprintf(out, size, "the request can't be read: it breaks the rules of HTTP/1.1 (RFC 9112)"); break;
  }
}

void bq_http_refuse(bq_http_connection *c, int status) {
  bq_http_exchange refused = {.connection = c}; // an answer without a request that could be read
  char detail[200];
  char text[16];
  bq_http_problem problem;
  c->server->stats.bad_requests++;
  // A body that is refused belongs to a request whose id is known.
  const char *known = c->exchange != NULL ? bq_http_request_id(c->exchange) : "";
  (void)snprintf(refused.request_id, sizeof refused.request_id, "%s", known);
  bq_http_exchange_abandon(c);
  const char *id = bq_http_request_id(&refused);
  describe(c->server, status, detail, sizeof detail);
  bq_http_problem_write(&problem, id, status, detail);
  (void)snprintf(text, sizeof text, "%d", status);
  bq_log(BQ_DEBUG, "request refused", "request", id, "peer", c->peer, "status", text, "reason", detail, NULL);
  const bq_http_header headers[] = {{"Content-Type", "application/problem+json"}, {"X-Request-Id", id}};
  (void)bq_http_add_response(&refused, status, (bq_http_headers){headers, 2}, (bq_http_headers){NULL, 0},
                             (int64_t)problem.length, problem.text);
  bq_http_enter(c, BQ_HTTP_FLUSHING);
}

size_t bq_http_too_many(bq_http_server *server, const char *why, char *out, size_t size) {
  char id[BQ_HTTP_REQUEST_ID_BYTES + 1];
  char detail[200];
  bq_http_problem problem;
  make_id(server, id);
  (void)snprintf(detail, sizeof detail, "this server has as many connections as it takes: %u in all, %u from one address",
                 server->options.max_connections, server->options.max_per_peer);
  bq_http_problem_write(&problem, id, 503, why != NULL ? why : detail);
  int length = snprintf(out, size,
                        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: %zu\r\nX-Request-Id: %s\r\n"
                        "Content-Type: application/problem+json\r\nConnection: close\r\n\r\n%s",
                        problem.length, id, problem.text);
  return length > 0 && (size_t)length < size ? (size_t)length : 0;
}
