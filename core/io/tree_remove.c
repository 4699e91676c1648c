// bq_tree_remove: by descriptors only, so that nobody who swaps a directory for a link meanwhile leads it astray.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/tree.h"

// A directory deeper than this is first moved to the top of the tree: neither the stack nor the descriptors grow
// with what a build has made.
enum { MAX_DEPTH = 64, MAX_ROUNDS = 1000000 };

typedef struct removal {
  int top_fd;          // the tree's top directory
  dev_t dev;           // its file system: nothing else is touched
  unsigned long moved; // directories moved to the top so far
  int errnum;          // of the first failure
  char failed[256];    // its name
} removal;

static void note(removal *r, int errnum, const char *name) {
  if (errnum == ENOENT || r->errnum != 0) return; // somebody else has removed it: fine
  r->errnum = errnum;
  (void)snprintf(r->failed, sizeof r->failed, "%s", name);
}

// Opens a directory for removal of its contents, made accessible when it isn't. -1 with errno.
static int open_writable(int parent_fd, const char *name) {
  int path_fd = openat(parent_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (path_fd < 0) return -1;
  struct stat st;
  char self[64];
  (void)snprintf(self, sizeof self, "/proc/self/fd/%d", path_fd);
  int fd = -1;
  int ready = fstat(path_fd, &st) == 0;
  if (ready && (st.st_mode & 0700) != 0700) ready = chmod(self, 0700) == 0;
  if (ready) fd = openat(path_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int errnum = errno;
  close(path_fd);
  errno = errnum;
  return fd;
}

static void remove_entry(removal *r, int dir_fd, const char *name, int depth);

// Takes ownership of `fd`.
static void empty(removal *r, int fd, int depth) {
  struct stat st;
  DIR *dir = NULL;
  if (fstat(fd, &st) == 0 && st.st_dev != r->dev) {
    note(r, EXDEV, "a mounted file system");
  } else {
    dir = fdopendir(fd);
    if (dir == NULL) note(r, errno, "a directory");
  }
  if (dir == NULL) {
    close(fd);
    return;
  }
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove_entry(r, dirfd(dir), e->d_name, depth);
  }
  (void)closedir(dir);
}

static void move_to_top(removal *r, int dir_fd, const char *name, int fd) {
  char moved[64];
  do {
    (void)snprintf(moved, sizeof moved, ".removing-%lu", r->moved++);
  } while (faccessat(r->top_fd, moved, F_OK, AT_SYMLINK_NOFOLLOW) == 0);
  if (renameat(dir_fd, name, r->top_fd, moved) < 0) note(r, errno, name);
  close(fd);
}

static void remove_entry(removal *r, int dir_fd, const char *name, int depth) {
  if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT) return;
  int unlink_errnum = errno;
  int fd = open_writable(dir_fd, name);
  if (fd < 0) { // not a directory: then the first answer is the true one
    note(r, errno == ENOTDIR || errno == ELOOP ? unlink_errnum : errno, name);
    return;
  }
  if (depth >= MAX_DEPTH) {
    move_to_top(r, dir_fd, name, fd);
    return;
  }
  empty(r, fd, depth + 1);
  if (unlinkat(dir_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT) return;
  // Deeper directories wait at the top, or readdir has missed what was renamed while it went on.
  if (errno != ENOTEMPTY) note(r, errno, name);
}

int bq_tree_remove(const char *root, const char *relative, bq_error *err) {
  const char *name;
  int parent_fd;
  int result = bq_tree_open_parent(root, relative, 0, &name, &parent_fd, err);
  if (result == BQ_ENOTFOUND) return 0;
  if (result < 0) return result;
  removal r = {.top_fd = -1};
  if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT) goto cleanup;
  int unlink_errnum = errno;
  r.top_fd = open_writable(parent_fd, name);
  struct stat st;
  if (r.top_fd < 0 || fstat(r.top_fd, &st) < 0) {
    note(&r, errno == ENOTDIR || errno == ELOOP ? unlink_errnum : errno, name);
    goto cleanup;
  }
  r.dev = st.st_dev;
  for (int round = 0; round < MAX_ROUNDS; round++) { // more than one only for very deep trees
    int fd = openat(r.top_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
      note(&r, errno, name);
      break;
    }
    empty(&r, fd, 0);
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT) break;
    if (errno != ENOTEMPTY || round + 1 == MAX_ROUNDS) note(&r, errno, name);
    if (r.errnum != 0) break;
  }
cleanup:
  if (r.top_fd >= 0) close(r.top_fd);
  close(parent_fd);
  if (r.errnum != 0) result = bq_fail_errno(err, r.errnum, "can't remove all of %s in %s (%s)", relative, root, r.failed);
  return result;
}
