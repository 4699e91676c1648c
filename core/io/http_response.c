// Responses: heads, whole bodies, streams.
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "io/http_internal.h"

enum { SMALL_BODY = 16 * 1024, FIXED_HEAD = 256 }; // bytes: copied behind its head; status line and our own headers

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
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
};

const char *bq_http_reason(int status) {
  for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
    if (reasons[i].status == status) return reasons[i].text;
  }
  return "Status";
}

// The Date header's value, made once a second.
static const char *date(bq_http_server *server) {
  static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  int64_t second = bq_clock_wall_us() / 1000000;
  if (second == server->date_second) return server->date;
  time_t now = (time_t)second;
  struct tm utc = {0};
  (void)gmtime_r(&now, &utc);
  (void)snprintf(server->date, sizeof server->date, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[utc.tm_wday % 7],
                 utc.tm_mday % 100, months[utc.tm_mon % 12], (utc.tm_year + 1900) % 10000, utc.tm_hour % 100,
                 utc.tm_min % 100, utc.tm_sec % 100);
  server->date_second = second;
  return server->date;
}

void bq_http_add(bq_http_connection *c, const void *bytes, size_t length) {
  if (c->state == BQ_HTTP_BROKEN) return;
  if (evbuffer_add(c->output, bytes, length) < 0) bq_http_starve(c);
}

// Headers that are the server's own to send.
static int is_ours(const char *name) {
  switch (strlen(name)) {
  case 4: return strcasecmp(name, "Date") == 0;
  case 10: return strcasecmp(name, "Connection") == 0;
  case 14: return strcasecmp(name, "Content-Length") == 0;
  case 17: return strcasecmp(name, "Transfer-Encoding") == 0;
  default: return 0;
  }
}

// Whether no header can end its line and begin another. Adds their size to `*size`.
static int are_safe(bq_http_headers headers, size_t *size) {
  for (size_t i = 0; i < headers.count; i++) {
    size_t name = strcspn(headers.items[i].name, "\r\n: ");
    size_t value = strcspn(headers.items[i].value, "\r\n");
    if (name == 0 || headers.items[i].name[name] != '\0' || headers.items[i].value[value] != '\0') return 0;
    *size += name + value + 4;
  }
  return 1;
}

static char *put(char *at, const char *text, size_t length) {
  memcpy(at, text, length);
  return at + length;
}

static char *put_text(char *at, const char *text) {
  return put(at, text, strlen(text));
}

