// UUIDs: version 7, in the order of their milliseconds, never the same.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/uuid.h"

static int64_t milliseconds(const char *uuid) {
  char digits[13] = "";
  memcpy(digits, uuid, 8);
  memcpy(digits + 8, uuid + 9, 4);
  return strtoll(digits, NULL, 16);
}

static void makes_version_7(void **state) {
  (void)state;
  char before[BQ_UUID_SIZE] = "";
  bq_error err;
  for (int i = 0; i < 1000; i++) {
    char uuid[BQ_UUID_SIZE];
    int64_t from = bq_clock_wall_us() / 1000;
    assert_int_equal(bq_uuid_new(uuid, &err), 0);
    int64_t to = bq_clock_wall_us() / 1000;
    assert_true(bq_uuid_is(uuid));
    assert_int_equal(uuid[14], '7');
    assert_non_null(strchr("89ab", uuid[19]));
    assert_null(strpbrk(uuid, "ABCDEF"));
    assert_in_range(milliseconds(uuid), from, to);
    assert_true(strncmp(before, uuid, 13) <= 0); // the time is in front, so text order is the order of making
    assert_string_not_equal(before, uuid);
    memcpy(before, uuid, sizeof before);
  }
}

static void knows_uuids(void **state) {
  (void)state;
  assert_true(bq_uuid_is("00000000-0000-0000-0000-000000000000"));
  assert_true(bq_uuid_is("0190A0B0-c0d0-4EF0-8123-0123456789aB"));
  assert_false(bq_uuid_is(""));
  assert_false(bq_uuid_is("00000000-0000-0000-0000-00000000000"));
  assert_false(bq_uuid_is("00000000-0000-0000-0000-0000000000000"));
  assert_false(bq_uuid_is("00000000-0000-0000-0000-00000000000g"));
  assert_false(bq_uuid_is("00000000000000000000000000000000----"));
  assert_false(bq_uuid_is("{0000000-0000-0000-0000-00000000000}"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(makes_version_7), cmocka_unit_test(knows_uuids)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
