#include "io/sandbox.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

#define TMP_BYTES "1073741824" // of the sandbox's /tmp, which is memory

static const char shell_path[] = "/bin/sh";
// In a subshell, so that the shell stays and is the first process; exec, so that no built-in command of the shell hides
// a program of that name.
static const char shell_first[] = "(exec \"$@\"); exit $?";
static const char shell_replaced[] = "exec \"$@\"";

// What compilers, git and curl read. /etc/ssl/private and the host's accounts are left out on purpose.
static const char *const etc_paths[] = {
    "/etc/alternatives",  "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/gai.conf",
    "/etc/host.conf",     "/etc/hosts",           "/etc/ld.so.cache",          "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",  "/etc/localtime",       "/etc/nsswitch.conf",        "/etc/os-release",
    "/etc/pki/tls/certs", "/etc/protocols",       "/etc/resolv.conf",          "/etc/services",
    "/etc/ssl/certs",     "/etc/ssl/openssl.cnf", "/etc/timezone",
};

// Symbolic links into /usr on a merged system, directories on others.
static const char *const root_paths[] = {"/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"};

static int add(bq_sandbox_command *command, const char *text, bq_error *err) {
  if (command->count + 1 >= command->capacity) {
    size_t capacity = command->capacity == 0 ? 128 : command->capacity * 2;
    char **grown = bq_realloc(command->argv, capacity * sizeof *grown);
    if (grown == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a command line");
    command->argv = grown;
    command->capacity = capacity;
  }
  command->argv[command->count] = NULL;
  char *copy = bq_strdup(text);
  if (copy == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a command line");
  command->argv[command->count++] = copy;
  command->argv[command->count] = NULL;
  return 0;
}

static int add_all(bq_sandbox_command *command, const char *const *texts, size_t count, bq_error *err) {
  for (size_t i = 0; i < count; i++) {
    int result = add(command, texts[i], err);
    if (result < 0) return result;
  }
  return 0;
}

#define ADD(...)                                                                                                       \
  add_all(command, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), err)

static int add_root_path(bq_sandbox_command *command, const char *path, bq_error *err) {
  struct stat st;
  if (lstat(path, &st) < 0) {
    return errno == ENOENT ? 0 : bq_fail_errno(err, errno, "can't look at %s for the sandbox", path); // not here: fine
  }
  if (!S_ISLNK(st.st_mode)) return ADD("--ro-bind", path, path);
  char target[PATH_MAX];
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) return bq_fail_errno(err, errno, "can't read the link %s", path);
  target[length] = '\0';
  return ADD("--symlink", target, path);
}

static int add_binds(bq_sandbox_command *command, const char *option, const char *const *paths, bq_error *err) {
  for (; paths != NULL && *paths != NULL; paths++) {
    if (**paths != '/') return bq_fail(err, BQ_EINVAL, "the sandbox path \"%s\" must be absolute", *paths);
    int result = ADD(option, *paths, *paths);
    if (result < 0) return result;
  }
  return 0;
}

static int add_view(bq_sandbox_command *command, const bq_process_spec *spec, bq_error *err) {
  int result = ADD("--ro-bind", "/usr", "/usr");
  for (size_t i = 0; result == 0 && i < sizeof root_paths / sizeof root_paths[0]; i++) {
    result = add_root_path(command, root_paths[i], err);
  }
  for (size_t i = 0; result == 0 && i < sizeof etc_paths / sizeof etc_paths[0]; i++) {
    result = ADD("--ro-bind-try", etc_paths[i], etc_paths[i]);
  }
  char passwd[12], group[12];
  (void)snprintf(passwd, sizeof passwd, "%d", BQ_SANDBOX_FD_PASSWD);
  (void)snprintf(group, sizeof group, "%d", BQ_SANDBOX_FD_GROUP);
  if (result == 0) result = ADD("--ro-bind-data", passwd, "/etc/passwd", "--ro-bind-data", group, "/etc/group");
  if (result == 0) result = ADD("--proc", "/proc", "--dev", "/dev", "--size", TMP_BYTES, "--tmpfs", "/tmp");
  if (result == 0) result = ADD("--symlink", "/tmp", "/var/tmp");
  if (result == 0) result = add_binds(command, "--ro-bind", spec->sandbox.read_only_paths, err);
  if (result == 0) result = add_binds(command, "--bind", spec->sandbox.writable_paths, err);
  if (result == 0) result = ADD("--bind", spec->workspace, spec->workspace, "--remount-ro", "/");
  if (result == 0) result = ADD("--chdir", spec->cwd);
  return result;
}

