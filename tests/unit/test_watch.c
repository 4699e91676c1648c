// The watch: every way in which scripts change on disk is noticed, and many changes are one call.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/watch.h"
#include "support.h"

enum { QUIET_MS = 30, LONGEST_MS = 300, LIMIT_MS = 10000 };

typedef struct bench {
  bq_loop *loop;
  bq_pool *pool;
  bq_watch *watch;
  char *directory;
  int changes; // calls of `changed`
  int wanted;
  int64_t changed_us; // when it was called last
} bench;

static void changed(void *arg) {
  bench *b = arg;
  b->changes++;
  b->changed_us = bq_clock_mono_us();
}

static char *at(const bench *b, const char *path) {
  return bq_format("%s/%s", b->directory, path);
}

static void make_directory(const bench *b, const char *path) {
  char *whole = at(b, path);
  assert_int_equal(mkdir(whole, 0700), 0);
  bq_free(whole);
}

static void put(const bench *b, const char *path) {
  char *whole = at(b, path);
  int fd = open(whole, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, "x", 1), 1);
  (void)close(fd);
  bq_free(whole);
}

static void link_to(const bench *b, const char *target, const char *path) {
  char *whole = at(b, path);
  assert_int_equal(symlink(target, whole), 0);
  bq_free(whole);
}

static void rename_to(const bench *b, const char *from, const char *to) {
  char *old = at(b, from);
  char *new = at(b, to);
  assert_int_equal(rename(old, new), 0);
  bq_free(old);
  bq_free(new);
}

// A directory with scripts/a/f; other things are made by the test before it calls watch_root.
static void open_bench(bench *b) {
  bq_error err;
  memset(b, 0, sizeof *b);
  b->directory = support_make_directory();
  make_directory(b, "scripts");
  make_directory(b, "scripts/a");
  put(b, "scripts/a/f");
  assert_int_equal(bq_loop_new(&b->loop, &err), 0);
  assert_int_equal(bq_pool_new(&b->pool, b->loop, "watch-test", 1, 10, &err), 0);
}

static void watch_root(bench *b, const char *path) {
  bq_error err;
  char *root = at(b, path);
  const char *const roots[] = {root};
  const bq_watch_options options = {.roots = roots, .root_count = 1, .quiet_ms = QUIET_MS, .longest_ms = LONGEST_MS,
                                    .changed = changed, .arg = b};
  if (bq_watch_new(&b->watch, b->loop, b->pool, &options, &err) < 0) fail_msg("%s", err.message);
  bq_free(root);
}

static void close_bench(bench *b) {
  bq_watch_free(b->watch);
  bq_pool_free(b->pool);
  bq_loop_free(b->loop);
  support_remove_directory(b->directory);
}

static int has_changed(void *arg) {
  const bench *b = arg;
  return b->changes >= b->wanted;
}

static void expect_change(bench *b) {
  b->wanted = b->changes + 1;
  assert_true(support_run_until(b->loop, has_changed, b, LIMIT_MS));
  // What is left of this change must not be taken for the next one.
  b->wanted = b->changes + 1;
  while (support_run_until(b->loop, has_changed, b, 3 * QUIET_MS)) b->wanted = b->changes + 1;
}

static void expect_silence(bench *b) {
  b->wanted = b->changes + 1;
  assert_false(support_run_until(b->loop, has_changed, b, 5 * QUIET_MS));
}

static void notices_changes_of_files(void **state) {
  (void)state;
  bench b;
  open_bench(&b);
  watch_root(&b, "scripts");
  expect_silence(&b);
  put(&b, "scripts/a/f");
  expect_change(&b);
  put(&b, "scripts/new");
  expect_change(&b);
  put(&b, "scripts/temporary");
  expect_change(&b);
  rename_to(&b, "scripts/temporary", "scripts/a/f"); // as editors save
  expect_change(&b);
  char *path = at(&b, "scripts/a/f");
  assert_int_equal(unlink(path), 0);
  bq_free(path);
  expect_change(&b);
  put(&b, "beside"); // beside the root
  expect_silence(&b);
  close_bench(&b);
}

static void follows_new_directories(void **state) {
  (void)state;
  bench b;
  open_bench(&b);
  watch_root(&b, "scripts");
  make_directory(&b, "scripts/b");
  make_directory(&b, "scripts/b/c");
  expect_change(&b);
  put(&b, "scripts/b/c/f");
  expect_change(&b);
  rename_to(&b, "scripts/b", "gone");
  expect_change(&b);
  put(&b, "gone/c/f");
  expect_silence(&b);
  close_bench(&b);
}

static void notices_a_root_that_comes_and_goes(void **state) {
  (void)state;
  bench b;
  open_bench(&b);
  watch_root(&b, "later/scripts");
  expect_silence(&b);
  make_directory(&b, "later");
  expect_change(&b);
  make_directory(&b, "later/scripts");
  expect_change(&b);
  put(&b, "later/scripts/f");
  expect_change(&b);
  rename_to(&b, "later", "away");
  expect_change(&b);
  close_bench(&b);
}

static void notices_a_switched_link(void **state) {
  (void)state;
  bench b;
  open_bench(&b);
  make_directory(&b, "two");
  make_directory(&b, "two/scripts");
  make_directory(&b, "one");
  rename_to(&b, "scripts", "one/scripts");
  link_to(&b, "one", "current");
  watch_root(&b, "current/scripts");
  expect_silence(&b);
  link_to(&b, "two", "next");
  expect_silence(&b);
  rename_to(&b, "next", "current");
  expect_change(&b);
  put(&b, "two/scripts/f"); // the new release is watched now
  expect_change(&b);
  put(&b, "one/scripts/a/f"); // the old one isn't
  expect_silence(&b);
  close_bench(&b);
}

typedef struct writer {
  bench *b;
  bq_timer *timer;
} writer;

static void write_again(void *arg) {
  writer *w = arg;
  put(w->b, "scripts/a/f");
  bq_timer_set(w->timer, QUIET_MS / 3);
}

static void many_changes_are_one_call(void **state) {
  (void)state;
  bench b;
  bq_error err;
  open_bench(&b);
  watch_root(&b, "scripts");
  for (int i = 0; i < 100; i++) put(&b, "scripts/a/f");
  expect_change(&b);
  assert_int_equal(b.changes, 1);
  // One that never rests is told all the same, at `longest`.
  writer w = {.b = &b};
  assert_int_equal(bq_timer_new(&w.timer, b.loop, write_again, &w, &err), 0);
  int64_t since = bq_clock_mono_us();
  bq_timer_set(w.timer, 0);
  b.wanted = b.changes + 1;
  assert_true(support_run_until(b.loop, has_changed, &b, LIMIT_MS));
  assert_true(b.changed_us - since >= (LONGEST_MS - QUIET_MS) * 1000);
  bq_timer_free(w.timer);
  close_bench(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(notices_changes_of_files),          cmocka_unit_test(follows_new_directories),
      cmocka_unit_test(notices_a_root_that_comes_and_goes), cmocka_unit_test(notices_a_switched_link),
      cmocka_unit_test(many_changes_are_one_call),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
