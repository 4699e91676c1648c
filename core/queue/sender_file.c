// Mails without a mail server: files in StateDirectory/outbox that any mail program opens.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "queue/sender_internal.h"

typedef struct mail_file {
  bq_task task; // first
  char *directory; // owned
  char *path;      // owned
  bq_content content;
  bq_transport_done done;
  void *arg;
  bq_error error;
} mail_file;

static int write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, bytes, length);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return -1;
    bytes += written;
    length -= (size_t)written;
  }
  return 0;
}

// Whoever looks into the directory sees a whole mail or none.
static void write_file(mail_file *file, const char *temporary, const char *bytes, size_t length) {
  if (mkdir(file->directory, 0750) < 0 && errno != EEXIST) {
    (void)bq_fail_errno(&file->error, errno, "can't make %s", file->directory);
    return;
  }
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
  int failed = fd < 0 || write_all(fd, bytes, length) < 0 || fsync(fd) < 0;
  if (fd >= 0 && close(fd) < 0) failed = 1;
  if (failed || rename(temporary, file->path) < 0) {
    (void)bq_fail_errno(&file->error, errno, "can't write %s", file->path);
    (void)unlink(temporary);
  }
}

static void write_work(bq_task *task) {
  mail_file *file = (mail_file *)task;
  char *bytes = NULL;
  size_t length = 0;
  char *temporary = bq_format("%s.new", file->path);
  if (temporary == NULL) (void)bq_fail(&file->error, BQ_ENOMEM, "out of memory for a mail");
  else if (file->content.make(file->content.arg, &bytes, &length, &file->error) == 0) {
    write_file(file, temporary, bytes, length);
  }
  bq_free(bytes);
  bq_free(temporary);
}

static void free_file(mail_file *file) {
  bq_free(file->directory);
  bq_free(file->path);
  bq_free(file);
}

static void write_done(bq_task *task) {
  mail_file *file = (mail_file *)task;
  int code = file->error.code;
  const bq_transport_result result = {.outcome = code == 0           ? BQ_TRANSPORT_SENT
                                                 : code == BQ_EINVAL ? BQ_TRANSPORT_DEAD
                                                                     : BQ_TRANSPORT_RETRY,
                                      .reply = code == 0 ? file->path : file->error.message};
  file->done(file->arg, &result);
  free_file(file);
}

int bq_mail_write(bq_server *server, const char *name, const bq_content *content, bq_transport_done done, void *arg,
                  bq_error *err) {
  int result = 0;
  mail_file *file = bq_alloc(sizeof *file);
  if (file == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  *file = (mail_file){.task = {.work = write_work, .done = write_done}, .content = *content, .done = done, .arg = arg};
  file->directory = bq_format("%s/outbox", server->config->state_directory);
  file->path = bq_format("%s/outbox/%s", server->config->state_directory, name);
  if (file->directory == NULL || file->path == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  if (result == 0) result = bq_pool_submit(server->blocking, &file->task, err);
  if (result < 0) free_file(file);
  return result;
}