static char *put_number(char *at, int64_t number) {
  char digits[20];
  size_t first = sizeof digits;
  do {
    digits[--first] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  return put(at, digits + first, sizeof digits - first);
}

static char *put_headers(char *at, bq_http_headers headers) {
  for (size_t i = 0; i < headers.count; i++) {
    if (is_ours(headers.items[i].name)) continue;
    at = put_text(at, headers.items[i].name);
    at = put(at, ": ", 2);
    at = put_text(at, headers.items[i].value);
    at = put(at, "\r\n", 2);
  }
  return at;
}

static char *put_head(char *at, bq_http_exchange *x, int status, bq_http_headers headers, bq_http_headers own,
                      int64_t length) {
  at = put(at, "HTTP/1.1 ", 9);
  at = put_number(at, status);
  *at++ = ' ';
  at = put_text(at, bq_http_reason(status));
  at = put(at, "\r\nDate: ", 8);
  at = put_text(at, date(x->connection->server));
  at = put(at, "\r\n", 2);
  at = put_headers(at, headers);
  at = put_headers(at, own);
  if (!x->keep_alive) at = put(at, "Connection: close\r\n", 19);
  else if (x->head.minor == 0) at = put(at, "Connection: keep-alive\r\n", 24);
  if (length >= 0) {
    at = put(at, "Content-Length: ", 16);
    at = put_number(at, length);
    at = put(at, "\r\n", 2);
  } else if (x->chunked_response) {
    at = put(at, "Transfer-Encoding: chunked\r\n", 28);
  }
  return put(at, "\r\n", 2);
}

// Returns 0: nothing is to follow.
static int add_failure(bq_http_exchange *x) {
  bq_http_problem problem;
  const char *id = bq_http_request_id(x);
  bq_log(BQ_ERROR, "a response header has a line break or no name; the answer was made a 500", "request", id, NULL);
  bq_http_problem_write(&problem, id, 500, "the server failed to answer; its log says why under this request id");
  const bq_http_header headers[] = {{"Content-Type", "application/problem+json"}, {"X-Request-Id", id}};
  x->chunked_response = 0;
  (void)bq_http_add_response(x, 500, (bq_http_headers){headers, 2}, (bq_http_headers){NULL, 0},
                             (int64_t)problem.length, problem.text);
  return 0;
}

// Sends what the socket takes at once; the rest is queued. Nothing may be queued before.
static void send_now(bq_http_connection *c, const char *bytes, size_t length) {
  ssize_t sent = send(c->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  size_t done = sent > 0 ? (size_t)sent : 0; // an error shows again when the bufferevent tries
  if (done < length) bq_http_add(c, bytes + done, length - done);
}

int bq_http_add_response(bq_http_exchange *x, int status, bq_http_headers headers, bq_http_headers own, int64_t length,
                         const void *body) {
  bq_http_connection *c = x->connection;
  // An unread body would be taken for the next request: the connection ends behind this response. A peer that has
  // ended its side may have sent more requests before.
  int last = c->peer_closed && evbuffer_get_length(c->input) == 0;
  if (x->body_pending || c->server->stopping || last) x->keep_alive = 0;
  size_t size = FIXED_HEAD;
  if (!are_safe(headers, &size) || !are_safe(own, &size)) return add_failure(x);
  // 204 and 304 have no body and no Content-Length of one (RFC 9110, section 8.6).
  int bodiless = status == 204 || status == 304;
  int has_body = !x->is_head && !bodiless && length != 0;
  int small = has_body && body != NULL && length <= SMALL_BODY;
  if (bodiless) x->chunked_response = 0;
  if (c->state == BQ_HTTP_BROKEN) return 0;
  size_t whole = size + (small ? (size_t)length : 0);
  // Pipelined requests are answered together.
  int alone = !c->writing && evbuffer_get_length(c->output) == 0 && evbuffer_get_length(c->input) == 0;
  if (alone && length >= 0 && whole <= BQ_HTTP_SEND_BYTES && (small || !has_body)) {
    char here[BQ_HTTP_SEND_BYTES];
    char *behind = put_head(here, x, status, headers, own, bodiless ? BQ_HTTP_UNKNOWN_LENGTH : length);
    if (small) behind = put(behind, body, (size_t)length);
    send_now(c, here, (size_t)(behind - here));
    return has_body;
  }
  struct evbuffer_iovec space;
  if (evbuffer_reserve_space(c->output, (ev_ssize_t)whole, &space, 1) < 1) {
    bq_http_starve(c);
    return 0;
  }
  char *start = space.iov_base;
  char *end = put_head(start, x, status, headers, own, bodiless ? BQ_HTTP_UNKNOWN_LENGTH : length);
  if (small) end = put(end, body, (size_t)length);
  space.iov_len = (size_t)(end - start);
  if (evbuffer_commit_space(c->output, &space, 1) < 0) bq_http_starve(c);
  else if (has_body && body != NULL && !small) bq_http_add(c, body, (size_t)length);
  return has_body;
}

void bq_http_respond(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count,
                     const void *body, size_t length) {
  (void)bq_http_add_response(x, status, (bq_http_headers){headers, header_count}, (bq_http_headers){NULL, 0},
                             (int64_t)length, length > 0 ? body : "");
  bq_http_finish_exchange(x->connection);
}

static void begin_stream(bq_http_exchange *x, int status, bq_http_headers headers, int64_t length) {
  bq_http_connection *c = x->connection;
  int has_body = bq_http_add_response(x, status, headers, (bq_http_headers){NULL, 0}, length, NULL);
  if (!has_body) x->is_head = 1;
  bq_http_enter(c, BQ_HTTP_STREAMING);
  bq_http_start_writing(c); // from here small pieces are gathered until the next turn of the loop
}

void bq_http_stream_begin(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count) {
  x->chunked_response = x->head.minor >= 1;
  if (!x->chunked_response) x->keep_alive = 0; // to HTTP/1.0 the end of the connection is the end of the body
  begin_stream(x, status, (bq_http_headers){headers, header_count}, BQ_HTTP_UNKNOWN_LENGTH);
}

void bq_http_stream_begin_sized(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count,
                                int64_t length) {
  x->sized_response = 1;
  x->left = length;
  begin_stream(x, status, (bq_http_headers){headers, header_count}, length);
}

int bq_http_stream_write(bq_http_exchange *x, const void *bytes, size_t length) {
  bq_http_connection *c = x->connection;
  if (x->sized_response) {
    if ((uint64_t)length > (uint64_t)x->left) length = (size_t)x->left;
    x->left -= (int64_t)length;
  }
  if (length > 0 && !x->is_head) {
    char size[24];
    int digits = x->chunked_response ? snprintf(size, sizeof size, "%zx\r\n", length) : 0;
    bq_http_add(c, size, (size_t)digits);
    bq_http_add(c, bytes, length);
    if (x->chunked_response) bq_http_add(c, "\r\n", 2);
  }
  int full = c->state == BQ_HTTP_BROKEN || evbuffer_get_length(c->output) >= c->server->options.stream_high_water;
  if (full) x->waiting = 1; // until on_drain, whatever a later write says
  return full;
}

void bq_http_stream_on_drain(bq_http_exchange *x, void (*on_drain)(void *context)) {
  x->on_drain = on_drain;
}

void bq_http_stream_end(bq_http_exchange *x) {
  bq_http_connection *c = x->connection;
  if (x->sized_response && x->left > 0 && !x->is_head) {
    bq_http_stream_abort(x);
    return;
  }
  if (x->chunked_response && !x->is_head) bq_http_add(c, "0\r\n\r\n", 5);
  bq_http_finish_exchange(c);
}

void bq_http_stream_abort(bq_http_exchange *x) {
  static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  bq_http_connection *c = x->connection;
  if (!x->is_head) x->keep_alive = 0;
  if (!x->is_head && !x->chunked_response && !x->sized_response) {
    (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    bq_http_enter(c, BQ_HTTP_BROKEN);
  }
  bq_http_finish_exchange(c);
}
