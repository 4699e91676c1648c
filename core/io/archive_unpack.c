#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/archive.h"
#include "io/tree.h"

enum { READ_BYTES = 128 * 1024 };

// A name seen in the first reading.
typedef struct seen {
  char *path;  // owned
  int is_link; // 1: nothing may lie below it
} seen;

typedef struct unpacking {
  const bq_archive_unpack *unpack;
  bq_archive_unpacked *out;
  int fd;         // of the archive; owned
  char *buffer;   // owned; READ_BYTES
  seen *names;    // owned; filled by the first reading
  size_t count;   // of names
  size_t capacity;
  size_t entries; // headers seen in this reading
  bq_error *err;
} unpacking;

typedef int (*entry_fn)(unpacking *u, struct archive *archive, struct archive_entry *entry, const char *path);

static int refuse(const unpacking *u, const char *name, const char *why) {
  return bq_fail(u->err, BQ_EINVAL, "%s is not unpacked: its entry \"%.300s\" %s", u->unpack->from, name, why);
}

// Writes the clean form of `name` to `out` (PATH_MAX bytes), without `strip` leading parts; "" when nothing is left.
static int clean(const unpacking *u, const char *name, char *out) {
  if (*name == '/') return refuse(u, name, "has an absolute name");
  size_t length = 0;
  unsigned parts = 0;
  for (const char *at = name; *at != '\0';) {
    size_t n = strcspn(at, "/");
    if (n == 2 && memcmp(at, "..", 2) == 0) return refuse(u, name, "has \"..\" in its name");
    if (n > 0 && !(n == 1 && *at == '.') && ++parts > u->unpack->strip) {
      if (length + n + 2 > PATH_MAX) return refuse(u, name, "has too long a name");
      if (length > 0) out[length++] = '/';
      memcpy(out + length, at, n);
      length += n;
    }
    at += n + (at[n] == '/');
  }
  out[length] = '\0';
  return 0;
}

// As bytes where they are kept as bytes, else (pax) as UTF-8, which the process's locale may not have.
static const char *name_of(struct archive_entry *entry) {
  const char *name = archive_entry_pathname(entry);
  return name != NULL ? name : archive_entry_pathname_utf8(entry);
}

static const char *symlink_of(struct archive_entry *entry) {
  const char *target = archive_entry_symlink(entry);
  return target != NULL ? target : archive_entry_symlink_utf8(entry);
}

static const char *hardlink_of(struct archive_entry *entry) {
  const char *target = archive_entry_hardlink(entry);
  return target != NULL ? target : archive_entry_hardlink_utf8(entry);
}

// ".." only in front: there the directories are real ones, and counting them is exact. Behind a name it could follow
// another link of the archive.
static int check_target(const unpacking *u, const char *path, const char *target) {
  if (target == NULL || *target == '\0') return refuse(u, path, "is a link to nothing");
  if (*target == '/') return refuse(u, path, "is a link to an absolute path");
  size_t depth = 0;
  for (const char *c = path; *c != '\0'; c++) depth += *c == '/';
  int named = 0;
  for (const char *at = target; *at != '\0';) {
    size_t n = strcspn(at, "/");
    if (n == 2 && memcmp(at, "..", 2) == 0) {
      if (named || depth == 0) return refuse(u, path, "is a link that leads out");
      depth--;
    } else if (n > 0 && !(n == 1 && *at == '.')) {
      named = 1;
    }
    at += n + (at[n] == '/');
  }
  return 0;
}

static int remember(unpacking *u, const char *path, int is_link) {
  if (u->count == u->capacity) {
    size_t capacity = u->capacity == 0 ? 256 : u->capacity * 2;
    seen *grown = bq_realloc(u->names, capacity * sizeof *grown);
    if (grown == NULL) return bq_fail(u->err, BQ_ENOMEM, "out of memory to unpack %s", u->unpack->from);
    u->names = grown;
    u->capacity = capacity;
  }
  char *copy = bq_strdup(path);
  if (copy == NULL) return bq_fail(u->err, BQ_ENOMEM, "out of memory to unpack %s", u->unpack->from);
  u->names[u->count++] = (seen){.path = copy, .is_link = is_link};
  return 0;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const seen *)a)->path, ((const seen *)b)->path);
}

// No entry goes through a link of the same archive, wherever in it the link stands.
static int check_links(unpacking *u) {
  if (u->count > 1) qsort(u->names, u->count, sizeof *u->names, by_path);
  for (size_t i = 0; i < u->count; i++) {
    if (!u->names[i].is_link) continue;
    size_t length = strlen(u->names[i].path);
    // What lies below sorts behind it, but names like "link-x" may stand between.
    for (size_t k = i + 1; k < u->count && strncmp(u->names[k].path, u->names[i].path, length) == 0; k++) {
      char next = u->names[k].path[length];
      if (next == '/') return refuse(u, u->names[k].path, "goes through a link");
      if (next > '/') break;
    }
  }
  return 0;
}

