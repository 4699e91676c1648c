// Listening, limits on connections, the server's life.
#include "io/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/http_internal.h"

enum { ACCEPT_AGAIN_MS = 1000, BACKLOG = 1024 };

void bq_http_options_default(bq_http_options *options) {
  *options = (bq_http_options){.max_line = 8 * 1024,
                               .max_header_bytes = 32 * 1024,
                               .max_headers = BQ_HTTP_MAX_HEADERS,
                               .max_body = 1024 * 1024,
                               .max_connections = 1024,
                               .max_per_peer = 256,
                               .head_deadline_ms = 10 * 1000,
                               .body_deadline_ms = 30 * 1000,
                               .idle_timeout_ms = 60 * 1000,
                               .write_timeout_ms = 30 * 1000,
                               .stream_high_water = 256 * 1024};
}

static unsigned count_peer(const bq_http_server *server, const char *peer) {
  unsigned count = 0;
  for (const bq_http_connection *c = server->first; c != NULL; c = c->next) count += strcmp(c->peer, peer) == 0;
  return count;
}

static void peer_name(const struct sockaddr *address, char *out, size_t size) {
  const void *bytes = address->sa_family == AF_INET6
                          ? (const void *)&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr
                          : (const void *)&((const struct sockaddr_in *)(const void *)address)->sin_addr;
  if (inet_ntop(address->sa_family, bytes, out, (socklen_t)size) == NULL) out[0] = '\0';
}

// Over a limit: one answer, as far as the socket takes it at once, and the end. What has come already is read: left
// unread it would make the kernel reset the connection, and the peer might lose the answer.
static void turn_away(bq_http_server *server, int fd, const char *why) {
  char answer[1024];
  char rest[4096];
  size_t length = bq_http_too_many(server, why, answer, sizeof answer);
  server->stats.refused++;
  if (send(fd, answer, length, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    (void)shutdown(fd, SHUT_WR);
    if (recv(fd, rest, sizeof rest, MSG_DONTWAIT) < 0) { /* nothing has come */ }
  }
  (void)close(fd);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                      void *arg) {
  (void)listener;
  (void)length;
  bq_http_server *server = arg;
  char peer[64];
  peer_name(address, peer, sizeof peer);
  server->stats.accepted++;
  if (server->stats.connections >= server->options.max_connections ||
      count_peer(server, peer) >= server->options.max_per_peer) {
    turn_away(server, fd, NULL);
    return;
  }
  bq_error err;
  if (bq_http_connection_new(server, fd, peer, &err) == 0) return;
  bq_log_error("a connection can't be served", &err);
  turn_away(server, fd, err.message);
}

// Out of descriptors, mostly: the waiting connection stays readable, so that asking again at once would never end.
static void on_accept_error(struct evconnlistener *listener, void *arg) {
  bq_http_server *server = arg;
  bq_error err;
  (void)bq_fail_errno(&err, errno, "can't accept a connection (trying again in a second)");
  bq_log_error("accepting failed", &err);
  (void)evconnlistener_disable(listener);
  bq_timer_set(server->resume, ACCEPT_AGAIN_MS);
}

static void on_resume(void *arg) {
  bq_http_server *server = arg;
  if (server->listener != NULL) (void)evconnlistener_enable(server->listener);
}

// Digits only, 0 to 65535; -1 for anything else.
static int read_port(const char *text) {
  size_t length = strspn(text, "0123456789");
  if (length == 0 || length > 5 || text[length] != '\0') return -1;
  long port = strtol(text, NULL, 10);
  return port <= 65535 ? (int)port : -1;
}

// "127.0.0.1:8080", "[::1]:8080", "localhost:8080"; evutil_parse_sockaddr_port refuses port 0.
static int read_address(const char *listen, struct sockaddr_storage *out, int *length, bq_error *err) {
  char host[64];
  const char *colon = strrchr(listen, ':');
  size_t host_length = colon != NULL ? (size_t)(colon - listen) : 0;
  int port = colon != NULL ? read_port(colon + 1) : -1;
  if (port < 0 || host_length == 0 || host_length >= sizeof host) goto wrong;
  memcpy(host, listen, host_length);
  host[host_length] = '\0';
  memset(out, 0, sizeof *out);
  struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)out;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)out;
  if (host[0] == '[' && host[host_length - 1] == ']') {
    host[host_length - 1] = '\0';
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    *length = (int)sizeof *v6;
    if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) == 1) return 0;
  } else {
    v4->sin_family = AF_INET;
    v4->sin_port = htons((uint16_t)port);
    *length = (int)sizeof *v4;
    if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &v4->sin_addr) == 1) return 0;
  }
