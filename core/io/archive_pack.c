#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/archive.h"
#include "io/tree.h"

enum { READ_BYTES = 128 * 1024 };

typedef struct packing {
  const bq_archive_pack *pack;
  struct archive *archive; // owned
  bq_hash *hash;           // owned
  int fd;                  // of the file being written; owned
  uint64_t written;        // bytes of the archive
  uint64_t contents;       // bytes of files packed
  uint64_t files;          // entries that aren't directories
  char *buffer;            // owned; READ_BYTES
  int given_up;            // 1: nothing more is written
  bq_error *err;           // the caller's, for the writing callback
} packing;

int bq_archive_format_of(const char *name, bq_archive_format *out, bq_error *err) {
  static const struct {
    const char *suffix;
    bq_archive_format format;
  } suffixes[] = {{".tar.zst", BQ_ARCHIVE_TAR_ZST}, {".tar.gz", BQ_ARCHIVE_TAR_GZ}, {".tgz", BQ_ARCHIVE_TAR_GZ},
                  {".tar", BQ_ARCHIVE_TAR},         {".zip", BQ_ARCHIVE_ZIP}};
  size_t length = strlen(name);
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
    size_t n = strlen(suffixes[i].suffix);
    if (length <= n || strcmp(name + length - n, suffixes[i].suffix) != 0) continue;
    *out = suffixes[i].format;
    return 0;
  }
  return bq_fail(err, BQ_EINVAL, "the archive \"%s\" must end in .tar.zst, .tar.gz, .tar or .zip", name);
}

static la_ssize_t write_bytes(struct archive *archive, void *arg, const void *bytes, size_t length) {
  packing *p = arg;
  if (p->given_up) return -1;
  ssize_t n = write(p->fd, bytes, length);
  while (n < 0 && errno == EINTR) n = write(p->fd, bytes, length);
  if (n < 0) {
    archive_set_error(archive, errno, "can't write: %s", strerror(errno));
    return -1;
  }
  if (bq_hash_add(p->hash, bytes, (size_t)n, p->err) < 0) return -1;
  p->written += (uint64_t)n;
  return n;
}

static int fail_archive(const packing *p, const char *what) {
  const char *why = archive_error_string(p->archive);
  return bq_fail(p->err, BQ_EIO, "can't pack %s into %s: %s", what, p->pack->to, why == NULL ? "unknown reason" : why);
}

static int open_archive(packing *p) {
  p->archive = archive_write_new();
  if (p->archive == NULL) return bq_fail(p->err, BQ_ENOMEM, "out of memory to pack %s", p->pack->to);
  // GNU tar keeps names as the bytes they are; pax would want to know their encoding.
  int zip = p->pack->format == BQ_ARCHIVE_ZIP;
  int ok = (zip ? archive_write_set_format_zip(p->archive) : archive_write_set_format_gnutar(p->archive)) == ARCHIVE_OK;
  switch (p->pack->format) {
  case BQ_ARCHIVE_TAR_ZST: ok = ok && archive_write_add_filter_zstd(p->archive) == ARCHIVE_OK; break;
  case BQ_ARCHIVE_TAR_GZ:
    ok = ok && archive_write_add_filter_gzip(p->archive) == ARCHIVE_OK &&
         archive_write_set_filter_option(p->archive, "gzip", "timestamp", NULL) == ARCHIVE_OK;
    break;
  case BQ_ARCHIVE_TAR:
  case BQ_ARCHIVE_ZIP: break;
  }
  ok = ok && archive_write_set_bytes_in_last_block(p->archive, 1) == ARCHIVE_OK &&
       archive_write_open(p->archive, p, NULL, write_bytes, NULL) == ARCHIVE_OK;
  return ok ? 0 : fail_archive(p, "the first bytes");
}

