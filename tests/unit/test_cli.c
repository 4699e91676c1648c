// The pure parts of the commands: durations, texts in a terminal, tables, the progress bar.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cli/follow.h"
#include "cli/log_position.h"
#include "cli/since.h"
#include "cli/table.h"
#include "cli/text.h"

// 2026-11-23T12:00:00Z
static const int64_t noon_us = INT64_C(1795435200000000);

static void must_read(const char *text, const char *expected) {
  char out[40];
  assert_true(bq_since_read(text, noon_us, out, sizeof out));
  assert_string_equal(out, expected);
}

static void durations_become_times(void **state) {
  (void)state;
  must_read("0s", "2026-11-23T12:00:00.000Z");
  must_read("90m", "2026-11-23T10:30:00.000Z");
  must_read("36h", "2026-11-22T00:00:00.000Z");
  must_read("1d", "2026-11-22T12:00:00.000Z");
  must_read("2w", "2026-11-09T12:00:00.000Z");
  must_read("999999999w", "1970-01-01T00:00:00.000Z"); // before all builds
}

static void times_stay_as_they_are(void **state) {
  (void)state;
  must_read("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z");
  must_read("2026-01-31T12:00:00.5+02:00", "2026-01-31T12:00:00.5+02:00");
}

static void what_is_neither_is_refused(void **state) {
  (void)state;
  static const char *const wrong[] = {"",    "d",     "1",    "1x",         "1D",  "-1d", " 1d",
                                      "1d ", "1.5h",  "1d2h", "yesterday",  "1dd", "1234567890s",
                                      "2026-01-31", "2026-01-31 12:00:00"};
  char out[40];
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    if (bq_since_read(wrong[i], noon_us, out, sizeof out)) fail_msg("%s was taken as %s", wrong[i], out);
  }
  assert_false(bq_since_read("2026-01-31T12:00:00Z", noon_us, out, 20)); // its NUL would not fit
  assert_true(bq_since_read("2026-01-31T12:00:00Z", noon_us, out, 21));
}

static void must_fit(const char *text, size_t columns, const char *expected, size_t used) {
  char out[64];
  assert_int_equal(bq_text_fit(out, sizeof out, text, columns), used);
  assert_string_equal(out, expected);
}

static void texts_are_cut_by_what_is_seen(void **state) {
  (void)state;
  must_fit("", 5, "", 0);
  must_fit("abc", 3, "abc", 3);
  must_fit("abcd", 3, "ab…", 3);
  must_fit("abcd", 1, "…", 1);
  must_fit("abcd", 0, "", 0);
  must_fit("Müller & Söhne", 6, "Mülle…", 6);
  must_fit("構築中", 6, "構築中", 6); // two columns each
  must_fit("構築中", 5, "構築…", 5);
  must_fit("構築中", 4, "構…", 3); // half of one can't be shown
  must_fit("e\xcc\x81t\xc3\xa9", 3, "e\xcc\x81t\xc3\xa9", 3); // a combining mark takes no room
  assert_int_equal(bq_text_columns("🚀 go"), 5);
}

static void texts_are_cut_to_the_buffer_at_a_character(void **state) {
  (void)state;
  char out[4];
  assert_int_equal(bq_text_fit(out, sizeof out, "aéé", 10), 2);
  assert_string_equal(out, "aé");
  out[0] = 'x';
  assert_int_equal(bq_text_fit(out, 0, "abc", 10), 0);
  assert_int_equal(out[0], 'x');
}

static void nothing_moves_the_cursor(void **state) {
  (void)state;
  must_fit("a\033[2Jb", 20, "a [2Jb", 6);
  must_fit("a\r\nb\tc\x7f", 20, "a  b c ", 7);
  must_fit("a\xc2\x9b" "2J", 20, "a 2J", 4);             // CSI as one character
  must_fit("abc\xe2\x80\xae" "txt", 20, "abc txt", 7);   // right-to-left override
  must_fit("a\xff" "b\xc3", 20, "a?b?", 4);               // no UTF-8
}

static const bq_table_column columns[] = {{"ID", 0, 0}, {"DONE", 1, 0}, {"CUSTOMER", 0, 1}, {"NAME", 0, 1}};
enum { COLUMN_COUNT = sizeof columns / sizeof columns[0] };

static void must_show(const bq_table *table, size_t width, const char *expected) {
  char *text = NULL;
  bq_error err;
  assert_int_equal(bq_table_text(table, width, &text, &err), 0);
  assert_string_equal(text, expected);
  bq_free(text);
}

static bq_table *two_rows(void) {
  bq_table *table = NULL;
  bq_error err;
  assert_int_equal(bq_table_new(&table, columns, COLUMN_COUNT, &err), 0);
  assert_int_equal(bq_table_add(table, (const char *[]){"one", "5%", "a customer", "nightly build"}, &err), 0);
  assert_int_equal(bq_table_add(table, (const char *[]){"three", "100%", "b", NULL}, &err), 0);
  return table;
}

