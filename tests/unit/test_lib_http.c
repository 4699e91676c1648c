// http.request against a server on loopback, and with it the transfers of io/curl.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/http_server.h"
#include "lua/lib_http.h"
#include "script_test.h"

static const bq_lua_module modules[] = {{"http", bq_lua_open_http}, {NULL, NULL}};

typedef struct rig {
  bench b;
  bq_http_server *server;
  int held;   // requests that nobody answers

} rig;


static void echo(void *arg, bq_http_exchange *x, const char *body, size_t length) {
  (void)arg;
  const char *given = bq_http_get_header(x, "X-Given");
  const char *empty = bq_http_get_header(x, "X-Empty");
  char *text = bq_format("%s %s?%s %s %s %.*s", bq_http_method(x), bq_http_path(x), bq_http_query(x),
                         given != NULL ? given : "-", empty != NULL ? "empty" : "-", (int)length, body);
  const bq_http_header headers[] = {{"X-One", "1"}, {"x-two", "a"}, {"X-Two", "b"}, {"X-Two", "c"}};
  bq_http_respond(x, 418, headers, 4, text, strlen(text));
  bq_free(text);
}

static void on_request(void *arg, bq_http_exchange *x) {
  rig *r = arg;
  const char *path = bq_http_path(x);
  if (strcmp(path, "/hold") == 0) {
    r->held++;
  } else if (strcmp(path, "/large") == 0) {
    static char body[5000];
    bq_http_stream_begin(x, 200, NULL, 0);
    (void)bq_http_stream_write(x, body, sizeof body);
    bq_http_stream_end(x);
  } else if (strcmp(path, "/redirect") == 0) {
    const bq_http_header to = {"Location", "/elsewhere"};
    bq_http_respond(x, 302, &to, 1, NULL, 0);
  } else {
    bq_http_read_body(x, echo, r);
  }
}

static int setup(void **state) {
  rig *r = bq_alloc(sizeof *r);
  bq_error err;
  bench_open(&r->b, modules, NULL);
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  const bq_http_handler handler = {.on_request = on_request, .arg = r};
  assert_int_equal(bq_http_server_new(&r->server, r->b.w.loop, &options, &handler, &err), 0);
  assert_int_equal(bq_curl_new(&r->b.services.http, r->b.w.loop, 10, &err), 0);
  *state = r;
  return 0;
}

static int teardown(void **state) {
  rig *r = *state;
  bq_curl_free(r->b.services.http);
  bq_http_server_free(r->server);
  bench_close(&r->b);
  bq_free(r);
  return 0;
}

// The script with the server's address as `at`.
static char *with_address(const rig *r, const char *text) {
  return bq_format("local http, at = require('buildq').http, 'http://%s' "
                   "local function kind(r) local ok, e = pcall(http.request, r) "
                   "  if ok then return e.status end return type(e) == 'table' and e.kind or e end %s",
                   bq_http_server_address(r->server), text);
}

static void expect(rig *r, const char *text, const char *expected) {
  char *whole = with_address(r, text);
  assert_bench_returns(&r->b, whole, expected);
  bq_free(whole);
}

static void gives_the_answer(void **state) {
  rig *r = *state;
  expect(r, "local a = http.request{url = at .. '/x?q=1', method = 'PUT', body = 'a\\nb', "
            "headers = {['X-Given'] = 'yes', ['X-Empty'] = ''}} "
            "return a.status .. a.headers['x-one'] .. a.headers['x-two'] .. tostring(a.headers['X-One']) .. a.body",
         "4181a, b, cnilPUT /x?q=1 yes empty a\nb");
  expect(r, "local a = http.request{url = at} return a.body .. a.headers['content-length']", "GET /? - - 11");
  expect(r, "local a = http.request{url = at, method = 'HEAD'} return a.status .. '<' .. a.body .. '>'", "418<>");
  expect(r, "local a = http.request{url = at, method = 'POST', body = ''} return a.body", "POST /? - - ");
  expect(r, "local a = http.request{url = at .. '/redirect'} return a.status .. a.headers.location", "302/elsewhere");
}

static void bounds_the_answer(void **state) {
  rig *r = *state;
  expect(r, "return kind{url = at .. '/large', max_bytes = 4999} .. kind{url = at .. '/large', max_bytes = 5000}",
         "limit200");
  expect(r, "local ok, e = pcall(http.request, {url = at .. '/large', max_bytes = 10}) return tostring(e)",
         "http.request: the answer is larger than 10 bytes (max_bytes)");
}