// Exactly `size` bytes: the header has promised them.
static int add_contents(packing *p, int fd, const char *path, uint64_t size) {
  while (size > 0) {
    if (p->pack->stop != NULL && atomic_load(p->pack->stop)) {
      return bq_fail(p->err, BQ_ECANCELED, "packing %s was stopped", p->pack->to);
    }
    ssize_t n = read(fd, p->buffer, size < READ_BYTES ? (size_t)size : READ_BYTES);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return bq_fail_errno(p->err, errno, "can't read %s to pack it", path);
    if (n == 0) return bq_fail(p->err, BQ_ECONFLICT, "%s became shorter while it was packed", path);
    if (archive_write_data(p->archive, p->buffer, (size_t)n) != n) return fail_archive(p, path);
    size -= (uint64_t)n;
  }
  return 0;
}

static int add_file(packing *p, struct archive_entry *entry, const char *path) {
  const bq_archive_pack *pack = p->pack;
  char *below = bq_format("%s/%s", pack->from, path);
  if (below == NULL) return bq_fail(p->err, BQ_ENOMEM, "out of memory to pack %s", pack->to);
  int fd;
  struct stat st;
  int result = bq_tree_open(pack->from_root, below, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_NO_LINKS, &fd, p->err);
  bq_free(below);
  if (result < 0) return result;
  if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
    result = bq_fail(p->err, BQ_ECONFLICT, "%s changed while it was packed", path);
  } else if ((uint64_t)st.st_size > pack->max_bytes - p->contents) {
    result = bq_fail(p->err, BQ_ELIMIT, "%s has more than %llu bytes to pack", pack->from,
                     (unsigned long long)pack->max_bytes);
  }
  if (result == 0) {
    p->contents += (uint64_t)st.st_size;
    archive_entry_set_size(entry, st.st_size);
    if (archive_write_header(p->archive, entry) != ARCHIVE_OK) result = fail_archive(p, path);
  }
  if (result == 0) result = add_contents(p, fd, path, (uint64_t)st.st_size);
  close(fd);
  return result;
}

static int add_link(packing *p, struct archive_entry *entry, const char *path) {
  char *below = bq_format("%s/%s", p->pack->from, path);
  if (below == NULL) return bq_fail(p->err, BQ_ENOMEM, "out of memory to pack %s", p->pack->to);
  const char *name;
  int dir_fd;
  int result = bq_tree_open_parent(p->pack->from_root, below, 0, &name, &dir_fd, p->err);
  if (result == 0) {
    char target[PATH_MAX];
    ssize_t n = readlinkat(dir_fd, name, target, sizeof target - 1);
    if (n < 0) {
      result = bq_fail_errno(p->err, errno, "can't read the link %s to pack it", path);
    } else {
      target[n] = '\0';
      archive_entry_copy_symlink(entry, target);
      if (archive_write_header(p->archive, entry) != ARCHIVE_OK) result = fail_archive(p, path);
    }
    close(dir_fd);
  }
  bq_free(below);
  return result;
}

static int add_entry(packing *p, const bq_tree_entry *from) {
  const char *prefix = p->pack->prefix;
  char *name = prefix == NULL ? bq_strdup(from->path) : bq_format("%s/%s", prefix, from->path);
  struct archive_entry *entry = archive_entry_new();
  int result = 0;
  if (name == NULL || entry == NULL) {
    result = bq_fail(p->err, BQ_ENOMEM, "out of memory to pack %s", p->pack->to);
    goto cleanup;
  }
  archive_entry_copy_pathname(entry, name);
  archive_entry_set_mtime(entry, p->pack->mtime_s, 0);
  archive_entry_set_uid(entry, 0);
  archive_entry_set_gid(entry, 0);
  archive_entry_set_uname(entry, "root");
  archive_entry_set_gname(entry, "root");
  archive_entry_set_filetype(entry, from->mode & S_IFMT);
  archive_entry_set_perm(entry, S_ISDIR(from->mode) || (from->mode & S_IXUSR) ? 0755 : 0644);
  archive_entry_set_size(entry, 0);
  switch (from->mode & S_IFMT) {
  case S_IFDIR:
    if (archive_write_header(p->archive, entry) != ARCHIVE_OK) result = fail_archive(p, from->path);
    break;
  case S_IFREG: result = add_file(p, entry, from->path); break;
  case S_IFLNK:
    archive_entry_set_perm(entry, 0777);
    result = add_link(p, entry, from->path);
    break;
  default:
    result = bq_fail(p->err, BQ_EINVAL, "can't pack %s: it is no file, directory or link", from->path);
  }
  if (!S_ISDIR(from->mode)) p->files++;
cleanup:
  archive_entry_free(entry);
  bq_free(name);
  return result;
}

