#include "cli/generation_diff.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/tree.h"

extern char **environ;

static int write_file(const char *path, const char *text, size_t length, bq_error *err) {
  FILE *file = fopen(path, "w");
  if (file == NULL) return bq_fail_errno(err, errno, "can't write %s", path);
  size_t written = fwrite(text, 1, length, file);
  int failed = fclose(file) != 0 || written != length;
  return failed ? bq_fail(err, BQ_EIO, "can't write %s", path) : 0;
}

// A path of a generation has no "..", no empty part and doesn't begin with "/": it comes from a server, so it is looked at.
static int is_inside(const char *path) {
  return path[0] != '/' && path[0] != '\0' && strstr(path, "..") == NULL && strstr(path, "//") == NULL;
}

static int write_generation(const char *directory, const char *side, const json_t *answer, bq_error *err) {
  size_t index;
  json_t *file;
  int result = 0;
  json_array_foreach(json_object_get(answer, "files"), index, file) {
    const char *path = json_string_value(json_object_get(file, "path"));
    json_t *content = json_object_get(file, "content");
    if (path == NULL || !json_is_string(content) || !is_inside(path)) {
      return bq_fail(err, BQ_EINVAL, "the server's answer has a file without a proper path");
    }
    char *full = bq_format("%s/%s/%s", directory, side, path);
    char *parent = full != NULL ? bq_strdup(full) : NULL;
    if (parent == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory");
    else *strrchr(parent, '/') = '\0';
    if (result == 0) result = bq_tree_make_path(parent, err);
    if (result == 0) result = write_file(full, json_string_value(content), json_string_length(content), err);
    bq_free(parent);
    bq_free(full);
    if (result < 0) return result;
  }
  char *side_path = bq_format("%s/%s", directory, side); // also that of a generation without files
  result = side_path != NULL ? bq_tree_make_path(side_path, err) : bq_fail(err, BQ_ENOMEM, "out of memory");
  bq_free(side_path);
  return result;
}

// diff(1): 0 the same, 1 different, 2 trouble.
static int run_diff(const char *directory, bq_error *err) {
  char diff[] = "diff";
  char options[] = "-ruN";
  char first[] = "a";
  char second[] = "b";
  char *const argv[] = {diff, options, first, second, NULL};
  pid_t child;
  int status = 0;
  (void)fflush(stdout);
  if (chdir(directory) < 0) return bq_fail_errno(err, errno, "can't go to %s", directory);
  int failed = posix_spawnp(&child, "diff", NULL, NULL, argv, environ);
  if (failed != 0) return bq_fail_errno(err, failed, "can't start diff (package diffutils)");
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return bq_fail_errno(err, errno, "waiting for diff failed");
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) return 0;
  return bq_fail(err, BQ_EIO, "diff failed");
}

int bq_generation_diff(const json_t *first, const json_t *second, bq_error *err) {
  const char *base = getenv("TMPDIR");
  if (base == NULL || base[0] != '/') base = "/tmp";
  char *directory = bq_format("%s/buildq-diff-XXXXXX", base);
  bq_error ignored;
  int made = 0;
  int result = 0;
  if (directory == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  if (mkdtemp(directory) == NULL) {
    result = bq_fail_errno(err, errno, "can't make %s", directory);
    goto cleanup;
  }
  made = 1;
  result = write_generation(directory, "a", first, err);
  if (result == 0) result = write_generation(directory, "b", second, err);
  if (result == 0) result = run_diff(directory, err);
cleanup:
  // What could not be removed lies in the temporary directory: no reason to fail.
  if (made && bq_tree_remove(base, strrchr(directory, '/') + 1, &ignored) < 0) (void)fprintf(stderr, "buildq: %s\n", ignored.message);
  bq_free(directory);
  return result;
}
