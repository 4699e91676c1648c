// One connection: its states, deadlines, reading and writing, and its end.
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/http_internal.h"

void bq_http_connection_free(bq_http_connection *c) {
  bq_http_server *server = c->server;
  if (c->previous != NULL) c->previous->next = c->next;
  else server->first = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  server->stats.connections--;
  bq_http_exchange_abandon(c);
  bq_timer_free(c->timer);
  event_free(c->readable);
  evbuffer_free(c->input);
  bufferevent_free(c->bev);
  bq_free(c);
}

static void start_reading(bq_http_connection *c) {
  if (c->reading || c->peer_closed) return;
  c->reading = 1;
  if (event_add(c->readable, NULL) < 0) bq_http_enter(c, BQ_HTTP_BROKEN);
}

static void stop_reading(bq_http_connection *c) {
  if (c->reading) (void)event_del(c->readable);
  c->reading = 0;
}

// Deadlines cost nothing per request: the timer is left as it is when it runs early enough, and looks at due_us then.
static void set_due(bq_http_connection *c, int64_t delay_ms) {
  c->due_us = bq_clock_mono_us() + delay_ms * 1000;
  if (c->timer_us <= c->due_us) return;
  c->timer_us = c->due_us;
  bq_timer_set(c->timer, delay_ms);
}

void bq_http_enter(bq_http_connection *c, bq_http_state state) {
  if (c->state == BQ_HTTP_BROKEN) return;
  c->state = state;
  c->due_us = INT64_MAX;
  const bq_http_options *options = &c->server->options;
  switch (state) {
  case BQ_HTTP_IDLE:
    bq_http_parser_reset(&c->parser);
    set_due(c, options->idle_timeout_ms);
    break;
  case BQ_HTTP_HEAD: set_due(c, options->head_deadline_ms); break;
  case BQ_HTTP_BODY: set_due(c, options->body_deadline_ms); break;
  case BQ_HTTP_LINGERING: set_due(c, BQ_HTTP_LINGER_MS); break;
  case BQ_HTTP_BROKEN: set_due(c, 0); break;
  case BQ_HTTP_STREAMING:
    if (c->exchange->is_head) set_due(c, 0);
    break;
  case BQ_HTTP_HANDLING:
  case BQ_HTTP_FLUSHING: break;
  }
}

void bq_http_starve(bq_http_connection *c) {
  if (c->state == BQ_HTTP_BROKEN) return;
  const char *id = c->exchange != NULL ? bq_http_request_id(c->exchange) : NULL;
  bq_log(BQ_ERROR, "out of memory for an answer: its connection ends", "request", id, "peer", c->peer, NULL);
  bq_http_enter(c, BQ_HTTP_BROKEN);
}

static size_t queued(const bq_http_connection *c) {
  return evbuffer_get_length(c->output);
}

void bq_http_start_writing(bq_http_connection *c) {
  c->writing = 1;
  if (bufferevent_enable(c->bev, EV_WRITE) < 0) bq_http_enter(c, BQ_HTTP_BROKEN);
}

// Writes what the socket takes at once; most responses need no round through the loop for it. The bufferevent keeps its
// output frozen between its own writes. An error shows again when the bufferevent tries.
static void flush(bq_http_connection *c) {
  if (queued(c) == 0 || c->writing || c->state == BQ_HTTP_BROKEN) return;
  (void)evbuffer_unfreeze(c->output, 1);
  int written = evbuffer_write_atmost(c->output, c->fd, BQ_HTTP_WRITE_BYTES);
  // A file behind its head is a system call of its own.
  if (written > 0 && queued(c) > 0) {
    (void)evbuffer_write_atmost(c->output, c->fd, BQ_HTTP_WRITE_BYTES);
  }
  (void)evbuffer_freeze(c->output, 1);
  if (queued(c) > 0) bq_http_start_writing(c);
}

// The last byte is out: FIN goes, and what the peer still sends is read and dropped for a while. Closing at once would
// make the kernel reset the connection, and the peer might lose the answer (RFC 9112, section 9.6).
static void linger(bq_http_connection *c) {
  if (c->peer_closed) {
    bq_http_enter(c, BQ_HTTP_BROKEN);
    return;
  }
  bq_http_enter(c, BQ_HTTP_LINGERING);
  (void)shutdown(c->fd, SHUT_WR);
  (void)evbuffer_drain(c->input, evbuffer_get_length(c->input));
  start_reading(c);
}

