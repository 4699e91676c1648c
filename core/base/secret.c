#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"

enum { MAX_ARGUMENTS = 63, FIRST_POLL_MS = 1, MAX_POLL_MS = 20 };

const char *bq_environment_get(const char *const *environment, const char *name) {
  const char *const *entries = environment != NULL ? environment : (const char *const *)environ;
  size_t length = strlen(name);
  for (; entries != NULL && *entries != NULL; entries++) {
    if (strncmp(*entries, name, length) == 0 && (*entries)[length] == '=') return *entries + length + 1;
  }
  return NULL;
}

static const char *after_prefix(const char *text, const char *prefix) {
  size_t length = strlen(prefix);
  return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

int bq_secret_is_reference(const char *text) {
  return after_prefix(text, "file:") != NULL || after_prefix(text, "env:") != NULL ||
         after_prefix(text, "command:") != NULL;
}

// Takes over `bytes`. Cuts one line break from the end; what is left must be a text.
static int finish(char *bytes, size_t length, const char *place, char **out, bq_error *err) {
  if (length > 0 && bytes[length - 1] == '\n') length--;
  if (length > 0 && bytes[length - 1] == '\r') length--;
  bytes[length] = '\0';
  int code = 0;
  if (length == 0) code = bq_fail(err, BQ_EINVAL, "%s is empty", place);
  else if (memchr(bytes, '\0', length) != NULL) code = bq_fail(err, BQ_EINVAL, "%s holds a NUL byte", place);
  if (code < 0) {
    bq_free(bytes);
    return code;
  }
  *out = bytes;
  return 0;
}

static int from_file(const char *path, char **out, bq_error *err) {
  char *bytes;
  size_t length;
  int code = bq_file_read(path, BQ_SECRET_MAX_BYTES, &bytes, &length, err);
  return code < 0 ? code : finish(bytes, length, path, out, err);
}

static int from_environment(const char *name, const bq_secret_source *source, char **out, bq_error *err) {
  const char *value = bq_environment_get(source->environment, name);
  if (value == NULL) return bq_fail(err, BQ_ENOTFOUND, "the environment variable %s is not set", name);
  if (*value == '\0') return bq_fail(err, BQ_EINVAL, "the environment variable %s is empty", name);
  *out = bq_strdup(value);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a secret");
}

// Starts the command in a process group of its own, with its output on `fd`, nothing on its input and its complaints.
static int start(char *const *argv, const char *const *environment, int fd, pid_t *pid, bq_error *err) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  char *const *env = environment != NULL ? (char *const *)(uintptr_t)environment : environ;
  int result = posix_spawn_file_actions_init(&actions);
  if (result != 0) return bq_fail_errno(err, result, "can't start %s", argv[0]);
  result = posix_spawnattr_init(&attributes);
  if (result != 0) {
    (void)posix_spawn_file_actions_destroy(&actions);
    return bq_fail_errno(err, result, "can't start %s", argv[0]);
  }
  sigset_t none;
  sigset_t usual;
  (void)sigemptyset(&none);
  (void)sigemptyset(&usual);
  (void)sigaddset(&usual, SIGPIPE);
  // Without memory for these the spawn itself fails or the child misses a setting: each result counts.
  result |= posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  result |= posix_spawn_file_actions_adddup2(&actions, fd, STDOUT_FILENO);
  result |= posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  result |= posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  result |= posix_spawnattr_setflags(&attributes,
                                     POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  result |= posix_spawnattr_setpgroup(&attributes, 0);
  result |= posix_spawnattr_setsigmask(&attributes, &none);
  result |= posix_spawnattr_setsigdefault(&attributes, &usual);
  int code = 0;
  if (result != 0) {
    code = bq_fail(err, BQ_ENOMEM, "can't prepare the start of %s", argv[0]);
  } else {
    result = posix_spawnp(pid, argv[0], &actions, &attributes, argv, env);
    if (result != 0) code = bq_fail_errno(err, result, "can't start %s", argv[0]);
  }
  (void)posix_spawnattr_destroy(&attributes);
  (void)posix_spawn_file_actions_destroy(&actions);
  return code;
}

// Collects what comes out of `fd` until its end or the deadline.
static int collect(int fd, int64_t deadline_us, bq_buf *content, const char *program, bq_error *err) {
  for (;;) {
    int64_t left_ms = (deadline_us - bq_clock_mono_us()) / 1000;
    if (left_ms <= 0) return bq_fail(err, BQ_ETIMEOUT, "%s did not answer in time and was ended", program);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    int count = poll(&ready, 1, (int)left_ms);
    if (count < 0 && errno != EINTR) return bq_fail_errno(err, errno, "can't read from %s", program);
    if (count <= 0) continue;
    char chunk[4096];
    ssize_t got = read(fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return bq_fail_errno(err, errno, "can't read from %s", program);
    if (got == 0) return 0;
    if (content->length + (size_t)got > BQ_SECRET_MAX_BYTES) {
      return bq_fail(err, BQ_ELIMIT, "%s printed more than %d bytes", program, BQ_SECRET_MAX_BYTES);
    }
    bq_buf_add(content, chunk, (size_t)got);
  }
}

// Waits for the end of the command, which may outlive its output. Past the deadline, or when `code` tells of a failure,
// the whole process group is ended. Returns `code` or what failed here.
static int reap(pid_t pid, int64_t deadline_us, const char *program, int code, bq_error *err) {
  int status = 0;
  int pause_ms = FIRST_POLL_MS;
  pid_t got = 0;
  while (code == 0 && (got = waitpid(pid, &status, WNOHANG)) == 0) {
    if (bq_clock_mono_us() >= deadline_us) {
      code = bq_fail(err, BQ_ETIMEOUT, "%s did not end in time and was ended", program);
      break;
    }
    (void)poll(NULL, 0, pause_ms);
    if (pause_ms < MAX_POLL_MS) pause_ms *= 2;
  }
  if (code < 0) {
    (void)kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return code;
  }
  if (got < 0) return bq_fail_errno(err, errno, "can't learn how %s ended", program);
  if (WIFSIGNALED(status)) return bq_fail(err, BQ_EIO, "%s was ended by signal %d", program, WTERMSIG(status));
  if (WEXITSTATUS(status) == 127) return bq_fail(err, BQ_EIO, "%s can't be run (status 127)", program);
  if (WEXITSTATUS(status) != 0) return bq_fail(err, BQ_EIO, "%s failed with status %d", program, WEXITSTATUS(status));
  return 0;
}

static int run(char *const *argv, const bq_secret_source *source, char **out, bq_error *err) {
  int limit_ms = source->command_limit_ms > 0 ? source->command_limit_ms : BQ_SECRET_COMMAND_LIMIT_MS;
  int64_t deadline_us = bq_clock_mono_us() + (int64_t)limit_ms * 1000;
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) < 0) return bq_fail_errno(err, errno, "can't make a pipe for %s", argv[0]);
  bq_buf content = {0};
  pid_t pid = -1;
  int code = start(argv, source->environment, pipe_fds[1], &pid, err);
  (void)close(pipe_fds[1]);
  if (code == 0) {
    code = collect(pipe_fds[0], deadline_us, &content, argv[0], err);
    code = reap(pid, deadline_us, argv[0], code, err);
  }
  (void)close(pipe_fds[0]);
  if (code == 0) code = bq_buf_check(&content, err);
  if (code == 0) {
    size_t length = content.length;
    char *bytes = bq_buf_take(&content);
    if (bytes == NULL) code = bq_fail(err, BQ_ENOMEM, "out of memory for a secret");
    else code = finish(bytes, length, "the command's output", out, err);
  }
  bq_buf_free(&content);
  return code;
}

