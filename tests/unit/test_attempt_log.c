// The attempt's log: lines and their stamps, masking, bounds, offsets across the gap, followers.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "queue/attempt_log.h"

static char dir[64];
static char path[128];

static bq_attempt_log *open_log(uint64_t max, const bq_mask_set *set) {
  bq_attempt_log *log;
  bq_error err = {0};
  assert_int_equal(bq_attempt_log_remove(path, &err), 0);
  if (bq_attempt_log_new(&log, path, max, set, &err) < 0 || bq_attempt_log_keep(log, &err) < 0) {
    fail_msg("%s", err.message);
  }
  return log;
}

// What came of making the file.
static int open_another(void) {
  bq_attempt_log *log;
  bq_error err;
  assert_int_equal(bq_attempt_log_new(&log, path, 0, NULL, &err), 0);
  int result = bq_attempt_log_keep(log, &err);
  bq_attempt_log_close(log);
  return result;
}

static bq_attempt_source *open_source(bq_attempt_log *log) {
  bq_attempt_source *source;
  bq_error err;
  assert_int_equal(bq_attempt_source_new(&source, log, &err), 0);
  return source;
}

static void put(bq_attempt_source *source, int stream, const char *text) {
  bq_attempt_source_write(source, stream, text, strlen(text));
}

// The whole log from `offset` on, read in pieces of `size` bytes.
static char *read_from(uint64_t offset, size_t size) {
  bq_buf all = {0};
  char *buffer = malloc(size);
  bq_error err = {0};
  for (;;) {
    size_t length;
    uint64_t next;
    if (bq_attempt_log_read(path, offset, buffer, size, &length, &next, &err) < 0) fail_msg("%s", err.message);
    if (length == 0) break;
    bq_buf_add(&all, buffer, length);
    assert_true(next > offset);
    offset = next;
  }
  uint64_t end;
  assert_int_equal(bq_attempt_log_end(path, &end, &err), 0);
  assert_int_equal(offset, end);
  free(buffer);
  bq_buf_add(&all, "", 0);
  return bq_buf_take(&all);
}

// Without the time stamps, which must look like one.
static char *plain(uint64_t offset) {
  char *text = read_from(offset, 4096);
  char *out = text;
  for (char *line = text; *line != '\0';) {
    char *end = strchr(line, '\n');
    assert_non_null(end);
    if (strncmp(line, "…", 3) != 0) {
      assert_true(end - line > 25);
      assert_true(line[4] == '-' && line[10] == 'T' && line[19] == '.' && line[23] == 'Z' && line[24] == ' ');
      line += 25;
    }
    size_t n = (size_t)(end + 1 - line);
    memmove(out, line, n);
    out += n;
    line = end + 1;
  }
  *out = '\0';
  return text;
}

static void expect(const char *expected) {
  char *text = plain(0);
  assert_string_equal(text, expected);
  free(text);
}

static void lines_are_stamped_and_named(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  bq_attempt_source *a = open_source(log), *b = open_source(log);
  bq_attempt_log_say(log, "step one\nof two\n");
  put(a, 1, "half of a");
  put(b, 1, "b\n");
  put(a, 2, "complaint\n");
  put(a, 1, " line\n\nnext\r\n\tcolour \x1b[31mred\n");
  put(b, 1, "no end");
  expect("sys| step one\nsys| of two\nout| b\nerr| complaint\nout| half of a line\nout| \nout| next\r\n"
         "out| \tcolour \x1b[31mred\n");
  bq_attempt_source_free(a);
  bq_attempt_source_free(b);
  expect("sys| step one\nsys| of two\nout| b\nerr| complaint\nout| half of a line\nout| \nout| next\r\n"
         "out| \tcolour \x1b[31mred\nout| no end\n");
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0640);
  assert_int_equal(bq_attempt_log_size(log), st.st_size);
  bq_attempt_log_close(log);
}

static void each_line_has_the_time_of_its_moment(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  char stamps[8][2][BQ_CLOCK_TEXT_SIZE]; // before and after each line
  for (int i = 0; i < 8; i++) {
    bq_clock_format(bq_clock_wall_us(), stamps[i][0]);
    bq_attempt_log_say(log, "line");
    bq_clock_format(bq_clock_wall_us(), stamps[i][1]);
    bq_clock_shift(i % 2 == 0 ? 3000 : (int64_t)86400 * 1000000);
  }
  char *text = read_from(0, 4096);
  for (int i = 0; i < 8; i++) {
    const char *line = text + (size_t)i * strlen("2026-11-23T21:36:17.123Z sys| line\n");
    assert_true(strncmp(line, stamps[i][0], BQ_CLOCK_TEXT_SIZE - 1) >= 0);
    assert_true(strncmp(line, stamps[i][1], BQ_CLOCK_TEXT_SIZE - 1) <= 0);
  }
  free(text);
  bq_attempt_log_close(log);
}

