// Trees: nothing leaves its root, removal reaches everything inside and nothing outside.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/hash.h"
#include "io/tree.h"

enum { NOBODY = 65534 };

static char base[64];  // holds root and outside
static char root[80];  // the tree under test
static char other[80]; // must stay as it is

static char *in(const char *dir, const char *name) {
  static char paths[4][256];
  static int turn;
  turn = (turn + 1) % 4;
  (void)snprintf(paths[turn], sizeof paths[turn], "%s/%s", dir, name);
  return paths[turn];
}

static void put(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  assert_int_equal(fclose(file), 0);
}

static int exists(const char *path) {
  struct stat st;
  return lstat(path, &st) == 0;
}

static int set_up(void **state) {
  (void)state;
  bq_error err;
  if (bq_tree_make_path(root, &err) < 0 || bq_tree_make_path(other, &err) < 0) return -1;
  put(in(other, "precious"), "keep me");
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  bq_error err;
  if (bq_tree_remove(base, "root", &err) < 0 || bq_tree_remove(base, "outside", &err) < 0) return -1;
  return 0;
}

static void paths_are_checked(void **state) {
  (void)state;
  bq_error err;
  const char *good[] = {"a", "a/b", ".", "./a", "a//b", "..a/b..", "a/...", "a/"};
  const char *bad[] = {"", "/", "/a", "..", "../a", "a/..", "a/../b", "a/.."};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) assert_int_equal(bq_tree_check(good[i], &err), 0);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(bq_tree_check(bad[i], &err), BQ_EINVAL);
}

static void directories_are_made(void **state) {
  (void)state;
  bq_error err;
  mode_t old = umask(077);
  assert_int_equal(bq_tree_make(root, "a/b/c", &err), 0);
  umask(old);
  assert_int_equal(bq_tree_make(root, "a/b/c", &err), 0); // once more is fine
  struct stat st;
  assert_int_equal(stat(in(root, "a/b"), &st), 0);
  assert_int_equal(st.st_mode & 07777, 0750);
  assert_int_equal(symlink(other, in(root, "out")), 0);
  assert_int_equal(bq_tree_make(root, "out/x", &err), BQ_EINVAL);
  assert_false(exists(in(other, "x")));
  put(in(root, "file"), "");
  assert_true(bq_tree_make(root, "file/x", &err) < 0);
  assert_true(bq_tree_make_path(in(root, "file/x"), &err) < 0);
  assert_true(bq_tree_make_path(in(root, "file"), &err) < 0);
  assert_int_equal(bq_tree_make_path(in(root, "out/y/z/"), &err), 0); // an operator's link is fine
  // A parent that went away under it can be made again by the caller: this end has a code of its own.
  assert_int_equal(symlink("nowhere", in(root, "gone")), 0);
  assert_int_equal(bq_tree_make_path(in(root, "gone/x"), &err), BQ_ENOTFOUND);
  assert_true(exists(in(other, "y/z")));
}

static int try_open(const char *relative, int flags, int how) {
  bq_error err;
  int fd = -1;
  int result = how == 2 ? bq_tree_open_by_steps(root, relative, flags, 0640, &fd, &err)
                        : bq_tree_open(root, relative, flags, 0640, (bq_tree_links)how, &fd, &err);
  if (result == 0) {
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
  } else {
    assert_int_equal(fd, -1);
  }
  return result;
}

static void no_path_leads_out(void **state) {
  (void)state;
  bq_error err;
  assert_int_equal(bq_tree_make(root, "d/e", &err), 0);
  put(in(root, "d/e/f"), "inside");
  assert_int_equal(symlink("e/f", in(root, "d/inner")), 0);
  assert_int_equal(symlink("e", in(root, "d/innerdir")), 0);
  assert_int_equal(symlink(other, in(root, "outdir")), 0);
  assert_int_equal(symlink("../../outside/precious", in(root, "d/out")), 0);
  for (int how = 0; how < 3; how++) {
    assert_int_equal(try_open("d/e/f", O_RDONLY, how), 0);
    assert_int_equal(try_open("./d//e/f", O_RDONLY, how), 0);
    assert_int_equal(try_open(".", O_RDONLY | O_DIRECTORY, how), 0);
    assert_int_equal(try_open("d/none", O_RDONLY, how), BQ_ENOTFOUND);
    assert_int_equal(try_open("d/e/f", O_WRONLY | O_CREAT | O_EXCL, how), BQ_ECONFLICT);
    assert_int_equal(try_open("outdir/precious", O_RDONLY, how), BQ_EINVAL);
    assert_int_equal(try_open("outdir/new", O_WRONLY | O_CREAT, how), BQ_EINVAL);
    assert_int_equal(try_open("d/out", O_RDONLY, how), BQ_EINVAL);
    assert_int_equal(try_open("d/../../outside/precious", O_RDONLY, how), BQ_EINVAL);
    assert_int_equal(try_open("d/inner", O_RDONLY, how), how == BQ_TREE_INNER_LINKS ? 0 : BQ_EINVAL);
    assert_int_equal(try_open("d/innerdir/f", O_RDONLY, how), how == BQ_TREE_INNER_LINKS ? 0 : BQ_EINVAL);
  }
  assert_false(exists(in(other, "new")));
}

static void deep(int fd, int levels) {
  for (int i = 0; i < levels; i++) {
    assert_int_equal(mkdirat(fd, "deeper", 0700), 0);
    int next = openat(fd, "deeper", O_RDONLY | O_DIRECTORY);
    assert_true(next >= 0);
    close(fd);
    fd = next;
  }
  close(fd);
}

