// One HTTP connection under pressure: slow, deaf, vanished and greedy peers, large bodies, no memory.
#include <event2/event.h>
#include <netinet/tcp.h>
#include <time.h>

#include "http_test.h"

#define HOST "Host: a\r\n"
#define CLOSE "Connection: close\r\n"
#define GET(path, more) "GET " path " HTTP/1.1\r\n" HOST more "\r\n"
#define POST(more) "POST /echo HTTP/1.1\r\n" HOST more "\r\n"

enum {
  HUGE_BODY = 8 * 1024 * 1024, // more than the sockets of both ends hold
  PIECE = 16 * 1024
};

static void on_close(void *context) {
  rig *r = context;
  r->closed++;
  r->held = NULL;
}

static void echo(void *arg, bq_http_exchange *x, const char *body, size_t length) {
  (void)arg;
  assert_int_equal(body[length], '\0');
  bq_http_respond(x, 200, NULL, 0, body, length);
}

static void on_request(void *arg, bq_http_exchange *x) {
  rig *r = arg;
  const char *path = bq_http_path(x);
  bq_http_set_context(x, r, on_close);
  if (strcmp(path, "/echo") == 0) {
    bq_http_read_body(x, echo, r);
  } else if (strcmp(path, "/hold") == 0) {
    r->held = x;
  } else if (strcmp(path, "/huge") == 0) {
    char *body = bq_alloc(HUGE_BODY);
    assert_non_null(body);
    bq_http_respond(x, 200, NULL, 0, body, HUGE_BODY);
    bq_free(body);
  } else {
    char *text = bq_format("[%s]", path);
    bq_http_respond(x, 200, NULL, 0, text, strlen(text));
    bq_free(text);
  }
}

static bq_http_options options_default(void) {
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  return options;
}

static void start(rig *r) {
  bq_http_options options = options_default();
  rig_open(r, &options, on_request);
}

static void serves_a_long_pipeline(void **state) {
  (void)state;
  enum { MANY = 3000 };
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  for (int i = 0; i < MANY; i++) {
    client_send(&c, GET("/x", ""));
    if (i % 500 == 0) rig_turn(&r);
  }
  client_send(&c, GET("/y", CLOSE) GET("/z", ""));
  client_wait_end(&c);
  assert_int_equal(count_of(c.in.data, "[/x]"), MANY);
  assert_int_equal(count_of(c.in.data, "[/y]"), 1);
  assert_lacks(&c, "[/z]"); // behind "close"
  client_close(&c);
  rig_close(&r);
}

static void reads_large_bodies(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  bq_http_options options = options_default();
  size_t size = options.max_body;
  char *body = bq_alloc(size);
  assert_non_null(body);
  for (size_t i = 0; i < size; i++) body[i] = (char)('a' + i % 23);
  client_open(&c, &r, 0);
  char *head = bq_format(POST(CLOSE "Content-Length: %zu\r\n"), size);
  client_send(&c, head);
  bq_free(head);
  for (size_t at = 0; at < size;) { // the server must read on while it is sent
    ssize_t sent = send(c.fd, body + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) at += (size_t)sent;
    else (void)support_run_until(r.loop, is_never, NULL, 1);
  }
  client_wait_end(&c);
  assert_int_equal(c.in.length - (size_t)(client_body(&c) - c.in.data), size);
  assert_memory_equal(client_body(&c), body, size);
  bq_free(body);
  client_close(&c);
  rig_close(&r);
}

static void refuses_what_is_too_large(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int status;
  } rows[] = {
      {"GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n", 414},
      {GET("/", "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"), 431},
      {GET("/", "a:\r\nb:\r\nc:\r\nd:\r\n"), 431},
      {POST("Content-Length: 11\r\n"), 413},
      {POST("Transfer-Encoding: chunked\r\n") "6\r\n123456\r\n5\r\n", 413}, // announced is enough
  };
  rig r;
  bq_http_options options = options_default();
  options.max_line = options.max_header_bytes = 80;
  options.max_headers = 4;
  options.max_body = 10;
  rig_open(&r, &options, on_request);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    client c;
    char *text = bq_format("%s%s", rows[i].text, GET("/smuggled", ""));
    client_ask(&c, &r, text);
    bq_free(text);
    if (client_status(&c) != rows[i].status) fail_msg("%d for %s", client_status(&c), rows[i].text);
    assert_int_equal(count_of(c.in.data, "HTTP/1.1 "), 1);
    assert_has(&c, "Connection: close\r\n");
    assert_has(&c, "{\"type\":\"about:blank\",\"title\":\"");
    assert_is_problem(&c);
    client_close(&c);
  }
  rig_close(&r);
}

