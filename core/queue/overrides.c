#include "queue/overrides.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/memory.h"

enum { MAX_RECORD_BYTES = 1024 * 1024, HASH_LENGTH = BQ_HASH_SIZE - 1 };

// The overlay directory that a path of a generation lies in, and where the path goes on below it; NULL: none.
static const char *overlay_of(const bq_source_directories *directories, const char *path, const char **below) {
  static const char scripts[] = "scripts/";
  static const char templates[] = "templates/";
  if (strncmp(path, scripts, sizeof scripts - 1) == 0) {
    *below = path + sizeof scripts - 1;
    return directories->scripts;
  }
  if (strncmp(path, templates, sizeof templates - 1) == 0) {
    *below = path + sizeof templates - 1;
    return directories->templates;
  }
  return NULL;
}

// The record's text; "" when there is none. The caller's.
static int read_record(const char *directory, char **text, bq_error *err) {
  size_t length;
  char *path = bq_format("%s/.overrides", directory);
  int result = path != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
  if (result == 0 && access(path, F_OK) < 0 && errno == ENOENT) {
    *text = bq_strdup("");
    result = *text != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
  } else if (result == 0) {
    result = bq_file_read(path, MAX_RECORD_BYTES, text, &length, err);
  }
  bq_free(path);
  return result;
}

// The line of `below`, of `length` bytes with its line break; NULL when there is none.
static const char *find_line(const char *text, const char *below, size_t *length) {
  for (const char *line = text; *line != '\0'; line += *length) {
    const char *end = strchr(line, '\n');
    *length = end != NULL ? (size_t)(end - line) + 1 : strlen(line);
    size_t name = *length - (end != NULL ? 1 : 0);
    if (name <= HASH_LENGTH + 2) continue;
    name -= HASH_LENGTH + 2;
    if (strlen(below) == name && strncmp(line + HASH_LENGTH + 2, below, name) == 0) return line;
  }
  return NULL;
}

static int state_of(const bq_source_directories *directories, const bq_source *original, bq_override_state *state,
                    bq_error *err) {
  const char *below = "";
  char *text = NULL;
  size_t length;
  int result = read_record(overlay_of(directories, original->path, &below), &text, err);
  if (result < 0) return result;
  const char *line = find_line(text, below, &length);
  if (line == NULL) *state = BQ_OVERRIDE_UNKNOWN;
  else *state = strncmp(line, original->hash, HASH_LENGTH) == 0 ? BQ_OVERRIDE_CURRENT : BQ_OVERRIDE_CHANGED;
  bq_free(text);
  return 0;
}

int bq_overrides_check(const bq_source_directories *directories,
                       void (*each)(void *arg, const char *path, bq_override_state state), void *arg, bq_error *err) {
  const bq_source_directories shipped_only = {.share = directories->share};
  bq_sources *shipped = NULL;
  bq_sources *all = NULL;
  int result = bq_sources_read(&shipped, &shipped_only, err);
  if (result == 0) result = bq_sources_read(&all, directories, err);
  for (size_t i = 0; result == 0 && i < bq_sources_count(all); i++) {
    const bq_source *own = bq_sources_at(all, i);
    const bq_source *original = own->overlaid ? bq_sources_find(shipped, own->path) : NULL;
    bq_override_state state;
    if (original == NULL) continue;
    result = state_of(directories, original, &state, err);
    if (result == 0) each(arg, own->path, state);
  }
  bq_sources_free(shipped);
  bq_sources_free(all);
  return result;
}

// Writes the record anew with the line of `below`, under a temporary name first.
static int write_record(const char *directory, const char *text, const char *below, const char *hash, bq_error *err) {
  char *path = bq_format("%s/.overrides", directory);
  char *temporary = bq_format("%s/.overrides.new", directory);
  size_t length = 0;
  const char *line = find_line(text, below, &length);
  size_t before = line != NULL ? (size_t)(line - text) : strlen(text);
  const char *after = line != NULL ? line + length : "";
  int result = 0;
  FILE *file = path != NULL && temporary != NULL ? fopen(temporary, "w") : NULL;
  if (file == NULL) {
    result = bq_fail_errno(err, errno, "can't write %s/.overrides", directory);
  } else {
    (void)fwrite(text, 1, before, file);
    (void)fprintf(file, "%s  %s\n%s", hash, below, after);
    int failed = ferror(file);
    if (fclose(file) != 0 || failed || rename(temporary, path) < 0) {
      result = bq_fail_errno(err, errno, "can't write %s/.overrides", directory);
    }
  }
  bq_free(path);
  bq_free(temporary);
  return result;
}

int bq_overrides_note(const bq_source_directories *directories, const char *path, bq_error *err) {
  const bq_source_directories shipped_only = {.share = directories->share};
  bq_sources *shipped = NULL;
  char *text = NULL;
  const char *below = NULL;
  const char *directory = overlay_of(directories, path, &below);
  if (directory == NULL) {
    return bq_fail(err, BQ_ENOTFOUND, "%s is no file of a ScriptDirectory or TemplateDirectory that is set", path);
  }
  int result = bq_sources_read(&shipped, &shipped_only, err);
  const bq_source *original = result == 0 ? bq_sources_find(shipped, path) : NULL;
  if (result == 0 && original == NULL) result = bq_fail(err, BQ_ENOTFOUND, "there is no shipped file %s", path);
  if (result == 0) result = read_record(directory, &text, err);
  if (result == 0) result = write_record(directory, text, below, original->hash, err);
  bq_free(text);
  bq_sources_free(shipped);
  return result;
}
