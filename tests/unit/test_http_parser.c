// The HTTP codec: what it takes, what it refuses, and that the cut of the bytes never matters.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/memory.h"
#include "io/http_parser.h"

static const bq_http_limits limits = {.max_line = 100, .max_header_bytes = 400, .max_headers = 10, .max_body = 1000};

static int64_t parse_whole(bq_http_parser *p, const char *bytes, size_t length) {
  bq_http_parser_reset(p);
  return bq_http_parse(p, bytes, length, &limits);
}

// Each prefix in memory of its own size, so that a sanitizer sees a look beyond it.
static int64_t parse_stepwise(bq_http_parser *p, const char *bytes, size_t length, size_t step) {
  int64_t result = 0;
  bq_http_parser_reset(p);
  for (size_t end = step; result == 0; end += step) {
    if (end > length) end = length;
    char *prefix = bq_alloc(end);
    assert_non_null(prefix);
    memcpy(prefix, bytes, end);
    result = bq_http_parse(p, prefix, end, &limits);
    bq_free(prefix);
    if (end == length) break;
  }
  return result;
}

static void same_heads(const bq_http_parser *a, const bq_http_parser *b) {
  assert_memory_equal(&a->head, &b->head, sizeof a->head);
  assert_memory_equal(a->fields, b->fields, a->head.field_count * sizeof a->fields[0]);
}

// Parses in one piece and in all steps; checks that the results are the same.
static int64_t parse_bytes(bq_http_parser *p, const char *bytes, size_t length) {
  static bq_http_parser other;
  memset(p, 0, sizeof *p);
  memset(&other, 0, sizeof other);
  int64_t whole = parse_whole(p, bytes, length);
  for (size_t step = 1; step <= 3; step++) {
    int64_t result = parse_stepwise(&other, bytes, length, step);
    if (result != whole) fail_msg("%lld in one piece, %lld in steps of %zu", (long long)whole, (long long)result, step);
    if (whole > 0) same_heads(p, &other);
  }
  return whole;
}

static int64_t parse(bq_http_parser *p, const char *text) {
  return parse_bytes(p, text, strlen(text));
}

static void expect_slice(const char *text, bq_http_slice slice, const char *wanted) {
  char got[500];
  (void)snprintf(got, sizeof got, "%.*s", (int)slice.length, text + slice.at);
  assert_string_equal(got, wanted);
}

typedef struct hostile {
  const char *name;
  const char *bytes;
  size_t length;
  int status;
} hostile;

#define BYTES(text) text, sizeof(text) - 1
#define HOST "Host: a\r\n"

