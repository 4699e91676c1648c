// Valid, broken and cut UTF-8.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/utf8.h"

static void test_characters(void **state) {
  (void)state;
  assert_int_equal(bq_utf8_character("a", 1), 1);
  assert_int_equal(bq_utf8_character("\xc3\xbc", 2), 2);
  assert_int_equal(bq_utf8_character("\xe2\x82\xac", 3), 3);
  assert_int_equal(bq_utf8_character("\xf0\x9f\x98\x80", 4), 4);
  assert_int_equal(bq_utf8_character("\xc3\xbc", 1), 0);
  static const char *const none[] = {"", "\x80", "\xff", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80",
                                     "\xf4\x90\x80\x80", "\xc3("};
  for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
    assert_int_equal(bq_utf8_character(none[i], strlen(none[i])), 0);
    if (*none[i] != '\0') assert_false(bq_utf8_is(none[i], strlen(none[i])));
  }
  assert_true(bq_utf8_is("", 0));
  assert_true(bq_utf8_is("a\xc3\xbc\xe2\x82\xac", 6));
  assert_false(bq_utf8_is("a\xc3\xbc\xe2\x82\xac", 5));
  assert_false(bq_utf8_is("a\0b", 3));
}

static void test_ascii(void **state) {
  (void)state;
  static const char others[] = {'\0', '\x80', '\xc3', '\xff'};
  char text[40];
  for (size_t at = 0; at < sizeof text; at++) {
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 3 == 0 ? '\x01' : i % 3 == 1 ? '\x7f' : 'a';
    assert_int_equal(bq_utf8_ascii(text, at), at);
    for (size_t i = 0; i < sizeof others; i++) {
      text[at] = others[i];
      assert_int_equal(bq_utf8_ascii(text, sizeof text), at);
    }
  }
}

static void test_clean(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"", ""},
                                         {"plain", "plain"},
                                         {"\xc3\xbc", "\xc3\xbc"},
                                         {"a\xff" "b", "a?b"},
                                         {"a\xc3", "a"},
                                         {"a\xf0\x9f\x98", "a"},
                                         {"\xc3(", "?("},
                                         {"\xed\xa0\x80", "???"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char text[16];
    (void)snprintf(text, sizeof text, "%s", cases[i][0]);
    bq_utf8_clean(text);
    assert_string_equal(text, cases[i][1]);
  }
}

// An error that had to be cut is text still.
static void test_long_errors(void **state) {
  (void)state;
  for (int shift = 0; shift < 3; shift++) {
    char text[3100];
    size_t at = 0;
    for (int i = 0; i < shift; i++) text[at++] = 'x';
    while (at < 3000) {
      memcpy(text + at, "\xe2\x82\xac", 3);
      at += 3;
    }
    text[at] = '\0';
    bq_error err;
    (void)bq_fail(&err, BQ_EINVAL, "%s", text);
    char clean[sizeof err.message];
    (void)snprintf(clean, sizeof clean, "%s", err.message);
    bq_utf8_clean(clean);
    assert_string_equal(clean, err.message);
    assert_true(strlen(err.message) > sizeof err.message - 5);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_characters), cmocka_unit_test(test_ascii),
                                     cmocka_unit_test(test_clean), cmocka_unit_test(test_long_errors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