// Reads the entry's contents, to `fd` when that is not -1, and counts them.
static int read_contents(unpacking *u, struct archive *archive, const char *path, int fd) {
  for (;;) {
    if (u->unpack->stop != NULL && atomic_load(u->unpack->stop)) {
      return bq_fail(u->err, BQ_ECANCELED, "unpacking %s was stopped", u->unpack->from);
    }
    la_ssize_t n = archive_read_data(archive, u->buffer, READ_BYTES);
    if (n == ARCHIVE_RETRY) continue;
    if (n < 0) {
      const char *why = archive_error_string(archive);
      return bq_fail(u->err, BQ_EINVAL, "can't unpack %s from %s: %s", path, u->unpack->from,
                     why == NULL ? "it is damaged" : why);
    }
    if (n == 0) return 0;
    if ((uint64_t)n > u->unpack->max_bytes - u->out->bytes) {
      return bq_fail(u->err, BQ_ELIMIT, "%s has more than %llu bytes unpacked", u->unpack->from,
                     (unsigned long long)u->unpack->max_bytes);
    }
    u->out->bytes += (uint64_t)n;
    for (la_ssize_t done = 0; fd >= 0 && done < n;) {
      ssize_t w = write(fd, u->buffer + done, (size_t)(n - done));
      if (w < 0 && errno == EINTR) continue;
      if (w < 0) return bq_fail_errno(u->err, errno, "can't write %s", path);
      done += w;
    }
  }
}

// --- first reading: check -------------------------------------------------------------------------------------------

static int check_entry(unpacking *u, struct archive *archive, struct archive_entry *entry, const char *path) {
  const char *hardlink = hardlink_of(entry);
  if (hardlink != NULL) {
    char target[PATH_MAX];
    int result = clean(u, hardlink, target);
    if (result == 0 && *target == '\0') result = refuse(u, path, "is a link to nothing");
    return result < 0 ? result : remember(u, path, 0);
  }
  int result;
  switch (archive_entry_filetype(entry)) {
  case AE_IFDIR: return remember(u, path, 0);
  case AE_IFREG:
    result = remember(u, path, 0);
    return result < 0 ? result : read_contents(u, archive, path, -1);
  case AE_IFLNK:
    result = check_target(u, path, symlink_of(entry));
    return result < 0 ? result : remember(u, path, 1);
  default: return refuse(u, path, "is no file, directory or link");
  }
}

// --- second reading: write ------------------------------------------------------------------------------------------

static char *below(const unpacking *u, const char *path) {
  char *joined = bq_format("%s/%s", u->unpack->to, path);
  if (joined == NULL) (void)bq_fail(u->err, BQ_ENOMEM, "out of memory to unpack %s", u->unpack->from);
  return joined;
}

static int write_file(unpacking *u, struct archive *archive, struct archive_entry *entry, const char *path, int dir_fd,
                      const char *name) {
  int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return bq_fail_errno(u->err, errno, "can't make %s", path);
  int result = read_contents(u, archive, path, fd);
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
  if (archive_entry_mtime_is_set(entry)) {
    times[1] = (struct timespec){.tv_sec = archive_entry_mtime(entry), .tv_nsec = archive_entry_mtime_nsec(entry)};
  }
  mode_t mode = (archive_entry_perm(entry) & 0777) | S_IRUSR | S_IWUSR;
  if (result == 0 && (fchmod(fd, mode) < 0 || futimens(fd, times) < 0)) {
    result = bq_fail_errno(u->err, errno, "can't set the permissions or the time of %s", path);
  }
  if (close(fd) < 0 && result == 0) result = bq_fail_errno(u->err, errno, "can't write %s", path);
  return result;
}

static int write_hardlink(unpacking *u, const char *hardlink, const char *path, int dir_fd, const char *name) {
  char target[PATH_MAX];
  int result = clean(u, hardlink, target);
  if (result < 0) return result;
  char *joined = below(u, target);
  if (joined == NULL) return BQ_ENOMEM;
  const char *target_name;
  int target_fd;
  result = bq_tree_open_parent(u->unpack->to_root, joined, 0, &target_name, &target_fd, u->err);
  if (result == 0) {
    if (linkat(target_fd, target_name, dir_fd, name, 0) < 0) {
      result = bq_fail_errno(u->err, errno, "can't link %s to %s", path, target);
    }
    close(target_fd);
  }
  bq_free(joined);
  return result;
}