static int from_command(const char *words, const bq_secret_source *source, char **out, bq_error *err) {
  char *copy = bq_strdup(words);
  if (copy == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a command");
  char *argv[MAX_ARGUMENTS + 1] = {0};
  size_t count = 0;
  char *rest = NULL;
  int code = 0;
  for (char *word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
    if (count == MAX_ARGUMENTS) {
      code = bq_fail(err, BQ_ELIMIT, "a command: may have at most %d words", MAX_ARGUMENTS);
      goto cleanup;
    }
    argv[count++] = word;
  }
  code = count > 0 ? run(argv, source, out, err) : bq_fail(err, BQ_EINVAL, "command: names no program");
cleanup:
  bq_free(copy);
  return code;
}

int bq_secret_resolve(const char *text, const bq_secret_source *source, char **out, bq_error *err) {
  *out = NULL;
  const char *rest = after_prefix(text, "file:");
  if (rest != NULL) return from_file(rest, out, err);
  rest = after_prefix(text, "env:");
  if (rest != NULL) return from_environment(rest, source, out, err);
  rest = after_prefix(text, "command:");
  if (rest != NULL) return from_command(rest, source, out, err);
  *out = bq_strdup(text);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a secret");
}

int bq_secret_from_credentials(const char *name, const bq_secret_source *source, char **out, bq_error *err) {
  *out = NULL;
  const char *directory = bq_environment_get(source->environment, "CREDENTIALS_DIRECTORY");
  if (directory == NULL || *directory == '\0') return 0;
  if (strchr(name, '/') != NULL) return bq_fail(err, BQ_EINVAL, "a credential's name may hold no slash");
  char *path = bq_format("%s/%s", directory, name);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a path");
  bq_error problem = {0};
  int code = from_file(path, out, &problem);
  bq_free(path);
  if (code == BQ_ENOTFOUND) return 0;
  return code < 0 ? bq_fail(err, code, "%s", problem.message) : 0;
}

int bq_secret_from_directory(const char *directory, const char *name, const bq_secret_source *source, char **out,
                             bq_error *err) {
  size_t length = 0;
  int result = 0;
  *out = NULL;
  if (name[0] == '.' || strchr(name, '/') != NULL) return 0;
  if (*directory != '\0') {
    char *path = bq_format("%s/%s", directory, name);
    if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a secret");
    result = bq_file_read(path, BQ_SECRET_MAX_BYTES, out, &length, err);
    bq_free(path);
    if (result == BQ_ENOTFOUND) result = 0;
  }
  if (result == 0 && *out == NULL) result = bq_secret_from_credentials(name, source, out, err);
  if (result < 0 || *out == NULL) return result;
  length = strlen(*out);
  while (length > 0 && ((*out)[length - 1] == '\n' || (*out)[length - 1] == '\r')) (*out)[--length] = '\0';
  return 0;
}
