// What the tests of HTTP share: a server on a free port of loopback, and clients that the same loop drives.
#ifndef BQ_TESTS_HTTP_TEST_H
#define BQ_TESTS_HTTP_TEST_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/memory.h"
#include "io/http_server.h"
#include "support.h"

enum { LIMIT_MS = 10000 }; // of a wait: reaching it is a failure

typedef struct rig {
  bq_loop *loop;
  bq_http_server *server;
  bq_http_exchange *held; // of a handler that has not answered yet
  int closed;             // calls of on_close
  int drains;             // calls of on_drain
  size_t flooded;         // bytes written to a stream
  size_t most_queued;     // bytes written before the first "wait"
  const char *file;       // its path
} rig;

typedef struct client {
  rig *r;
  int fd;
  int ended;          // the server has closed its side, or reset the connection
  int reset;          // it was reset
  int deaf;           // reads nothing for now
  const char *drip;   // sent while waiting, a byte in 2 ms at most
  int64_t dripped_us; // when the last one went
  bq_buf in;          // what came
  const char *wanted; // of client_has
  size_t count;       // of client_has: how often
} client;

static inline void rig_open(rig *r, const bq_http_options *options,
                            void (*on_request)(void *arg, bq_http_exchange *x)) {
  bq_error err;
  memset(r, 0, sizeof *r);
  assert_int_equal(bq_loop_new(&r->loop, &err), 0);
  const bq_http_handler handler = {.on_request = on_request, .arg = r};
  if (bq_http_server_new(&r->server, r->loop, options, &handler, &err) < 0) fail_msg("%s", err.message);
}

static inline void rig_close(rig *r) {
  bq_http_server_free(r->server);
  bq_loop_free(r->loop);
}

static inline unsigned short rig_port(const rig *r) {
  return (unsigned short)strtoul(strrchr(bq_http_server_address(r->server), ':') + 1, NULL, 10);
}

static inline void client_open(client *c, rig *r, int receive_bytes) {
  memset(c, 0, sizeof *c);
  c->r = r;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_bytes > 0) (void)setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(rig_port(r)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  assert_int_equal(connect(c->fd, (struct sockaddr *)&address, sizeof address), 0);
}

static inline void client_close(client *c) {
  if (c->fd >= 0) (void)close(c->fd);
  c->fd = -1;
  bq_buf_free(&c->in);
}

static inline void client_send(client *c, const char *text) {
  size_t length = strlen(text);
  assert_int_equal(send(c->fd, text, length, MSG_NOSIGNAL), (ssize_t)length);
}

static inline void client_read(client *c) {
  static char bytes[128 * 1024];
  while (!c->ended && !c->deaf) {
    ssize_t got = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0) bq_buf_add(&c->in, bytes, (size_t)got);
    else if (got < 0 && errno == EAGAIN) break;
    else c->ended = 1;
    if (got < 0) c->reset = 1;
  }
  if (c->drip == NULL || *c->drip == '\0' || bq_clock_mono_us() - c->dripped_us < 2000) return;
  c->dripped_us = bq_clock_mono_us();
  if (send(c->fd, c->drip, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1) c->drip++;
}

static inline size_t count_of(const char *text, const char *part) {
  size_t count = 0;
  for (const char *at = text; at != NULL && (at = strstr(at, part)) != NULL; at += strlen(part)) count++;
  return count;
}

static inline int client_has(void *arg) {
  client *c = arg;
  client_read(c);
  return count_of(c->in.data, c->wanted) >= c->count;
}

static inline int client_ended(void *arg) {
  client *c = arg;
  client_read(c);
  return c->ended;
}

// Runs the loop until the text has come `count` times in all.
static inline void client_wait(client *c, const char *text, size_t count) {
  c->wanted = text;
  c->count = count;
  if (!support_run_until(c->r->loop, client_has, c, LIMIT_MS)) {
    fail_msg("no \"%s\" in \"%s\"", text, c->in.data != NULL ? c->in.data : "");
  }
}

static inline void client_wait_end(client *c) {
  if (!support_run_until(c->r->loop, client_ended, c, LIMIT_MS)) {
    fail_msg("the connection stays open after \"%s\"", c->in.data != NULL ? c->in.data : "");
  }
}

static inline void assert_has(const client *c, const char *text) {
  if (c->in.data == NULL || strstr(c->in.data, text) == NULL) {
    fail_msg("no \"%s\" in \"%s\"", text, c->in.data != NULL ? c->in.data : "");
  }
}

static inline void assert_lacks(const client *c, const char *text) {
  if (c->in.data != NULL && strstr(c->in.data, text) != NULL) fail_msg("\"%s\" is in \"%s\"", text, c->in.data);
}

static inline int is_held(void *arg) {
  return ((rig *)arg)->held != NULL;
}

static inline int has_closed(void *arg) {
  return ((rig *)arg)->closed > 0;
}

static inline int has_no_connection(void *arg) {
  bq_http_stats stats;
  bq_http_server_get_stats(((rig *)arg)->server, &stats);
  return stats.connections == 0;
}

static inline int is_never(void *arg) {
  (void)arg;
  return 0;
}

// Some turns of the loop, for things that must not happen.
static inline void rig_turn(rig *r) {
  (void)support_run_until(r->loop, is_never, NULL, 50);
}

// The first answer's status; 0 when none came.
static inline int client_status(const client *c) {
  int status = 0;
  return c->in.data != NULL && sscanf(c->in.data, "HTTP/1.1 %d ", &status) == 1 ? status : 0;
}

// What stands behind the first head.
static inline const char *client_body(const client *c) {
  const char *end = c->in.data != NULL ? strstr(c->in.data, "\r\n\r\n") : NULL;
  return end != NULL ? end + 4 : "";
}

// The problem that the server made itself has a detail, and one id in head and body.
static inline void assert_is_problem(const client *c) {
  char id[160] = "";
  const char *header = strstr(c->in.data, "X-Request-Id: ");
  assert_non_null(header);
  assert_int_equal(sscanf(header, "X-Request-Id: %150[^\r]", id), 1);
  assert_has(c, "Content-Type: application/problem+json\r\n");
  char *end = bq_format("\"requestId\":\"%s\"}", id);
  assert_has(c, "\"detail\":\"");
  assert_has(c, end);
  bq_free(end);
}

// Sends the text on a new connection and waits for the connection's end.
static inline void client_ask(client *c, rig *r, const char *text) {
  client_open(c, r, 0);
  client_send(c, text);
  client_wait_end(c);
}

#endif