// Looks for a whole head at the start of `bytes`. Returns its length once c->exchange is the request; 0 when more bytes
// are needed, or when it was refused.
static size_t begin_exchange(bq_http_connection *c, const char *bytes, size_t length) {
  if (length > c->server->window) length = c->server->window;
  int64_t used = bytes != NULL ? bq_http_parse(&c->parser, bytes, length, &c->server->limits) : -503;
  if (used == 0) {
    if (c->state == BQ_HTTP_IDLE) bq_http_enter(c, BQ_HTTP_HEAD);
    return 0;
  }
  bq_http_exchange *x = used > 0 ? bq_http_exchange_new(c, bytes, (size_t)used) : NULL;
  if (x == NULL) {
    bq_http_refuse(c, used > 0 ? 503 : (int)-used);
    return 0;
  }
  if (x->path[0] == '\0') { // it could not be decoded
    bq_http_exchange_release(x);
    bq_http_refuse(c, 400);
    return 0;
  }
  c->exchange = x;
  return (size_t)used;
}

static void hand_over(bq_http_connection *c) {
  c->server->stats.requests++;
  bq_http_enter(c, BQ_HTTP_HANDLING);
  c->server->handler.on_request(c->server->handler.arg, c->exchange);
}

// Tries to take one head out of the input. Returns 1 when a request was handed to the handler.
static int take_head(bq_http_connection *c) {
  size_t length = evbuffer_get_length(c->input);
  if (length == 0) return 0;
  if (length > c->server->window) length = c->server->window;
  size_t used = begin_exchange(c, (const char *)evbuffer_pullup(c->input, (ev_ssize_t)length), length);
  if (used == 0) return 0;
  (void)evbuffer_drain(c->input, used);
  hand_over(c);
  return 1;
}

static int is_between(const bq_http_connection *c) {
  return c->state == BQ_HTTP_IDLE || c->state == BQ_HTTP_HEAD;
}

// A peer that pipelines without reading the answers is not served any further until it does.
static int may_begin(const bq_http_connection *c) {
  return is_between(c) && queued(c) < BQ_HTTP_PIPELINE_BYTES;
}

// The peer has ended its side, and what it has sent is dealt with: nothing more can come of it.
static void end_half_closed(bq_http_connection *c) {
  if (c->state == BQ_HTTP_HEAD || c->state == BQ_HTTP_BODY) {
    bq_http_refuse(c, 400);
    flush(c);
  } else if (c->state == BQ_HTTP_IDLE) {
    bq_http_enter(c, BQ_HTTP_FLUSHING);
  }
}

void bq_http_advance(bq_http_connection *c) {
  if (c->advancing) return;
  c->advancing = 1;
  if (c->state == BQ_HTTP_BODY) bq_http_take_body(c);
  int held;
  do {
    int more = 1;
    while (more && may_begin(c)) more = take_head(c);
    held = more && is_between(c); // it was the output that stopped it, not the want of bytes
    flush(c);
  } while (held && may_begin(c));
  if (c->peer_closed && !held) end_half_closed(c);
  if (c->server->stopping && c->state == BQ_HTTP_IDLE && !held) bq_http_enter(c, BQ_HTTP_FLUSHING);
  if (c->state == BQ_HTTP_FLUSHING && queued(c) == 0) linger(c);
  if (!c->reading && evbuffer_get_length(c->input) < c->server->read_ahead) start_reading(c);
  c->advancing = 0;
  if (c->state == BQ_HTTP_BROKEN) bq_http_connection_free(c);
}

void bq_http_finish_exchange(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  int goes_on = x->keep_alive;
  c->exchange = NULL;
  bq_http_exchange_release(x);
  bq_http_enter(c, goes_on ? BQ_HTTP_IDLE : BQ_HTTP_FLUSHING);
  bq_http_advance(c);
}

static void run_deadline(bq_http_connection *c) {
  switch (c->state) {
  case BQ_HTTP_IDLE: bq_http_enter(c, BQ_HTTP_FLUSHING); break; // an idle connection ends without a word
  case BQ_HTTP_HEAD:
  case BQ_HTTP_BODY: bq_http_refuse(c, 408); break;
  case BQ_HTTP_STREAMING: { // the stream of a HEAD request: its answer is whole with its head
    int goes_on = c->exchange->keep_alive;
    bq_http_exchange_abandon(c);
    bq_http_enter(c, goes_on ? BQ_HTTP_IDLE : BQ_HTTP_FLUSHING);
    break;
  }
  case BQ_HTTP_LINGERING: bq_http_enter(c, BQ_HTTP_BROKEN); break;
  case BQ_HTTP_HANDLING:
  case BQ_HTTP_FLUSHING:
  case BQ_HTTP_BROKEN: break;
  }
  bq_http_advance(c);
}

static void on_timer(void *arg) {
  bq_http_connection *c = arg;
  c->timer_us = INT64_MAX;
  if (c->due_us == INT64_MAX) return;
  int64_t left_us = c->due_us - bq_clock_mono_us();
  if (left_us <= 0) {
    run_deadline(c);
    return;
  }
  c->timer_us = c->due_us;
  bq_timer_set(c->timer, left_us / 1000 + 1);
}