// So that a gap, which may come between two pieces, is never marked inside a line.
static void a_piece_ends_with_a_line(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  for (int i = 0; i < 100; i++) bq_attempt_log_say(log, "0123456789012345678901234567890123456789");
  char buffer[BQ_LOG_READ_BYTES + 1];
  size_t length;
  bq_error err;
  for (uint64_t offset = 0, next; offset < bq_attempt_log_size(log); offset = next) {
    assert_int_equal(bq_attempt_log_read(path, offset, buffer, sizeof buffer, &length, &next, &err), 0);
    assert_true(length > 0 && buffer[length - 1] == '\n');
    assert_int_equal(next, offset + length);
  }
  bq_attempt_log_close(log);
}

static void bad_bytes_are_made_safe(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  bq_attempt_source *s = open_source(log);
  static const char odd[] = "a\0b \xff \xc3\xa4 \xed\xa0\x80 \xc0\x80 \xf0\x9f\x98\x80\n";
  bq_attempt_source_write(s, 1, odd, sizeof odd - 1);
  bq_attempt_source_write(s, 1, "\xe2\x82", 2); // a character in two reads
  bq_attempt_source_write(s, 1, "\xac\n", 2);
  bq_attempt_source_write(s, 1, "cut \xe2\x82\n", 7);
#define BAD "\xef\xbf\xbd"
  expect("out| a" BAD "b " BAD " \xc3\xa4 " BAD BAD BAD " " BAD BAD " \xf0\x9f\x98\x80\nout| \xe2\x82\xac\n"
         "out| cut " BAD BAD "\n");
  bq_attempt_source_free(s);
  bq_attempt_log_close(log);
}

static void long_lines_come_in_pieces(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  bq_attempt_source *s = open_source(log);
  char *text = malloc(40001);
  for (int i = 0; i < 40000; i += 2) memcpy(text + i, "\xc3\xa4", 2);
  text[40000] = '\0';
  put(s, 1, "x"); // the characters are at odd places now
  put(s, 1, text);
  put(s, 1, "\nnext\n");
  char *out = plain(0);
  assert_null(strstr(out, BAD)); // no character was cut in two
  assert_true(strncmp(out, "out| x\xc3\xa4", 8) == 0);
  char *second = strstr(out, "\nout+ ");
  assert_non_null(second);
  assert_true(second - out <= BQ_LOG_LINE_BYTES + 5);
  assert_non_null(strstr(second + 1, "\nout+ "));
  assert_non_null(strstr(out, "\nout| next\n"));
  size_t count = 0;
  for (char *c = out; *c != '\0'; c++) count += *c == '\xa4';
  assert_int_equal(count, 20000);
  free(out);
  free(text);
  bq_attempt_source_free(s);
  bq_attempt_log_close(log);
}

static void secrets_stay_out(void **state) {
  (void)state;
  bq_mask_set *set;
  bq_error err;
  assert_int_equal(bq_mask_set_new(&set, NULL, &err), 0);
  assert_int_equal(bq_mask_set_add(set, "hunter22", 8, &err), 0);
  bq_attempt_log *log = open_log(0, set);
  bq_attempt_source *s = open_source(log);
  put(s, 1, "token hun");
  put(s, 2, "unrelated\n");
  put(s, 1, "ter22 used\n");
  bq_attempt_log_say(log, "with hunter22");
  put(s, 1, "last hunte");
  bq_attempt_source_end(s);
  expect("err| unrelated\nout| token *** used\nsys| with ***\nout| last hunte\n");
  bq_buf last = {0};
  bq_attempt_log_last(log, 3, &last);
  assert_string_equal(last.data, "token *** used\nwith ***\nlast hunte\n");
  bq_buf_clear(&last);
  bq_attempt_source_last(s, 2, &last);
  assert_string_equal(last.data, "token *** used\nlast hunte\n");
  bq_buf_free(&last);
  bq_attempt_source_free(s);
  bq_attempt_log_close(log);
  bq_mask_set_free(set);
}

static uint64_t disk_bytes(void) {
  uint64_t sum = 0;
  const char *suffixes[] = {"", ".tail", ".tail.old"};
  for (int i = 0; i < 3; i++) {
    char name[160];
    struct stat st;
    (void)snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
    if (stat(name, &st) == 0) sum += (uint64_t)st.st_size;
  }
  return sum;
}

