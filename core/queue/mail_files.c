#include "queue/mail_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"

enum { MAX_LISTED = 20000, HALF_WRITTEN_S = 3600, DAY_S = 86400 };

static int ends_in(const char *name, const char *end) {
  size_t length = strlen(name);
  return length > strlen(end) && strcmp(name + length - strlen(end), end) == 0;
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void remove_file(int directory, const char *name) {
  if (unlinkat(directory, name, 0) < 0) bq_log(BQ_WARN, "an old mail could not be removed", "file", name, NULL);
}

// The names, which begin with a time, the oldest first; how many. Old ones are removed at once.
static size_t list(DIR *dir, time_t oldest, char **names) {
  size_t count = 0;
  const struct dirent *entry;
  while (count < MAX_LISTED && (entry = readdir(dir)) != NULL) {
    struct stat info;
    int half = ends_in(entry->d_name, ".eml.new");
    if (!half && !ends_in(entry->d_name, ".eml")) continue;
    if (fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0) continue;
    if (info.st_mtime < oldest || (half && info.st_mtime < time(NULL) - HALF_WRITTEN_S)) {
      remove_file(dirfd(dir), entry->d_name);
    } else if (!half && (names[count] = bq_strdup(entry->d_name)) != NULL) {
      count++;
    }
  }
  qsort(names, count, sizeof names[0], by_name);
  return count;
}

void bq_mail_files_clean(const char *state_directory, int days) {
  char *path = bq_format("%s/outbox", state_directory);
  char **names = bq_alloc_array(MAX_LISTED, sizeof names[0]);
  DIR *dir = path != NULL && names != NULL ? opendir(path) : NULL;
  if (dir != NULL) {
    size_t count = list(dir, time(NULL) - (time_t)days * DAY_S, names);
    for (size_t i = 0; i < count; i++) {
      if (i + BQ_MAIL_FILES_MAX < count) remove_file(dirfd(dir), names[i]);
      bq_free(names[i]);
    }
    (void)closedir(dir);
  }
  bq_free(names);
  bq_free(path);
}
