// Signed links to stop mails: what is in them comes out, nothing that was changed is taken, the length of a line holds.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "queue/unsubscribe.h"

static char url_option[] = "https://builds.example.org/notifications/unsubscribe";
static char secret[] = "0123456789abcdef0123456789abcdef";
static char other_secret[] = "0123456789abcdef0123456789abcdeg";
static char none[] = "";
static const bq_config config = {.email_unsubscribe_url = url_option, .email_unsubscribe_secret = secret};
static bq_error err;

// The token of a link of this; the caller's.
static char *token(const char *event, const char *customer, const char *recipient) {
  char *url = NULL;
  assert_int_equal(bq_unsubscribe_url(&url, &config, event, customer, recipient, &err), 0);
  assert_non_null(url);
  char *begin = strstr(url, "?token=");
  assert_ptr_equal(begin, url + strlen(url_option));
  char *copy = bq_strdup(begin + strlen("?token="));
  assert_non_null(copy);
  // Nothing in it needs an escape, in a URL or in a header.
  assert_int_equal(strspn(copy, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."), strlen(copy));
  bq_free(url);
  return copy;
}

static void what_went_in_comes_out(void **state) {
  (void)state;
  static const char *const rows[][3] = {{"completed", "acme", "ops@acme.example"},
                                        {"queued", "Köln & <Söhne>", "a+b@c.example"},
                                        {"failed", "", "x@y.example"},
                                        {"", "", ""},
                                        {"x", "🏗️", "ü@ö.example"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char *text = token(rows[i][0], rows[i][1], rows[i][2]);
    bq_unsubscribe read;
    assert_int_equal(bq_unsubscribe_read(&read, &config, text, &err), 0);
    assert_string_equal(read.event, rows[i][0]);
    assert_string_equal(read.customer, rows[i][1]);
    assert_string_equal(read.recipient, rows[i][2]);
    bq_unsubscribe_free(&read);
    bq_free(text);
  }
}

static void refuse(const bq_config *with, const char *text) {
  bq_unsubscribe read;
  int result = bq_unsubscribe_read(&read, with, text, &err);
  if (result != BQ_EINVAL) fail_msg("%s: %d", text, result);
  assert_null(read.recipient);
}

static void what_was_changed_is_refused(void **state) {
  (void)state;
  char *text = token("completed", "acme", "ops@acme.example");
  size_t length = strlen(text);
  for (size_t i = 0; i < length; i++) { // any character, and any end
    char old = text[i];
    text[i] = old == 'A' ? 'B' : 'A';
    refuse(&config, text);
    text[i] = '\0';
    refuse(&config, text);
    text[i] = old;
  }
  char *longer = bq_format("%sA", text);
  refuse(&config, longer);
  bq_free(longer);
  longer = bq_format("%s=", text);
  refuse(&config, longer);
  bq_free(longer);
  refuse(&config, "");
  refuse(&config, ".");
  refuse(&config, "..........................................");
  const bq_config rotated = {.email_unsubscribe_url = url_option, .email_unsubscribe_secret = other_secret};
  refuse(&rotated, text);
  const bq_config off = {.email_unsubscribe_url = url_option, .email_unsubscribe_secret = none};
  refuse(&off, text);
  bq_free(text);
}

// Another split of the same letters is another payload.
static void parts_do_not_run_together(void **state) {
  (void)state;
  char *one = token("ab", "c", "d");
  char *other = token("a", "bc", "d");
  assert_string_not_equal(one, other);
  bq_free(one);
  bq_free(other);
}

static void there_is_no_link_without_options_or_that_breaks_a_line(void **state) {
  (void)state;
  char *url = NULL;
  const bq_config no_url = {.email_unsubscribe_url = none, .email_unsubscribe_secret = secret};
  const bq_config no_secret = {.email_unsubscribe_url = url_option, .email_unsubscribe_secret = none};
  assert_int_equal(bq_unsubscribe_url(&url, &no_url, "queued", "a", "b", &err), 0);
  assert_null(url);
  assert_int_equal(bq_unsubscribe_url(&url, &no_secret, "queued", "a", "b", &err), 0);
  assert_null(url);
  char customer[801];
  size_t shortest = 0;
  for (size_t length = 1; length < sizeof customer; length++) {
    memset(customer, 'c', length);
    customer[length] = '\0';
    assert_int_equal(bq_unsubscribe_url(&url, &config, "queued", customer, "a@b.example", &err), 0);
    if (url == NULL && shortest == 0) shortest = length;
    if (url != NULL) assert_true(shortest == 0 && strlen(url) <= BQ_UNSUBSCRIBE_MAX_URL);
    bq_free(url);
  }
  assert_in_range(shortest, 500, 700);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_went_in_comes_out),
      cmocka_unit_test(what_was_changed_is_refused),
      cmocka_unit_test(parts_do_not_run_together),
      cmocka_unit_test(there_is_no_link_without_options_or_that_breaks_a_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
