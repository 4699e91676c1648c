// What the HTTP server sends: heads, streams with back pressure, files.
#include <event2/event.h>
#include <fcntl.h>

#include "http_test.h"

#define HOST "Host: a\r\n"
#define CLOSE "Connection: close\r\n"
#define GET(path, more) "GET " path " HTTP/1.1\r\n" HOST more "\r\n"

enum { PIECE = 16 * 1024, FILE_BYTES = 20 * 1000 * 1000, FILL_BOUND = 64 * 1024 * 1024 };

static void on_close(void *context) {
  rig *r = context;
  r->closed++;
  r->held = NULL;
}

static void on_drain(void *context) {
  rig *r = context;
  r->drains++;
}

static off_t size_of(int fd) {
  off_t size = lseek(fd, 0, SEEK_END);
  assert_true(size >= 0);
  return size;
}

static void on_request(void *arg, bq_http_exchange *x) {
  static const bq_http_header type[] = {{"Content-Type", "text/x-test"}, {"X-Request-Id", "r1"}};
  static const bq_http_header framing[] = {{"Content-Length", "999"}, {"transfer-encoding", "chunked"}, {"Date", "now"},
                                           {"Connection", "upgrade"}, {"X-Mine", "kept"}};
  static const bq_http_header split[] = {{"X-Good", "1"}, {"Location", "/a\r\nX-Evil: 1"}};
  rig *r = arg;
  const char *path = bq_http_path(x);
  bq_http_set_context(x, r, on_close);
  if (strcmp(path, "/stream") == 0) {
    r->held = x;
    bq_http_stream_on_drain(x, on_drain);
    bq_http_stream_begin(x, 200, type, 2);
  } else if (strcmp(path, "/sized") == 0) {
    r->held = x;
    bq_http_stream_begin_sized(x, 200, type, 2, 8);
  } else if (strcmp(path, "/file") == 0) {
    int fd = open(r->file, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    bq_http_respond_file(x, fd, size_of(fd), "\"abc\"", type, 2);
  } else if (strcmp(path, "/framing") == 0) {
    bq_http_respond(x, 200, framing, 5, "ok", 2);
  } else if (strcmp(path, "/split") == 0) {
    bq_http_respond(x, 302, split, 2, "ok", 2);
  } else if (strcmp(path, "/none") == 0) {
    bq_http_respond(x, 204, NULL, 0, NULL, 0);
  } else {
    bq_http_respond(x, 404, NULL, 0, "none", 4);
  }
}

static void start(rig *r) {
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  rig_open(r, &options, on_request);
}

static void keeps_framing_to_itself(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_ask(&c, &r, GET("/framing", CLOSE));
  assert_int_equal(count_of(c.in.data, "Content-Length"), 1);
  assert_int_equal(count_of(c.in.data, "Date:"), 1);
  assert_int_equal(count_of(c.in.data, "Connection:"), 1);
  assert_lacks(&c, "ransfer-");
  assert_has(&c, "X-Mine: kept\r\n");
  assert_string_equal(client_body(&c), "ok");
  client_close(&c);
  client_ask(&c, &r, GET("/none", CLOSE));
  assert_int_equal(client_status(&c), 204);
  assert_lacks(&c, "Content-Length");
  client_close(&c);
  rig_close(&r);
}

static void never_splits_a_response(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_ask(&c, &r, GET("/split", CLOSE));
  assert_int_equal(client_status(&c), 500);
  assert_lacks(&c, "Evil");
  assert_is_problem(&c);
  client_close(&c);
  rig_close(&r);
}

static void streams_as_it_is_written(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, GET("/stream", "") GET("/next", ""));
  client_wait(&c, "Transfer-Encoding: chunked\r\n\r\n", 1); // the head does not wait for the first piece
  assert_lacks(&c, "Content-Length");
  assert_int_equal(bq_http_stream_write(r.held, "hello", 5), 0);
  client_wait(&c, "\r\n\r\n5\r\nhello\r\n", 1);
  assert_int_equal(bq_http_stream_write(r.held, "0123456789abcdefXYZ", 19), 0);
  client_wait(&c, "hello\r\n13\r\n0123456789abcdefXYZ\r\n", 1);
  assert_lacks(&c, "404"); // the next answer waits for the stream's end
  bq_http_stream_end(r.held);
  client_wait(&c, "XYZ\r\n0\r\n\r\nHTTP/1.1 404", 1);
  assert_int_equal(r.closed, 0);
  assert_int_equal(r.drains, 0); // nobody was told to wait
  client_close(&c);
  rig_close(&r);
}

