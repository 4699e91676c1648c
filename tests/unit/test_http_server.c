// The HTTP server over real sockets: order, ends, deadlines, bounds.
#include <event2/event.h>
#include <fcntl.h>

#include "http_test.h"

#define HOST "Host: a\r\n"
enum { FLOOD_BYTES = 8 * 1024 * 1024, PIECE = 16 * 1024 };

static void on_close(void *context) {
  rig *r = context;
  r->closed++;
  r->held = NULL;
}

static void flood(void *context) {
  rig *r = context;
  static char piece[PIECE];
  memset(piece, 'x', sizeof piece);
  r->drains++;
  while (r->flooded < FLOOD_BYTES) {
    r->flooded += sizeof piece;
    int full = bq_http_stream_write(r->held, piece, sizeof piece);
    if (!full) continue;
    if (r->most_queued == 0) r->most_queued = r->flooded;
    return;
  }
  bq_http_stream_end(r->held);
}

static void echo(void *arg, bq_http_exchange *x, const char *body, size_t length) {
  (void)arg;
  char *text = bq_format("<%s %s?%s %.*s>", bq_http_method(x), bq_http_path(x), bq_http_query(x), (int)length, body);
  const bq_http_header type = {"Content-Type", "text/plain"};
  bq_http_respond(x, 200, &type, 1, text, strlen(text));
  bq_free(text);
}

static void on_request(void *arg, bq_http_exchange *x) {
  rig *r = arg;
  const char *path = bq_http_path(x);
  bq_http_set_context(x, r, on_close);
  if (strcmp(path, "/hold") == 0) {
    r->held = x;
  } else if (strcmp(path, "/early") == 0) {
    bq_http_respond(x, 404, NULL, 0, "early", 5);
  } else if (strcmp(path, "/file") == 0) {
    int fd = open(r->file, O_RDONLY | O_CLOEXEC);
    bq_http_respond_file(x, fd, 10, "\"tag\"", NULL, 0);
  } else if (strcmp(path, "/cut") == 0) { // announces more than there is
    bq_http_respond_file(x, open(r->file, O_RDONLY | O_CLOEXEC), 100000, "\"tag\"", NULL, 0);
  } else if (strcmp(path, "/chunks") == 0) {
    bq_http_stream_begin(x, 200, NULL, 0);
    (void)bq_http_stream_write(x, "one", 3);
    (void)bq_http_stream_write(x, "", 0);
    (void)bq_http_stream_write(x, "three", 5);
    bq_http_stream_end(x);
  } else if (strcmp(path, "/stream") == 0) {
    r->held = x;
    bq_http_stream_begin(x, 200, NULL, 0);
  } else if (strcmp(path, "/flood") == 0) {
    r->held = x;
    bq_http_stream_begin(x, 200, NULL, 0);
    bq_http_stream_on_drain(x, flood);
    flood(r);
  } else {
    bq_http_read_body(x, echo, r);
  }
}

static bq_http_options options_default(void) {
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  return options;
}

static void start(rig *r, client *c) {
  bq_http_options options = options_default();
  rig_open(r, &options, on_request);
  client_open(c, r, 0);
}

static void stop(rig *r, client *c) {
  client_close(c);
  rig_close(r);
}

static void answers_pipelined_requests_in_order(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r, &c);
  client_send(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\nPOST /a?q=1 HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc"
                  "POST /b HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
                  "HEAD /c HTTP/1.1\r\n" HOST "\r\nGET /chunks HTTP/1.1\r\n" HOST "\r\n"
                  "GET /last HTTP/1.1\r\n" HOST "\r\n");
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  bq_http_respond(r.held, 202, NULL, 0, "held", 4);
  client_wait(&c, "<GET /last? >", 1);
  const char *order[] = {"202 Accepted", "\r\n\r\nheld", "<POST /a?q=1 abc>", "<POST /b? def>", "Content-Length: 11",
                         "3\r\none\r\n5\r\nthree\r\n0\r\n\r\n", "<GET /last? >"};
  const char *at = c.in.data;
  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
    const char *found = strstr(at, order[i]);
    if (found == NULL) fail_msg("no \"%s\" in its place in \"%s\"", order[i], c.in.data);
    at = found;
  }
  assert_lacks(&c, "<HEAD /c");
  assert_lacks(&c, "Connection:");
  assert_int_equal(count_of(c.in.data, "Date: "), 6);
  assert_int_equal(r.closed, 0);
  bq_http_stats stats;
  bq_http_server_get_stats(r.server, &stats);
  assert_int_equal(stats.requests, 6);
  assert_int_equal(stats.connections, 1);
  stop(&r, &c);
}

