// Copying between trees: contents, permissions, links, and what is refused.
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

#include "base/memory.h"
#include "io/tree.h"
#include "support.h"

typedef struct bench {
  char *directory;
  char *from; // two roots
  char *to;
} bench;

static void open_bench(bench *b) {
  b->directory = support_make_directory();
  b->from = bq_format("%s/from", b->directory);
  b->to = bq_format("%s/to", b->directory);
  assert_int_equal(mkdir(b->from, 0700), 0);
  assert_int_equal(mkdir(b->to, 0700), 0);
}

static void close_bench(bench *b) {
  support_remove_directory(b->directory);
  bq_free(b->from);
  bq_free(b->to);
}

static void put(const char *root, const char *path, const char *text, mode_t mode) {
  char *whole = bq_format("%s/%s", root, path);
  int fd = open(whole, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  assert_int_equal(fchmod(fd, mode), 0);
  (void)close(fd);
  bq_free(whole);
}

static void assert_file(const char *root, const char *path, const char *text, mode_t mode) {
  char content[100] = "";
  struct stat info;
  char *whole = bq_format("%s/%s", root, path);
  int fd = open(whole, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) fail_msg("%s can't be opened", whole);
  assert_true(read(fd, content, sizeof content - 1) >= 0);
  assert_string_equal(content, text);
  assert_int_equal(fstat(fd, &info), 0);
  assert_int_equal(info.st_mode & 07777, mode);
  (void)close(fd);
  bq_free(whole);
}

static void link_to(const char *root, const char *target, const char *path) {
  char *whole = bq_format("%s/%s", root, path);
  assert_int_equal(symlink(target, whole), 0);
  bq_free(whole);
}

static int exists(const char *root, const char *path) {
  struct stat info;
  char *whole = bq_format("%s/%s", root, path);
  int found = lstat(whole, &info) == 0;
  bq_free(whole);
  return found;
}

static void copies_files(void **state) {
  (void)state;
  bench b;
  bq_error err;
  uint64_t size;
  open_bench(&b);
  put(b.from, "plain", "text", 0666);
  put(b.from, "program", "run", 0777);
  mode_t before = umask(077);
  int result = bq_tree_copy_file(b.from, "plain", b.to, "x/y/plain", &size, &err);
  if (result == 0) result = bq_tree_copy_file(b.from, "program", b.to, "program", &size, &err);
  (void)umask(before);
  assert_int_equal(result, 0);
  assert_int_equal(size, 3);
  assert_int_equal(bq_tree_copy_file(b.from, "plain", b.to, "program", &size, &err), BQ_ECONFLICT);
  assert_file(b.to, "program", "run", 0750);
  assert_file(b.to, "x/y/plain", "text", 0640);
  assert_int_equal(bq_tree_copy_file(b.from, "none", b.to, "z", &size, &err), BQ_ENOTFOUND);
  assert_int_equal(bq_tree_copy_file(b.from, ".", b.to, "z", &size, &err), BQ_EINVAL);
  assert_int_equal(bq_tree_copy_file(b.from, "../from/plain", b.to, "z", &size, &err), BQ_EINVAL);
  assert_int_equal(bq_tree_copy_file(b.from, "plain", b.to, "../z", &size, &err), BQ_EINVAL);
  assert_false(exists(b.to, "z"));
  close_bench(&b);
}

static void copies_trees(void **state) {
  (void)state;
  bench b;
  bq_error err;
  int is_directory;
  open_bench(&b);
  assert_int_equal(bq_tree_make(b.from, "tree/deep/empty", &err), 0);
  put(b.from, "tree/deep/f", "text", 0600);
  link_to(b.from, "deep/f", "tree/inner");
  link_to(b.from, "/etc/passwd", "tree/outer");
  char *fifo = bq_format("%s/tree/fifo", b.from);
  assert_int_equal(mkfifo(fifo, 0600), 0);
  bq_free(fifo);
  assert_int_equal(bq_tree_copy(b.from, "tree", b.to, "a/b", &is_directory, &err), 0);
  assert_true(is_directory);
  assert_file(b.to, "a/b/deep/f", "text", 0640);
  assert_true(exists(b.to, "a/b/deep/empty"));
  assert_false(exists(b.to, "a/b/fifo"));
  char target[100] = "";
  char *outer = bq_format("%s/a/b/outer", b.to);
  assert_int_equal(readlink(outer, target, sizeof target - 1), 11); // copied, not followed
  bq_free(outer);
  assert_string_equal(target, "/etc/passwd");
  assert_int_equal(bq_tree_copy(b.from, "tree/deep/f", b.to, "g", &is_directory, &err), 0);
  assert_false(is_directory);
  assert_int_equal(bq_tree_copy(b.from, "tree/outer", b.to, "h", &is_directory, &err), BQ_EINVAL);
  assert_int_equal(bq_tree_copy(b.from, "tree", b.to, "a/b", &is_directory, &err), BQ_ECONFLICT);
  close_bench(&b);
}

static void writes_through_no_link(void **state) {
  (void)state;
  bench b;
  bq_error err;
  int is_directory;
  open_bench(&b);
  put(b.from, "f", "text", 0600);
  link_to(b.to, "../from", "out");
  assert_int_equal(bq_tree_copy(b.from, "f", b.to, "out/g", &is_directory, &err), BQ_EINVAL);
  link_to(b.to, "../from/h", "dangling");
  assert_int_equal(bq_tree_copy(b.from, "f", b.to, "dangling", &is_directory, &err), BQ_ECONFLICT);
  assert_false(exists(b.from, "g"));
  assert_false(exists(b.from, "h"));
  close_bench(&b);
}

static void copies_into_itself_once(void **state) {
  (void)state;
  bench b;
  bq_error err;
  int is_directory;
  open_bench(&b);
  put(b.from, "f", "text", 0600);
  assert_int_equal(bq_tree_copy(b.from, ".", b.from, "copy", &is_directory, &err), 0);
  assert_file(b.from, "copy/f", "text", 0640);
  assert_false(exists(b.from, "copy/copy"));
  close_bench(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(copies_files), cmocka_unit_test(copies_trees),
                                     cmocka_unit_test(writes_through_no_link),
                                     cmocka_unit_test(copies_into_itself_once)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
