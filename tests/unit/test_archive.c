// Archives: the same bytes for the same input, a true round trip, and nothing hostile written.
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
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

#include "io/archive.h"
#include "io/tree.h"

static char root[64];

static char *in(const char *name) {
  static char paths[4][256];
  static int turn;
  turn = (turn + 1) % 4;
  (void)snprintf(paths[turn], sizeof paths[turn], "%s/%s", root, name);
  return paths[turn];
}

static void put(const char *name, const char *text, mode_t mode) {
  bq_error err = {0};
  const char *last;
  int dir_fd;
  if (bq_tree_open_parent(root, name, 1, &last, &dir_fd, &err) < 0) fail_msg("%s", err.message);
  int fd = openat(dir_fd, last, O_WRONLY | O_CREAT | O_TRUNC, mode);
  assert_true(fd >= 0);
  assert_int_equal(fchmod(fd, mode), 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  close(fd);
  close(dir_fd);
}

static char *get(const char *name) {
  static char text[4096];
  FILE *file = fopen(in(name), "r");
  if (file == NULL) return NULL;
  size_t n = fread(text, 1, sizeof text - 1, file);
  text[n] = '\0';
  (void)fclose(file);
  return text;
}

static int exists(const char *name) {
  struct stat st;
  return lstat(in(name), &st) == 0;
}

static int tear_down(void **state) {
  (void)state;
  bq_error err;
  const char *names[] = {"a", "b", "out", "outside", "x.tar.zst", "y.tar.zst", "x.tar.gz", "y.tar.gz", "evil.tar"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (bq_tree_remove(root, names[i], &err) < 0) return -1;
  }
  return 0;
}

static int pack(const char *from, const char *to, bq_archive_packed *packed, bq_error *err) {
  bq_archive_pack p = {.from_root = root, .from = from, .to_root = root, .to = to, .prefix = "product-1.0",
                       .mtime_s = 1700000000, .max_bytes = 1 << 20, .max_entries = 1000};
  assert_int_equal(bq_archive_format_of(to, &p.format, err), 0);
  return bq_archive_pack_tree(&p, packed, err);
}

static int unpack_with(bq_archive_unpack u, const char *from, bq_archive_unpacked *unpacked, bq_error *err) {
  u.from_root = u.to_root = root;
  u.from = from;
  u.to = "out/deep";
  if (u.max_bytes == 0) u.max_bytes = 1 << 20;
  if (u.max_entries == 0) u.max_entries = 1000;
  return bq_archive_unpack_tree(&u, unpacked, err);
}

static int unpack(const char *from, unsigned strip, bq_archive_unpacked *unpacked, bq_error *err) {
  return unpack_with((bq_archive_unpack){.strip = strip}, from, unpacked, err);
}

static void fill(const char *dir, int backwards) {
  static const char *const names[] = {"%s/bin/tool", "%s/lib/z", "%s/lib/a", "%s/lib-x/file", "%s/N\xc3\xa4me"};
  char name[128];
  for (int i = 0; i < 5; i++) {
    (void)snprintf(name, sizeof name, names[backwards ? 4 - i : i], dir);
    put(name, name + strlen(dir), strstr(name, "/bin/") != NULL ? (backwards ? 0700 : 0775) : (backwards ? 0600 : 0664));
  }
  (void)snprintf(name, sizeof name, "%s/current", dir);
  assert_int_equal(symlink("lib/a", in(name)), 0);
  (void)snprintf(name, sizeof name, "%s/empty", dir);
  bq_error err;
  assert_int_equal(bq_tree_make(root, name, &err), 0);
}

static void the_same_input_gives_the_same_bytes(void **state) {
  (void)state;
  bq_error err = {0};
  bq_archive_packed x, y;
  fill("a", 0);
  fill("b", 1); // other order, times, and permissions of group and others
  const struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
  assert_int_equal(utimensat(AT_FDCWD, in("b/lib/z"), old, 0), 0);
  const char *const ends[] = {".tar.zst", ".tar.gz"};
  for (int i = 0; i < 2; i++) {
    char name_x[32], name_y[32], hex[BQ_HASH_TEXT_SIZE];
    (void)snprintf(name_x, sizeof name_x, "x%s", ends[i]);
    (void)snprintf(name_y, sizeof name_y, "y%s", ends[i]);
    if (pack("a", name_x, &x, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(pack("b", name_y, &y, &err), 0);
    assert_string_equal(x.sha256, y.sha256);
    assert_int_equal(x.size, y.size);
    assert_int_equal(x.files, 6);
    assert_int_equal(bq_hash_file(in(name_x), hex, &err), 0);
    assert_string_equal(hex, x.sha256);
    struct stat st;
    assert_int_equal(stat(in(name_x), &st), 0);
    assert_int_equal(st.st_size, x.size);
    assert_int_equal(pack("a", name_x, &y, &err), 0); // over the older one
    assert_string_equal(x.sha256, y.sha256);
  }
  put("b/lib/z", "/lib/y", 0600);
  assert_int_equal(pack("b", "y.tar.zst", &y, &err), 0);
  assert_int_equal(pack("a", "x.tar.zst", &x, &err), 0);
  assert_string_not_equal(x.sha256, y.sha256);
}

static void an_archive_in_its_own_tree_is_left_out(void **state) {
  (void)state;
  bq_error err;
  bq_archive_packed first, second;
  put("a/file", "x", 0644);
  assert_int_equal(pack("a", "a/self.tar.zst", &first, &err), 0);
  assert_int_equal(pack("a", "a/self.tar.zst", &second, &err), 0);
  assert_string_equal(first.sha256, second.sha256);
  bq_tree_listing list;
  assert_int_equal(bq_tree_list(&list, root, "a", 10, &err), 0);
  assert_int_equal(list.count, 2); // no partial file is left
  bq_tree_listing_free(&list);
}

static void what_is_packed_is_unpacked(void **state) {
  (void)state;
  bq_error err = {0};
  bq_archive_packed packed;
  bq_archive_unpacked unpacked;
  fill("a", 0);
  assert_int_equal(pack("a", "x.tar.zst", &packed, &err), 0);
  if (unpack("x.tar.zst", 1, &unpacked, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(unpacked.files, 6);
  assert_string_equal(get("out/deep/bin/tool"), "/bin/tool");
  assert_string_equal(get("out/deep/N\xc3\xa4me"), "/N\xc3\xa4me");
  assert_string_equal(get("out/deep/current"), "/lib/a");
  assert_true(exists("out/deep/empty"));
  struct stat st;
  assert_int_equal(stat(in("out/deep/bin/tool"), &st), 0);
  assert_int_equal(st.st_mode & 07777, 0755);
  assert_int_equal(st.st_mtime, 1700000000);
  assert_int_equal(unpack("x.tar.zst", 0, &unpacked, &err), 0);
  assert_string_equal(get("out/deep/product-1.0/lib/z"), "/lib/z");
  assert_int_equal(unpack("x.tar.zst", 0, &unpacked, &err), 0); // over itself
  // Packed again it is the same.
  bq_archive_packed again;
  assert_int_equal(bq_tree_remove(root, "out/deep/product-1.0", &err), 0);
  assert_int_equal(pack("out/deep", "y.tar.zst", &again, &err), 0);
  assert_string_equal(again.sha256, packed.sha256);
}

static void special_files_and_bounds_stop_packing(void **state) {
  (void)state;
  bq_error err;
  bq_archive_packed packed;
  put("a/file", "0123456789", 0644);
  bq_archive_pack p = {.from_root = root, .from = "a", .to_root = root, .to = "x.tar.zst", .max_bytes = 9,
                       .max_entries = 10};
  assert_int_equal(bq_archive_pack_tree(&p, &packed, &err), BQ_ELIMIT);
  p.max_bytes = 10;
  assert_int_equal(bq_archive_pack_tree(&p, &packed, &err), 0);
  p.max_entries = 0;
  assert_int_equal(bq_archive_pack_tree(&p, &packed, &err), BQ_ELIMIT);
  p.max_entries = 10;
  atomic_int stop = 1;
  p.stop = &stop;
  p.to = "y.tar.zst";
  assert_int_equal(bq_archive_pack_tree(&p, &packed, &err), BQ_ECANCELED);
  p.stop = NULL;
  assert_int_equal(mkfifo(in("a/pipe"), 0600), 0);
  assert_int_equal(bq_archive_pack_tree(&p, &packed, &err), BQ_EINVAL);
  assert_non_null(strstr(err.message, "pipe"));
  assert_false(exists("y.tar.zst"));
  bq_tree_listing list;
  assert_int_equal(bq_tree_list(&list, root, ".", 10, &err), 0);
  assert_int_equal(list.count, 4); // a, a/file, a/pipe, x.tar.zst: nothing half-written
  bq_tree_listing_free(&list);
  p.prefix = "../up";
  assert_int_equal(bq_archive_pack_tree(&p, &packed, &err), BQ_EINVAL);
}

typedef struct evil {
  const char *name;
  unsigned type;        // AE_IF…
  const char *target;   // of a link
  const char *hardlink; // of a hard link
} evil;

// One good file first: it must not be written either.
static void make_evil(const evil *entries, size_t count) {
  struct archive *a = archive_write_new();
  assert_non_null(a);
  assert_int_equal(archive_write_set_format_gnutar(a), ARCHIVE_OK);
  assert_int_equal(archive_write_open_filename(a, in("evil.tar")), ARCHIVE_OK);
  for (size_t i = 0; i <= count; i++) {
    struct archive_entry *e = archive_entry_new();
    int regular = i == 0 || (entries[i - 1].type == AE_IFREG && entries[i - 1].hardlink == NULL);
    archive_entry_set_pathname(e, i == 0 ? "good" : entries[i - 1].name);
    archive_entry_set_filetype(e, i == 0 ? AE_IFREG : entries[i - 1].type);
    archive_entry_set_perm(e, 04755);
    archive_entry_set_size(e, regular ? 4 : 0);
    if (i > 0 && entries[i - 1].target != NULL) archive_entry_set_symlink(e, entries[i - 1].target);
    if (i > 0 && entries[i - 1].hardlink != NULL) archive_entry_set_hardlink(e, entries[i - 1].hardlink);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    if (regular) assert_int_equal(archive_write_data(a, "evil", 4), 4);
    archive_entry_free(e);
  }
  assert_int_equal(archive_write_close(a), ARCHIVE_OK);
  archive_write_free(a);
}

static void hostile_archives_write_nothing(void **state) {
  (void)state;
  static const struct {
    const char *what;
    evil entries[3];
    size_t count;
  } cases[] = {
      {"absolute", {{.name = "/etc/evil", .type = AE_IFREG}}, 1},
      {"dot dot", {{.name = "../../outside/evil", .type = AE_IFREG}}, 1},
      {"dot dot inside", {{.name = "a/../../../outside/evil", .type = AE_IFREG}}, 1},
      {"dot dot directory", {{.name = "..", .type = AE_IFDIR}}, 1},
      {"absolute link", {{.name = "l", .type = AE_IFLNK, .target = "/etc"}}, 1},
      {"link out", {{.name = "d/l", .type = AE_IFLNK, .target = "../../x"}}, 1},
      {"link out behind a name", {{.name = "d/l", .type = AE_IFLNK, .target = "n/../../../x"}}, 1},
      {"two links out",
       {{.name = "a/b/up", .type = AE_IFLNK, .target = "../.."}, {.name = "a/b/l", .type = AE_IFLNK, .target = "up/../.."}},
       2},
      {"through a link",
       {{.name = "l", .type = AE_IFLNK, .target = "d"}, {.name = "l-x", .type = AE_IFREG}, {.name = "l/f", .type = AE_IFREG}},
       3},
      {"through a later link", {{.name = "l/f", .type = AE_IFREG}, {.name = "l", .type = AE_IFLNK, .target = "d"}}, 2},
      {"hard link out", {{.name = "h", .type = AE_IFREG, .hardlink = "../../outside/precious"}}, 1},
      {"absolute hard link", {{.name = "h", .type = AE_IFREG, .hardlink = "/etc/passwd"}}, 1},
      {"fifo", {{.name = "f", .type = AE_IFIFO}}, 1},
      {"device", {{.name = "d", .type = AE_IFCHR}}, 1},
  };
  put("outside/precious", "precious", 0600);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    bq_error err = {0};
    bq_archive_unpacked unpacked;
    make_evil(cases[i].entries, cases[i].count);
    int result = unpack("evil.tar", 0, &unpacked, &err);
    if (result != BQ_EINVAL) fail_msg("%s: %d %s", cases[i].what, result, err.message);
    if (exists("out")) fail_msg("%s: something was written", cases[i].what);
  }
  assert_string_equal(get("outside/precious"), "precious");
}

static void links_in_the_target_are_not_followed(void **state) {
  (void)state;
  bq_error err;
  bq_archive_unpacked unpacked;
  put("outside/precious", "precious", 0600);
  assert_int_equal(bq_tree_make(root, "out/deep", &err), 0);
  assert_int_equal(symlink("../../outside", in("out/deep/d")), 0);
  assert_int_equal(symlink("../../outside/precious", in("out/deep/good")), 0);
  make_evil((const evil[]){{.name = "d/f", .type = AE_IFREG}}, 1);
  assert_int_equal(unpack("evil.tar", 0, &unpacked, &err), BQ_EINVAL);
  assert_false(exists("outside/f"));
  assert_string_equal(get("outside/precious"), "precious"); // the link was replaced, not written through
  assert_string_equal(get("out/deep/good"), "evil");
  struct stat st;
  assert_int_equal(stat(in("out/deep/good"), &st), 0);
  assert_int_equal(st.st_mode & 07777, 0755); // no set-id bit
}

static void good_links_pass(void **state) {
  (void)state;
  bq_error err = {0};
  bq_archive_unpacked unpacked;
  make_evil((const evil[]){{.name = "d/e/l", .type = AE_IFLNK, .target = "../../good"},
                           {.name = "h", .type = AE_IFREG, .hardlink = "./good"},
                           {.name = "..odd", .type = AE_IFREG}}, 3);
  if (unpack("evil.tar", 0, &unpacked, &err) < 0) fail_msg("%s", err.message);
  assert_string_equal(get("out/deep/d/e/l"), "evil");
  assert_string_equal(get("out/deep/h"), "evil");
  assert_int_equal(unpacked.files, 4);
}

static void bounds_and_damage_stop_unpacking(void **state) {
  (void)state;
  bq_error err;
  bq_archive_unpacked unpacked;
  make_evil((const evil[]){{.name = "second", .type = AE_IFREG}}, 1);
  assert_int_equal(unpack_with((bq_archive_unpack){.max_bytes = 7}, "evil.tar", &unpacked, &err), BQ_ELIMIT);
  assert_int_equal(unpack_with((bq_archive_unpack){.max_entries = 1}, "evil.tar", &unpacked, &err), BQ_ELIMIT);
  assert_false(exists("out"));
  assert_int_equal(unpack_with((bq_archive_unpack){.max_bytes = 8, .max_entries = 2}, "evil.tar", &unpacked, &err), 0);
  assert_int_equal(unpacked.bytes, 8);
  assert_int_equal(bq_tree_remove(root, "out", &err), 0);
  assert_int_equal(truncate(in("evil.tar"), 1300), 0); // in the middle of the second header
  assert_int_equal(unpack("evil.tar", 0, &unpacked, &err), BQ_EINVAL);
  put("evil.tar", "this is no archive at all", 0600);
  assert_int_equal(unpack("evil.tar", 0, &unpacked, &err), BQ_EINVAL);
  assert_false(exists("out"));
  assert_int_equal(unpack("none.tar", 0, &unpacked, &err), BQ_ENOTFOUND);
}

#define TEST(f) cmocka_unit_test_teardown(f, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(the_same_input_gives_the_same_bytes),
      TEST(an_archive_in_its_own_tree_is_left_out),
      TEST(what_is_packed_is_unpacked),
      TEST(special_files_and_bounds_stop_packing),
      TEST(hostile_archives_write_nothing),
      TEST(links_in_the_target_are_not_followed),
      TEST(good_links_pass),
      TEST(bounds_and_damage_stop_unpacking),
  };
  (void)snprintf(root, sizeof root, "/tmp/bq-archive-XXXXXX");
  if (mkdtemp(root) == NULL) return 1;
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  if (rmdir(root) < 0) perror(root);
  return failed;
}