// Most requests come alone and whole: they are parsed where they were read to. What is left goes into the input.
static void take_fresh(bq_http_connection *c, const char *bytes, size_t length) {
  size_t used = 0;
  if (evbuffer_get_length(c->input) == 0 && may_begin(c)) {
    c->advancing = 1;
    used = begin_exchange(c, bytes, length);
  }
  if (used < length && evbuffer_add(c->input, bytes + used, length - used) < 0) bq_http_starve(c);
  if (used > 0) hand_over(c);
  c->advancing = 0;
}

// The peer has ended its side, or is gone.
static void end_of_input(bq_http_connection *c, int half_closed) {
  stop_reading(c);
  // A client may end its side behind its requests and still read the answers. One that ends it in the middle of a
  // stream, which may have no end, is gone.
  if (half_closed) c->peer_closed = 1;
  if (!half_closed || c->state == BQ_HTTP_STREAMING || c->state == BQ_HTTP_LINGERING) bq_http_enter(c, BQ_HTTP_BROKEN);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  bq_http_connection *c = arg;
  char bytes[BQ_HTTP_READ_BYTES];
  ssize_t got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    end_of_input(c, got == 0);
  } else if (c->state == BQ_HTTP_LINGERING) {
    c->dropped += (size_t)got;
    if (c->dropped > BQ_HTTP_LINGER_BYTES) bq_http_enter(c, BQ_HTTP_BROKEN);
  } else {
    take_fresh(c, bytes, (size_t)got);
    if (evbuffer_get_length(c->input) >= c->server->read_ahead) stop_reading(c);
  }
  bq_http_advance(c);
}

static void on_written(struct bufferevent *bev, void *arg) {
  (void)bev;
  bq_http_connection *c = arg;
  if (c->state == BQ_HTTP_STREAMING) {
    bq_http_exchange *x = c->exchange;
    if (!x->waiting || queued(c) >= c->server->options.stream_high_water) return;
    x->waiting = 0;
    if (x->on_drain != NULL) x->on_drain(x->context);
    return;
  }
  if (queued(c) == 0) {
    c->writing = 0;
    (void)bufferevent_disable(c->bev, EV_WRITE);
  }
  bq_http_advance(c);
}

// Only of writing: an error, a file shorter than it was, or the peer has taken nothing for the write timeout.
static void on_event(struct bufferevent *bev, short what, void *arg) {
  (void)bev;
  (void)what;
  bq_http_connection *c = arg;
  bq_http_enter(c, BQ_HTTP_BROKEN);
  bq_http_advance(c);
}

static void set_up(bq_http_connection *c, int fd) {
  const bq_http_options *options = &c->server->options;
  int on = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const struct timeval write_timeout = {.tv_sec = options->write_timeout_ms / 1000,
                                        .tv_usec = options->write_timeout_ms % 1000 * 1000};
  (void)bufferevent_set_timeouts(c->bev, NULL, &write_timeout);
  (void)bufferevent_set_max_single_write(c->bev, BQ_HTTP_WRITE_BYTES); // 16 KiB else, a system call for each
  bufferevent_setwatermark(c->bev, EV_WRITE, options->stream_high_water / 2, 0);
  bufferevent_setcb(c->bev, NULL, on_written, on_event, c);
  (void)bufferevent_disable(c->bev, EV_WRITE); // see flush
}

int bq_http_connection_new(bq_http_server *server, int fd, const char *peer, bq_error *err) {
  bq_http_connection *c = bq_alloc(sizeof *c);
  if (c == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a connection");
  c->server = server;
  c->timer_us = INT64_MAX;
  (void)snprintf(c->peer, sizeof c->peer, "%s", peer);
  int result = bq_timer_new(&c->timer, server->loop, on_timer, c, err);
  if (result < 0) goto cleanup;
  c->input = evbuffer_new();
  c->readable = event_new(bq_loop_base(server->loop), fd, EV_READ | EV_PERSIST, on_readable, c);
  if (c->input != NULL && c->readable != NULL) {
    c->bev = bufferevent_socket_new(bq_loop_base(server->loop), fd, BEV_OPT_CLOSE_ON_FREE);
  }
  if (c->bev == NULL) { // the descriptor stays the caller's
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a connection");
    goto cleanup;
  }
  c->output = bufferevent_get_output(c->bev);
  c->fd = fd;
  set_up(c, fd);
  c->next = server->first;
  if (c->next != NULL) c->next->previous = c;
  server->first = c;
  server->stats.connections++;
  bq_http_enter(c, BQ_HTTP_IDLE);
  start_reading(c); // when that fails it ends on the next turn
  return 0;
cleanup:
  if (c->readable != NULL) event_free(c->readable);
  if (c->input != NULL) evbuffer_free(c->input);
  bq_timer_free(c->timer);
  bq_free(c);
  return result;
}