static int add_bwrap(bq_sandbox_command *command, const bq_process_spec *spec, bq_error *err) {
  char info[12], block[12], uid[12];
  (void)snprintf(info, sizeof info, "%d", BQ_SANDBOX_FD_INFO);
  (void)snprintf(block, sizeof block, "%d", BQ_SANDBOX_FD_BLOCK);
  (void)snprintf(uid, sizeof uid, "%d", BQ_SANDBOX_ROOTS_UID);
  int result = ADD(spec->sandbox.bwrap_path, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1",
                   "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--info-fd", info, "--block-fd", block);
  // Root would keep its powers inside: it gets a user namespace, as everybody else has to.
  if (result == 0 && geteuid() == 0) result = ADD("--unshare-user", "--uid", uid, "--gid", uid);
  if (result == 0 && !spec->sandbox.network) result = ADD("--unshare-net");
  if (result == 0) result = add_view(command, spec, err);
  if (result == 0) result = ADD("--", shell_path, "-c", shell_first, "sh");
  return result;
}

// The shell drops variables whose names it can't hold: better said than silently lost.
static int check_env(const char *const *env, bq_error *err) {
  for (; *env != NULL; env++) {
    const char *c = *env;
    if (!isalpha((unsigned char)*c) && *c != '_') break;
    while (isalnum((unsigned char)*c) || *c == '_') c++;
    if (*c != '=') break;
  }
  if (*env == NULL) return 0;
  return bq_fail(err, BQ_EINVAL,
                 "the environment variable \"%.*s\" has a name that commands can't be given; use A-Z, a-z, 0-9 and _",
                 (int)strcspn(*env, "="), *env);
}

static int check_spec(const bq_process_spec *spec, bq_error *err) {
  if (spec->argv == NULL || spec->argv[0] == NULL || spec->argv[0][0] == '\0') {
    return bq_fail(err, BQ_EINVAL, "a command needs a program: argv is empty");
  }
  if (spec->argv[0][0] == '-') {
    return bq_fail(err, BQ_EINVAL, "a program's name can't begin with \"-\": %s", spec->argv[0]);
  }
  if (spec->workspace == NULL || spec->workspace[0] != '/' || spec->workspace[1] == '\0') {
    return bq_fail(err, BQ_EINVAL, "the workspace of %s must be an absolute path below /", spec->argv[0]);
  }
  if (spec->cwd == NULL || spec->cwd[0] != '/') {
    return bq_fail(err, BQ_EINVAL, "the working directory of %s must be an absolute path", spec->argv[0]);
  }
  return check_env(spec->env, err);
}

int bq_sandbox_command_new(bq_sandbox_command *out, const bq_process_spec *spec, bq_error *err) {
  memset(out, 0, sizeof *out);
  bq_sandbox_command *command = out;
  int result = check_spec(spec, err);
  if (result < 0) goto cleanup;
  switch (spec->sandbox.kind) {
  case BQ_SANDBOX_BWRAP:
    command->path = spec->sandbox.bwrap_path;
    result = add_bwrap(command, spec, err);
    break;
  case BQ_SANDBOX_NONE:
    command->path = shell_path;
    result = ADD("sh", "-c", shell_replaced, "sh");
    break;
  }
  for (size_t i = 0; result == 0 && spec->argv[i] != NULL; i++) result = add(command, spec->argv[i], err);
cleanup:
  if (result < 0) bq_sandbox_command_free(out);
  return result;
}

void bq_sandbox_command_free(bq_sandbox_command *command) {
  for (size_t i = 0; i < command->count; i++) bq_free(command->argv[i]);
  bq_free(command->argv);
  memset(command, 0, sizeof *command);
}

int bq_sandbox_memory_file(int *out, const char *name, const void *bytes, size_t length, bq_error *err) {
  *out = -1;
  int result = 0;
  int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return bq_fail_errno(err, errno, "can't make a file in memory (%s)", name);
  for (size_t done = 0; done < length;) {
    ssize_t n = write(fd, (const char *)bytes + done, length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      result = bq_fail_errno(err, errno, "can't fill a file in memory (%s)", name);
      goto cleanup;
    }
    done += (size_t)n;
  }
  if (lseek(fd, 0, SEEK_SET) < 0) {
    result = bq_fail_errno(err, errno, "can't rewind a file in memory (%s)", name);
    goto cleanup;
  }
  *out = fd;
  fd = -1;
cleanup:
  if (fd >= 0) close(fd);
  return result;
}

int bq_sandbox_accounts(int *fd, int group, bq_error *err) {
  unsigned uid = geteuid() == 0 ? BQ_SANDBOX_ROOTS_UID : geteuid();
  unsigned gid = geteuid() == 0 ? BQ_SANDBOX_ROOTS_UID : getegid();
  char text[256];
  int length;
  if (group) {
    length = snprintf(text, sizeof text, "root:x:0:\nbuild:x:%u:\nnogroup:x:65534:\n", gid);
  } else {
    length = snprintf(text, sizeof text,
                      "root:x:0:0:root:/:/bin/sh\nbuild:x:%u:%u:build:/tmp:/bin/sh\n"
                      "nobody:x:65534:65534:nobody:/:/bin/false\n",
                      uid, gid);
  }
  return bq_sandbox_memory_file(fd, group ? "group" : "passwd", text, (size_t)length, err);
}
