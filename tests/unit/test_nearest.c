// The nearest known word: distances, ties, and when no guess is better than a bad one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/nearest.h"

static void distances(void **state) {
  (void)state;
  assert_int_equal(bq_nearest_distance("", ""), 0);
  assert_int_equal(bq_nearest_distance("Listen", "lISTEN"), 0);
  assert_int_equal(bq_nearest_distance("Listen", "Lisen"), 1);
  assert_int_equal(bq_nearest_distance("Lisen", "Listen"), 1);
  assert_int_equal(bq_nearest_distance("Listen", "Lixten"), 1);
  assert_int_equal(bq_nearest_distance("Listen", "Lisetn"), 1); // neighbours swapped
  assert_int_equal(bq_nearest_distance("kitten", "sitting"), 3);
  assert_int_equal(bq_nearest_distance("abc", ""), 3);
  assert_int_equal(bq_nearest_distance("a", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), SIZE_MAX);
}

static void nearest(void **state) {
  (void)state;
  static const char *const words[] = {"serve", "check", "migrate", "status", NULL};
  assert_string_equal(bq_nearest("chekc", words), "check");
  assert_string_equal(bq_nearest("SERV", words), "serve");
  assert_string_equal(bq_nearest("stats", words), "status");
  assert_null(bq_nearest("zebra crossing", words));
  static const char *const tied[] = {"ab", "ac", NULL};
  assert_string_equal(bq_nearest("ad", tied), "ab");
  static const char *const none[] = {NULL};
  assert_null(bq_nearest("x", none));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(distances), cmocka_unit_test(nearest)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