// `old` is the archive that the new one replaces; it may lie in the packed tree and is no part of it.
static int add_all(packing *p, const bq_tree_listing *list, const struct stat *old) {
  int result = open_archive(p);
  for (size_t i = 0; result == 0 && i < list->count; i++) {
    const bq_tree_entry *e = &list->entries[i];
    if (e->dev == old->st_dev && e->ino == old->st_ino) continue;
    result = add_entry(p, e);
  }
  if (result == 0 && archive_write_close(p->archive) != ARCHIVE_OK) result = fail_archive(p, "the last bytes");
  if (result == 0 && fsync(p->fd) < 0) result = bq_fail_errno(p->err, errno, "can't sync %s", p->pack->to);
  return result;
}

int bq_archive_pack_tree(const bq_archive_pack *pack, bq_archive_packed *out, bq_error *err) {
  memset(out, 0, sizeof *out);
  packing p = {.pack = pack, .fd = -1, .err = err};
  bq_tree_listing list = {0};
  int dir_fd = -1;
  const char *name = "";
  char *partial = NULL; // the name while it is not whole; NULL: there is no such file
  struct stat old = {0};
  int result = pack->prefix == NULL ? 0 : bq_tree_check(pack->prefix, err);
  if (result == 0) result = bq_tree_list(&list, pack->from_root, pack->from, pack->max_entries, err);
  if (result == 0) result = bq_tree_open_parent(pack->to_root, pack->to, 1, &name, &dir_fd, err);
  if (result == 0) result = bq_hash_new(&p.hash, err);
  if (result < 0) goto cleanup;
  (void)fstatat(dir_fd, name, &old, AT_SYMLINK_NOFOLLOW); // stays zeroed when there is none
  p.buffer = bq_alloc(READ_BYTES);
  partial = bq_format(".%s.%lld.partial", name, (long long)bq_clock_mono_us());
  if (p.buffer == NULL || partial == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory to pack %s", pack->to);
    goto cleanup;
  }
  p.fd = openat(dir_fd, partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
  if (p.fd < 0) {
    result = bq_fail_errno(err, errno, "can't make %s", pack->to);
    goto cleanup;
  }
  result = add_all(&p, &list, &old);
  if (result < 0) goto cleanup;
  result = bq_hash_finish(p.hash, out->sha256, err);
  if (result < 0) goto cleanup;
  if (renameat(dir_fd, partial, dir_fd, name) < 0) {
    result = bq_fail_errno(err, errno, "can't rename the finished archive to %s", pack->to);
    goto cleanup;
  }
  bq_free(partial);
  partial = NULL;
  int sync_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); // dir_fd is a path only
  if (sync_fd < 0 || fsync(sync_fd) < 0) result = bq_fail_errno(err, errno, "can't sync the directory of %s", pack->to);
  if (sync_fd >= 0) close(sync_fd);
  out->size = p.written;
  out->files = p.files;
cleanup:
  if (p.archive != NULL) {
    // archive_write_fail would leak; closing pads what is open, which ends at once when nothing can be written.
    p.given_up = result < 0;
    (void)archive_write_free(p.archive);
  }
  if (p.fd >= 0) {
    close(p.fd);
    if (partial != NULL) (void)unlinkat(dir_fd, partial, 0);
  }
  if (dir_fd >= 0) close(dir_fd);
  bq_hash_free(p.hash);
  bq_tree_listing_free(&list);
  bq_free(p.buffer);
  bq_free(partial);
  return result;
}
