// Before the loop: giving up root, directories, the lock on the state directory.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "io/tree.h"
#include "queue/server_internal.h"

enum { LOCK_WAIT_MS = 5000, LOCK_STEP_MS = 50 };

extern char **environ;

// Makes a system user without a login, as Debian's packages do for their daemons.
static int add_user(const char *name, bq_error *err) {
  const char *argv[] = {"useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell",
                        "/usr/sbin/nologin", "--user-group", name, NULL};
  pid_t pid;
  int status = 0;
  int errnum = posix_spawn(&pid, "/usr/sbin/useradd", NULL, NULL, (char *const *)(uintptr_t)argv, environ);
  if (errnum != 0) return bq_fail_errno(err, errnum, "can't run useradd to make the user %s (RunAsUser)", name);
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) { /* once more */ }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
  return bq_fail(err, BQ_EIO, "useradd could not make the user %s: make it, or name another one in RunAsUser", name);
}

// Gives a directory to the server's user when root owns it: one of somebody else is left alone.
static int give(const char *path, const struct passwd *owner, bq_error *err) {
  struct stat info;
  if (stat(path, &info) < 0 || info.st_uid != 0 || owner->pw_uid == 0) return 0;
  if (chown(path, owner->pw_uid, owner->pw_gid) == 0) return 0;
  return bq_fail_errno(err, errno, "can't give %s to the user %s", path, owner->pw_name);
}

// As root, `owner` gets the directory, and of those above it what had to be made: else it could not come here.
static int make_directory(const char *path, const struct passwd *owner, bq_error *err) {
  if (path[0] == '\0' || owner == NULL) return path[0] == '\0' ? 0 : bq_tree_make_path(path, err);
  char *part = bq_strdup(path);
  int result = part != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory to make %s", path);
  for (char *at = part; result == 0; at++) {
    if (at == part || (*at != '/' && *at != '\0')) continue;
    char was = *at;
    struct stat info;
    *at = '\0';
    int missing = stat(part, &info) < 0;
    result = bq_tree_make_path(part, err);
    if (result == 0 && (missing || was == '\0')) result = give(part, owner, err);
    *at = was;
    if (was == '\0') break;
  }
  bq_free(part);
  return result;
}

static int make_directories(const bq_config *config, const struct passwd *owner, bq_error *err) {
  const char *const paths[] = {config->state_directory, config->workspace_directory, config->output_directory,
                               config->manifest_directory};
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    int result = make_directory(paths[i], owner, err);
    if (result < 0) return result;
  }
  return 0;
}

// As the user that the server is from now on.
static int check_directories(const bq_config *config, bq_error *err) {
  const struct {
    const char *option, *path;
  } directories[] = {{"StateDirectory", config->state_directory},
                     {"WorkspaceDirectory", config->workspace_directory},
                     {"OutputDirectory", config->output_directory}};
  for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++) {
    if (access(directories[i].path, W_OK | X_OK) == 0) continue;
    int errnum = errno;
    const struct passwd *user = getpwuid(geteuid());
    return bq_fail_errno(err, errnum, "%s can't write to the %s %s", user != NULL ? user->pw_name : "this user",
                         directories[i].option, directories[i].path);
  }
  return 0;
}

static int is_readable(const char *share) {
  char *probe = bq_format("%s/scripts/pipelines", share);
  int readable = probe != NULL && access(probe, R_OK | X_OK) == 0;
  bq_free(probe);
  return readable;
}

// `fd` was opened as root. A path through a descriptor needs no permission on the directories above it.
static int choose_share(const char *from, int fd, char **share, bq_error *err) {
  *share = is_readable(from) ? bq_strdup(from) : bq_format("/proc/self/fd/%d", fd);
  if (*share == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  if (is_readable(*share)) return 0;
  return bq_fail(err, BQ_EIO, "the scripts in %s can't be read by this server's user: make them readable for others",
                 from);
}

static int give_up_root(const bq_config *config, bq_error *err) {
  int result = 0;
  if (geteuid() != 0) {
    result = make_directories(config, NULL, err);
  } else {
    struct passwd *user = getpwnam(config->run_as_user);
    if (user == NULL) {
      result = add_user(config->run_as_user, err);
      if (result < 0) return result;
      user = getpwnam(config->run_as_user);
    }
    if (user == NULL || user->pw_uid == 0) {
      return bq_fail(err, BQ_EINVAL, "RunAsUser is %s: name an existing user other than root", config->run_as_user);
    }
    result = make_directories(config, user, err);
    if (result < 0) return result;
    if (initgroups(user->pw_name, user->pw_gid) < 0 || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) < 0 ||
        setresuid(user->pw_uid, user->pw_uid, user->pw_uid) < 0) {
      return bq_fail_errno(err, errno, "can't become the user %s", user->pw_name);
    }
  }
  return result;
}

int bq_server_become_user(const bq_config *config, const char *from, char **share, bq_error *err) {
  // Kept open as long as the server runs: the share may be read through it at any time.
  int fd = open(from, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return bq_fail_errno(err, errno, "can't open the directory of scripts %s", from);
  int result = give_up_root(config, err);
  if (result == 0) result = check_directories(config, err);
  if (result == 0) result = choose_share(from, fd, share, err);
  // Neither a core dump nor a debugger of the same user, which builds are, may read what this process knows.
  if (result == 0 && prctl(PR_SET_DUMPABLE, 0) < 0) {
    result = bq_fail_errno(err, errno, "can't make the server undumpable");
  }
  return result;
}

static char *read_predecessor(int fd) {
  char text[BQ_UUID_SIZE] = "";
  ssize_t got = pread(fd, text, sizeof text - 1, 0);
  return got == BQ_UUID_SIZE - 1 && bq_uuid_is(text) ? bq_strdup(text) : NULL;
}

// Another server may be on its way out: it is waited for, LOCK_WAIT_MS at most.
static int wait_for_lock(int fd) {
  static const struct timespec step = {.tv_nsec = (long)LOCK_STEP_MS * 1000000};
  int result = flock(fd, LOCK_EX | LOCK_NB);
  for (int waited = 0; result < 0 && waited < LOCK_WAIT_MS; waited += LOCK_STEP_MS) {
    if (waited == 0) bq_log(BQ_INFO, "another server uses the state directory: waiting for its end", NULL);
    (void)nanosleep(&step, NULL);
    result = flock(fd, LOCK_EX | LOCK_NB);
  }
  return result;
}

int bq_server_lock_state(bq_server *server, bq_error *err) {
  char *path = bq_format("%s/lock", server->config->state_directory);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  int result = 0;
  server->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (server->lock_fd < 0) {
    result = bq_fail_errno(err, errno, "can't open %s", path);
  } else if (wait_for_lock(server->lock_fd) < 0) {
    result = bq_fail(err, BQ_ECONFLICT,
                     "another server uses the state directory %s: stop it, or name another BuildQueue.StateDirectory",
                     server->config->state_directory);
  } else {
    server->predecessor = read_predecessor(server->lock_fd);
  }
  bq_free(path);
  return result;
}

int bq_server_remember_node(const bq_server *server, const char *node_id, bq_error *err) {
  size_t length = strlen(node_id);
  if (pwrite(server->lock_fd, node_id, length, 0) != (ssize_t)length || ftruncate(server->lock_fd, (off_t)length) < 0) {
    return bq_fail_errno(err, errno, "can't write the node's id into the state directory");
  }
  return 0;
}
