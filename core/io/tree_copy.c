// Copying between trees.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/tree.h"

static int copy_bytes(int from, int to, const char *name, uint64_t *size, bq_error *err) {
  char buffer[64 * 1024];
  for (;;) {
    ssize_t got = read(from, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return bq_fail_errno(err, errno, "can't read %s", name);
    if (got == 0) return 0;
    for (ssize_t done = 0; done < got;) {
      ssize_t wrote = write(to, buffer + done, (size_t)(got - done));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return bq_fail_errno(err, errno, "can't write the copy of %s", name);
      done += wrote;
    }
    *size += (uint64_t)got;
  }
}

int bq_tree_copy_file(const char *from_root, const char *from, const char *to_root, const char *to, uint64_t *size,
                      bq_error *err) {
  int source = -1;
  int directory = -1;
  int target = -1;
  const char *name = NULL;
  *size = 0;
  // O_NONBLOCK: a fifo must not hold the thread.
  int result = bq_tree_open(from_root, from, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_INNER_LINKS, &source, err);
  if (result < 0) return result;
  struct stat info;
  if (fstat(source, &info) < 0) {
    result = bq_fail_errno(err, errno, "can't read %s", from);
    goto cleanup;
  }
  if (!S_ISREG(info.st_mode)) {
    result = bq_fail(err, BQ_EINVAL, "%s is no regular file", from);
    goto cleanup;
  }
  result = bq_tree_open_parent(to_root, to, 1, &name, &directory, err);
  if (result < 0) goto cleanup;
  target = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (target < 0) {
    result = errno == EEXIST ? bq_fail(err, BQ_ECONFLICT, "%s is there already", to)
                             : bq_fail_errno(err, errno, "can't write %s", to);
    goto cleanup;
  }
  result = copy_bytes(source, target, from, size, err);
  // Whatever the umask.
  if (result == 0 && fchmod(target, (info.st_mode & S_IXUSR) != 0 ? 0750 : 0640) < 0) {
    result = bq_fail_errno(err, errno, "can't set the permissions of %s", to);
  }
  if (result == 0 && fsync(target) < 0) result = bq_fail_errno(err, errno, "can't write %s to the disk", to);
  if (result < 0) (void)unlinkat(directory, name, 0);
cleanup:
  if (target >= 0 && close(target) < 0 && result == 0) result = bq_fail_errno(err, errno, "can't write %s", to);
  if (directory >= 0) (void)close(directory);
  (void)close(source);
  return result;
}

static int copy_link(const char *from_root, const char *from, const char *to_root, const char *to, bq_error *err) {
  const char *from_name = NULL;
  const char *to_name = NULL;
  int from_directory = -1;
  int to_directory = -1;
  char text[PATH_MAX];
  int result = bq_tree_open_parent(from_root, from, 0, &from_name, &from_directory, err);
  if (result == 0) result = bq_tree_open_parent(to_root, to, 1, &to_name, &to_directory, err);
  if (result < 0) goto cleanup;
  ssize_t length = readlinkat(from_directory, from_name, text, sizeof text - 1);
  if (length >= 0) text[length] = '\0';
  if (length < 0 || symlinkat(text, to_directory, to_name) < 0) {
    result = bq_fail_errno(err, errno, "can't copy the link %s", from);
  }
cleanup:
  if (from_directory >= 0) (void)close(from_directory);
  if (to_directory >= 0) (void)close(to_directory);
  return result;
}

static int copy_entry(const char *from_root, const char *from, const char *to_root, const char *to,
                      const bq_tree_entry *entry, bq_error *err) {
  char *source = bq_format("%s/%s", from, entry->path);
  char *target = bq_format("%s/%s", to, entry->path);
  uint64_t size;
  int result = 0;
  if (source == NULL || target == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for a copy");
  else if (S_ISDIR(entry->mode)) result = bq_tree_make(to_root, target, err);
  else if (S_ISLNK(entry->mode)) result = copy_link(from_root, source, to_root, target, err);
  else if (S_ISREG(entry->mode)) result = bq_tree_copy_file(from_root, source, to_root, target, &size, err);
  bq_free(source);
  bq_free(target);
  return result;
}

int bq_tree_copy(const char *from_root, const char *from, const char *to_root, const char *to, int *is_directory,
                 bq_error *err) {
  int fd;
  struct stat info;
  int result = bq_tree_open(from_root, from, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_INNER_LINKS, &fd, err);
  if (result < 0) return result;
  int stated = fstat(fd, &info);
  int errnum = errno;
  (void)close(fd);
  if (stated < 0) return bq_fail_errno(err, errnum, "can't read %s", from);
  *is_directory = S_ISDIR(info.st_mode);
  uint64_t size;
  if (!*is_directory) return bq_tree_copy_file(from_root, from, to_root, to, &size, err);
  bq_tree_listing listing;
  result = bq_tree_list(&listing, from_root, from, BQ_TREE_MAX_COPY, err);
  if (result < 0) return result;
  result = bq_tree_make(to_root, to, err);
  for (size_t i = 0; i < listing.count && result == 0; i++) {
    result = copy_entry(from_root, from, to_root, to, &listing.entries[i], err);
  }
  bq_tree_listing_free(&listing);
  return result;
}
