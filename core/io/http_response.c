// Responses: whole, from a file, and streamed.
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "io/http_internal.h"
#include "io/http_range.h"

typedef struct reason {
  int status;
  const char *text;
} reason;

// RFC 9110, section 15, RFC 6585
static const reason reasons[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {505, "HTTP Version Not Supported"},
};

const char *bq_http_reason(int status) {
  for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
    if (reasons[i].status == status) return reasons[i].text;
  }
  return "Status";
}

// An unread body would be taken for the next request: the connection ends behind this response.
static void settle_connection(bq_http_exchange *x) {
  bq_http_connection *c = x->connection;
  // A peer that has ended its side may have sent more requests before.
  int last = c->peer_closed && evbuffer_get_length(bufferevent_get_input(c->bev)) == 0;
  if ((x->has_body && !x->body_read) || c->server->stopping || last) x->keep_alive = 0;
}

static void add_head(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count) {
  bq_http_connection *c = x->connection;
  settle_connection(x);
  struct evbuffer *output = bufferevent_get_output(c->bev);
  char line[160];
  int length = snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, bq_http_reason(status),
                        bq_http_date(c->server));
  (void)evbuffer_add(output, line, (size_t)length);
  for (size_t i = 0; i < header_count; i++) {
    (void)evbuffer_add(output, headers[i].name, strlen(headers[i].name));
    (void)evbuffer_add(output, ": ", 2);
    (void)evbuffer_add(output, headers[i].value, strlen(headers[i].value));
    (void)evbuffer_add(output, "\r\n", 2);
  }
  if (!x->keep_alive) (void)evbuffer_add(output, "Connection: close\r\n", 19);
  else if (x->head.minor == 0) (void)evbuffer_add(output, "Connection: keep-alive\r\n", 24);
}

// 1xx, 204 and 304 have no body and no Content-Length (RFC 9110, section 8.6).
static int is_bodiless(int status) {
  return status == 204 || status == 304;
}

static void add_length(bq_http_exchange *x, int status, int64_t length) {
  struct evbuffer *output = bufferevent_get_output(x->connection->bev);
  char line[48];
  int size = is_bodiless(status) ? snprintf(line, sizeof line, "\r\n")
                                 : snprintf(line, sizeof line, "Content-Length: %lld\r\n\r\n", (long long)length);
  (void)evbuffer_add(output, line, (size_t)size);
}

void bq_http_respond(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count,
                     const void *body, size_t length) {
  bq_http_connection *c = x->connection;
  add_head(x, status, headers, header_count);
  add_length(x, status, (int64_t)length);
  if (!x->is_head && !is_bodiless(status)) (void)evbuffer_add(bufferevent_get_output(c->bev), body, length);
  bq_http_finish_exchange(c);
}

void bq_http_respond_file(bq_http_exchange *x, int fd, off_t size, const char *etag, const bq_http_header *headers,
                          size_t header_count) {
  enum { OWN_HEADERS = 3, MAX_HEADERS = 64 };
  bq_http_connection *c = x->connection;
  bq_http_header all[MAX_HEADERS + OWN_HEADERS];
  size_t count = header_count < MAX_HEADERS ? header_count : MAX_HEADERS;
  if (count > 0) memcpy(all, headers, count * sizeof all[0]);
  all[count++] = (bq_http_header){"ETag", etag};
  all[count++] = (bq_http_header){"Accept-Ranges", "bytes"};
  int64_t first = 0;
  int64_t last = size - 1;
  bq_range_kind kind = BQ_RANGE_ALL;
  // Only GET has ranges (RFC 9110, section 14.2).
  if (strcmp(bq_http_method(x), "GET") == 0 && bq_http_if_range(bq_http_get_header(x, "If-Range"), etag)) {
    kind = bq_http_range(bq_http_get_header(x, "Range"), size, &first, &last);
  }
  if (bq_http_none_match(bq_http_get_header(x, "If-None-Match"), etag)) {
    (void)close(fd);
    bq_http_respond(x, 304, all, count, NULL, 0);
    return;
  }
  char range[80];
  if (kind == BQ_RANGE_UNSATISFIABLE) {
    (void)close(fd);
    (void)snprintf(range, sizeof range, "bytes */%lld", (long long)size);
    all[count++] = (bq_http_header){"Content-Range", range};
    bq_http_respond(x, 416, all, count, NULL, 0);
    return;
  }
  if (kind == BQ_RANGE_PART) {
    (void)snprintf(range, sizeof range, "bytes %lld-%lld/%lld", (long long)first, (long long)last, (long long)size);
    all[count++] = (bq_http_header){"Content-Range", range};
  } else {
    first = 0;
    last = size - 1;
  }
  int status = kind == BQ_RANGE_PART ? 206 : 200;
  int64_t length = last - first + 1;
  add_head(x, status, all, count);
  add_length(x, status, length);
  // The segment owns the descriptor from here, also when it can't be added.
  if (x->is_head || length == 0) (void)close(fd);
  else if (evbuffer_add_file(bufferevent_get_output(c->bev), fd, first, length) < 0) x->keep_alive = 0;
  bq_http_finish_exchange(c);
}

void bq_http_stream_begin(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count) {
  bq_http_connection *c = x->connection;
  x->chunked_response = x->head.minor >= 1;
  if (!x->chunked_response) x->keep_alive = 0; // to HTTP/1.0 the end of the connection is the end of the body
  add_head(x, status, headers, header_count);
  struct evbuffer *output = bufferevent_get_output(c->bev);
  if (x->chunked_response) (void)evbuffer_add(output, "Transfer-Encoding: chunked\r\n\r\n", 30);
  else (void)evbuffer_add(output, "\r\n", 2);
  c->state = BQ_HTTP_STREAMING;
}

int bq_http_stream_write(bq_http_exchange *x, const void *bytes, size_t length) {
  bq_http_connection *c = x->connection;
  struct evbuffer *output = bufferevent_get_output(c->bev);
  if (length > 0 && !x->is_head) {
    if (x->chunked_response) (void)evbuffer_add_printf(output, "%zx\r\n", length);
    (void)evbuffer_add(output, bytes, length);
    if (x->chunked_response) (void)evbuffer_add(output, "\r\n", 2);
  }
  return evbuffer_get_length(output) >= c->server->options.stream_high_water;
}

void bq_http_stream_on_drain(bq_http_exchange *x, void (*on_drain)(void *context)) {
  x->on_drain = on_drain;
}

void bq_http_stream_end(bq_http_exchange *x) {
  bq_http_connection *c = x->connection;
  if (x->chunked_response && !x->is_head) (void)evbuffer_add(bufferevent_get_output(c->bev), "0\r\n\r\n", 5);
  bq_http_finish_exchange(c);
}