// A byte again and again, so that no pause is ever as long as the deadline.
static void drips(rig *r, const char *first, const char *drip, int closed) {
  client c;
  client_open(&c, r, 0);
  client_send(&c, first);
  c.drip = drip;
  client_wait_end(&c);
  assert_has(&c, "HTTP/1.1 408 Request Timeout\r\n");
  assert_true(*c.drip != '\0'); // it would have gone on
  assert_int_equal(r->closed, closed);
  client_close(&c);
}

static void ends_slow_senders_that_never_pause(void **state) {
  (void)state;
  static char drip[20000];
  memset(drip, '1', sizeof drip - 1);
  rig r;
  bq_http_options options = options_default();
  options.head_deadline_ms = options.body_deadline_ms = 150;
  rig_open(&r, &options, on_request);
  drips(&r, "GET / HTTP/1.1\r\n" HOST "X: ", drip, 0);
  drips(&r, GET("/first", "") "GET /second", drip, 0); // also behind another request
  drips(&r, POST("Content-Length: 30000\r\n"), drip, 1);
  drips(&r, POST("Transfer-Encoding: chunked\r\n") "9000\r\n", drip, 2);
  rig_close(&r);
}

static void refuses_half_a_body(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, POST("Content-Length: 5\r\n") "12");
  assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
  client_wait_end(&c);
  assert_int_equal(client_status(&c), 400);
  assert_int_equal(r.closed, 1);
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  client_close(&c);
  rig_close(&r);
}

static void reset(client *c) {
  const struct linger now = {.l_onoff = 1};
  assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
  client_close(c);
}

static void tells_of_an_end_in_the_body_but_not_behind_the_answer(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, POST("Expect: 100-continue\r\nContent-Length: 5\r\n"));
  client_wait(&c, "100 Continue", 1);
  reset(&c);
  assert_true(support_run_until(r.loop, has_closed, &r, LIMIT_MS));
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  assert_int_equal(r.closed, 1);
  client_open(&c, &r, 0);
  client_send(&c, GET("/x", ""));
  client_wait(&c, "[/x]", 1);
  reset(&c);
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  assert_int_equal(r.closed, 1);
  rig_close(&r);
}

static int has_request(void *arg) {
  bq_http_stats stats;
  bq_http_server_get_stats(((rig *)arg)->server, &stats);
  return stats.requests > 0;
}

// Who pipelines and does not read is not served any further, and is cut off in the end.
static void bounds_what_is_queued_for_a_deaf_peer(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options = options_default();
  options.write_timeout_ms = 200;
  rig_open(&r, &options, on_request);
  client_open(&c, &r, 0);
  for (int i = 0; i < 20; i++) client_send(&c, GET("/huge", ""));
  assert_true(support_run_until(r.loop, has_request, &r, LIMIT_MS));
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  bq_http_stats stats;
  bq_http_server_get_stats(r.server, &stats);
  assert_int_equal(stats.requests, 1);
  client_close(&c);
  rig_close(&r);
}

// A refused peer that goes on sending gets its answer all the same: the rest is read and dropped.
static void answers_a_refused_peer_that_still_sends(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, POST("Content-Length: 900000000\r\n"));
  char *body = bq_alloc(100 * 1024);
  assert_non_null(body);
  for (size_t at = 0; at < 100 * 1024;) {
    ssize_t sent = send(c.fd, body + at, 100 * 1024 - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) at += (size_t)sent;
    else (void)support_run_until(r.loop, is_never, NULL, 1);
  }
  bq_free(body);
  client_wait_end(&c);
  assert_int_equal(client_status(&c), 413);
  assert_false(c.reset);
  client_close(&c);
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS)); // not after two seconds of lingering
  rig_close(&r);
}

// … but not for ever.
static void drops_no_more_than_a_mebibyte(void **state) {
  (void)state;
  enum { MUCH = 32 * 1024 * 1024 };
  static char bytes[PIECE];
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, POST("Content-Length: 900000000\r\n"));
  size_t sent = 0;
  for (;;) {
    ssize_t piece = send(c.fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (piece < 0 && errno != EAGAIN) break;
    if (piece > 0) sent += (size_t)piece;
    (void)event_base_loop(bq_loop_base(r.loop), EVLOOP_NONBLOCK);
    assert_true(sent < MUCH);
  }
  client_close(&c);
  rig_close(&r);
}

static void turns_away_without_a_reset(void **state) {
  (void)state;
  rig r;
  client first;
  client second;
  bq_http_options options = options_default();
  options.max_connections = 1;
  rig_open(&r, &options, on_request);
  client_open(&first, &r, 0);
  client_send(&first, GET("/x", ""));
  client_wait(&first, "[/x]", 1);
  client_ask(&second, &r, GET("/y", ""));
  assert_int_equal(client_status(&second), 503);
  assert_has(&second, "application/problem+json");
  assert_has(&second, "\"detail\":\"this server has as many connections as it takes: 1 in all");
  assert_is_problem(&second);
  assert_false(second.reset);
  client_close(&first);
  client_close(&second);
  rig_close(&r);
}

