// The HTTP codec: what is taken, what is refused with which status, and that it never matters how bytes are cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/memory.h"
#include "io/http_parser.h"

static const bq_http_limits limits = {.max_line = 200, .max_header_bytes = 600, .max_headers = 10, .max_body = 1000};

// Parses growing prefixes, each in memory of its own size, and demands that they agree with the whole.
static int64_t parse(const char *text, size_t length, bq_http_head *out) {
  int64_t whole = bq_http_parse_head(text, length, &limits, out);
  for (size_t i = 0; i <= length; i++) {
    char *prefix = malloc(i + (i == 0));
    assert_non_null(prefix);
    memcpy(prefix, text, i);
    bq_http_head head;
    int64_t result = bq_http_parse_head(prefix, i, &limits, &head);
    free(prefix);
    if (result == 0) continue;
    if (result != whole) fail_msg("%zu bytes give %lld, all %lld: %s", i, (long long)result, (long long)whole, text);
    if (result > 0) assert_int_equal(i, result);
    return result;
  }
  assert_int_equal(whole, 0);
  return 0;
}

static int64_t parse_text(const char *text, bq_http_head *out) {
  return parse(text, strlen(text), out);
}

static void assert_slice(const char *text, bq_http_slice slice, const char *expected) {
  assert_int_equal(slice.length, strlen(expected));
  assert_memory_equal(text + slice.at, expected, slice.length);
}

static void reads_a_request(void **state) {
  (void)state;
  static const char text[] = "\r\nPOST /builds/%41?a=1&b HTTP/1.1\r\nHost: example:8080\r\nX-A:\t one two \t\r\nX-B:\r\n"
                             "Content-Length: 12\r\nExpect: 100-Continue\r\n\r\n";
  bq_http_head head;
  assert_int_equal(parse_text(text, &head), sizeof text - 1);
  assert_slice(text, head.method, "POST");
  assert_slice(text, head.path, "/builds/%41");
  assert_slice(text, head.query, "a=1&b");
  assert_slice(text, head.host, "example:8080");
  assert_int_equal(head.minor, 1);
  assert_int_equal(head.header_count, 5);
  assert_slice(text, head.names[1], "X-A");
  assert_slice(text, head.values[1], "one two");
  assert_slice(text, head.values[2], "");
  assert_int_equal(head.content_length, 12);
  assert_false(head.chunked);
  assert_true(head.keep_alive);
  assert_true(head.expect_continue);
}

static void ends_at_the_next_request(void **state) {
  (void)state;
  static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\n";
  bq_http_head head;
  assert_int_equal(parse_text(text, &head), 27);
  assert_int_equal(head.content_length, -1);
}

static void knows_when_to_keep_a_connection(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int keep_alive;
  } rows[] = {
      {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1},
      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 0},
      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", 0},
      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", 0},
      {"GET / HTTP/1.0\r\n\r\n", 0},
      {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 1},
      {"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", 0},
      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    bq_http_head head;
    assert_int_equal(parse_text(rows[i].text, &head), strlen(rows[i].text));
    if (head.keep_alive != rows[i].keep_alive) fail_msg("%s", rows[i].text);
  }
}

static void takes_targets(void **state) {
  (void)state;
  bq_http_head head;
  static const char absolute[] = "GET http://a:1?q HTTP/1.1\r\nHost: A:1\r\n\r\n";
  assert_true(parse_text(absolute, &head) > 0);
  assert_slice(absolute, head.host, "a:1");
  assert_slice(absolute, head.path, "");
  assert_slice(absolute, head.query, "q");
  static const char with_path[] = "GET http://a/b/c HTTP/1.1\r\nHost: a\r\n\r\n";
  assert_true(parse_text(with_path, &head) > 0);
  assert_slice(with_path, head.path, "/b/c");
  static const char asterisk[] = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
  assert_true(parse_text(asterisk, &head) > 0);
  assert_slice(asterisk, head.path, "*");
}

#define GET "GET / HTTP/1.1\r\n"
#define HOST "Host: a\r\n"
#define TEXT(text) text, sizeof text - 1

typedef struct refusal {
  const char *what;
  const char *text;
  size_t length;
  int status;
} refusal;