static void takes_bytes_one_by_one(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r, &c);
  const char text[] = "POST /b HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                      "2\r\nde\r\n1;x\r\nf\r\n0\r\nT: t\r\n\r\n"
                      "POST /c HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\ngh";
  for (size_t i = 0; i < sizeof text - 1; i++) {
    char byte[2] = {text[i], '\0'};
    client_send(&c, byte);
    (void)client_has(&c);
    (void)support_run_until(r.loop, client_has, &c, 0);
  }
  client_wait(&c, "<POST /c? gh>", 1);
  assert_has(&c, "<POST /b? def>");
  stop(&r, &c);
}

static void ends_connections_as_asked(void **state) {
  (void)state;
  static const struct {
    const char *request;
    const char *header; // in the answer
  } rows[] = {
      {"GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "Connection: close"},
      {"GET / HTTP/1.0\r\n\r\n", "Connection: close"},
      {"GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "Connection: close\r\n\r\nonethree"},
      // A body that nobody reads would be the next request.
      {"POST /early HTTP/1.1\r\n" HOST "Content-Length: 30\r\n\r\nGET /smuggled HTTP/1.1\r\n", "Connection: close"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    rig r;
    client c;
    start(&r, &c);
    client_send(&c, rows[i].request);
    client_wait_end(&c);
    assert_has(&c, rows[i].header);
    assert_lacks(&c, "smuggled");
    assert_int_equal(count_of(c.in.data, "HTTP/1.1 "), 1);
    stop(&r, &c);
  }
}

static void keeps_http_1_0_when_asked(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r, &c);
  client_send(&c, "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  client_wait(&c, "<GET /a? >", 1);
  assert_has(&c, "Connection: keep-alive");
  client_send(&c, "GET /b HTTP/1.0\r\n\r\n");
  client_wait_end(&c);
  assert_has(&c, "<GET /b? >");
  stop(&r, &c);
}

static void says_continue_once(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r, &c);
  client_send(&c, "POST /a HTTP/1.1\r\n" HOST "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  client_wait(&c, "HTTP/1.1 100 Continue\r\n\r\n", 1);
  client_send(&c, "abc");
  client_wait(&c, "<POST /a? abc>", 1);
  assert_int_equal(count_of(c.in.data, "100 Continue"), 1);
  // One that is refused before its body is not asked for it.
  client_send(&c, "POST /early HTTP/1.1\r\n" HOST "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  client_wait_end(&c);
  assert_has(&c, "404 Not Found");
  assert_int_equal(count_of(c.in.data, "100 Continue"), 1);
  stop(&r, &c);
}

static void refuses_and_ends(void **state) {
  (void)state;
  static const struct {
    const char *request;
    const char *status;
    int closed;
  } rows[] = {
      {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request", 0},
      {"GET /%2e%2e/x HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 400 Bad Request", 0},
      {"POST / HTTP/1.1\r\n" HOST "Content-Length: 2000000\r\n\r\n", "HTTP/1.1 413 Content Too Large", 0},
      {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400 Bad Request", 1},
      {"\x16\x03\x01\x02 TLS\r\n\r\n", "HTTP/1.1 400 Bad Request", 0},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    rig r;
    client c;
    start(&r, &c);
    client_send(&c, rows[i].request);
    client_wait_end(&c);
    assert_has(&c, rows[i].status);
    assert_has(&c, "application/problem+json");
    assert_int_equal(r.closed, rows[i].closed);
    bq_http_stats stats;
    bq_http_server_get_stats(r.server, &stats);
    assert_int_equal(stats.bad_requests, 1);
    stop(&r, &c);
  }
}

static void bounds_chunked_bodies(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options = options_default();
  options.max_body = 10;
  rig_open(&r, &options, on_request);
  client_open(&c, &r, 0);
  client_send(&c, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n1\r\nx");
  client_wait_end(&c);
  assert_has(&c, "413 Content Too Large");
  assert_int_equal(r.closed, 1);
  stop(&r, &c);
}

static void takes_large_heads(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options = options_default();
  options.max_header_bytes = 200 * 1024; // more than is read ahead of a body
  rig_open(&r, &options, on_request);
  client_open(&c, &r, 0);
  char *value = bq_alloc(180 * 1024);
  memset(value, 'v', 180 * 1024 - 1);
  client_send(&c, "GET /large HTTP/1.1\r\n" HOST "X: ");
  for (size_t at = 0; at < 180 * 1024 - 1;) {
    ssize_t sent = send(c.fd, value + at, 180 * 1024 - 1 - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) at += (size_t)sent;
    (void)support_run_until(r.loop, client_ended, &c, 0);
    struct event_base *base = bq_loop_base(r.loop);
    (void)event_base_loop(base, EVLOOP_NONBLOCK);
  }
  bq_free(value);
  client_send(&c, "\r\n\r\n");
  client_wait(&c, "<GET /large? >", 1);
  stop(&r, &c);
}

static void slow_senders_get_408(void **state) {
  (void)state;
  bq_http_options options = options_default();
  options.head_deadline_ms = 50;
  options.body_deadline_ms = 50;
  options.idle_timeout_ms = 100;
  static const char *const requests[] = {"GET / HT", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\na",
                                         "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\na"};
  rig r;
  client c;
  for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
    rig_open(&r, &options, on_request);
    client_open(&c, &r, 0);
    client_send(&c, requests[i]);
    client_wait_end(&c);
    assert_has(&c, "408 Request Timeout");
    assert_int_equal(r.closed, i > 0);
    stop(&r, &c);
  }
  rig_open(&r, &options, on_request); // an idle connection ends without a word
  client_open(&c, &r, 0);
  client_send(&c, "GET /a HTTP/1.1\r\n" HOST "\r\n");
  client_wait_end(&c);
  assert_int_equal(count_of(c.in.data, "HTTP/1.1 "), 1);
  assert_has(&c, "<GET /a? >");
  stop(&r, &c);
}

static void answers_after_a_half_close(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r, &c);
  client_send(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\nGET /second HTTP/1.1\r\n" HOST "\r\n");
  (void)shutdown(c.fd, SHUT_WR);
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  (void)support_run_until(r.loop, has_closed, &r, 50); // the end of its side arrives
  assert_int_equal(r.closed, 0);
  bq_http_respond(r.held, 200, NULL, 0, "held", 4);
  client_wait_end(&c);
  assert_has(&c, "held");
  assert_has(&c, "<GET /second? >");
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  stop(&r, &c);
}

static void refuses_half_a_request(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r, &c);
  client_send(&c, "GET / HTTP/1.1\r\n");
  (void)shutdown(c.fd, SHUT_WR);
  client_wait_end(&c);
  assert_has(&c, "400 Bad Request");
  stop(&r, &c);
}

static void waits_for_slow_readers(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options = options_default();
  options.stream_high_water = 128 * 1024;
  rig_open(&r, &options, on_request);
  client_open(&c, &r, 16 * 1024);
  client_send(&c, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  // Nobody reads: what the kernel does not take stays below the mark and one piece.
  (void)support_run_until(r.loop, has_closed, &r, 100);
  assert_true(r.most_queued > 0 && r.most_queued <= options.stream_high_water + 2 * PIECE);
  assert_true(r.flooded < FLOOD_BYTES);
  client_wait(&c, "\r\n0\r\n\r\n", 1);
  assert_true(r.drains > 2);
  assert_int_equal(count_of(c.in.data, "4000\r\n"), FLOOD_BYTES / PIECE);
  assert_int_equal(r.closed, 0);
  stop(&r, &c);
}

static void gives_up_on_readers_that_stopped(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options = options_default();
  options.write_timeout_ms = 100;
  rig_open(&r, &options, on_request);
  client_open(&c, &r, 16 * 1024);
  client_send(&c, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
  assert_true(support_run_until(r.loop, has_closed, &r, LIMIT_MS));
  assert_true(has_no_connection(&r));
  assert_int_equal(r.closed, 1);
  stop(&r, &c);
}

static char *make_file(char **directory) {
  *directory = support_make_directory();
  char *path = bq_format("%s/file", *directory);
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal(write(fd, "0123456789", 10), 10);
  (void)close(fd);
  return path;
}

static void sends_files(void **state) {
  (void)state;
  static const struct {
    const char *method;
    const char *headers;
    const char *wanted[3];
    const char *unwanted;
  } rows[] = {
      {"GET", "", {"200 OK", "Content-Length: 10\r\n\r\n0123456789<", "Accept-Ranges: bytes"}, "Content-Range"},
      {"HEAD", "", {"200 OK", "Content-Length: 10\r\n\r\nHTTP", "ETag: \"tag\""}, "0123"},
      {"GET", "Range: bytes=2-4\r\n", {"206 Partial Content", "Content-Range: bytes 2-4/10", "\r\n\r\n234<"}, "0123"},
      {"GET", "Range: bytes=-1\r\n", {"206 Partial Content", "Content-Range: bytes 9-9/10", "\r\n\r\n9<"}, "0123"},
      {"HEAD", "Range: bytes=2-4\r\n", {"200 OK", "Content-Length: 10", "ETag"}, "0123"},
      {"GET", "Range: bytes=10-\r\n", {"416 Range Not Satisfiable", "Content-Range: bytes */10", "\"status\":416,\"detail\":\""},
       "0123"},
      {"GET", "Range: bytes=0-1,3-4\r\n", {"200 OK", "0123456789<", "ETag"}, "206"},
      {"GET", "Range: bytes=2-4\r\nIf-Range: \"tag\"\r\n", {"206 Partial Content", "\r\n\r\n234<", "ETag"}, "0123"},
      {"GET", "Range: bytes=2-4\r\nIf-Range: \"old\"\r\n", {"200 OK", "0123456789<", "ETag"}, "206"},
      {"GET", "If-None-Match: \"x\", W/\"tag\"\r\n", {"304 Not Modified", "ETag: \"tag\"", "\r\n\r\nHTTP"}, "0123"},
      {"GET", "If-None-Match: \"x\"\r\n", {"200 OK", "0123456789<", "ETag"}, "304"},
  };
  char *directory;
  char *path = make_file(&directory);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    rig r;
    client c;
    start(&r, &c);
    r.file = path;
    char *text = bq_format("%s /file HTTP/1.1\r\n" HOST "%s\r\nGET /end HTTP/1.1\r\n" HOST "\r\n", rows[i].method,
                           rows[i].headers);
    client_send(&c, text);
    bq_free(text);
    client_wait(&c, "<GET /end? >", 1);
    // The next response takes the place of the mark that a body is followed by.
    char *answer = c.in.data;
    char *next = strstr(answer + 1, "HTTP/1.1 200 OK");
    assert_non_null(next);
    for (size_t j = 0; j < 3; j++) {
      const char *wanted = rows[i].wanted[j];
      size_t length = strlen(wanted);
      if (wanted[length - 1] == '<') {
        if ((size_t)(next - answer) < length - 1 || memcmp(next - (length - 1), wanted, length - 1) != 0) {
          fail_msg("row %zu: \"%s\" is not the end of \"%s\"", i, wanted, answer);
        }
      } else {
        assert_has(&c, wanted);
      }
    }
    assert_lacks(&c, rows[i].unwanted);
    stop(&r, &c);
  }
  bq_free(path);
  support_remove_directory(directory);
}

static void ends_when_a_file_is_cut(void **state) {
  (void)state;
  char *directory;
  rig r;
  client c;
  start(&r, &c);
  char *path = make_file(&directory);
  r.file = path;
  client_send(&c, "GET /cut HTTP/1.1\r\n" HOST "\r\n");
  client_wait_end(&c);
  assert_has(&c, "Content-Length: 100000");
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  stop(&r, &c);
  bq_free(path);
  support_remove_directory(directory);
}

static void limits_connections(void **state) {
  (void)state;
  for (int per_peer = 0; per_peer <= 1; per_peer++) {
    rig r;
    client first, second, third;
    bq_http_options options = options_default();
    if (per_peer) options.max_per_peer = 1;
    else options.max_connections = 1;
    rig_open(&r, &options, on_request);
    client_open(&first, &r, 0);
    client_send(&first, "GET /a HTTP/1.1\r\n" HOST "\r\n");
    client_wait(&first, "<GET /a? >", 1);
    client_open(&second, &r, 0);
    client_wait_end(&second);
    assert_has(&second, "503 Service Unavailable");
    assert_has(&second, "Retry-After: 1");
    bq_http_stats stats;
    bq_http_server_get_stats(r.server, &stats);
    assert_int_equal(stats.refused, 1);
    assert_int_equal(stats.accepted, 2);
    client_close(&first); // makes room
    assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
    client_open(&third, &r, 0);
    client_send(&third, "GET /b HTTP/1.1\r\n" HOST "\r\n");
    client_wait(&third, "<GET /b? >", 1);
    client_close(&second);
    stop(&r, &third);
  }
}

static void tells_once_that_the_peer_is_gone(void **state) {
  (void)state;
  const char *const paths[] = {"/stream", "/hold"};
  for (size_t i = 0; i < 2; i++) {
    rig r;
    client c;
    start(&r, &c);
    char *text = bq_format("GET %s HTTP/1.1\r\n" HOST "\r\n", paths[i]);
    client_send(&c, text);
    bq_free(text);
    assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
    const struct linger reset = {.l_onoff = 1};
    (void)setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    client_close(&c);
    assert_true(support_run_until(r.loop, has_closed, &r, LIMIT_MS));
    assert_true(has_no_connection(&r));
    stop(&r, &c);
    assert_int_equal(r.closed, 1);
  }
  rig r; // a server that ends tells as well
  client c;
  start(&r, &c);
  client_send(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  stop(&r, &c);
  assert_int_equal(r.closed, 1);
}

static void stops_accepting(void **state) {
  (void)state;
  rig r;
  client busy, idle, half;
  start(&r, &busy);
  client_open(&idle, &r, 0);
  client_open(&half, &r, 0);
  client_send(&busy, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
  client_send(&idle, "GET /a HTTP/1.1\r\n" HOST "\r\n");
  client_wait(&idle, "<GET /a? >", 1);
  client_send(&half, "GET /half HTTP/1.1\r\n" HOST);
  (void)support_run_until(r.loop, has_closed, &r, 50); // half a head arrives
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  unsigned short port = rig_port(&r);
  bq_http_server_stop_accepting(r.server);
  client_wait_end(&idle);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), -1);
  (void)close(fd);
  client_send(&half, "\r\n");
  client_wait_end(&half);
  assert_has(&half, "<GET /half? >");
  assert_has(&half, "Connection: close");
  bq_http_respond(r.held, 200, NULL, 0, "held", 4);
  client_wait_end(&busy);
  assert_has(&busy, "held");
  assert_has(&busy, "Connection: close");
  client_close(&idle);
  client_close(&half);
  client_close(&busy);
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  rig_close(&r);
}

static void says_what_is_wrong_with_an_address(void **state) {
  (void)state;
  bq_http_options options = options_default();
  bq_loop *loop;
  bq_http_server *server;
  bq_error err;
  const bq_http_handler handler = {.on_request = on_request};
  assert_int_equal(bq_loop_new(&loop, &err), 0);
  options.listen = "nowhere";
  assert_int_equal(bq_http_server_new(&server, loop, &options, &handler, &err), BQ_EINVAL);
  assert_null(server);
  options.listen = "localhost:0";
  assert_int_equal(bq_http_server_new(&server, loop, &options, &handler, &err), 0);
  char taken[80];
  (void)snprintf(taken, sizeof taken, "%s", bq_http_server_address(server));
  bq_http_server *second;
  options.listen = taken;
  assert_int_equal(bq_http_server_new(&second, loop, &options, &handler, &err), BQ_EIO);
  assert_non_null(strstr(err.message, "can't listen on"));
  bq_http_server_free(server);
  bq_loop_free(loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(answers_pipelined_requests_in_order),
      cmocka_unit_test(takes_bytes_one_by_one),
      cmocka_unit_test(ends_connections_as_asked),
      cmocka_unit_test(keeps_http_1_0_when_asked),
      cmocka_unit_test(says_continue_once),
      cmocka_unit_test(refuses_and_ends),
      cmocka_unit_test(bounds_chunked_bodies),
      cmocka_unit_test(takes_large_heads),
      cmocka_unit_test(slow_senders_get_408),
      cmocka_unit_test(answers_after_a_half_close),
      cmocka_unit_test(refuses_half_a_request),
      cmocka_unit_test(waits_for_slow_readers),
      cmocka_unit_test(gives_up_on_readers_that_stopped),
      cmocka_unit_test(sends_files),
      cmocka_unit_test(ends_when_a_file_is_cut),
      cmocka_unit_test(limits_connections),
      cmocka_unit_test(tells_once_that_the_peer_is_gone),
      cmocka_unit_test(stops_accepting),
      cmocka_unit_test(says_what_is_wrong_with_an_address),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