static const hostile hostile_heads[] = {
    // Who is meant
    {"no Host", BYTES("GET / HTTP/1.1\r\n\r\n"), 400},
    {"two Hosts", BYTES("GET / HTTP/1.1\r\n" HOST HOST "\r\n"), 400},
    {"two Hosts in HTTP/1.0", BYTES("GET / HTTP/1.0\r\n" HOST HOST "\r\n"), 400},
    {"an empty Host", BYTES("GET / HTTP/1.1\r\nHost: \r\n\r\n"), 400},
    {"a Host with a path", BYTES("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400},
    {"a Host with a user", BYTES("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"), 400},
    {"another authority", BYTES("GET http://b/ HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"another port", BYTES("GET http://a:1/ HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"two Hosts in one", BYTES("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400},
    // Where the body ends
    {"two lengths", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 2\r\nContent-Length: 3\r\n\r\n"), 400},
    {"a list of lengths", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 2, 2\r\n\r\n"), 400},
    {"+3", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\n"), 400},
    {"-1", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n"), 400},
    {"0x3", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\n"), 400},
    {"3 0", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 3 0\r\n\r\n"), 400},
    {"an empty length", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n"), 400},
    {"a huge length", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551617\r\n\r\n"), 400},
    {"a long body", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n\r\n"), 413},
    {"both lengths", BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {"both, the other way", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"),
     400},
    {"xchunked", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n"), 501},
    {"chunkedx", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunkedx\r\n\r\n"), 501},
    {"an empty coding", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n"), 400},
    {"an empty coding in a list", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: , chunked\r\n\r\n"), 400},
    {"an empty coding behind", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked,\r\n\r\n"), 400},
    {"chunked not last", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, gzip\r\n\r\n"), 400},
    {"chunked twice", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, chunked\r\n\r\n"), 400},
    {"two codings", BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n"), 501},
    {"two headers of it",
     BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {"chunked in HTTP/1.0", BYTES("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"), 400},
    // Lines
    {"space before the colon", BYTES("GET / HTTP/1.1\r\n" HOST "X : y\r\n\r\n"), 400},
    {"tab before the colon", BYTES("GET / HTTP/1.1\r\n" HOST "X\t: y\r\n\r\n"), 400},
    {"obs-fold", BYTES("GET / HTTP/1.1\r\n" HOST "X: y\r\n z\r\n\r\n"), 400},
    {"a folded Host", BYTES("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400},
    {"no colon", BYTES("GET / HTTP/1.1\r\n" HOST "X\r\n\r\n"), 400},
    {"no name", BYTES("GET / HTTP/1.1\r\n" HOST ": y\r\n\r\n"), 400},
    {"a name with a slash", BYTES("GET / HTTP/1.1\r\n" HOST "X/Y: z\r\n\r\n"), 400},
    {"a name beyond ASCII", BYTES("GET / HTTP/1.1\r\n" HOST "X\xc3\xa4: z\r\n\r\n"), 400},
    {"NUL in a value", BYTES("GET / HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n"), 400},
    {"NUL in a name", BYTES("GET / HTTP/1.1\r\n" HOST "X\0: b\r\n\r\n"), 400},
    {"NUL in the target", BYTES("GET /a\0b HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a control character in a value", BYTES("GET / HTTP/1.1\r\n" HOST "X: a\x01\r\n\r\n"), 400},
    {"DEL in a value", BYTES("GET / HTTP/1.1\r\n" HOST "X: a\x7f\r\n\r\n"), 400},
    {"CR in a value", BYTES("GET / HTTP/1.1\r\n" HOST "X: a\rb\r\n\r\n"), 400},
    {"two CRs", BYTES("GET / HTTP/1.1\r\n" HOST "X: a\r\r\n\r\n"), 400},
    {"a bare LF", BYTES("GET / HTTP/1.1\n" HOST "\r\n"), 400},
    {"a bare LF behind a header", BYTES("GET / HTTP/1.1\r\nHost: ab\n\r\n"), 400},
    {"a bare LF at the end", BYTES("GET / HTTP/1.1\r\n" HOST "\n"), 400},
    {"a bare LF before the request", BYTES("\nGET / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a bare CR before the request", BYTES("\rGET / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"two empty lines before", BYTES("\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"), 400},
    // The request line
    {"two spaces", BYTES("GET  / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"two spaces behind", BYTES("GET /  HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a space in front", BYTES(" GET / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"tabs", BYTES("GET\t/\tHTTP/1.1\r\n" HOST "\r\n"), 400},
    {"no target", BYTES("GET HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a space in the target", BYTES("GET /a b HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a fragment", BYTES("GET /a#b HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a target beyond ASCII", BYTES("GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a relative target", BYTES("GET a HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a star", BYTES("GET * HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"another scheme", BYTES("GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"an absolute target without a host", BYTES("GET http:///x HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"an absolute target with a user", BYTES("GET http://u@a/x HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"an authority as target", BYTES("CONNECT a:80 HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a method that is no token", BYTES("G@T / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a long method", BYTES("GGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGG / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"no version", BYTES("GET /\r\n" HOST "\r\n"), 400},
    {"a version in small letters", BYTES("GET / http/1.1\r\n" HOST "\r\n"), 400},
    {"a long version", BYTES("GET / HTTP/1.10\r\n" HOST "\r\n"), 400},
    {"HTTP/2.0", BYTES("GET / HTTP/2.0\r\n" HOST "\r\n"), 505},
    {"HTTP/0.9", BYTES("GET / HTTP/0.9\r\n" HOST "\r\n"), 505},
    {"the preface of HTTP/2", BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505},
    {"TLS", BYTES("\x16\x03\x01\x02"), 400},
    {"an unknown expectation", BYTES("POST / HTTP/1.1\r\n" HOST "Expect: wonders\r\n\r\n"), 417},
};

static void test_hostile_heads(void **state) {
  (void)state;
  bq_http_parser p;
  for (size_t i = 0; i < sizeof hostile_heads / sizeof hostile_heads[0]; i++) {
    const hostile *h = &hostile_heads[i];
    int64_t result = parse_bytes(&p, h->bytes, h->length);
    if (result != -h->status) fail_msg("%s: %lld instead of %d", h->name, (long long)-result, h->status);
  }
}

static void test_whole_request(void **state) {
  (void)state;
  static const char text[] = "\r\nPOST /a%20b?c=d%3F HTTP/1.1\r\nhOST:\t localhost:80 \t\r\nEmpty:\r\n"
                             "Content-Length: 12\r\ncontent-length: 12\r\nExpect: 100-Continue\r\n"
                             "X: \xe4 \xff\r\n\r\nGET";
  bq_http_parser p;
  assert_int_equal(parse_bytes(&p, text, sizeof text - 1), sizeof text - 1 - 3);
  expect_slice(text, p.head.method, "POST");
  expect_slice(text, p.head.path, "/a%20b");
  expect_slice(text, p.head.query, "c=d%3F");
  assert_int_equal(p.head.minor, 1);
  assert_int_equal(p.head.field_count, 6);
  expect_slice(text, p.fields[0].name, "hOST");
  expect_slice(text, p.fields[0].value, "localhost:80");
  expect_slice(text, p.fields[1].value, "");
  expect_slice(text, p.fields[5].value, "\xe4 \xff");
  assert_int_equal(p.head.content_length, 12);
  assert_int_equal(p.head.chunked, 0);
  assert_int_equal(p.head.keep_alive, 1);
  assert_int_equal(p.head.expect_continue, 1);
}

static void test_targets(void **state) {
  (void)state;
  bq_http_parser p;
  const char *text = "OPTIONS * HTTP/1.1\r\n" HOST "\r\n";
  assert_true(parse(&p, text) > 0);
  expect_slice(text, p.head.path, "*");
  text = "GET HTTP://b.example:81/x/y?z HTTP/1.1\r\nX: y\r\nHost: B.example:81\r\nY: z\r\n\r\n";
  assert_true(parse(&p, text) > 0);
  expect_slice(text, p.head.path, "/x/y");
  expect_slice(text, p.head.query, "z");
  text = "GET http://b?z HTTP/1.1\r\nHost: b\r\n\r\n";
  assert_true(parse(&p, text) > 0);
  expect_slice(text, p.head.path, "");
  expect_slice(text, p.head.query, "z");
  assert_int_equal(parse(&p, "GET http://b/ HTTP/1.1\r\n\r\n"), -400); // Host is required all the same
  text = "GET /? HTTP/1.7\r\nHost: [::1]:8080\r\n\r\n";
  assert_true(parse(&p, text) > 0);
  assert_int_equal(p.head.minor, 1);
  assert_int_equal(p.head.query.length, 0);
}

static int keeps(const char *version, const char *headers) {
  char text[300];
  bq_http_parser p;
  (void)snprintf(text, sizeof text, "GET / HTTP/%s\r\n" HOST "%s\r\n", version, headers);
  assert_true(parse(&p, text) > 0);
  return p.head.keep_alive;
}

static void test_keep_alive(void **state) {
  (void)state;
  assert_int_equal(keeps("1.1", ""), 1);
  assert_int_equal(keeps("1.0", ""), 0);
  assert_int_equal(keeps("1.1", "Connection: Close\r\n"), 0);
  assert_int_equal(keeps("1.1", "Connection: te , close\r\n"), 0);
  assert_int_equal(keeps("1.1", "Connection: closed\r\n"), 1);
  assert_int_equal(keeps("1.0", "Connection: Keep-Alive\r\n"), 1);
  assert_int_equal(keeps("1.0", "Connection: close, keep-alive\r\n"), 0);
  assert_int_equal(keeps("1.0", "Connection: keep-alive\r\nConnection: close\r\n"), 0);
}

static void test_http_10(void **state) {
  (void)state;
  bq_http_parser p;
  assert_true(parse(&p, "GET / HTTP/1.0\r\n\r\n") > 0);
  assert_true(parse(&p, "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n") > 0);
  assert_int_equal(p.head.expect_continue, 0); // an HTTP/1.0 client does not know 100 (RFC 9110, section 10.1.1)
}

// A head with a request line of `line` bytes and, besides Host, `fields` headers and one whose value has `value` bytes.
static int64_t parse_sized(size_t line, unsigned fields, size_t value) {
  bq_buf text = {0};
  bq_http_parser p;
  bq_buf_adds(&text, "GET /");
  while (text.length < line - strlen(" HTTP/1.1")) bq_buf_addc(&text, 'a');
  bq_buf_adds(&text, " HTTP/1.1\r\n" HOST);
  for (unsigned i = 0; i < fields; i++) bq_buf_addf(&text, "%u:\r\n", i);
  if (value > 0) {
    bq_buf_adds(&text, "V:");
    for (size_t i = 0; i < value; i++) bq_buf_addc(&text, 'v');
    bq_buf_adds(&text, "\r\n");
  }
  bq_buf_adds(&text, "\r\n");
  int64_t result = parse_bytes(&p, text.data, text.length);
  bq_buf_free(&text);
  return result;
}

static void test_limits(void **state) {
  (void)state;
  size_t rest = strlen(HOST "V:\r\n\r\n");
  assert_true(parse_sized(limits.max_line, 0, 0) > 0);
  assert_int_equal(parse_sized(limits.max_line + 1, 0, 0), -414);
  assert_true(parse_sized(20, 0, limits.max_header_bytes - rest) > 0);
  assert_int_equal(parse_sized(20, 0, limits.max_header_bytes - rest + 1), -431);
  assert_true(parse_sized(20, limits.max_headers - 1, 0) > 0);
  assert_int_equal(parse_sized(20, limits.max_headers, 0), -431);
}

// A flood is refused as soon as it is over the limit, whether its line ever ends or not.
static void test_floods(void **state) {
  (void)state;
  char flood[2000];
  bq_http_parser p;
  memset(flood, 'a', sizeof flood);
  assert_int_equal(parse_bytes(&p, flood, sizeof flood), -414);
  assert_int_equal(parse_bytes(&p, flood, limits.max_line + 2), 0);
  assert_int_equal(parse_bytes(&p, flood, limits.max_line + 3), -414);
  static const char line[] = "GET / HTTP/1.1\r\n";
  memcpy(flood, line, sizeof line - 1);
  assert_int_equal(parse_bytes(&p, flood, sizeof flood), -431);
  assert_int_equal(parse_bytes(&p, flood, sizeof line - 1 + limits.max_header_bytes), 0);
  assert_int_equal(parse_bytes(&p, flood, sizeof line + limits.max_header_bytes), -431);
  flood[1900] = '\n'; // a bare LF beyond the limit changes nothing
  assert_int_equal(parse_bytes(&p, flood, sizeof flood), -431);
}

static void test_incomplete(void **state) {
  (void)state;
  bq_http_parser p;
  static const char text[] = "\r\nGET / HTTP/1.1\r\n" HOST "\r\n";
  for (size_t length = 0; length < sizeof text - 1; length++) {
    assert_int_equal(parse_whole(&p, text, length), 0);
  }
}

typedef struct path_case {
  const char *path;
  const char *decoded; // NULL: refused
} path_case;

static void test_paths(void **state) {
  (void)state;
  static const path_case cases[] = {
      {"", "/"}, {"/", "/"}, {"*", "*"}, {"/a%20b%2Fc", "/a b/c"}, {"/%c3%a4", "/\xc3\xa4"}, {"/a+b", "/a+b"},
      {"/.well-known/x", "/.well-known/x"}, {"/a..b/...", "/a..b/..."}, {"/a.", "/a."}, {"/%41", "/A"},
      {"/%f4%8f%bf%bf", "/\xf4\x8f\xbf\xbf"},
      {"/%", NULL}, {"/%4", NULL}, {"/%4g", NULL}, {"/%zz", NULL}, {"/%00", NULL}, {"/a%0ab", NULL}, {"/%7f", NULL},
      {"/..", NULL}, {"/../a", NULL}, {"/a/..", NULL}, {"/a/./b", NULL}, {"/.", NULL}, {"/%2e%2E/a", NULL},
      {"/.%2e", NULL}, {"/a%2f..%2fb", NULL}, {"/a\\b", NULL}, {"/%5c", NULL}, {"/%ff", NULL}, {"/%c3", NULL},
      {"/%c0%ae", NULL}, {"/%ed%a0%80", NULL}, {"/%f4%90%80%80", NULL}, {"/%e0%80%af", NULL}, {"/%c3/", NULL},
  };
  char out[100];
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int result = bq_http_decode_path(cases[i].path, strlen(cases[i].path), out);
    if ((result == 0) != (cases[i].decoded != NULL)) fail_msg("%s: %d", cases[i].path, result);
    if (result == 0) assert_string_equal(out, cases[i].decoded);
  }
  assert_int_equal(bq_http_decode_path("/%41", 3, out), BQ_EINVAL); // the escape is cut
}

// Decodes in pieces of `step` bytes. Returns the status; the body is added to `body`, `*used` says how many bytes of
// `bytes` belong to it.
static int dechunk(const char *bytes, size_t length, size_t step, bq_buf *body, size_t *used) {
  bq_dechunk d = {0};
  size_t at = 0;
  int status = 0;
  while (at < length && status == 0) {
    size_t piece = length - at < step ? length - at : step;
    size_t end = at + piece;
    while (at < end && status == 0) {
      size_t consumed;
      const char *data;
      size_t data_length;
      status = bq_http_dechunk(&d, limits.max_body, bytes + at, end - at, &consumed, &data, &data_length);
      assert_true(consumed > 0 && consumed <= end - at);
      bq_buf_add(body, data, data_length);
      at += consumed;
    }
  }
  *used = at;
  return status;
}

typedef struct chunk_case {
  const char *bytes;
  size_t length;
  int status;       // 1: whole, 0: more is wanted, or an HTTP status
  const char *body; // when whole
  size_t behind;    // bytes that belong to the next request
} chunk_case;

static const chunk_case chunk_cases[] = {
    {BYTES("0\r\n\r\n"), 1, "", 0},
    {BYTES("3\r\nabc\r\n0\r\n\r\n"), 1, "abc", 0},
    {BYTES("3\r\nabc\r\n0A\r\n0123456789\r\n000\r\n\r\nGET"), 1, "abc0123456789", 3},
    {BYTES("3;a\r\nabc\r\n0;b=c;d=\"e\\\"\\\\f;\"\r\n\r\n"), 1, "abc", 0},
    {BYTES("3 \t;\ta = b\r\nabc\r\n0\r\n\r\n"), 1, "abc", 0},
    {BYTES("2\r\n\r\n\r\n0\r\nA: b\r\nC:\r\n\r\n"), 1, "\r\n", 0},
    {BYTES("3\r\nabc\r\n0\r\n"), 0, NULL, 0},
    {BYTES("3\r\nab"), 0, NULL, 0},
    {BYTES("\r\n"), 400, NULL, 0},
    {BYTES(";a\r\n"), 400, NULL, 0},
    {BYTES(" 3\r\nabc\r\n"), 400, NULL, 0},
    {BYTES("3 \r\nabc\r\n"), 400, NULL, 0},
    {BYTES("3 4\r\nabc\r\n"), 400, NULL, 0},
    {BYTES("zz\r\n"), 400, NULL, 0},
    {BYTES("-2\r\n"), 400, NULL, 0},
    {BYTES("+2\r\n"), 400, NULL, 0},
    {BYTES("0x2\r\n"), 400, NULL, 0},
    {BYTES("2\nab\r\n"), 400, NULL, 0},
    {BYTES("2\rab\r\n"), 400, NULL, 0},
    {BYTES("2\r\nab0\r\n\r\n"), 400, NULL, 0},
    {BYTES("2\r\nabc\r\n0\r\n\r\n"), 400, NULL, 0},
    {BYTES("2\r\nab\n0\r\n\r\n"), 400, NULL, 0},
    {BYTES("2\r\nab\r0\r\n\r\n"), 400, NULL, 0},
    {BYTES("2;a\nab\r\n"), 400, NULL, 0},
    {BYTES("2;a=\"\r\nab\r\n"), 400, NULL, 0},
    {BYTES("2;a\0\r\nab\r\n"), 400, NULL, 0},
    {BYTES("2;a/b\r\nab\r\n"), 400, NULL, 0},
    {BYTES("fffffffffffffffff\r\n"), 400, NULL, 0},
    {BYTES("0000000000000000000000001\r\n"), 400, NULL, 0},
    {BYTES("fffffffffffffff\r\n"), 413, NULL, 0},
    {BYTES("3e9\r\n"), 413, NULL, 0},
    {BYTES("0\r\nA\r\n\r\n"), 400, NULL, 0},
    {BYTES("0\r\n:\r\n\r\n"), 400, NULL, 0},
    {BYTES("0\r\nA : b\r\n\r\n"), 400, NULL, 0},
    {BYTES("0\r\nA: b\n\r\n"), 400, NULL, 0},
    {BYTES("0\r\nA: \0\r\n\r\n"), 400, NULL, 0},
    {BYTES("0\r\n folded\r\n\r\n"), 400, NULL, 0},
    {BYTES("0\r\n\n"), 400, NULL, 0},
    {BYTES("0\r\n\rx"), 400, NULL, 0},
};

static void test_chunks(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof chunk_cases / sizeof chunk_cases[0]; i++) {
    const chunk_case *c = &chunk_cases[i];
    static const size_t steps[] = {1000, 1, 2, 3, 5};
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
      bq_buf body = {0};
      size_t used;
      int status = dechunk(c->bytes, c->length, steps[s], &body, &used);
      if (status != (c->status >= 400 ? -c->status : c->status)) {
        fail_msg("chunks %zu in steps of %zu: %d", i, steps[s], status);
      }
      if (c->body != NULL) {
        assert_int_equal(body.length, strlen(c->body));
        assert_memory_equal(body.data != NULL ? body.data : "", c->body, body.length);
        assert_int_equal(used, c->length - c->behind);
      }
      bq_buf_free(&body);
    }
  }
}

// Sends `count` times `unit` between `before` and `after`.
static int dechunk_repeated(const char *before, const char *unit, size_t count, const char *after) {
  bq_buf text = {0};
  bq_buf body = {0};
  size_t used;
  bq_buf_adds(&text, before);
  for (size_t i = 0; i < count; i++) bq_buf_adds(&text, unit);
  bq_buf_adds(&text, after);
  int status = dechunk(text.data, text.length, 4096, &body, &used);
  bq_buf_free(&text);
  bq_buf_free(&body);
  return status;
}

static void test_chunk_bounds(void **state) {
  (void)state;
  assert_int_equal(dechunk_repeated("", "1\r\nx\r\n", limits.max_body, "0\r\n\r\n"), 1);
  assert_int_equal(dechunk_repeated("", "1\r\nx\r\n", limits.max_body + 1, "0\r\n\r\n"), -413);
  // Many small extensions are bounded as one long one is; the CR behind an extension counts.
  assert_int_equal(dechunk_repeated("1;", "x", BQ_HTTP_MAX_EXTENSION_BYTES - 1, "\r\nx\r\n0\r\n\r\n"), 1);
  assert_int_equal(dechunk_repeated("1;", "x", BQ_HTTP_MAX_EXTENSION_BYTES, "\r\nx\r\n0\r\n\r\n"), -431);
  assert_int_equal(dechunk_repeated("1", " ", BQ_HTTP_MAX_EXTENSION_BYTES + 2, ";\r\nx\r\n0\r\n\r\n"), -431);
  assert_int_equal(dechunk_repeated("", "1;0123456789012345678901234567890123456789\r\nx\r\n", 500, "0\r\n\r\n"), -431);
  assert_int_equal(dechunk_repeated("0\r\n", "Trailer: 012345\r\n", 100, "\r\n"), 1);
  assert_int_equal(dechunk_repeated("0\r\n", "Trailer: 012345\r\n", 600, "\r\n"), -431);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hostile_heads), cmocka_unit_test(test_whole_request), cmocka_unit_test(test_targets),
      cmocka_unit_test(test_keep_alive),    cmocka_unit_test(test_http_10),       cmocka_unit_test(test_limits),
      cmocka_unit_test(test_floods),        cmocka_unit_test(test_incomplete),    cmocka_unit_test(test_paths),
      cmocka_unit_test(test_chunks),        cmocka_unit_test(test_chunk_bounds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
