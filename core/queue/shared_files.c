#include "queue/shared_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/tree.h"

// Calls `each` for each directory in `path`; none when there is no such path.
static void each_directory(const char *path, void (*each)(const char *path, const char *name, time_t used, int64_t age),
                           int64_t age) {
  DIR *directory = opendir(path);
  const struct dirent *entry;
  if (directory == NULL) return;
  while ((entry = readdir(directory)) != NULL) {
    struct stat info;
    if (entry->d_name[0] == '.') continue;
    if (fstatat(dirfd(directory), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(info.st_mode)) continue;
    each(path, entry->d_name, info.st_mtime, age);
  }
  (void)closedir(directory);
}

// build:shared sets the time at which it was last asked for.
static void clean_one(const char *path, const char *name, time_t used, int64_t age) {
  bq_error err;
  if (time(NULL) - used < age) return;
  if (bq_tree_remove(path, name, &err) < 0) {
    bq_log(BQ_WARN, "what builds shared could not be removed", "path", path, "name", name, "error", err.message, NULL);
  } else {
    bq_log(BQ_INFO, "removed what builds shared and none has asked for", "path", path, "name", name, NULL);
  }
}

static void clean_kind(const char *path, const char *name, time_t used, int64_t age) {
  (void)used;
  char *below = bq_format("%s/%s", path, name);
  if (below != NULL) each_directory(below, clean_one, age);
  bq_free(below);
}

void bq_shared_files_clean(const char *state_directory, int64_t seconds) {
  char *root = bq_format("%s/shared", state_directory);
  if (root != NULL) each_directory(root, clean_kind, seconds);
  bq_free(root);
}
