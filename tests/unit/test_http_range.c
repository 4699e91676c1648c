// Ranges and conditions, as RFC 9110 reads them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/http_range.h"

static void reads_ranges(void **state) {
  (void)state;
  static const struct {
    const char *value;
    int64_t size;
    bq_range_kind kind;
    int64_t first, last; // of PART
  } rows[] = {
      {NULL, 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=0-0", 10, BQ_RANGE_PART, 0, 0},
      {"bytes=2-5", 10, BQ_RANGE_PART, 2, 5},
      {"BYTES=2-", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=2-9", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=2-10", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=2-999999999999999999", 10, BQ_RANGE_PART, 2, 9},
      {"bytes=-3", 10, BQ_RANGE_PART, 7, 9},
      {"bytes=-30", 10, BQ_RANGE_PART, 0, 9},
      {"bytes=-0", 10, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=10-", 10, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=0-", 0, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=-5", 0, BQ_RANGE_UNSATISFIABLE, 0, 0},
      {"bytes=5-2", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=0-1,3-4", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=-", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=a-b", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=1-2x", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=1", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=+1-2", 10, BQ_RANGE_ALL, 0, 0},
      {"bytes=9999999999999999999-", 10, BQ_RANGE_ALL, 0, 0},
      {"lines=1-2", 10, BQ_RANGE_ALL, 0, 0},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    int64_t first = -1, last = -1;
    bq_range_kind kind = bq_http_range(rows[i].value, rows[i].size, &first, &last);
    if (kind != rows[i].kind) fail_msg("%s: %d", rows[i].value, (int)kind);
    if (kind != BQ_RANGE_PART) continue;
    if (first != rows[i].first || last != rows[i].last) {
      fail_msg("%s: %lld to %lld", rows[i].value, (long long)first, (long long)last);
    }
  }
}

static void compares_tags(void **state) {
  (void)state;
  static const struct {
    const char *value;
    int matches;
  } rows[] = {
      {NULL, 0},           {"\"a\"", 1},      {"W/\"a\"", 1},     {"*", 1},        {"\"b\", \"a\"", 1},
      {"\"b\",W/\"a\"", 1}, {"\"b\"", 0},     {"a", 0},           {"\"a", 0},      {"\"ab\"", 0},
      {"", 0},             {"\"b\" \"a\"", 1}, {"\"x, \"a\"", 0},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    if (bq_http_none_match(rows[i].value, "\"a\"") != rows[i].matches) fail_msg("%s", rows[i].value);
  }
  assert_true(bq_http_if_range(NULL, "\"a\""));
  assert_true(bq_http_if_range("\"a\"", "\"a\""));
  assert_false(bq_http_if_range("W/\"a\"", "\"a\""));
  assert_false(bq_http_if_range("\"b\"", "\"a\""));
  assert_false(bq_http_if_range("Wed, 21 Oct 2015 07:28:00 GMT", "\"a\""));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(reads_ranges), cmocka_unit_test(compares_tags)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