static void a_capped_log_keeps_head_and_tail(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(BQ_LOG_MIN_BYTES, NULL);
  bq_attempt_source *s = open_source(log);
  enum { COUNT = 30000 };
  uint64_t middle = 0; // where a line of the tail begins
  for (int i = 0; i < COUNT; i++) {
    char line[64];
    if (i == COUNT - 100) middle = bq_attempt_log_size(log);
    (void)snprintf(line, sizeof line, "line %d\n", i);
    put(s, 1, line);
    if (i % 1000 == 0) assert_true(disk_bytes() <= BQ_LOG_MIN_BYTES);
  }
  assert_true(bq_attempt_log_size(log) > BQ_LOG_MIN_BYTES);
  char *text = plain(0);
  assert_true(strncmp(text, "out| line 0\nout| line 1\n", 24) == 0);
  char *mark = strstr(text, "…");
  assert_non_null(mark);
  assert_null(strstr(strstr(mark, "\n"), "…")); // one gap
  // What stands in front of the mark and behind it is whole and without holes.
  int expected = 0, value;
  char *line = text;
  for (; line < mark; line = strchr(line, '\n') + 1) {
    assert_int_equal(sscanf(line, "out| line %d", &value), 1);
    assert_int_equal(value, expected++);
  }
  assert_true(expected > 1000);
  line = strchr(line, '\n') + 1;
  assert_int_equal(sscanf(line, "out| line %d", &expected), 1);
  assert_true(expected < COUNT - 1000);
  for (; *line != '\0'; line = strchr(line, '\n') + 1) {
    assert_int_equal(sscanf(line, "out| line %d", &value), 1);
    assert_int_equal(value, expected++);
  }
  assert_int_equal(expected, COUNT);
  free(text);
  // The mark counts right: head + gap + tail is what was written.
  char *raw = read_from(0, 777);
  char *gap = strstr(raw, "…");
  unsigned long long left_out, goes_on;
  assert_int_equal(sscanf(gap, "… %llu bytes left out, it goes on at offset %llu …", &left_out, &goes_on), 2);
  assert_int_equal((uint64_t)(gap - raw) + left_out, goes_on);
  assert_int_equal(goes_on + strlen(strchr(gap, '\n') + 1), bq_attempt_log_size(log));
  free(raw);
  text = plain(middle);
  assert_int_equal(strncmp(text, "out| line 29900\n", 16), 0);
  free(text);
  text = read_from(bq_attempt_log_size(log), 128);
  assert_string_equal(text, "");
  free(text);
  bq_attempt_source_free(s);
  bq_attempt_log_close(log);
}

typedef struct listener {
  bq_attempt_follower *follower;
  uint64_t size;
  int told;
  int ended;
  int leave; // unfollows at the first word
} listener;

static void told(void *arg, uint64_t size, int ended) {
  listener *l = arg;
  l->size = size;
  l->told++;
  l->ended += ended;
  if (l->leave) bq_attempt_log_unfollow(l->follower);
}

static void followers_are_told(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  bq_attempt_source *s = open_source(log);
  bq_error err;
  listener a = {0}, b = {.leave = 1}, c = {0};
  assert_int_equal(bq_attempt_log_follow(&a.follower, log, told, &a, &err), 0);
  assert_int_equal(bq_attempt_log_follow(&b.follower, log, told, &b, &err), 0);
  assert_int_equal(bq_attempt_log_follow(&c.follower, log, told, &c, &err), 0);
  put(s, 1, "no line yet");
  assert_int_equal(a.told, 0);
  put(s, 1, "\n");
  assert_int_equal(a.told, 1);
  assert_int_equal(a.size, bq_attempt_log_size(log));
  assert_int_equal(b.told, 1);
  bq_attempt_log_unfollow(c.follower);
  put(s, 1, "more\n");
  assert_int_equal(a.told, 2);
  assert_int_equal(b.told, 1);
  assert_int_equal(c.told, 1);
  char *text = read_from(0, 128);
  assert_int_equal(strlen(text), a.size); // what was told of can be read
  free(text);
  bq_attempt_source_free(s);
  bq_attempt_log_close(log);
  assert_int_equal(a.ended, 1);
  assert_int_equal(b.ended + c.ended, 0);
}

