#include "io/statements.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"

enum {
  MAX_NAME = 63,              // PostgreSQL cuts longer names of prepared statements
  MAX_STATEMENTS = 1000,
  MAX_FILE_BYTES = 1000 * 1000
};

typedef struct entry {
  bq_statement statement; // both strings owned
  char *place;            // owned; "file.sql:12"
} entry;

struct bq_statements {
  entry *entries; // owned; sorted by name once all are read
  size_t count;
  size_t capacity;
};

static int read_file(const char *path, bq_buf *out, bq_error *err) {
  FILE *file = fopen(path, "re");
  if (file == NULL) return bq_fail_errno(err, errno, "can't read %s", path);
  char bytes[8192];
  size_t got;
  while ((got = fread(bytes, 1, sizeof bytes, file)) > 0 && out->length <= MAX_FILE_BYTES) bq_buf_add(out, bytes, got);
  int failed = ferror(file), errnum = errno;
  (void)fclose(file);
  if (failed) return bq_fail_errno(err, errnum, "can't read %s", path);
  if (out->length > MAX_FILE_BYTES) return bq_fail(err, BQ_ELIMIT, "%s is larger than %d bytes", path, MAX_FILE_BYTES);
  int result = bq_buf_check(out, err);
  if (result == 0 && out->length > 0 && memchr(out->data, '\0', out->length) != NULL) {
    result = bq_fail(err, BQ_EINVAL, "%s holds a NUL byte", path);
  }
  return result;
}

static const char *line_end(const char *line) {
  const char *end = strchr(line, '\n');
  return end != NULL ? end : line + strlen(line);
}

// A line without SQL: blank, or nothing but a comment.
static int is_idle(const char *line, const char *end) {
  while (line < end && strchr(" \t\r", *line) != NULL) line++;
  return line == end || (end - line >= 2 && line[0] == '-' && line[1] == '-');
}

// The name in a line `-- name: the_name`: its begin and length; NULL when it is another line.
static const char *find_name(const char *line, const char *end, size_t *length) {
  static const char mark[] = "-- name:";
  size_t mark_length = sizeof mark - 1;
  if ((size_t)(end - line) < mark_length || strncmp(line, mark, mark_length) != 0) return NULL;
  line += mark_length;
  while (line < end && (*line == ' ' || *line == '\t')) line++;
  while (end > line && strchr(" \t\r", end[-1]) != NULL) end--;
  *length = (size_t)(end - line);
  return line;
}

static int is_good_name(const char *name, size_t length) {
  return length > 0 && length <= MAX_NAME && (name[0] < '0' || name[0] > '9') &&
         strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") >= length;
}

