// One connection: reading heads and bodies, deadlines, the end.
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/http_internal.h"

enum {
  LINGER_MS = 2000,
  LINGER_BYTES = 1024 * 1024,   // dropped at most while lingering
  INPUT_BYTES = 64 * 1024,      // read ahead of the parser at most
  PIPELINE_OUTPUT = 256 * 1024  // queued responses at which no further request is begun
};

static void free_exchange(bq_http_exchange *x) {
  bq_free(x->bytes);
  bq_free(x->path);
  bq_buf_free(&x->body);
  bq_free(x);
}

const char *bq_http_date(bq_http_server *server) {
  int64_t second = bq_clock_wall_us() / 1000000;
  if (second != server->date_second) {
    time_t now = (time_t)second;
    struct tm utc;
    (void)gmtime_r(&now, &utc);
    (void)strftime(server->date, sizeof server->date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    server->date_second = second;
  }
  return server->date;
}

// The end of an exchange that its handler did not answer: it is told once.
static void abandon_exchange(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  c->exchange = NULL;
  if (x == NULL) return;
  if (x->on_close != NULL) x->on_close(x->context);
  free_exchange(x);
}

void bq_http_connection_free(bq_http_connection *c) {
  bq_http_server *server = c->server;
  if (c->previous != NULL) c->previous->next = c->next;
  else server->first = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  server->stats.connections--;
  abandon_exchange(c);
  bq_timer_free(c->deadline);
  bufferevent_free(c->bev);
  bq_free(c);
}

// The last byte is out: FIN goes, and what the peer still sends is read and dropped for a while. Closing at once would
// make the kernel reset the connection, and the peer might lose the answer (RFC 9112, section 9.6).
static void linger(bq_http_connection *c) {
  if (c->peer_closed || c->broken) {
    bq_http_connection_free(c);
    return;
  }
  c->state = BQ_HTTP_LINGERING;
  (void)shutdown(bufferevent_getfd(c->bev), SHUT_WR);
  bq_timer_set(c->deadline, LINGER_MS);
  // What is there already may have stopped the reading.
  struct evbuffer *input = bufferevent_get_input(c->bev);
  (void)evbuffer_drain(input, evbuffer_get_length(input));
  (void)bufferevent_enable(c->bev, EV_READ);
}

static void flush_and_end(bq_http_connection *c) {
  c->state = BQ_HTTP_FLUSHING;
  bq_timer_clear(c->deadline); // the write timeout of the bufferevent watches from here
  if (evbuffer_get_length(bufferevent_get_output(c->bev)) == 0) linger(c);
}

void bq_http_refuse(bq_http_connection *c, int status) {
  c->server->stats.bad_requests++;
  abandon_exchange(c);
  char body[200];
  int length = snprintf(body, sizeof body, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d}",
                        bq_http_reason(status), status);
  (void)evbuffer_add_printf(bufferevent_get_output(c->bev),
                            "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/problem+json\r\n"
                            "Content-Length: %d\r\nConnection: close\r\n\r\n%s",
                            status, bq_http_reason(status), bq_http_date(c->server), length, body);
  flush_and_end(c);
}

static void on_deadline(void *arg) {
  bq_http_connection *c = arg;
  switch (c->state) {
  case BQ_HTTP_HEAD:
    if (c->head_started) bq_http_refuse(c, 408);
    else flush_and_end(c); // an idle connection ends without a word
    break;
  case BQ_HTTP_BODY: bq_http_refuse(c, 408); break;
  case BQ_HTTP_LINGERING: bq_http_connection_free(c); break;
  case BQ_HTTP_HANDLING:
  case BQ_HTTP_STREAMING:
  case BQ_HTTP_FLUSHING: break; // no deadline of ours runs in these
  }
}

// Copies the head, so that the input can be drained, and puts a NUL behind each name and value.
static bq_http_exchange *new_exchange(bq_http_connection *c, const char *bytes, size_t length,
                                      const bq_http_head *head) {
  bq_http_exchange *x = bq_alloc(sizeof *x);
  if (x == NULL) return NULL;
  x->connection = c;
  x->head = *head;
  x->bytes = bq_strndup(bytes, length);
  x->path = bq_alloc(head->path.length + 2);
  if (x->bytes == NULL || x->path == NULL) {
    free_exchange(x);
    return NULL;
  }
  x->bytes[head->method.at + head->method.length] = '\0';
  x->bytes[head->query.at + head->query.length] = head->query.length > 0 ? '\0' : x->bytes[head->query.at];
  for (size_t i = 0; i < head->header_count; i++) {
    x->bytes[head->names[i].at + head->names[i].length] = '\0';
    x->bytes[head->values[i].at + head->values[i].length] = '\0';
  }
  x->is_head = strcmp(x->bytes + head->method.at, "HEAD") == 0;
  x->has_body = head->chunked || head->content_length > 0;
  x->keep_alive = head->keep_alive && !c->server->stopping;
  return x;
}