static void a_table_is_as_wide_as_its_contents(void **state) {
  (void)state;
  bq_table *table = two_rows();
  static const char whole[] = "ID     DONE  CUSTOMER    NAME\n"
                              "one      5%  a customer  nightly build\n"
                              "three  100%  b\n";
  must_show(table, 0, whole);
  must_show(table, 200, whole);
  must_show(table, 38, whole);
  bq_table_free(table);
}

static void a_narrow_terminal_cuts_the_widest_first(void **state) {
  (void)state;
  bq_table *table = two_rows();
  must_show(table, 37, "ID     DONE  CUSTOMER    NAME\n"
                       "one      5%  a customer  nightly bui…\n"
                       "three  100%  b\n");
  must_show(table, 30, "ID     DONE  CUSTOMER  NAME\n"
                       "one      5%  a custo…  nightl…\n"
                       "three  100%  b\n");
  must_show(table, 5, "ID     DONE  CUSTOMER  NAME\n" // ids and figures are whole, titles too
                      "one      5%  a custo…  nig…\n"
                      "three  100%  b\n");
  bq_table_free(table);
}

static void a_table_may_be_long_or_empty(void **state) {
  (void)state;
  bq_table *table = NULL;
  bq_error err;
  assert_int_equal(bq_table_new(&table, columns, 1, &err), 0);
  must_show(table, 80, "ID\n");
  for (int i = 0; i < 100; i++) assert_int_equal(bq_table_add(table, (const char *[]){"x\033y"}, &err), 0);
  char *text = NULL;
  assert_int_equal(bq_table_text(table, 80, &text, &err), 0);
  assert_int_equal(strlen(text), 3 + 100 * 4);
  assert_null(strchr(text, '\033'));
  bq_free(text);
  bq_table_free(table);
}

static void must_draw(int percent, const char *step, int width, const char *expected) {
  char out[600];
  bq_follow_bar(out, sizeof out, percent, step, width);
  assert_string_equal(out, expected);
  assert_true(bq_text_columns(out) < (size_t)width || width < 10);
}

static void a_bar_fits_the_terminal(void **state) {
  (void)state;
  must_draw(0, "waiting", 80, "[..............................]   0% waiting");
  must_draw(50, "Building for target platforms", 80,
            "[###############...............]  50% Building for target platforms");
  must_draw(100, "Build complete", 80, "[##############################] 100% Build complete");
  must_draw(50, "Building for target platforms", 50, "[###############...............]  50% Building f…");
  must_draw(50, "Building", 29, "[##########..........]  50% ");
  must_draw(50, "Building", 4, "[]  50% ");
  must_draw(-1, "\033[31mred", 80, "[..............................]   0%  [31mred");
  must_draw(1000, "", 80, "[##############################] 100% ");
}

// Fed in pieces of every size.
static void must_be_at(const char *text, uint64_t from, uint64_t expected) {
  size_t length = strlen(text);
  for (size_t piece = 1; piece <= length; piece++) {
    bq_log_position position = {.offset = from};
    for (size_t at = 0; at < length; at += piece) {
      bq_log_position_feed(&position, text + at, length - at < piece ? length - at : piece);
    }
    if (position.offset != expected) fail_msg("pieces of %zu: %llu", piece, (unsigned long long)position.offset);
  }
}

static void a_log_is_counted_with_its_gaps(void **state) {
  (void)state;
  must_be_at("2026 out| one\n2026 out| two\n", 100, 128);
  must_be_at("2026 out| half a li", 0, 19);
  must_be_at("2026 out| one\n… 1000 bytes left out, it goes on at offset 1014 …\n2026 out| two\n", 0, 1028);
  must_be_at("… 70 bytes left out, it goes on at offset 90 …\n", 20, 90);
  must_be_at("2026 out| … 70 bytes left out, it goes on at offset 90 …\n", 0, 61); // somebody's own words
  must_be_at("… no mark\n", 0, 12);
}

static void a_gap_whose_mark_was_cut_is_asked_for_again(void **state) {
  (void)state;
  static const char half[] = "2026 out| one\n… 1000 bytes left out, it goes on at off";
  bq_log_position position = {0};
  bq_log_position_feed(&position, half, sizeof half - 1);
  bq_log_position_cut(&position);
  assert_int_equal(position.offset, 14);
  static const char whole[] = "… 1000 bytes left out, it goes on at offset 1014 …\nx";
  bq_log_position_feed(&position, whole, sizeof whole - 1);
  assert_int_equal(position.offset, 1015);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(durations_become_times),
      cmocka_unit_test(times_stay_as_they_are),
      cmocka_unit_test(what_is_neither_is_refused),
      cmocka_unit_test(texts_are_cut_by_what_is_seen),
      cmocka_unit_test(texts_are_cut_to_the_buffer_at_a_character),
      cmocka_unit_test(nothing_moves_the_cursor),
      cmocka_unit_test(a_table_is_as_wide_as_its_contents),
      cmocka_unit_test(a_narrow_terminal_cuts_the_widest_first),
      cmocka_unit_test(a_table_may_be_long_or_empty),
      cmocka_unit_test(a_bar_fits_the_terminal),
      cmocka_unit_test(a_log_is_counted_with_its_gaps),
      cmocka_unit_test(a_gap_whose_mark_was_cut_is_asked_for_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