static void ends_what_takes_too_long(void **state) {
  rig *r = *state;
  expect(r, "return kind{url = at .. '/hold', timeout = 0.1}", "timeout");
  assert_int_equal(r->held, 1);
}

static void says_when_nobody_is_there(void **state) {
  rig *r = *state;
  // A port that was free a moment ago, held without listening.
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
  char *text = bq_format("return kind{url = 'http://127.0.0.1:%u/'}", (unsigned)ntohs(address.sin_port));
  expect(r, text, "unavailable");
  bq_free(text);
  (void)close(fd);
}

static void refuses_wrong_requests(void **state) {
  rig *r = *state;
  expect(r, "return kind{url = 'ftp://127.0.0.1/x'} .. kind{url = 'file:///etc/passwd'} .. kind{url = 'http://'}",
         "invalidinvalidinvalid");
  expect(r, "return (kind{url = at, timeout = 0}):match('timeout is') "
            ".. (kind{url = at, max_bytes = -1}):match('max_bytes is') "
            ".. (kind{url = at, method = 'get'}):match('method is') "
            ".. (kind{url = at, headers = {A = 'b\\r\\nC: d'}}):match('headers are') "
            ".. (kind{url = at, headers = {['A: b'] = 'c'}}):match('headers are') "
            ".. kind{} .. kind{url = at, timout = 5}",
         "timeout ismax_bytes ismethod isheaders areheaders areinvalidinvalid");
}

static int is_held(void *arg) {
  return ((rig *)arg)->held > 0;
}


static void ends_with_its_fiber(void **state) {
  rig *r = *state;
  script s;
  char *text = with_address(r, "http.request{url = at .. '/hold'}");
  bq_vm *vm = bench_vm(&r->b);
  bench_start(&s, &r->b, vm, text);
  bq_free(text);
  assert_true(support_run_until(r->b.w.loop, is_held, r, 10000));
  bq_vm_kill(vm, "cancelled by the test");
  world_run(&r->b.w);
  bq_vm_free(vm);
  assert_int_equal(s.end, BQ_END_KILLED);
}

static void runs_many_at_once(void **state) {
  rig *r = *state;
  script s[30];
  bq_vm *vm[30];
  char *text = with_address(r, "local sum = 0 for i = 1, 5 do "
                               "sum = sum + http.request{url = at}.status end return sum");
  for (int i = 0; i < 30; i++) {
    vm[i] = bench_vm(&r->b);
    bench_start(&s[i], &r->b, vm[i], text);
  }
  world_run(&r->b.w);
  for (int i = 0; i < 30; i++) {
    assert_string_equal(s[i].line, "2090");
    bq_vm_free(vm[i]);
  }
  bq_free(text);
}

static void count_end(void *arg, CURL *easy, CURLcode code) {
  (void)easy;
  assert_int_equal(code, CURLE_ABORTED_BY_CALLBACK);
  (*(int *)arg)++;
}

static void reports_what_it_ends(void **state) {
  rig *r = *state;
  bq_curl *curl;
  bq_error err;
  int ended = 0;
  char *url = bq_format("http://%s/hold", bq_http_server_address(r->server));
  assert_int_equal(bq_curl_new(&curl, r->b.w.loop, 10, &err), 0);
  CURL *easy = curl_easy_init();
  (void)curl_easy_setopt(easy, CURLOPT_URL, url);
  assert_int_equal(bq_curl_start(curl, easy, count_end, &ended, &err), 0);
  assert_true(support_run_until(r->b.w.loop, is_held, r, 10000));
  bq_curl_free(curl);
  assert_int_equal(ended, 1);
  curl_easy_cleanup(easy);
  bq_free(url);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(gives_the_answer, setup, teardown),
      cmocka_unit_test_setup_teardown(bounds_the_answer, setup, teardown),
      cmocka_unit_test_setup_teardown(ends_what_takes_too_long, setup, teardown),
      cmocka_unit_test_setup_teardown(says_when_nobody_is_there, setup, teardown),
      cmocka_unit_test_setup_teardown(refuses_wrong_requests, setup, teardown),
      cmocka_unit_test_setup_teardown(ends_with_its_fiber, setup, teardown),
      cmocka_unit_test_setup_teardown(runs_many_at_once, setup, teardown),
      cmocka_unit_test_setup_teardown(reports_what_it_ends, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