static void asks_for_no_body_that_is_there(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_ask(&c, &r, POST(CLOSE "Expect: 100-continue\r\nContent-Length: 2\r\n") "ok");
  assert_int_equal(client_status(&c), 200);
  assert_string_equal(client_body(&c), "ok");
  client_close(&c);
  rig_close(&r);
}

// A response that was queued before the stop goes out whole, and then the connection ends.
static void ends_a_writing_connection_at_the_stop(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  c.deaf = 1;
  client_send(&c, GET("/huge", ""));
  assert_true(support_run_until(r.loop, has_request, &r, LIMIT_MS));
  bq_http_server_stop_accepting(r.server);
  c.deaf = 0;
  client_wait_end(&c);
  assert_int_equal(c.in.length - (size_t)(client_body(&c) - c.in.data), HUGE_BODY);
  client_close(&c);
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  rig_close(&r);
}

// The descriptor of the server's end of the connection: it is in this process.
static int server_end(const client *c) {
  struct sockaddr_in mine = {0};
  struct sockaddr_in theirs = {0};
  socklen_t length = sizeof mine;
  assert_int_equal(getsockname(c->fd, (struct sockaddr *)&mine, &length), 0);
  for (int fd = 3; fd < 256; fd++) {
    length = sizeof theirs;
    if (fd == c->fd || getpeername(fd, (struct sockaddr *)&theirs, &length) < 0) continue;
    if (theirs.sin_family == AF_INET && theirs.sin_port == mine.sin_port) return fd;
  }
  fail_msg("the server has no such connection");
  return -1;
}

static void sends_without_delay(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, GET("/x", ""));
  client_wait(&c, "[/x]", 1);
  int on = 0;
  socklen_t length = sizeof on;
  assert_int_equal(getsockopt(server_end(&c), IPPROTO_TCP, TCP_NODELAY, &on, &length), 0);
  assert_true(on);
  client_close(&c);
  rig_close(&r);
}

static int64_t date_of(const client *c) {
  struct tm utc = {0};
  const char *text = strstr(c->in.data, "\r\nDate: ");
  assert_non_null(text);
  const char *end = strptime(text + 8, "%a, %d %b %Y %H:%M:%S GMT\r\n", &utc);
  assert_non_null(end);
  return timegm(&utc);
}

static void tells_the_time(void **state) {
  (void)state;
  rig r;
  start(&r);
  int64_t first = 0;
  for (int64_t now = 0; now == first || first == 0;) { // until the second has passed
    client c;
    client_ask(&c, &r, GET("/x", CLOSE));
    now = date_of(&c);
    int64_t wall = bq_clock_wall_us() / 1000000;
    assert_in_range(now, wall - 1, wall);
    if (first == 0) first = now;
    client_close(&c);
  }
  rig_close(&r);
}

static int refuse_after = -1; // allocations that still succeed; -1: all

static void *scarce(void *old, size_t size) {
  if (size > 0 && refuse_after >= 0 && refuse_after-- == 0) return NULL;
  if (size > 0) return realloc(old, size);
  free(old);
  return NULL;
}

static void says_503_without_memory(void **state) {
  (void)state;
  static const char *const requests[] = {GET("/x", ""), POST("Content-Length: 1\r\n") "1"};
  bq_memory_replace(scarce);
  for (int i = 0; i < 2; i++) {
    rig r;
    client c;
    start(&r);
    client_open(&c, &r, 0);
    client_send(&c, GET("/first", ""));
    client_wait(&c, "[/first]", 1);
    c.deaf = 1; // the client allocates, too
    refuse_after = i; // the exchange, or its body
    client_send(&c, requests[i]);
    rig_turn(&r);
    assert_int_equal(refuse_after, -1);
    c.deaf = 0;
    client_wait_end(&c);
    assert_has(&c, "HTTP/1.1 503 ");
    assert_int_equal(r.closed, i);
    client_close(&c);
    rig_close(&r);
  }
  bq_memory_replace(NULL);
}

int main(void) {
  (void)signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(serves_a_long_pipeline),
      cmocka_unit_test(reads_large_bodies),
      cmocka_unit_test(refuses_what_is_too_large),
      cmocka_unit_test(ends_slow_senders_that_never_pause),
      cmocka_unit_test(refuses_half_a_body),
      cmocka_unit_test(tells_of_an_end_in_the_body_but_not_behind_the_answer),
      cmocka_unit_test(bounds_what_is_queued_for_a_deaf_peer),
      cmocka_unit_test(answers_a_refused_peer_that_still_sends),
      cmocka_unit_test(drops_no_more_than_a_mebibyte),
      cmocka_unit_test(turns_away_without_a_reset),
      cmocka_unit_test(asks_for_no_body_that_is_there),
      cmocka_unit_test(ends_a_writing_connection_at_the_stop),
      cmocka_unit_test(sends_without_delay),
      cmocka_unit_test(tells_the_time),
      cmocka_unit_test(says_503_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