wrong:
  return bq_fail(err, BQ_EINVAL, "BuildQueue.Listen is \"%s\": write an address and a port, as 127.0.0.1:8080", listen);
}

static int read_bound_address(bq_http_server *server, bq_error *err) {
  struct sockaddr_storage bound = {0};
  socklen_t length = sizeof bound;
  if (getsockname(evconnlistener_get_fd(server->listener), (struct sockaddr *)&bound, &length) < 0) {
    return bq_fail_errno(err, errno, "can't read the listening address");
  }
  char name[64];
  peer_name((struct sockaddr *)&bound, name, sizeof name);
  int is_v6 = bound.ss_family == AF_INET6;
  // The analyzer doesn't know that getsockname has filled it.
  unsigned port = is_v6 ? ntohs(((struct sockaddr_in6 *)(void *)&bound)->sin6_port)
                        : ntohs(((struct sockaddr_in *)(void *)&bound)->sin_port); // NOLINT(clang-analyzer-core.*)
  (void)snprintf(server->address, sizeof server->address, is_v6 ? "[%s]:%u" : "%s:%u", name, port);
  return 0;
}

static int start_listening(bq_http_server *server, bq_error *err) {
  struct sockaddr_storage address;
  int length = 0;
  int result = read_address(server->options.listen, &address, &length, err);
  if (result < 0) return result;
  server->listener = evconnlistener_new_bind(bq_loop_base(server->loop), on_accept, server,
                                             LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE, BACKLOG,
                                             (struct sockaddr *)&address, length);
  if (server->listener == NULL) {
    return bq_fail_errno(err, errno, "can't listen on %s",
                         server->options.listen);
  }
  evconnlistener_set_error_cb(server->listener, on_accept_error);
  return read_bound_address(server, err);
}

int bq_http_server_new(bq_http_server **out, bq_loop *loop, const bq_http_options *options,
                       const bq_http_handler *handler, bq_error *err) {
  *out = NULL;
  bq_http_server *server = bq_alloc(sizeof *server);
  if (server == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the HTTP server");
  server->loop = loop;
  server->options = *options;
  server->handler = *handler;
  server->limits = (bq_http_limits){options->max_line, options->max_header_bytes, options->max_headers,
                                    options->max_body};
  server->window = options->max_line + options->max_header_bytes + sizeof "\r\n\r\n"; // one byte over the longest head
  server->read_ahead = server->window > BQ_HTTP_INPUT_BYTES ? server->window : BQ_HTTP_INPUT_BYTES;
  int result = bq_timer_new(&server->resume, loop, on_resume, server, err);
  if (result == 0) result = start_listening(server, err);
  if (result < 0) bq_http_server_free(server);
  else *out = server;
  return result;
}

const char *bq_http_server_address(const bq_http_server *server) {
  return server->address;
}

void bq_http_server_stop_accepting(bq_http_server *server) {
  if (server->listener != NULL) evconnlistener_free(server->listener);
  server->listener = NULL;
  server->stopping = 1;
  for (bq_http_connection *c = server->first; c != NULL;) {
    bq_http_connection *next = c->next;
    int idle = c->state == BQ_HTTP_IDLE && evbuffer_get_length(c->output) == 0;
    if (idle) bq_http_connection_free(c);
    c = next;
  }
}

void bq_http_server_free(bq_http_server *server) {
  if (server == NULL) return;
  if (server->listener != NULL) evconnlistener_free(server->listener);
  while (server->first != NULL) bq_http_connection_free(server->first);
  bq_timer_free(server->resume);
  bq_free(server);
}

void bq_http_server_get_stats(const bq_http_server *server, bq_http_stats *out) {
  *out = server->stats;
}