static int add(bq_statements *statements, const char *name, size_t name_length, const char *text, size_t text_length,
               const char *place, bq_error *err) {
  if (statements->count >= MAX_STATEMENTS) {
    return bq_fail(err, BQ_ELIMIT, "%s: more than %d statements", place, MAX_STATEMENTS);
  }
  if (statements->count == statements->capacity) {
    size_t capacity = statements->capacity > 0 ? 2 * statements->capacity : 64;
    entry *grown = bq_realloc(statements->entries, capacity * sizeof *grown);
    if (grown == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the SQL statements");
    statements->entries = grown;
    statements->capacity = capacity;
  }
  entry *e = &statements->entries[statements->count++];
  e->statement.name = bq_strndup(name, name_length);
  e->statement.text = bq_strndup(text, text_length);
  e->place = bq_strdup(place);
  if (e->statement.name != NULL && e->statement.text != NULL && e->place != NULL) return 0;
  return bq_fail(err, BQ_ENOMEM, "out of memory for the SQL statements");
}

// The statement between two name lines: without the comments around it and its semicolon, which would make the
// comments behind it a second, empty statement to some tools.
static void trim(const char **text, const char **end) {
  while (*text < *end) {
    const char *stop = line_end(*text);
    if (stop > *end) stop = *end;
    if (!is_idle(*text, stop)) break;
    *text = stop < *end ? stop + 1 : *end;
  }
  while (*end > *text) {
    if (strchr(" \t\r\n", (*end)[-1]) != NULL) {
      (*end)--;
      continue;
    }
    const char *line = *end;
    while (line > *text && line[-1] != '\n') line--;
    if (!is_idle(line, *end)) break;
    *end = line;
  }
  if (*end > *text && (*end)[-1] == ';') (*end)--;
}

static int parse(bq_statements *statements, const char *file, const char *content, bq_error *err) {
  const char *name = NULL, *text = content;
  size_t name_length = 0;
  int name_line = 0, number = 1;
  for (const char *line = content;; number++) {
    const char *end = line_end(line);
    size_t next_length = 0;
    const char *next = find_name(line, end, &next_length);
    int last = *end == '\0';
    if (next != NULL || last) { // the one before ends here
      const char *text_end = next != NULL ? line : end;
      char place[600];
      (void)snprintf(place, sizeof place, "%.500s:%d", file, name != NULL ? name_line : number);
      trim(&text, &text_end);
      int has_sql = text_end > text;
      if (name == NULL && has_sql) {
        return bq_fail(err, BQ_EINVAL, "%s: SQL before the first line `-- name: …`", place);
      }
      if (name != NULL && !has_sql) {
        return bq_fail(err, BQ_EINVAL, "%s: the statement %.*s is empty", place, (int)name_length, name);
      }
      if (name != NULL) {
        int result = add(statements, name, name_length, text, (size_t)(text_end - text), place, err);
        if (result < 0) return result;
      }
    }
    if (next != NULL) {
      if (!is_good_name(next, next_length)) {
        return bq_fail(err, BQ_EINVAL, "%.500s:%d: a statement's name is 1 to %d lower-case letters, digits and "
                                       "underscores, not beginning with a digit", file, number, MAX_NAME);
      }
      if (last) {
        return bq_fail(err, BQ_EINVAL, "%.500s:%d: the statement %.*s is empty", file, number, (int)next_length, next);
      }
      name = next;
      name_length = next_length;
      name_line = number;
      text = end + 1;
    }
    if (last) return 0;
    line = end + 1;
  }
}

static int compare(const void *a, const void *b) {
  const entry *x = a, *y = b;
  return strcmp(x->statement.name, y->statement.name);
}

static int sort_and_check(bq_statements *statements, bq_error *err) {
  if (statements->count == 0) return 0;
  qsort(statements->entries, statements->count, sizeof statements->entries[0], compare);
  for (size_t i = 1; i < statements->count; i++) {
    const entry *before = &statements->entries[i - 1], *e = &statements->entries[i];
    if (strcmp(before->statement.name, e->statement.name) != 0) continue;
    return bq_fail(err, BQ_EINVAL, "two SQL statements are named %s: %s and %s", e->statement.name, before->place,
                   e->place);
  }
  return 0;
}

static int load_file(bq_statements *statements, const char *directory, const char *name, bq_error *err) {
  bq_buf content = {0};
  char *path = bq_format("%s/%s", directory, name);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the SQL statements");
  int result = read_file(path, &content, err);
  if (result == 0 && content.length > 0) result = parse(statements, name, content.data, err);
  bq_buf_free(&content);
  bq_free(path);
  return result;
}

int bq_statements_load(bq_statements **out, const char *directory, bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_statements *statements = bq_alloc(sizeof *statements);
  if (statements == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the SQL statements");
  DIR *dir = opendir(directory);
  if (dir == NULL) {
    result = bq_fail_errno(err, errno, "can't read the SQL statements in %s", directory);
    goto cleanup;
  }
  while (result == 0) {
    errno = 0;
    const struct dirent *file = readdir(dir);
    if (file == NULL) {
      if (errno != 0) result = bq_fail_errno(err, errno, "can't list the SQL statements in %s", directory);
      break;
    }
    size_t length = strlen(file->d_name);
    if (file->d_name[0] == '.' || length < 5 || strcmp(file->d_name + length - 4, ".sql") != 0) continue;
    result = load_file(statements, directory, file->d_name, err);
  }
  if (result == 0) result = sort_and_check(statements, err);
  if (result < 0) goto cleanup;
  *out = statements;
  statements = NULL;
cleanup:
  if (dir != NULL) closedir(dir);
  bq_statements_free(statements);
  return result;
}

void bq_statements_free(bq_statements *statements) {
  if (statements == NULL) return;
  for (size_t i = 0; i < statements->count; i++) {
    bq_free((char *)(uintptr_t)statements->entries[i].statement.name);
    bq_free((char *)(uintptr_t)statements->entries[i].statement.text);
    bq_free(statements->entries[i].place);
  }
  bq_free(statements->entries);
  bq_free(statements);
}

const bq_statement *bq_statements_find(const bq_statements *statements, const char *name) {
  if (statements->count == 0) return NULL;
  entry wanted = {.statement = {.name = name}};
  const entry *found = bsearch(&wanted, statements->entries, statements->count, sizeof wanted, compare);
  return found != NULL ? &found->statement : NULL;
}