// No head that is in order is longer, and of a longer one this much shows it.
static size_t head_window(const bq_http_options *options) {
  return options->max_line + options->max_header_bytes + 8;
}

// Tries to take one head out of the input. Returns 1 when a request was handed to the handler.
static int read_head(bq_http_connection *c) {
  struct evbuffer *input = bufferevent_get_input(c->bev);
  size_t length = evbuffer_get_length(input);
  if (length == 0) return 0;
  if (!c->head_started) {
    c->head_started = 1;
    bq_timer_set(c->deadline, c->server->options.head_deadline_ms);
  }
  const bq_http_options *options = &c->server->options;
  bq_http_limits limits = {options->max_line, options->max_header_bytes, options->max_headers, options->max_body};
  size_t window = head_window(options);
  if (length > window) length = window;
  const char *bytes = (const char *)evbuffer_pullup(input, (ev_ssize_t)length);
  bq_http_head head;
  int64_t used = bytes != NULL ? bq_http_parse_head(bytes, length, &limits, &head) : -503;
  if (used == 0) return 0;
  bq_http_exchange *x = NULL;
  if (used > 0) {
    x = new_exchange(c, bytes, (size_t)used, &head);
    if (x == NULL) used = -503;
    else if (bq_http_decode_path(bytes + head.path.at, head.path.length, x->path) < 0) used = -400;
  }
  if (used < 0) {
    if (x != NULL) free_exchange(x);
    bq_http_refuse(c, (int)-used);
    return 0;
  }
  (void)evbuffer_drain(input, (size_t)used);
  c->exchange = x;
  c->head_started = 0;
  c->state = BQ_HTTP_HANDLING;
  bq_timer_clear(c->deadline);
  c->server->stats.requests++;
  c->server->handler.on_request(c->server->handler.arg, x);
  return 1;
}

static void hand_body(bq_http_connection *c, const char *body, size_t length) {
  bq_http_exchange *x = c->exchange;
  x->body_read = 1;
  c->state = BQ_HTTP_HANDLING;
  bq_timer_clear(c->deadline);
  x->on_body(x->on_body_arg, x, body, length);
}

static int read_sized_body(bq_http_connection *c) {
  struct evbuffer *input = bufferevent_get_input(c->bev);
  bq_buf *body = &c->exchange->body;
  size_t wanted = (size_t)c->exchange->head.content_length;
  size_t there = evbuffer_get_length(input);
  size_t piece = there < wanted - body->length ? there : wanted - body->length;
  const char *bytes = piece > 0 ? (const char *)evbuffer_pullup(input, (ev_ssize_t)piece) : "";
  bq_buf_add(body, bytes, piece);
  (void)evbuffer_drain(input, piece);
  return body->length == wanted;
}

// Returns 1 at the body's end, 0 for more, a negative status.
static int read_chunked_body(bq_http_connection *c) {
  struct evbuffer *input = bufferevent_get_input(c->bev);
  bq_http_exchange *x = c->exchange;
  size_t length = evbuffer_get_length(input);
  const char *bytes = length > 0 ? (const char *)evbuffer_pullup(input, -1) : "";
  size_t at = 0;
  int status = 0;
  while (at < length && status == 0) {
    size_t consumed;
    const char *data;
    size_t data_length;
    status = bq_http_dechunk(&x->dechunk, bytes + at, length - at, &consumed, &data, &data_length);
    at += consumed;
    if (x->body.length + data_length > c->server->options.max_body) status = -413;
    else bq_buf_add(&x->body, data, data_length);
  }
  (void)evbuffer_drain(input, at);
  return status;
}

static void read_body(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  int status = x->head.chunked ? read_chunked_body(c) : read_sized_body(c);
  if (status == 0 && x->body.failed) status = -503;
  if (status < 0) bq_http_refuse(c, -status);
  else if (status > 0) hand_body(c, x->body.data != NULL ? x->body.data : "", x->body.length);
}

void bq_http_read_body(bq_http_exchange *x, void (*done)(void *arg, bq_http_exchange *x, const char *body,
                                                         size_t length), void *arg) {
  bq_http_connection *c = x->connection;
  x->on_body = done;
  x->on_body_arg = arg;
  if (!x->has_body) {
    hand_body(c, "", 0);
    return;
  }
  c->state = BQ_HTTP_BODY;
  bq_timer_set(c->deadline, c->server->options.body_deadline_ms);
  if (x->head.expect_continue && evbuffer_get_length(bufferevent_get_input(c->bev)) == 0) {
    (void)evbuffer_add_printf(bufferevent_get_output(c->bev), "HTTP/1.1 100 Continue\r\n\r\n");
  }
  read_body(c);
}

static int may_begin(const bq_http_connection *c) {
  return c->state == BQ_HTTP_HEAD && evbuffer_get_length(bufferevent_get_output(c->bev)) < PIPELINE_OUTPUT;
}

