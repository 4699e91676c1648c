// bq_tree_list: breadth first with the listing itself as the queue, one open directory at a time.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/tree.h"

typedef struct gathering {
  bq_tree_listing *list;
  size_t capacity;    // entries allocated
  size_t max_entries;
  const char *root;
} gathering;

static int add(gathering *g, int dir_fd, const char *parent, const char *name, bq_error *err) {
  struct stat st;
  if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
    if (errno == ENOENT) return 0; // gone since it was listed
    return bq_fail_errno(err, errno, "can't look at %s in %s", name, g->root);
  }
  if (g->list->count == g->max_entries) {
    return bq_fail(err, BQ_ELIMIT, "%s has more than %zu entries", g->root, g->max_entries);
  }
  if (g->list->count == g->capacity) {
    size_t capacity = g->capacity == 0 ? 64 : g->capacity * 2;
    bq_tree_entry *grown = bq_realloc(g->list->entries, capacity * sizeof *grown);
    if (grown == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to list %s", g->root);
    g->list->entries = grown;
    g->capacity = capacity;
  }
  char *path = parent == NULL ? bq_strdup(name) : bq_format("%s/%s", parent, name);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to list %s", g->root);
  g->list->entries[g->list->count++] = (bq_tree_entry){
      .path = path,
      .mode = st.st_mode,
      .size = (uint64_t)st.st_size,
      .mtime_us = (int64_t)st.st_mtim.tv_sec * 1000000 + st.st_mtim.tv_nsec / 1000,
      .dev = st.st_dev,
      .ino = st.st_ino,
  };
  return 0;
}

// Takes ownership of `fd`. `parent` is NULL for the top.
static int read_directory(gathering *g, int fd, const char *parent, bq_error *err) {
  DIR *dir = fdopendir(fd);
  if (dir == NULL) {
    int result = bq_fail_errno(err, errno, "can't list %s in %s", parent == NULL ? "." : parent, g->root);
    close(fd);
    return result;
  }
  int result = 0;
  while (result == 0) {
    errno = 0;
    struct dirent *e = readdir(dir);
    if (e == NULL) {
      if (errno != 0) result = bq_fail_errno(err, errno, "can't list %s in %s", parent == NULL ? "." : parent, g->root);
      break;
    }
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    result = add(g, dirfd(dir), parent, e->d_name, err);
  }
  (void)closedir(dir);
  return result;
}

static int open_below(const char *root, const char *relative, const char *path, int *fd, bq_error *err) {
  char *whole = path == NULL ? bq_strdup(relative) : bq_format("%s/%s", relative, path);
  if (whole == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to list %s", root);
  int result = bq_tree_open(root, whole, O_RDONLY | O_DIRECTORY, 0, BQ_TREE_NO_LINKS, fd, err);
  bq_free(whole);
  return result;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const bq_tree_entry *)a)->path, ((const bq_tree_entry *)b)->path);
}

int bq_tree_list(bq_tree_listing *out, const char *root, const char *relative, size_t max_entries, bq_error *err) {
  memset(out, 0, sizeof *out);
  gathering g = {.list = out, .max_entries = max_entries, .root = root};
  int fd = -1;
  int result = open_below(root, relative, NULL, &fd, err);
  if (result == 0) result = read_directory(&g, fd, NULL, err);
  for (size_t i = 0; result == 0 && i < out->count; i++) {
    if (!S_ISDIR(out->entries[i].mode)) continue;
    result = open_below(root, relative, out->entries[i].path, &fd, err);
    // The entries may move in memory while more are added, their paths don't.
    if (result == 0) result = read_directory(&g, fd, out->entries[i].path, err);
  }
  if (result < 0) bq_tree_listing_free(out);
  else if (out->count > 1) qsort(out->entries, out->count, sizeof *out->entries, by_path);
  return result;
}

void bq_tree_listing_free(bq_tree_listing *listing) {
  for (size_t i = 0; i < listing->count; i++) bq_free(listing->entries[i].path);
  bq_free(listing->entries);
  memset(listing, 0, sizeof *listing);
}
