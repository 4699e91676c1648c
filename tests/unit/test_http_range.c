// Ranges and conditions.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/http_range.h"

typedef struct range_case {
  const char *value;
  int64_t size;
  bq_range_kind kind;
  int64_t first, last; // of PART
} range_case;

static void test_ranges(void **state) {
  (void)state;
  static const range_case cases[] = {
      {NULL, 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=0-0", 10, BQ_RANGE_PART, 0, 0},
      {"bytes=2-5", 10, BQ_RANGE_PART, 2, 5},
      {"Bytes=2-5", 10, BQ_RANGE_PART, 2, 5},
      {"bytes=2-", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=9-", 10, BQ_RANGE_PART, 9, 9},
      {"bytes=2-99", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=2-99999999999999999999999", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=-3", 10, BQ_RANGE_PART, 7, 9},
      {"bytes=-10", 10, BQ_RANGE_PART, 0, 9},
      {"bytes=-99999999999999999999999", 10, BQ_RANGE_PART, 0, 9},
      {"bytes=5000000000-", 6000000000, BQ_RANGE_PART, 5000000000, 5999999999},
      {"bytes=10-", 10, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=10-20", 10, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=99999999999999999999999-", 10, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=-0", 10, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=0-", 0, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=-1", 0, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=0-1,3-4", 10, BQ_RANGE_ALL, 0, 0}, // several: the whole file is a right answer
      {"bytes=5-2", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=-", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=a-b", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=1-2x", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=+1-2", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=1", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes =1-2", 10, BQ_RANGE_ALL, 0, 0},
      {"lines=1-2", 10, BQ_RANGE_ALL, 0, 0},
      {"", 10, BQ_RANGE_ALL, 0, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const range_case *c = &cases[i];
    int64_t first = -1;
    int64_t last = -1;
    bq_range_kind kind = bq_http_range(c->value, c->size, &first, &last);
    if (kind != c->kind) fail_msg("%s: %d", c->value != NULL ? c->value : "no range", (int)kind);
    if (kind == BQ_RANGE_PART && (first != c->first || last != c->last)) {
      fail_msg("%s: %lld to %lld", c->value, (long long)first, (long long)last);
    }
  }
}

static void test_none_match(void **state) {
  (void)state;
  assert_false(bq_http_none_match(NULL, "\"a\""));
  assert_false(bq_http_none_match("", "\"a\""));
  assert_true(bq_http_none_match("*", "\"a\""));
  assert_true(bq_http_none_match("\"a\"", "\"a\""));
  assert_true(bq_http_none_match("W/\"a\"", "\"a\"")); // weak comparison
  assert_true(bq_http_none_match("\"b,c\", W/\"d\" ,\"a\"", "\"a\""));
  assert_false(bq_http_none_match("\"b\", \"aa\"", "\"a\""));
  assert_false(bq_http_none_match("a", "\"a\""));
  assert_false(bq_http_none_match("\"a", "\"a\""));
  assert_false(bq_http_none_match("\"b, \"a\"", "\"a\""));
}

static void test_if_range(void **state) {
  (void)state;
  assert_true(bq_http_if_range(NULL, "\"a\""));
  assert_true(bq_http_if_range("\"a\"", "\"a\""));
  assert_false(bq_http_if_range("W/\"a\"", "\"a\"")); // strong comparison
  assert_false(bq_http_if_range("\"b\"", "\"a\""));
  assert_false(bq_http_if_range("Mon, 23 Nov 2026 22:52:24 GMT", "\"a\""));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranges), cmocka_unit_test(test_none_match),
                                     cmocka_unit_test(test_if_range)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
