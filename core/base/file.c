#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

int bq_file_read(const char *path, size_t max, char **out, size_t *length, bq_error *err) {
  int code = 0;
  bq_buf content = {0};
  *out = NULL;
  *length = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    int reason = errno;
    if (reason == ENOENT || reason == ENOTDIR) return bq_fail(err, BQ_ENOTFOUND, "%s does not exist", path);
    return bq_fail_errno(err, reason, "can't open %s", path);
  }
  struct stat about;
  if (fstat(fd, &about) < 0) {
    code = bq_fail_errno(err, errno, "can't read %s", path);
    goto cleanup;
  }
  if (!S_ISREG(about.st_mode)) {
    code = bq_fail(err, BQ_EINVAL, "%s is not a regular file", path);
    goto cleanup;
  }
  for (;;) {
    char chunk[16384];
    ssize_t got = read(fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      code = bq_fail_errno(err, errno, "can't read %s", path);
      goto cleanup;
    }
    if (got == 0) break;
    if (content.length + (size_t)got > max) {
      code = bq_fail(err, BQ_ELIMIT, "%s is longer than %zu bytes", path, max);
      goto cleanup;
    }
    bq_buf_add(&content, chunk, (size_t)got);
  }
  *length = content.length;
  *out = bq_buf_take(&content);
  if (*out == NULL) code = bq_fail(err, BQ_ENOMEM, "out of memory while reading %s", path);
cleanup:
  bq_buf_free(&content);
  (void)close(fd);
  return code;
}