static void logs_are_not_shared_or_followed_through_links(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(0, NULL);
  bq_error err;
  assert_int_equal(open_another(), BQ_ECONFLICT);
  bq_attempt_log_close(log);
  assert_int_equal(bq_attempt_log_remove(path, &err), 0);
  char buffer[BQ_LOG_READ_BYTES];
  size_t length;
  uint64_t next;
  assert_int_equal(bq_attempt_log_read(path, 0, buffer, sizeof buffer, &length, &next, &err), BQ_ENOTFOUND);
  assert_int_equal(symlink("/etc/hostname", path), 0);
  assert_true(bq_attempt_log_read(path, 0, buffer, sizeof buffer, &length, &next, &err) < 0);
  assert_true(open_another() < 0);
}

static void a_short_log_stays_in_memory(void **state) {
  (void)state;
  bq_attempt_log *log;
  bq_error err;
  size_t length;
  char *text;
  assert_int_equal(bq_attempt_log_remove(path, &err), 0);
  assert_int_equal(bq_attempt_log_new(&log, path, 0, NULL, &err), 0);
  bq_attempt_log_say(log, "one line");
  assert_int_equal(access(path, F_OK), -1);
  assert_non_null(strstr(bq_attempt_log_text(log, &length), "sys| one line\n"));
  assert_int_equal(bq_attempt_log_size(log), length);
  for (int i = 0; i < 100; i++) bq_attempt_log_say(log, "a line that makes it too long for memory, with the others");
  assert_null(bq_attempt_log_text(log, &length));
  text = read_from(0, 4096);
  assert_int_equal(strlen(text), bq_attempt_log_size(log)); // nothing is left behind
  assert_ptr_equal(strstr(text, "sys| "), strstr(text, "sys| one line\n"));
  free(text);
  bq_attempt_log_close(log);
  // A command's output makes it one from its first byte on.
  assert_int_equal(bq_attempt_log_remove(path, &err), 0);
  assert_int_equal(bq_attempt_log_new(&log, path, 0, NULL, &err), 0);
  bq_attempt_log_say(log, "before");
  bq_attempt_source *source = open_source(log);
  put(source, 1, "output\n");
  text = read_from(0, 4096);
  assert_non_null(strstr(text, "sys| before\n"));
  assert_non_null(strstr(text, "out| output\n"));
  free(text);
  bq_attempt_source_free(source);
  bq_attempt_log_close(log);
}

static void a_full_disk_harms_nobody(void **state) {
  (void)state;
  bq_attempt_log *log = open_log(BQ_LOG_MIN_BYTES, NULL);
  bq_attempt_source *s = open_source(log);
  char tail[160];
  (void)snprintf(tail, sizeof tail, "%s.tail", path);
  assert_int_equal(mkdir(tail, 0700), 0); // the tail can't be made
  int silent = open("/dev/null", O_WRONLY | O_CLOEXEC);
  bq_log_setup_fd(silent);
  for (int i = 0; i < 20000; i++) put(s, 1, "a line of some length\n");
  uint64_t size = bq_attempt_log_size(log);
  assert_true(size <= BQ_LOG_MIN_BYTES / 2);
  put(s, 1, "the last one\n");
  assert_int_equal(bq_attempt_log_size(log), size);
  bq_buf last = {0};
  bq_attempt_log_last(log, 1, &last); // memory still has it
  assert_string_equal(last.data, "the last one\n");
  bq_buf_free(&last);
  bq_attempt_source_free(s);
  bq_attempt_log_close(log);
  bq_log_setup_fd(STDERR_FILENO);
  close(silent);
  assert_int_equal(rmdir(tail), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lines_are_stamped_and_named), cmocka_unit_test(each_line_has_the_time_of_its_moment),
      cmocka_unit_test(a_piece_ends_with_a_line),
      cmocka_unit_test(bad_bytes_are_made_safe),
      cmocka_unit_test(long_lines_come_in_pieces),
      cmocka_unit_test(secrets_stay_out),
      cmocka_unit_test(a_capped_log_keeps_head_and_tail),
      cmocka_unit_test(followers_are_told),
      cmocka_unit_test(a_short_log_stays_in_memory),
      cmocka_unit_test(logs_are_not_shared_or_followed_through_links),
      cmocka_unit_test(a_full_disk_harms_nobody),
  };
  (void)snprintf(dir, sizeof dir, "/tmp/bq-log-XXXXXX");
  if (mkdtemp(dir) == NULL) return 1;
  (void)snprintf(path, sizeof path, "%s/attempt-1.log", dir);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  bq_error err;
  if (bq_attempt_log_remove(path, &err) < 0 || rmdir(dir) < 0) perror(dir);
  return failed;
}