static void removal_reaches_all_and_nothing_outside(void **state) {
  (void)state;
  bq_error err = {0};
  assert_int_equal(bq_tree_make(root, "w/locked/inner", &err), 0);
  put(in(root, "w/locked/inner/file"), "x");
  put(in(root, "w/read-only"), "x");
  assert_int_equal(chmod(in(root, "w/read-only"), 0), 0);
  assert_int_equal(symlink(other, in(root, "w/locked/out")), 0);
  assert_int_equal(symlink("/nonexistent", in(root, "w/dangling")), 0);
  assert_int_equal(mkfifo(in(root, "w/fifo"), 0600), 0);
  assert_int_equal(chmod(in(root, "w/locked/inner"), 0), 0);
  assert_int_equal(chmod(in(root, "w/locked"), 0555), 0);
  int fd = open(in(root, "w"), O_RDONLY | O_DIRECTORY);
  deep(fd, 3000); // longer than PATH_MAX, and deeper than there are descriptors
  struct rlimit before, few;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
  few = before;
  few.rlim_cur = 256;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
  int result = bq_tree_remove(root, "w", &err);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
  if (result < 0) fail_msg("%s", err.message);
  assert_false(exists(in(root, "w")));
  assert_true(exists(in(other, "precious")));
}

static void removal_of_links_files_and_nothing(void **state) {
  (void)state;
  bq_error err;
  assert_int_equal(symlink(other, in(root, "out")), 0);
  put(in(root, "file"), "x");
  assert_int_equal(bq_tree_remove(root, "out/precious", &err), BQ_EINVAL);
  assert_int_equal(bq_tree_remove(root, "out", &err), 0); // the link itself
  assert_false(exists(in(root, "out")));
  assert_int_equal(bq_tree_remove(root, "file", &err), 0);
  assert_int_equal(bq_tree_remove(root, "file", &err), 0);
  assert_int_equal(bq_tree_remove(root, "no/such/thing", &err), 0);
  assert_int_equal(bq_tree_remove(root, ".", &err), BQ_EINVAL);
  assert_int_equal(bq_tree_remove(root, "../outside", &err), BQ_EINVAL);
  assert_true(exists(in(other, "precious")));
}

static void sizes_and_listings_are_right(void **state) {
  (void)state;
  bq_error err;
  uint64_t bytes, entries;
  assert_int_equal(bq_tree_make(root, "b", &err), 0);
  put(in(root, "b/one"), "12345");
  put(in(root, "b-two"), "123");
  put(in(root, "a"), "");
  assert_int_equal(symlink(other, in(root, "link")), 0);
  assert_int_equal(bq_tree_size(root, &bytes, &entries, &err), 0);
  assert_int_equal(bytes, 8);
  assert_int_equal(entries, 5);
  assert_int_equal(bq_tree_size(in(root, "none"), &bytes, &entries, &err), BQ_ENOTFOUND);
  bq_tree_listing list;
  assert_int_equal(bq_tree_list(&list, root, ".", 100, &err), 0);
  const char *expected[] = {"a", "b", "b-two", "b/one", "link"};
  assert_int_equal(list.count, 5);
  for (size_t i = 0; i < 5; i++) assert_string_equal(list.entries[i].path, expected[i]);
  assert_true(S_ISLNK(list.entries[4].mode));
  assert_int_equal(list.entries[3].size, 5);
  bq_tree_listing_free(&list);
  assert_int_equal(bq_tree_list(&list, root, ".", 4, &err), BQ_ELIMIT);
  assert_int_equal(bq_tree_list(&list, root, "link", 4, &err), BQ_EINVAL);
}

static void hashes_are_right(void **state) {
  (void)state;
  bq_error err;
  char hex[BQ_HASH_TEXT_SIZE];
  assert_int_equal(bq_hash_bytes("abc", 3, hex, &err), 0);
  assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  put(in(root, "abc"), "abc");
  char same[BQ_HASH_TEXT_SIZE];
  assert_int_equal(bq_hash_file(in(root, "abc"), same, &err), 0);
  assert_string_equal(same, hex);
  assert_int_equal(bq_hash_bytes("", 0, hex, &err), 0);
  assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  assert_int_equal(bq_hash_file(in(root, "none"), hex, &err), BQ_ENOTFOUND);
}

// Root passes every permission bit: what concerns those shows only as an ordinary user.
static void all_holds_for_an_ordinary_user(void **state) {
  (void)state;
  if (geteuid() != 0) return;
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    if (setgid(NOBODY) < 0 || setuid(NOBODY) < 0) _exit(99);
    execl("/proc/self/exe", "test_tree", (char *)NULL);
    _exit(98);
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

#define WITH_TREE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(paths_are_checked),
      WITH_TREE(directories_are_made),
      WITH_TREE(no_path_leads_out),
      WITH_TREE(removal_reaches_all_and_nothing_outside),
      WITH_TREE(removal_of_links_files_and_nothing),
      WITH_TREE(sizes_and_listings_are_right),
      WITH_TREE(hashes_are_right),
      cmocka_unit_test(all_holds_for_an_ordinary_user),
  };
  (void)snprintf(base, sizeof base, "/tmp/bq-tree-XXXXXX");
  if (mkdtemp(base) == NULL) return 1;
  (void)snprintf(root, sizeof root, "%s/root", base);
  (void)snprintf(other, sizeof other, "%s/outside", base);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  if (rmdir(base) < 0) perror(base);
  return failed;
}