// A stream may have no end: after HEAD its handler is let go, and the connection goes on.
// RFC 9112, section 8: an incomplete body must be seen as one.
static void cuts_a_stream_that_is_not_whole(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, GET("/stream", "") GET("/next", ""));
  client_wait(&c, "chunked\r\n\r\n", 1);
  (void)bq_http_stream_write(r.held, "half", 4);
  bq_http_stream_abort(r.held);
  client_wait_end(&c);
  assert_string_equal(client_body(&c), "4\r\nhalf\r\n"); // what was queued, no last chunk, no second answer
  assert_false(c.reset);
  client_close(&c);
  r.held = NULL;
  client_open(&c, &r, 0);
  client_send(&c, "GET /stream HTTP/1.0\r\n" HOST "\r\n");
  client_wait(&c, "\r\n\r\n", 1);
  bq_http_stream_abort(r.held);
  client_wait_end(&c);
  assert_true(c.reset); // an end would be the body's end
  client_close(&c);
  r.held = NULL;
  client_open(&c, &r, 0);
  client_send(&c, "HEAD /stream HTTP/1.1\r\n" HOST "\r\n" GET("/next", ""));
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  bq_http_stream_abort(r.held); // its answer is whole
  client_wait(&c, "404", 1);
  client_close(&c);
  assert_int_equal(r.closed, 0);
  rig_close(&r);
}

static void keeps_to_an_announced_length(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, GET("/sized", "") GET("/next", ""));
  client_wait(&c, "Content-Length: 8\r\n\r\n", 1);
  assert_lacks(&c, "chunked");
  (void)bq_http_stream_write(r.held, "half", 4);
  (void)bq_http_stream_write(r.held, "half and more", 13);
  bq_http_stream_end(r.held);
  client_wait(&c, "halfhalfHTTP/1.1 404", 1);
  client_close(&c);
  r.held = NULL;
  client_open(&c, &r, 0);
  client_send(&c, GET("/sized", "") GET("/next", ""));
  client_wait(&c, "Content-Length: 8\r\n\r\n", 1);
  (void)bq_http_stream_write(r.held, "half", 4);
  bq_http_stream_end(r.held); // too early: an answer behind it would be taken for the rest
  client_wait_end(&c);
  assert_string_equal(client_body(&c), "half");
  client_close(&c);
  rig_close(&r);
}

static void lets_go_of_a_stream_after_head(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, 0);
  client_send(&c, "HEAD /stream HTTP/1.1\r\n" HOST "\r\n" GET("/next", ""));
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  assert_int_equal(bq_http_stream_write(r.held, "hello", 5), 0);
  client_wait(&c, "\r\n\r\nHTTP/1.1 404", 1);
  assert_has(&c, "Transfer-Encoding: chunked\r\n");
  assert_lacks(&c, "hello");
  assert_int_equal(r.closed, 1);
  client_close(&c);
  rig_close(&r);
}

// Fills the stream until it says to wait. Returns the bytes written.
static size_t fill(rig *r) {
  static char piece[PIECE];
  memset(piece, 'p', sizeof piece);
  for (size_t written = PIECE; written < FILL_BOUND; written += PIECE) {
    if (bq_http_stream_write(r->held, piece, sizeof piece)) return written;
    (void)event_base_loop(bq_loop_base(r->loop), EVLOOP_NONBLOCK); // what the kernel takes goes
  }
  fail_msg("a stream that nobody reads never said to wait");
  return 0;
}

static int has_drained(void *arg) {
  client *c = arg;
  client_read(c);
  return c->r->drains > 0;
}

static void calls_on_drain_once_for_each_wait(void **state) {
  (void)state;
  rig r;
  client c;
  start(&r);
  client_open(&c, &r, PIECE);
  c.deaf = 1;
  client_send(&c, GET("/stream", ""));
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  size_t written = 0;
  for (int i = 0; i < 2; i++) {
    c.deaf = 1;
    do { // until the kernel takes no more either
      r.drains = 0;
      written += fill(&r);
      rig_turn(&r);
      assert_in_range(r.drains, 0, 1);
      assert_true(written < FILL_BOUND);
    } while (r.drains > 0);
    c.deaf = 0;
    assert_true(support_run_until(r.loop, has_drained, &c, LIMIT_MS));
    for (int j = 0; j < 10; j++) (void)support_run_until(r.loop, client_ended, &c, 5);
    assert_int_equal(r.drains, 1);
  }
  bq_http_stream_end(r.held);
  client_wait(&c, "\r\n0\r\n\r\n", 1);
  size_t got = 0;
  for (const char *at = client_body(&c); at < c.in.data + c.in.length; at++) got += *at == 'p';
  assert_int_equal(got, written);
  client_close(&c);
  rig_close(&r);
}

// Who writes on without having waited (a heartbeat, say) must not take on_drain from the one who waits.
static void remembers_who_waits(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  options.stream_high_water = 8 * 1024 * 1024; // large beside what one turn of the loop writes
  rig_open(&r, &options, on_request);
  client_open(&c, &r, PIECE);
  c.deaf = 1;
  client_send(&c, GET("/stream", ""));
  assert_true(support_run_until(r.loop, is_held, &r, LIMIT_MS));
  (void)fill(&r);
  while (bq_http_stream_write(r.held, "x", 1)) {
    char some[PIECE];
    (void)recv(c.fd, some, sizeof some, MSG_DONTWAIT);
    (void)event_base_loop(bq_loop_base(r.loop), EVLOOP_NONBLOCK);
  }
  assert_int_equal(r.drains, 0);
  c.deaf = 0;
  assert_true(support_run_until(r.loop, has_drained, &c, LIMIT_MS));
  assert_int_equal(r.drains, 1);
  client_close(&c);
  rig_close(&r);
}

