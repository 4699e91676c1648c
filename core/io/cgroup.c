#include "io/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

// The mount point of cgroup2, from /proc/self/mountinfo: "… root point options … - cgroup2 …".
static int find_mount(char *out, size_t size) {
  FILE *file = fopen("/proc/self/mountinfo", "re");
  if (file == NULL) return 0;
  char line[PATH_MAX + 256];
  int found = 0;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    char point[PATH_MAX];
    if (strstr(line, " - cgroup2 ") == NULL) continue;
    if (sscanf(line, "%*d %*d %*s %*s %4095s", point) != 1) continue;
    found = (size_t)snprintf(out, size, "%s", point) < size;
  }
  (void)fclose(file);
  return found;
}

// The server's own place in it: the line "0::/path" of /proc/self/cgroup.
static int find_own(char *out, size_t size) {
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (file == NULL) return 0;
  char line[PATH_MAX + 16];
  int found = 0;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, "0::/", 4) != 0) continue;
    line[strcspn(line, "\n")] = '\0';
    found = (size_t)snprintf(out, size, "%s", line + 3) < size;
  }
  (void)fclose(file);
  return found;
}

int bq_cgroup_new(char **path, int *procs_fd, bq_error *err) {
  *path = NULL;
  *procs_fd = -1;
  char mount[PATH_MAX], own[PATH_MAX];
  if (!find_mount(mount, sizeof mount) || !find_own(own, sizeof own)) return 0;
  if (strcmp(own, "/") == 0) own[0] = '\0';
  int result = 0;
  char *procs = NULL;
  char *dir = bq_format("%s%s/buildq-%ld-%lld", mount, own, (long)getpid(), (long long)bq_clock_mono_us());
  if (dir == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a cgroup's name");
  if (mkdir(dir, 0755) < 0) goto cleanup; // not ours to make: no cgroup
  procs = bq_format("%s/cgroup.procs", dir);
  if (procs == NULL) {
    (void)rmdir(dir);
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a cgroup's name");
    goto cleanup;
  }
  *procs_fd = open(procs, O_WRONLY | O_CLOEXEC);
  if (*procs_fd < 0) {
    (void)rmdir(dir);
    goto cleanup;
  }
  *path = dir;
  dir = NULL;
cleanup:
  bq_free(procs);
  bq_free(dir);
  return result;
}

// For kernels before 5.14, which have no cgroup.kill.
static void kill_each(const char *path) {
  char name[PATH_MAX];
  if ((size_t)snprintf(name, sizeof name, "%s/cgroup.procs", path) >= sizeof name) return;
  FILE *file = fopen(name, "re");
  if (file == NULL) return;
  char line[32];
  while (fgets(line, sizeof line, file) != NULL) {
    long pid = strtol(line, NULL, 10);
    if (pid > 1) (void)kill((pid_t)pid, SIGKILL);
  }
  (void)fclose(file);
}

void bq_cgroup_kill(const char *path) {
  char name[PATH_MAX];
  if ((size_t)snprintf(name, sizeof name, "%s/cgroup.kill", path) >= sizeof name) return;
  int fd = open(name, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "1", 1) < 0) kill_each(path);
  if (fd >= 0) close(fd);
}

int bq_cgroup_remove(const char *path) {
  return rmdir(path) == 0 || errno == ENOENT;
}