static int write_entry(unpacking *u, struct archive *archive, struct archive_entry *entry, const char *path) {
  char *joined = below(u, path);
  if (joined == NULL) return BQ_ENOMEM;
  const char *hardlink = hardlink_of(entry);
  int is_directory = hardlink == NULL && archive_entry_filetype(entry) == AE_IFDIR;
  const char *name;
  int dir_fd = -1;
  int result = is_directory ? bq_tree_make(u->unpack->to_root, joined, u->err)
                            : bq_tree_open_parent(u->unpack->to_root, joined, 1, &name, &dir_fd, u->err);
  if (result < 0 || is_directory) goto cleanup;
  if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT) {
    result = bq_fail_errno(u->err, errno, "can't replace %s", path);
  } else if (hardlink != NULL) {
    result = write_hardlink(u, hardlink, path, dir_fd, name);
  } else if (archive_entry_filetype(entry) == AE_IFLNK) {
    if (symlinkat(symlink_of(entry), dir_fd, name) < 0) {
      result = bq_fail_errno(u->err, errno, "can't make the link %s", path);
    }
  } else {
    result = write_file(u, archive, entry, path, dir_fd, name);
  }
  u->out->files++;
  close(dir_fd);
cleanup:
  bq_free(joined);
  return result;
}

// --- both -----------------------------------------------------------------------------------------------------------

static int handle_entry(unpacking *u, struct archive *archive, struct archive_entry *entry, entry_fn handle) {
  if (++u->entries > u->unpack->max_entries) {
    return bq_fail(u->err, BQ_ELIMIT, "%s has more than %zu entries", u->unpack->from, u->unpack->max_entries);
  }
  char path[PATH_MAX];
  path[0] = '\0';
  const char *name = name_of(entry);
  if (name == NULL) return refuse(u, "?", "has a name that can't be read");
  int result = clean(u, name, path);
  return result < 0 || *path == '\0' ? result : handle(u, archive, entry, path);
}

static int read_archive(unpacking *u, entry_fn handle) {
  memset(u->out, 0, sizeof *u->out);
  u->entries = 0;
  struct archive *archive = archive_read_new();
  if (archive == NULL) return bq_fail(u->err, BQ_ENOMEM, "out of memory to unpack %s", u->unpack->from);
  int result = 0;
  // A filter that libarchive would need another program for answers with a warning, and is not used.
  (void)archive_read_support_filter_gzip(archive);
  (void)archive_read_support_filter_bzip2(archive);
  (void)archive_read_support_filter_xz(archive);
  (void)archive_read_support_filter_zstd(archive);
  (void)archive_read_support_format_tar(archive);
  (void)archive_read_support_format_zip(archive);
  int status = lseek(u->fd, 0, SEEK_SET) < 0 ? ARCHIVE_FATAL : archive_read_open_fd(archive, u->fd, READ_BYTES);
  while (result == 0 && status == ARCHIVE_OK) {
    struct archive_entry *entry;
    status = archive_read_next_header(archive, &entry);
    // A warning is about a name's encoding or a field that is not used.
    if (status == ARCHIVE_WARN || status == ARCHIVE_RETRY) status = ARCHIVE_OK;
    if (status == ARCHIVE_OK) result = handle_entry(u, archive, entry, handle);
  }
  if (result == 0 && status != ARCHIVE_EOF) {
    const char *why = archive_error_string(archive);
    result = bq_fail(u->err, BQ_EINVAL, "can't unpack %s: %s", u->unpack->from, why == NULL ? "it is damaged" : why);
  }
  (void)archive_read_free(archive);
  return result;
}

int bq_archive_unpack_tree(const bq_archive_unpack *unpack, bq_archive_unpacked *out, bq_error *err) {
  memset(out, 0, sizeof *out);
  unpacking u = {.unpack = unpack, .out = out, .fd = -1, .err = err};
  int result = bq_tree_check(unpack->to, err);
  if (result == 0) {
    result = bq_tree_open(unpack->from_root, unpack->from, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_INNER_LINKS, &u.fd, err);
  }
  if (result < 0) goto cleanup;
  u.buffer = bq_alloc(READ_BYTES);
  if (u.buffer == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory to unpack %s", unpack->from);
    goto cleanup;
  }
  result = read_archive(&u, check_entry);
  if (result == 0) result = check_links(&u);
  if (result == 0) result = bq_tree_make(unpack->to_root, unpack->to, err);
  if (result == 0) result = read_archive(&u, write_entry);
cleanup:
  for (size_t i = 0; i < u.count; i++) bq_free(u.names[i].path);
  bq_free(u.names);
  bq_free(u.buffer);
  if (u.fd >= 0) close(u.fd);
  return result;
}