static const refusal refusals[] = {
    {"two Hosts", TEXT(GET HOST HOST "\r\n"), 400},
    {"no Host", TEXT(GET "\r\n"), 400},
    {"a Host with a slash", TEXT(GET "Host: a/b\r\n\r\n"), 400},
    {"a Host with a user", TEXT(GET "Host: u@a\r\n\r\n"), 400},
    {"another authority", TEXT("GET http://b/ HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"both lengths", TEXT(GET HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {"both, chunked first", TEXT(GET HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"), 400},
    {"differing lengths", TEXT(GET HOST "Content-Length: 3\r\nContent-Length: 4\r\n\r\n"), 400},
    {"a list of lengths", TEXT(GET HOST "Content-Length: 3, 3\r\n\r\n"), 400},
    {"+3", TEXT(GET HOST "Content-Length: +3\r\n\r\n"), 400},
    {"-3", TEXT(GET HOST "Content-Length: -3\r\n\r\n"), 400},
    {"0x3", TEXT(GET HOST "Content-Length: 0x3\r\n\r\n"), 400},
    {"3 3", TEXT(GET HOST "Content-Length: 3 3\r\n\r\n"), 400},
    {"no length", TEXT(GET HOST "Content-Length:\r\n\r\n"), 400},
    {"beyond 64 bits", TEXT(GET HOST "Content-Length: 18446744073709551619\r\n\r\n"), 400},
    {"too long a body", TEXT(GET HOST "Content-Length: 1001\r\n\r\n"), 413},
    {"xchunked", TEXT(GET HOST "Transfer-Encoding: xchunked\r\n\r\n"), 501},
    {"gzip before chunked", TEXT(GET HOST "Transfer-Encoding: gzip, chunked\r\n\r\n"), 501},
    {"chunked, chunked", TEXT(GET HOST "Transfer-Encoding: chunked, chunked\r\n\r\n"), 400},
    {"chunked not last", TEXT(GET HOST "Transfer-Encoding: chunked, gzip\r\n\r\n"), 400},
    {"an empty coding", TEXT(GET HOST "Transfer-Encoding: , chunked\r\n\r\n"), 400},
    {"two codings' lines", TEXT(GET HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
    {"chunked to 1.0", TEXT("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"), 400},
    {"space before the colon", TEXT(GET HOST "X-A : b\r\n\r\n"), 400},
    {"a fold", TEXT(GET HOST "X-A: b\r\n c\r\n\r\n"), 400},
    {"a fold with a tab", TEXT(GET HOST "X-A: b\r\n\tc\r\n\r\n"), 400},
    {"a fold first", TEXT(GET " Host: a\r\n\r\n"), 400},
    {"NUL in a value", TEXT(GET HOST "X-A: b\0c\r\n\r\n"), 400},
    {"NUL in a name", TEXT(GET HOST "X\0A: b\r\n\r\n"), 400},
    {"DEL in a value", TEXT(GET HOST "X-A: b\x7f\r\n\r\n"), 400},
    {"a bare LF", TEXT(GET HOST "X-A: b\n\r\n"), 400},
    {"a bare LF first", TEXT("GET / HTTP/1.1\nHost: a\r\n\r\n"), 400},
    {"a bare LF at the end", TEXT(GET HOST "\n"), 400},
    {"a bare CR", TEXT(GET HOST "X-A: b\rc\r\n\r\n"), 400},
    {"a bare CR first", TEXT("GET /\rx HTTP/1.1\r\n"), 400},
    {"two CRs", TEXT(GET HOST "X-A: b\r\r\n\r\n"), 400},
    {"no colon", TEXT(GET HOST "X-A\r\n\r\n"), 400},
    {"no name", TEXT(GET HOST ": b\r\n\r\n"), 400},
    {"no version", TEXT("GET /\r\n" HOST "\r\n"), 400},
    {"HTTP/2.0", TEXT("GET / HTTP/2.0\r\n" HOST "\r\n"), 505},
    {"HTTP/0.9", TEXT("GET / HTTP/0.9\r\n" HOST "\r\n"), 505},
    {"HTTP/1.10", TEXT("GET / HTTP/1.10\r\n" HOST "\r\n"), 400},
    {"http/1.1", TEXT("GET / http/1.1\r\n" HOST "\r\n"), 400},
    {"two spaces", TEXT("GET  / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a space at the end", TEXT("GET / HTTP/1.1 \r\n" HOST "\r\n"), 400},
    {"a tab", TEXT("GET\t/ HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a fragment", TEXT("GET /#a HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"no slash", TEXT("GET a HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"GET *", TEXT("GET * HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"https", TEXT("GET https://a/ HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"no authority", TEXT("GET http:/// HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"bytes in the target", TEXT("GET /\xff HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a method with a bracket", TEXT("G(T / HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"another expectation", TEXT(GET HOST "Expect: 200-ok\r\n\r\n"), 417},
    {"a second empty line", TEXT("\r\n\r\nGET / HTTP/1.1\r\n"), 400},
    {"eleven headers", TEXT(GET HOST "a:1\r\na:2\r\na:3\r\na:4\r\na:5\r\na:6\r\na:7\r\na:8\r\na:9\r\na:10\r\n\r\n"), 431},
};

static void refuses_hostile_heads(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
    bq_http_head head;
    int64_t status = parse(refusals[i].text, refusals[i].length, &head);
    if (status != -refusals[i].status) fail_msg("%s: %lld", refusals[i].what, (long long)status);
  }
}

static char *repeat(const char *before, char c, size_t count, const char *after) {
  bq_buf text = {0};
  bq_buf_adds(&text, before);
  for (size_t i = 0; i < count; i++) bq_buf_addc(&text, c);
  bq_buf_adds(&text, after);
  return bq_buf_take(&text);
}

static int64_t parse_repeated(const char *before, size_t count, const char *after) {
  bq_http_head head;
  char *text = repeat(before, 'x', count, after);
  int64_t status = parse_text(text, &head);
  bq_free(text);
  return status;
}

static void bounds_lines_and_headers(void **state) {
  (void)state;
  // "GET /" and " HTTP/1.1" are 14 bytes of the line.
  assert_int_equal(parse_repeated("GET /", 186, " HTTP/1.1\r\n" HOST "\r\n"), 200 + 2 + 9 + 2);
  assert_int_equal(parse_repeated("GET /", 187, " HTTP/1.1\r\n" HOST "\r\n"), -414);
  assert_int_equal(parse_repeated("GET /", 5000, "\rx"), -414);
  assert_int_equal(parse_repeated("GET /", 5000, ""), -414);
  assert_true(parse_repeated(GET HOST "X: ", 588, "\r\n\r\n") > 0);
  assert_int_equal(parse_repeated(GET HOST "X: ", 589, "\r\n\r\n"), -431);
  assert_int_equal(parse_repeated(GET HOST "X: ", 5000, "\n"), -431);
  assert_int_equal(parse_repeated(GET HOST "X: ", 588, "\r\nY: z\r\n\r\n"), -431);
}

static void decodes_paths(void **state) {
  (void)state;
  static const struct {
    const char *path;
    const char *decoded; // NULL: refused
  } rows[] = {
      {"/builds/x", "/builds/x"}, {"", "/"},          {"/%41%2f%c3%a4", "/A/\xc3\xa4"}, {"/a..b/...", "/a..b/..."},
      {"/.hidden", "/.hidden"},   {"/%", NULL},       {"/%4", NULL},                    {"/%4g", NULL},
      {"/%00", NULL},             {"/%0a", NULL},     {"/%7f", NULL},                   {"/a\\b", NULL},
      {"/%5c", NULL},             {"/..", NULL},      {"/a/../b", NULL},                {"/a/./b", NULL},
      {"/.", NULL},               {"/%2e%2E/b", NULL}, {"/a%2f..%2fb", NULL},           {"/%ff", NULL},
      {"/%c0%af", NULL},          {"/%ed%a0%80", NULL}, {"/%f4%90%80%80", NULL},        {"/%e2%82", NULL},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    size_t length = strlen(rows[i].path);
    char *path = malloc(length + 1); // not larger than the contract says, without a NUL
    char *out = malloc(length + 2);
    assert_true(path != NULL && out != NULL);
    memcpy(path, rows[i].path, length);
    int result = bq_http_decode_path(path, length, out);
    if (rows[i].decoded == NULL) {
      if (result != BQ_EINVAL) fail_msg("%s is %s", rows[i].path, out);
    } else {
      assert_int_equal(result, 0);
      assert_string_equal(out, rows[i].decoded);
    }
    free(path);
    free(out);
  }
}

// Reads a chunked body in pieces of `step` bytes. Returns what the last call did; the body goes to `body`.
static int dechunk(const char *bytes, size_t length, size_t step, bq_buf *body, size_t *used) {
  bq_dechunk d = {0};
  size_t at = 0;
  while (at < length) {
    size_t piece = length - at < step ? length - at : step;
    size_t consumed;
    const char *data;
    size_t data_length;
    int result = bq_http_dechunk(&d, bytes + at, piece, &consumed, &data, &data_length);
    assert_true(consumed <= piece);
    bq_buf_add(body, data, data_length);
    at += consumed;
    *used = at;
    if (result != 0) return result;
    assert_true(consumed > 0);
  }
  return 0;
}

static int dechunk_text(const char *text, size_t length, const char *expected, size_t *used) {
  int first = 0;
  for (size_t step = length; step > 0; step = step > 7 ? step / 2 : step - 1) {
    bq_buf body = {0};
    int result = dechunk(text, length, step, &body, used);
    if (step == length) first = result;
    assert_int_equal(result, first);
    if (result == 1) {
      assert_int_equal(body.length, strlen(expected));
      if (body.length > 0) assert_memory_equal(body.data, expected, body.length);
    }
    bq_buf_free(&body);
  }
  return first;
}

static void reads_chunks(void **state) {
  (void)state;
  size_t used;
  static const char plain[] = "3\r\nabc\r\n00A;x=\"a\\\";\"; y\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\nGET /";
  assert_int_equal(dechunk_text(plain, sizeof plain - 1, "abc0123456789", &used), 1);
  assert_int_equal(used, sizeof plain - 1 - 5);
  assert_int_equal(dechunk_text("0\r\n\r\n", 5, "", &used), 1);
  assert_int_equal(dechunk_text("3\r\nab", 5, "", &used), 0);
}

static void refuses_hostile_chunks(void **state) {
  (void)state;
  static const refusal rows[] = {
      {"no number", TEXT("zz\r\nab"), 400},
      {"a sign", TEXT("-2\r\nab"), 400},
      {"a plus", TEXT("+2\r\nab"), 400},
      {"0x", TEXT("0x2\r\nab"), 400},
      {"no size", TEXT("\r\nab"), 400},
      {"a space", TEXT("2 \r\nab\r\n"), 400},
      {"a huge size", TEXT("fffffffffffffffff\r\n"), 400},
      {"16 digits", TEXT("0000000000000001\r\na\r\n"), 400},
      {"a bare LF behind the size", TEXT("2\nab\r\n"), 400},
      {"a bare CR behind the size", TEXT("2\rab\r\n"), 400},
      {"no CRLF behind the data", TEXT("2\r\nab2\r\n"), 400},
      {"a bare LF behind the data", TEXT("2\r\nab\n0\r\n\r\n"), 400},
      {"a bare CR behind the data", TEXT("2\r\nab\r0\r\n\r\n"), 400},
      {"a LF in an extension", TEXT("2;a\nb\r\nab\r\n"), 400},
      {"a CR in a quoted extension", TEXT("2;a=\"\r\n\"\r\nab\r\n"), 400},
      {"NUL in an extension", TEXT("2;a\0\r\nab\r\n"), 400},
      {"NUL in a trailer", TEXT("0\r\nX: a\0\r\n\r\n"), 400},
      {"a bare LF in a trailer", TEXT("0\r\nX: a\n\r\n"), 400},
  };
  size_t used;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    int status = dechunk_text(rows[i].text, rows[i].length, "", &used);
    if (status != -rows[i].status) fail_msg("%s: %d", rows[i].what, status);
  }
}

static int dechunk_repeated(const char *before, size_t count, const char *after) {
  size_t used;
  char *text = repeat(before, 'x', count, after);
  int status = dechunk_text(text, strlen(text), "ab", &used);
  bq_free(text);
  return status;
}

static void bounds_extensions_and_trailers(void **state) {
  (void)state;
  assert_int_equal(dechunk_repeated("2;", 1000, "\r\nab\r\n0\r\n\r\n"), 1);
  assert_int_equal(dechunk_repeated("2;", 1025, "\r\nab\r\n0\r\n\r\n"), -400);
  assert_int_equal(dechunk_repeated("2\r\nab\r\n0\r\nX: ", 8000, "\r\n\r\n"), 1);
  assert_int_equal(dechunk_repeated("2\r\nab\r\n0\r\nX: ", 8200, "\r\n\r\n"), -431);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_a_request),
      cmocka_unit_test(ends_at_the_next_request),
      cmocka_unit_test(knows_when_to_keep_a_connection),
      cmocka_unit_test(takes_targets),
      cmocka_unit_test(refuses_hostile_heads),
      cmocka_unit_test(bounds_lines_and_headers),
      cmocka_unit_test(decodes_paths),
      cmocka_unit_test(reads_chunks),
      cmocka_unit_test(refuses_hostile_chunks),
      cmocka_unit_test(bounds_extensions_and_trailers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
