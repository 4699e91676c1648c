#include "io/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/memory.h"

enum { DIRECTORY_MODE = 0750 };

int bq_tree_check(const char *relative, bq_error *err) {
  if (*relative == '\0') return bq_fail(err, BQ_EINVAL, "a path is empty");
  if (*relative == '/') return bq_fail(err, BQ_EINVAL, "the path \"%s\" must be relative", relative);
  if (strlen(relative) >= PATH_MAX) return bq_fail(err, BQ_EINVAL, "a path is longer than %d bytes", PATH_MAX);
  for (const char *at = relative; *at != '\0';) {
    size_t length = strcspn(at, "/");
    if (length == 2 && memcmp(at, "..", 2) == 0) {
      return bq_fail(err, BQ_EINVAL, "the path \"%s\" leads out by \"..\"", relative);
    }
    at += length + (at[length] == '/');
  }
  return 0;
}

static int fail_open(bq_error *err, int errnum, const char *root, const char *relative) {
  switch (errnum) {
  case ENOENT: return bq_fail(err, BQ_ENOTFOUND, "there is no %s in %s", relative, root);
  case ENOTDIR: return bq_fail(err, BQ_ENOTFOUND, "there is no %s in %s: no directory there", relative, root);
  case EEXIST: return bq_fail(err, BQ_ECONFLICT, "%s exists already in %s", relative, root);
  case EXDEV:
  case ELOOP: return bq_fail(err, BQ_EINVAL, "%s goes through a link that is not allowed in %s", relative, root);
  default: return bq_fail_errno(err, errnum, "can't open %s in %s", relative, root);
  }
}

static int open_root(const char *root, int *fd, bq_error *err) {
  *fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (*fd >= 0) return 0;
  if (errno == ENOENT) return bq_fail(err, BQ_ENOTFOUND, "there is no directory %s", root);
  return bq_fail_errno(err, errno, "can't open the directory %s", root);
}