// The write timeout is about bytes that wait: a stream that is silent for longer goes on.
static void keeps_a_silent_stream(void **state) {
  (void)state;
  rig r;
  client c;
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  options.write_timeout_ms = options.idle_timeout_ms = options.head_deadline_ms = options.body_deadline_ms = 50;
  rig_open(&r, &options, on_request);
  client_open(&c, &r, 0);
  client_send(&c, GET("/stream", ""));
  client_wait(&c, "chunked", 1);
  (void)support_run_until(r.loop, has_closed, &r, 300);
  assert_int_equal(r.closed, 0);
  assert_int_equal(bq_http_stream_write(r.held, "hello", 5), 0);
  client_wait(&c, "hello", 1);
  client_close(&c); // an end in the middle of a stream: its reader is gone
  assert_true(support_run_until(r.loop, has_closed, &r, LIMIT_MS));
  assert_true(support_run_until(r.loop, has_no_connection, &r, LIMIT_MS));
  assert_int_equal(r.closed, 1);
  rig_close(&r);
}

static char *make_file(char **directory, size_t size) {
  *directory = support_make_directory();
  char *path = bq_format("%s/file", *directory);
  FILE *out = fopen(path, "we");
  assert_non_null(out);
  for (size_t i = 0; i < size; i++) assert_int_not_equal(fputc('a' + (int)(i % 23), out), EOF);
  assert_int_equal(fclose(out), 0);
  return path;
}

static void is_pattern(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (text[i] != (char)('a' + i % 23)) fail_msg("byte %zu is wrong", i);
  }
}

static void sends_large_files(void **state) {
  (void)state;
  rig r;
  client c;
  char *directory;
  start(&r);
  char *path = make_file(&directory, FILE_BYTES);
  r.file = path;
  client_ask(&c, &r, GET("/file", "") GET("/file", "Range: bytes=23-\r\n") GET("/next", CLOSE));
  const char *body = client_body(&c);
  is_pattern(body, FILE_BYTES);
  assert_memory_equal(body + FILE_BYTES, "HTTP/1.1 206 ", 13);
  body = strstr(body + FILE_BYTES, "\r\n\r\n") + 4;
  is_pattern(body, FILE_BYTES - 23);
  assert_memory_equal(body + FILE_BYTES - 23, "HTTP/1.1 404 ", 13);
  assert_int_equal(r.closed, 0);
  client_close(&c);
  rig_close(&r);
  bq_free(path);
  support_remove_directory(directory);
}

#define PROBLEM_416 "{\"type\":\"about:blank\",\"title\":\"Range Not Satisfiable\",\"status\":416," \
  "\"detail\":\"the file has 0 bytes, and none in that range\",\"requestId\":\"r1\"}"

static void sends_empty_files(void **state) {
  (void)state;
  rig r;
  client c;
  char *directory;
  start(&r);
  char *path = make_file(&directory, 0);
  r.file = path;
  client_ask(&c, &r, GET("/file", "") GET("/file", "Range: bytes=0-\r\n") GET("/next", CLOSE));
  assert_has(&c, "HTTP/1.1 200 OK\r\n");
  assert_has(&c, "Content-Length: 0\r\n\r\nHTTP/1.1 416 ");
  assert_has(&c, "Content-Range: bytes */0\r\n");
  assert_has(&c, PROBLEM_416 "HTTP/1.1 404"); // a problem, with the headers that do not describe the file
  assert_int_equal(count_of(c.in.data, "text/x-test"), 1);
  assert_int_equal(count_of(c.in.data, "application/problem+json"), 1);
  assert_int_equal(count_of(c.in.data, "X-Request-Id: r1"), 2);
  client_close(&c);
  rig_close(&r);
  bq_free(path);
  support_remove_directory(directory);
}

int main(void) {
  (void)signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(keeps_framing_to_itself),
      cmocka_unit_test(never_splits_a_response),
      cmocka_unit_test(streams_as_it_is_written),
      cmocka_unit_test(cuts_a_stream_that_is_not_whole),
      cmocka_unit_test(keeps_to_an_announced_length),
      cmocka_unit_test(lets_go_of_a_stream_after_head),
      cmocka_unit_test(calls_on_drain_once_for_each_wait),
      cmocka_unit_test(remembers_who_waits),
      cmocka_unit_test(keeps_a_silent_stream),
      cmocka_unit_test(sends_large_files),
      cmocka_unit_test(sends_empty_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
