#include "cli/share.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

#ifndef BQ_DATA_DIR
#define BQ_DATA_DIR "/usr/share/buildq"
#endif

// `directory`/`relative`, made absolute, when it has the scripts; else NULL.
static char *probe(const char *directory, const char *relative) {
  char absolute[PATH_MAX];
  char *path = bq_format("%s/%s/scripts/pipelines", directory, relative);
  int there = path != NULL && access(path, R_OK) == 0;
  bq_free(path);
  if (!there) return NULL;
  path = bq_format("%s/%s", directory, relative);
  char *found = path != NULL && realpath(path, absolute) != NULL ? bq_strdup(absolute) : NULL;
  bq_free(path);
  return found;
}

int bq_share_find(char **out, bq_error *err) {
  char self[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) return bq_fail_errno(err, errno, "can't find the program's own path");
  self[length] = '\0';
  *strrchr(self, '/') = '\0';
  *out = probe(self, "../share/buildq");
  if (*out == NULL) *out = probe(self, "..");
  if (*out == NULL) *out = probe(self, "../.."); // build/asan, build/tsan
  if (*out == NULL) *out = probe(BQ_DATA_DIR, ".");
  if (*out != NULL) return 0;
  return bq_fail(err, BQ_ENOTFOUND, "there are no scripts in %s/../share/buildq, in %s/.. nor in %s: is buildq "
                                    "installed whole?", self, self, BQ_DATA_DIR);
}