// Returns a descriptor, or -1 with errno.
static int open_steps(int root_fd, const char *relative, int flags, mode_t mode) {
  int fd = dup(root_fd);
  const char *at = relative;
  while (fd >= 0) {
    char part[NAME_MAX + 1];
    size_t length = strcspn(at, "/");
    if (length > NAME_MAX) {
      close(fd);
      errno = ENAMETOOLONG;
      return -1;
    }
    memcpy(part, at, length);
    part[length] = '\0';
    at += length + strspn(at + length, "/");
    int last = *at == '\0';
    int next;
    if (last) next = openat(fd, length == 0 ? "." : part, flags | O_NOFOLLOW | O_CLOEXEC, mode);
    else next = openat(fd, length == 0 ? "." : part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int errnum = errno;
    struct stat st;
    // With O_DIRECTORY a link is "not a directory".
    if (next < 0 && errnum == ENOTDIR && fstatat(fd, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)) {
      errnum = ELOOP;
    }
    close(fd);
    errno = errnum;
    if (last) return next;
    fd = next;
  }
  return fd;
}

static int open_beneath(int root_fd, const char *relative, int flags, mode_t mode, bq_tree_links links) {
  struct open_how how = {
      .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
      .mode = flags & O_CREAT ? mode : 0,
      .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (links == BQ_TREE_NO_LINKS ? RESOLVE_NO_SYMLINKS : 0),
  };
  for (int tries = 0;; tries++) {
    long fd = syscall(SYS_openat2, root_fd, relative, &how, sizeof how);
    if (fd >= 0) return (int)fd;
    if (errno == EAGAIN && tries < 100) continue; // a rename beside it made the kernel unsure
    if (errno == ENOSYS || errno == EPERM) return open_steps(root_fd, relative, flags, mode);
    return -1;
  }
}

static int open_how(const char *root, const char *relative, int flags, mode_t mode, int steps, bq_tree_links links,
                    int *fd, bq_error *err) {
  *fd = -1;
  int result = bq_tree_check(relative, err);
  if (result < 0) return result;
  int root_fd;
  result = open_root(root, &root_fd, err);
  if (result < 0) return result;
  *fd = steps ? open_steps(root_fd, relative, flags, mode) : open_beneath(root_fd, relative, flags, mode, links);
  if (*fd < 0) result = fail_open(err, errno, root, relative);
  close(root_fd);
  return result;
}

int bq_tree_open(const char *root, const char *relative, int flags, mode_t mode, bq_tree_links links, int *fd,
                 bq_error *err) {
  return open_how(root, relative, flags, mode, 0, links, fd, err);
}

int bq_tree_open_by_steps(const char *root, const char *relative, int flags, mode_t mode, int *fd, bq_error *err) {
  return open_how(root, relative, flags, mode, 1, BQ_TREE_NO_LINKS, fd, err);
}

// Makes the directory `name` in `fd` when there is nothing of that name.
static int make_one(int fd, const char *name) {
  if (mkdirat(fd, name, DIRECTORY_MODE) < 0) return errno == EEXIST ? 0 : -1;
  // The umask may have taken bits away. By descriptor: a name could have been swapped for a link meanwhile.
  int made = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (made < 0) return -1;
  int result = fchmod(made, DIRECTORY_MODE);
  int errnum = errno;
  close(made);
  errno = errnum;
  return result;
}

// Opens the first `length` bytes of `relative` as a directory, each part without following links.
static int walk(const char *root, const char *relative, size_t length, int make, int *out, bq_error *err) {
  int fd;
  int result = open_root(root, &fd, err);
  if (result < 0) return result;
  for (size_t i = 0; i < length;) {
    size_t n = strcspn(relative + i, "/");
    if (n > length - i) n = length - i;
    char part[NAME_MAX + 1];
    if (n > NAME_MAX) {
      close(fd);
      return bq_fail(err, BQ_EINVAL, "a name in the path \"%.100s…\" is too long", relative);
    }
    memcpy(part, relative + i, n);
    part[n] = '\0';
    i += n + 1;
    if (n == 0 || strcmp(part, ".") == 0) continue;
    int next = make && make_one(fd, part) < 0 ? -1 : open_steps(fd, part, O_PATH | O_DIRECTORY, 0);
    int errnum = errno;
    close(fd);
    if (next < 0) return fail_open(err, errnum, root, relative);
    fd = next;
  }
  *out = fd;
  return 0;
}

int bq_tree_open_parent(const char *root, const char *relative, int make, const char **name, int *fd, bq_error *err) {
  *fd = -1;
  int result = bq_tree_check(relative, err);
  if (result < 0) return result;
  const char *slash = strrchr(relative, '/');
  *name = slash == NULL ? relative : slash + 1;
  if (**name == '\0' || strcmp(*name, ".") == 0) {
    return bq_fail(err, BQ_EINVAL, "the path \"%s\" must end with a name", relative);
  }
  return walk(root, relative, slash == NULL ? 0 : (size_t)(slash - relative), make, fd, err);
}

int bq_tree_make(const char *root, const char *relative, bq_error *err) {
  int fd = -1;
  int result = bq_tree_check(relative, err);
  if (result == 0) result = walk(root, relative, strlen(relative), 1, &fd, err);
  if (result == 0) close(fd);
  return result;
}

int bq_tree_make_path(const char *path, bq_error *err) {
  char *copy = bq_strdup(path);
  if (copy == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to make %s", path);
  int result = 0;
  for (char *at = copy + 1; result == 0; at++) {
    if (*at != '/' && *at != '\0') continue;
    char was = *at;
    *at = '\0';
    struct stat st;
    // One that is there already, perhaps behind a link, is left alone, so a read-only parent does no harm.
    int missing = stat(copy, &st) < 0;
    int errnum = 0;
    if (!missing) errnum = S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    else if (make_one(AT_FDCWD, copy) < 0) errnum = errno;
    if (errnum == ENOENT) result = bq_fail(err, BQ_ENOTFOUND, "can't make %s: its parent has just been removed", copy);
    else if (errnum != 0) result = bq_fail_errno(err, errnum, "can't make the directory %s", copy);
    *at = was;
    if (was == '\0') break;
  }
  bq_free(copy);
  return result;
}

int bq_tree_size(const char *path, uint64_t *bytes, uint64_t *entries, bq_error *err) {
  *bytes = *entries = 0;
  struct stat st;
  if (lstat(path, &st) < 0) {
    if (errno == ENOENT) return bq_fail(err, BQ_ENOTFOUND, "there is no %s", path);
    return bq_fail_errno(err, errno, "can't measure %s", path);
  }
  char *const roots[] = {(char *)(uintptr_t)path, NULL}; // fts_open takes pointers to char and writes to nothing
  FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
  if (fts == NULL) return bq_fail_errno(err, errno, "can't measure %s", path);
  int result = 0;
  for (FTSENT *e; (e = fts_read(fts)) != NULL;) {
    switch (e->fts_info) {
    case FTS_DP: break; // seen on the way in
    case FTS_F: *bytes += (uint64_t)e->fts_statp->st_size; // fall through
    default: *entries += e->fts_level > 0; // what can't be read is an entry, too
    }
  }
  (void)fts_close(fts);
  return result;
}
