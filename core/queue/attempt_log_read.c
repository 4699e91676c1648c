// The reading half of queue/attempt_log.h: works on the files alone, so that a reader needs nothing of the writer.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "queue/attempt_log.h"

enum { FIRST_LINE_BYTES = 32, PREFIX_BYTES = 16, PARTS = 3 };

static const char prefix[] = "buildq-log-from ";

// One file of the log, as it is now.
typedef struct part {
  int fd;         // -1: there is none
  uint64_t start; // offset of its first byte in all that was written
  uint64_t end;   // offset behind its last byte
  off_t skip;     // bytes in front of the first one
} part;

// A tail that was made a moment ago and has no first line yet counts as missing.
static int measure(part *p, int is_tail) {
  struct stat st;
  if (fstat(p->fd, &st) < 0) return -1;
  p->start = 0;
  p->skip = 0;
  if (is_tail) {
    char line[FIRST_LINE_BYTES + 1];
    ssize_t n = pread(p->fd, line, FIRST_LINE_BYTES, 0);
    if (n < 0) return -1;
    if (n < FIRST_LINE_BYTES || memcmp(line, prefix, PREFIX_BYTES) != 0) {
      close(p->fd);
      p->fd = -1;
      return 0;
    }
    line[FIRST_LINE_BYTES] = '\0';
    p->start = strtoull(line + PREFIX_BYTES, NULL, 10);
    p->skip = FIRST_LINE_BYTES;
  }
  p->end = p->start + (uint64_t)(st.st_size - p->skip);
  return 0;
}

static int open_part(part *p, const char *path, const char *suffix, bq_error *err) {
  p->fd = -1;
  char *name = bq_format("%s%s", path, suffix);
  if (name == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to read the log %s", path);
  int result = 0;
  p->fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (p->fd < 0 && errno != ENOENT) result = bq_fail_errno(err, errno, "can't read the log %s", name);
  if (p->fd >= 0 && measure(p, *suffix != '\0') < 0) result = bq_fail_errno(err, errno, "can't read the log %s", name);
  bq_free(name);
  return result;
}

static void close_parts(part parts[PARTS]) {
  for (int i = 0; i < PARTS; i++) {
    if (parts[i].fd >= 0) close(parts[i].fd);
  }
}

// The present tail is opened before the old one: a rotation between the two shows the same file twice, and hides none.
// The head is measured once more at the end: with a tail there it doesn't grow any more.
static int open_parts(part parts[PARTS], const char *path, bq_error *err) {
  for (int i = 0; i < PARTS; i++) parts[i].fd = -1;
  int result = open_part(&parts[0], path, "", err);
  if (result < 0) return result;
  if (parts[0].fd < 0) return bq_fail(err, BQ_ENOTFOUND, "there is no log %s", path);
  result = open_part(&parts[2], path, ".tail", err);
  if (result == 0) result = open_part(&parts[1], path, ".tail.old", err);
  if (result == 0 && measure(&parts[0], 0) < 0) result = bq_fail_errno(err, errno, "can't read the log %s", path);
  return result;
}

// A piece that is not the last ends with a line, where one ends in it: a gap is never marked inside a line.
static size_t whole_lines(const char *text, size_t length) {
  const char *end = memrchr(text, '\n', length);
  return end != NULL ? (size_t)(end - text) + 1 : length;
}

int bq_attempt_log_read(const char *path, uint64_t offset, char *buffer, size_t size, size_t *length, uint64_t *next,
                        bq_error *err) {
  *length = 0;
  *next = offset;
  if (size < BQ_LOG_READ_BYTES) return bq_fail(err, BQ_EINVAL, "a buffer of %zu bytes is too small for a log", size);
  part parts[PARTS] = {{0}};
  int result = open_parts(parts, path, err);
  if (result < 0) goto cleanup;
  const part *after = NULL; // the first part behind a gap
  for (int i = 0; i < PARTS; i++) {
    const part *p = &parts[i];
    if (p->fd < 0) continue;
    if (offset >= p->start && offset < p->end) {
      uint64_t room = p->end - offset;
      ssize_t n = pread(p->fd, buffer, room < size ? (size_t)room : size, p->skip + (off_t)(offset - p->start));
      if (n < 0) {
        result = bq_fail_errno(err, errno, "can't read the log %s", path);
      } else {
        *length = (size_t)n == size ? whole_lines(buffer, size) : (size_t)n;
        *next = offset + *length;
      }
      goto cleanup;
    }
    if (p->start > offset && (after == NULL || p->start < after->start)) after = p;
  }
  if (after != NULL) {
    int n = snprintf(buffer, size, "… %" PRIu64 " bytes left out, it goes on at offset %" PRIu64 " …\n",
                     after->start - offset, after->start);
    *length = (size_t)n;
    *next = after->start;
  }
cleanup:
  close_parts(parts);
  return result;
}

int bq_attempt_log_end(const char *path, uint64_t *end, bq_error *err) {
  *end = 0;
  part parts[PARTS] = {{0}};
  int result = open_parts(parts, path, err);
  for (int i = 0; result == 0 && i < PARTS; i++) {
    if (parts[i].fd >= 0 && parts[i].end > *end) *end = parts[i].end;
  }
  close_parts(parts);
  return result;
}

int bq_attempt_log_remove(const char *path, bq_error *err) {
  static const char *const suffixes[] = {"", ".tail", ".tail.old"};
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
    char *name = bq_format("%s%s", path, suffixes[i]);
    if (name == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to remove the log %s", path);
    int failed = unlink(name) < 0 && errno != ENOENT;
    int errnum = errno;
    bq_free(name);
    if (failed) return bq_fail_errno(err, errnum, "can't remove the log %s%s", path, suffixes[i]);
  }
  return 0;
}