void bq_http_process(bq_http_connection *c) {
  if (c->processing) return; // a response from inside a handler: the loop below goes on by itself
  c->processing = 1;
  if (c->state == BQ_HTTP_BODY) read_body(c);
  while (may_begin(c) && read_head(c)) { /* the next pipelined request */ }
  c->processing = 0;
  if (c->state == BQ_HTTP_HEAD && !may_begin(c)) return; // it goes on when the peer has taken some of the responses
  // The peer has ended its side and nothing more can come of it.
  if (c->peer_closed && (c->state == BQ_HTTP_HEAD || c->state == BQ_HTTP_BODY)) {
    if (c->head_started || c->state == BQ_HTTP_BODY) bq_http_refuse(c, 400);
    else flush_and_end(c);
  } else if (c->server->stopping && c->state == BQ_HTTP_HEAD && !c->head_started) {
    flush_and_end(c);
  }
}

void bq_http_finish_exchange(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  int goes_on = x->keep_alive && !c->broken;
  c->exchange = NULL;
  free_exchange(x);
  if (!goes_on) {
    flush_and_end(c);
    return;
  }
  c->state = BQ_HTTP_HEAD;
  c->head_started = 0;
  bq_timer_set(c->deadline, c->server->options.idle_timeout_ms);
  bq_http_process(c);
}

static void on_readable(struct bufferevent *bev, void *arg) {
  bq_http_connection *c = arg;
  if (c->state == BQ_HTTP_LINGERING) {
    struct evbuffer *input = bufferevent_get_input(bev);
    c->dropped += evbuffer_get_length(input);
    (void)evbuffer_drain(input, evbuffer_get_length(input));
    if (c->dropped > LINGER_BYTES) bq_http_connection_free(c);
    return;
  }
  bq_http_process(c);
}

static void on_written(struct bufferevent *bev, void *arg) {
  bq_http_connection *c = arg;
  size_t left = evbuffer_get_length(bufferevent_get_output(bev));
  if (c->state == BQ_HTTP_FLUSHING) {
    if (left == 0) linger(c);
  } else if (c->state == BQ_HTTP_STREAMING) {
    bq_http_exchange *x = c->exchange;
    if (x->on_drain != NULL && left < c->server->options.stream_high_water) x->on_drain(x->context);
  } else {
    bq_http_process(c);
  }
}

static void on_event(struct bufferevent *bev, short what, void *arg) {
  (void)bev;
  bq_http_connection *c = arg;
  // EOF while writing is a file that became shorter than was announced.
  int half_closed = (what & BEV_EVENT_EOF) != 0 && (what & BEV_EVENT_READING) != 0 && (what & BEV_EVENT_ERROR) == 0;
  if (half_closed) {
    c->peer_closed = 1;
    // A client may end its side after a request and still read the answer. One that reads a stream without an end has
    // no reason to: it is gone.
    if (c->state == BQ_HTTP_HANDLING || c->state == BQ_HTTP_FLUSHING) return;
    if (c->state == BQ_HTTP_HEAD || c->state == BQ_HTTP_BODY) {
      bq_http_process(c);
      return;
    }
  }
  c->broken = 1; // an error, or the peer took nothing for the write timeout
  if (!c->processing) bq_http_connection_free(c);
}

int bq_http_connection_new(bq_http_server *server, int fd, const char *peer, bq_error *err) {
  bq_http_connection *c = bq_alloc(sizeof *c);
  if (c == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a connection");
  c->server = server;
  (void)snprintf(c->peer, sizeof c->peer, "%s", peer);
  if (bq_timer_new(&c->deadline, server->loop, on_deadline, c, err) < 0) {
    bq_free(c);
    return BQ_ENOMEM;
  }
  c->bev = bufferevent_socket_new(bq_loop_base(server->loop), fd, BEV_OPT_CLOSE_ON_FREE);
  if (c->bev == NULL) {
    bq_timer_free(c->deadline);
    bq_free(c);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a connection");
  }
  int on = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const struct timeval write_timeout = {.tv_sec = server->options.write_timeout_ms / 1000,
                                        .tv_usec = server->options.write_timeout_ms % 1000 * 1000};
  (void)bufferevent_set_timeouts(c->bev, NULL, &write_timeout);
  size_t input = head_window(&server->options) + 1; // a head must fit
  bufferevent_setwatermark(c->bev, EV_READ, 0, input > INPUT_BYTES ? input : INPUT_BYTES);
  bufferevent_setwatermark(c->bev, EV_WRITE, server->options.stream_high_water / 2, 0);
  bufferevent_setcb(c->bev, on_readable, on_written, on_event, c);
  c->next = server->first;
  if (c->next != NULL) c->next->previous = c;
  server->first = c;
  server->stats.connections++;
  bq_timer_set(c->deadline, server->options.idle_timeout_ms);
  (void)bufferevent_enable(c->bev, EV_READ | EV_WRITE);
  return 0;
}
