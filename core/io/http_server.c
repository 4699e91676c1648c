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

enum { ACCEPT_PAUSE_MS = 200 };

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

// Over a limit: one answer, as far as the socket takes it at once, and the end.
static void turn_away(bq_http_server *server, int fd) {
  static const char answer[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
                               "Connection: close\r\n\r\n";
  server->stats.refused++;
  if (send(fd, answer, sizeof answer - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) { /* it is turned away without a word */ }
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
    turn_away(server, fd);
    return;
  }
  bq_error err;
  if (bq_http_connection_new(server, fd, peer, &err) < 0) turn_away(server, fd);
}

// Most likely there are no descriptors left. The connection stays in the kernel's queue, so trying again at once would
// only burn the loop's time.
static void on_accept_error(struct evconnlistener *listener, void *arg) {
  bq_http_server *server = arg;
  bq_error err;
  (void)bq_fail_errno(&err, errno, "can't accept a connection");
  bq_log_error("accepting failed", &err);
  (void)evconnlistener_disable(listener);
  bq_timer_set(server->resume, ACCEPT_PAUSE_MS);
}

static void resume_accepting(void *arg) {
  bq_http_server *server = arg;
  if (server->listener != NULL) (void)evconnlistener_enable(server->listener);
}

// "127.0.0.1:8080", "[::1]:8080", "localhost:8080". libevent's parser takes no port 0, so it gets the address alone.
static int read_address(const char *listen, struct sockaddr_storage *out, int *length, bq_error *err) {
  char host[80];
  char *end = NULL;
  const char *colon = strrchr(listen, ':');
  long port = colon != NULL ? strtol(colon + 1, &end, 10) : -1;
  if (colon == NULL || end == colon + 1 || *end != '\0' || port < 0 || port > 65535) goto bad;
  (void)snprintf(host, sizeof host, "%.*s", (int)(colon - listen), listen);
  *length = (int)sizeof *out;
  if (evutil_parse_sockaddr_port(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, (struct sockaddr *)out,
                                 length) < 0) goto bad;
  if (out->ss_family == AF_INET6) ((struct sockaddr_in6 *)(void *)out)->sin6_port = htons((uint16_t)port);
  else ((struct sockaddr_in *)(void *)out)->sin_port = htons((uint16_t)port);
  return 0;
bad:
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
  int length;
  int result = read_address(server->options.listen, &address, &length, err);
  if (result < 0) return result;
  server->listener = evconnlistener_new_bind(bq_loop_base(server->loop), on_accept, server,
                                             LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE, 1024,
                                             (struct sockaddr *)&address, length);
  if (server->listener == NULL) {
    return bq_fail_errno(err, errno, "can't listen on %s (choose another address with BuildQueue.Listen)",
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
  int result = bq_timer_new(&server->resume, loop, resume_accepting, server, err);
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
    int idle = c->state == BQ_HTTP_HEAD && !c->head_started && evbuffer_get_length(bufferevent_get_output(c->bev)) == 0;
    if (idle) bq_http_connection_free(c);
    c = next;
  }
}

void bq_http_server_free(bq_http_server *server) {
  if (server == NULL) return;
  if (server->listener != NULL) evconnlistener_free(server->listener);
  bq_timer_free(server->resume);
  while (server->first != NULL) bq_http_connection_free(server->first);
  bq_free(server);
}

void bq_http_server_get_stats(const bq_http_server *server, bq_http_stats *out) {
  *out = server->stats;
}
