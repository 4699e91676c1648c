#include "lua/lib_fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/uuid.h"
#include "io/hash.h"
#include "io/tree.h"
#include "lua/arguments.h"
#include "lua/file_op.h"
#include "lua/glob.h"

enum {
  READ_BYTES = 1024 * 1024,          // unless max_bytes says otherwise
  MAX_FILE_BYTES = 64 * 1024 * 1024, // read or written at once
  MAX_NAMES = 10000,                 // of a list or a glob
  MAX_VISITED = 1000 * 1000,         // entries that a glob looks at
  WRITE_MODE = 0644
};

// Opens a regular file; a fifo must not hold the thread.
static int open_file(bq_file_op *f, int *fd, struct stat *info) {
  int result = bq_tree_open(f->root, f->path, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_INNER_LINKS, fd, &f->error);
  if (result < 0) return result;
  if (fstat(*fd, info) < 0) result = bq_fail_errno(&f->error, errno, "can't read %s", f->path);
  else if (!S_ISREG(info->st_mode)) result = bq_fail(&f->error, BQ_EINVAL, "%s is no regular file", f->path);
  if (result < 0) (void)close(*fd);
  return result;
}

static void read_work(bq_file_op *f) {
  int fd;
  struct stat info;
  char piece[64 * 1024];
  size_t max = (size_t)f->number;
  if (open_file(f, &fd, &info) < 0) return;
  for (;;) {
    ssize_t got = read(fd, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) (void)bq_fail_errno(&f->error, errno, "can't read %s", f->path);
    if (got <= 0 || f->bytes.failed) break;
    if ((uint64_t)info.st_size > max || (size_t)got > max - f->bytes.length) {
      (void)bq_fail(&f->error, BQ_ELIMIT, "%s is larger than %zu bytes (max_bytes)", f->path, max);
      break;
    }
    bq_buf_add(&f->bytes, piece, (size_t)got);
  }
  (void)close(fd);
}

static int push_bytes(bq_file_op *f, lua_State *L) {
  lua_pushlstring(L, f->bytes.data != NULL ? f->bytes.data : "", f->bytes.length);
  return 1;
}

static int write_all(bq_file_op *f, int fd) {
  for (size_t done = 0; done < f->text_length;) {
    ssize_t wrote = write(fd, f->text + done, f->text_length - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return bq_fail_errno(&f->error, errno, "can't write %s", f->path);
    done += (size_t)wrote;
  }
  return 0;
}

static void write_work(bq_file_op *f) {
  const char *name = "";
  int directory = -1;
  int fd = -1;
  char id[BQ_UUID_SIZE];
  char temporary[BQ_UUID_SIZE + 8] = "";
  int result = bq_tree_open_parent(f->root, f->path, 0, &name, &directory, &f->error);
  if (result == 0) result = bq_uuid_new(id, &f->error);
  if (result < 0) goto cleanup;
  (void)snprintf(temporary, sizeof temporary, ".write-%s", id);
  fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) {
    (void)bq_fail_errno(&f->error, errno, "can't write %s", f->path);
    goto cleanup;
  }
  result = write_all(f, fd);
  if (result == 0 && fchmod(fd, (mode_t)f->number) < 0) {
    result = bq_fail_errno(&f->error, errno, "can't set the mode of %s", f->path);
  }
  if (result == 0 && renameat(directory, temporary, directory, name) < 0) {
    result = errno == EISDIR ? bq_fail(&f->error, BQ_ECONFLICT, "%s is a directory", f->path)
                             : bq_fail_errno(&f->error, errno, "can't write %s", f->path);
  }
  if (result < 0) (void)unlinkat(directory, temporary, 0);
cleanup:
  if (fd >= 0) (void)close(fd);
  if (directory >= 0) (void)close(directory);
}

static void append_work(bq_file_op *f) {
  enum { FLAGS = O_WRONLY | O_APPEND | O_NONBLOCK };
  struct stat info;
  int fd;
  int result = bq_tree_open(f->root, f->path, FLAGS, 0, BQ_TREE_INNER_LINKS, &fd, &f->error);
  if (result == BQ_ENOTFOUND) {
    f->error.code = 0;
    result = bq_tree_open(f->root, f->path, FLAGS | O_CREAT | O_EXCL, WRITE_MODE, BQ_TREE_NO_LINKS, &fd, &f->error);
    if (result == 0) (void)fchmod(fd, WRITE_MODE); // the umask may have taken bits away
  }
  if (result < 0) return;
  if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
    (void)bq_fail(&f->error, BQ_EINVAL, "%s is no regular file", f->path);
  } else {
    (void)write_all(f, fd);
  }
  (void)close(fd);
}

// What is there goes to `bytes`, a struct stat; nothing there leaves it empty.
static void stat_work(bq_file_op *f) {
  int fd;
  struct stat info;
  int result = bq_tree_open(f->root, f->path, O_PATH | O_NOFOLLOW, 0, BQ_TREE_INNER_LINKS, &fd, &f->error);
  if (result == BQ_ENOTFOUND) f->error.code = 0;
  if (result < 0) return;
  if (fstat(fd, &info) < 0) (void)bq_fail_errno(&f->error, errno, "can't look at %s", f->path);
  else bq_buf_add(&f->bytes, &info, sizeof info);
  (void)close(fd);
}

static int push_exists(bq_file_op *f, lua_State *L) {
  lua_pushboolean(L, f->bytes.length > 0);
  return 1;
}

static int push_stat(bq_file_op *f, lua_State *L) {
  struct stat info;
  if (f->bytes.length != sizeof info) {
    lua_pushnil(L);
    return 1;
  }
  memcpy(&info, f->bytes.data, sizeof info);
  lua_createtable(L, 0, 4);
  lua_pushstring(L, S_ISREG(info.st_mode)   ? "file"
                    : S_ISDIR(info.st_mode) ? "directory"
                    : S_ISLNK(info.st_mode) ? "link"
                                            : "other");
  lua_setfield(L, -2, "type");
  lua_pushinteger(L, (lua_Integer)info.st_size);
  lua_setfield(L, -2, "size");
  lua_pushinteger(L, (lua_Integer)(info.st_mode & 07777));
  lua_setfield(L, -2, "mode");
  lua_pushnumber(L, (lua_Number)info.st_mtim.tv_sec + (lua_Number)info.st_mtim.tv_nsec / 1e9);
  lua_setfield(L, -2, "mtime");
  return 1;
}

// Names in `bytes`, each with its NUL.
static int push_names(bq_file_op *f, lua_State *L) {
  const char *name = f->bytes.data;
  lua_createtable(L, (int)f->count, 0);
  for (size_t i = 1; i <= f->count; i++) {
    lua_pushstring(L, name);
    lua_rawseti(L, -2, (lua_Integer)i);
    name += strlen(name) + 1;
  }
  return 1;
}

// Returns 0 when there are too many.
static int add_name(bq_file_op *f, const char *name) {
  if (f->count == MAX_NAMES) {
    (void)bq_fail(&f->error, BQ_ELIMIT, "%s: more than %d names", f->path, MAX_NAMES);
    return 0;
  }
  f->count++;
  bq_buf_add(&f->bytes, name, strlen(name) + 1);
  return 1;
}

static int by_bytes(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_names(bq_file_op *f) {
  bq_buf sorted = {0};
  char **names = bq_alloc_array(f->count + 1, sizeof *names);
  if (names == NULL || f->bytes.failed) {
    (void)bq_fail(&f->error, BQ_ENOMEM, "out of memory to list %s", f->path);
  } else {
    char *at = f->bytes.data;
    for (size_t i = 0; i < f->count; i++) {
      names[i] = at;
      at += strlen(at) + 1;
    }
    if (f->count > 0) qsort(names, f->count, sizeof *names, by_bytes);
    for (size_t i = 0; i < f->count; i++) bq_buf_add(&sorted, names[i], strlen(names[i]) + 1);
    bq_buf_free(&f->bytes);
    f->bytes = sorted;
  }
  bq_free((void *)names);
}

static void list_work(bq_file_op *f) {
  int fd;
  if (bq_tree_open(f->root, f->path, O_RDONLY | O_DIRECTORY, 0, BQ_TREE_INNER_LINKS, &fd, &f->error) < 0) return;
  DIR *dir = fdopendir(fd);
  if (dir == NULL) {
    (void)bq_fail_errno(&f->error, errno, "can't list %s", f->path);
    (void)close(fd);
    return;
  }
  for (;;) {
    errno = 0;
    const struct dirent *entry = readdir(dir);
    if (entry == NULL) {
      if (errno != 0) (void)bq_fail_errno(&f->error, errno, "can't list %s", f->path);
      break;
    }
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (!add_name(f, entry->d_name)) break;
  }
  (void)closedir(dir);
  if (f->error.code == 0) sort_names(f);
}

static void glob_work(bq_file_op *f) {
  size_t base_length = bq_glob_base(f->path);
  char *base = bq_strndup(f->path, base_length);
  const char *rest = f->path + base_length + (base_length > 0);
  bq_tree_listing listing = {0};
  if (base == NULL) {
    (void)bq_fail(&f->error, BQ_ENOMEM, "out of memory to list %s", f->path);
    return;
  }
  int result = bq_tree_list(&listing, f->root, base_length > 0 ? base : ".", MAX_VISITED, &f->error);
  if (result == BQ_ENOTFOUND) f->error.code = 0; // nothing matches
  for (size_t i = 0; i < listing.count && !atomic_load(&f->stop); i++) {
    const char *path = listing.entries[i].path;
    if (!bq_glob_match(rest, path)) continue;
    size_t start = f->bytes.length;
    if (!add_name(f, base)) break;
    if (f->bytes.failed) break;
    // In place of the NUL behind the base comes what was found below it.
    f->bytes.length = start + base_length;
    if (base_length > 0) bq_buf_addc(&f->bytes, '/');
    bq_buf_add(&f->bytes, path, strlen(path) + 1);
  }
  bq_tree_listing_free(&listing);
  bq_free(base);
}

static void mkdir_work(bq_file_op *f) {
  // What isn't there is made, so the only thing that can be missing is a directory where a file is.
  if (bq_tree_make(f->root, f->path, &f->error) == BQ_ENOTFOUND) f->error.code = BQ_ECONFLICT;
}

static void remove_work(bq_file_op *f) {
  if (bq_tree_remove(f->root, f->path, &f->error) < 0) (void)bq_fail_in(&f->error, "fs.remove");
}

static void copy_work(bq_file_op *f) {
  int is_directory;
  if (bq_tree_copy(f->root, f->path, f->root, f->other, &is_directory, &f->error) < 0) {
    (void)bq_fail_in(&f->error, "fs.copy");
  }
}

static void move_work(bq_file_op *f) {
  const char *from_name = "";
  const char *to_name = "";
  int from = -1;
  int to = -1;
  struct stat info;
  int result = bq_tree_open_parent(f->root, f->path, 0, &from_name, &from, &f->error);
  if (result == 0 && fstatat(from, from_name, &info, AT_SYMLINK_NOFOLLOW) < 0) {
    result = errno == ENOENT ? bq_fail(&f->error, BQ_ENOTFOUND, "there is no %s in %s", f->path, f->root)
                             : bq_fail_errno(&f->error, errno, "can't move %s", f->path);
  }
  if (result == 0) result = bq_tree_open_parent(f->root, f->other, 1, &to_name, &to, &f->error);
  if (result < 0) goto cleanup;
  // An empty directory would be replaced by a rename.
  if (fstatat(to, to_name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode)) {
    (void)bq_fail(&f->error, BQ_ECONFLICT, "%s is a directory already", f->other);
  } else if (renameat(from, from_name, to, to_name) < 0) {
    switch (errno) {
    case EINVAL: (void)bq_fail(&f->error, BQ_EINVAL, "%s can't be moved into itself", f->path); break;
    case ENOTDIR: (void)bq_fail(&f->error, BQ_ECONFLICT, "%s is a file already", f->other); break;
    default: (void)bq_fail_errno(&f->error, errno, "can't move %s to %s", f->path, f->other);
    }
  }
cleanup:
  if (from >= 0) (void)close(from);
  if (to >= 0) (void)close(to);
}

static void sha256_work(bq_file_op *f) {
  int fd;
  struct stat info;
  char text[BQ_HASH_TEXT_SIZE];
  if (open_file(f, &fd, &info) < 0) return;
  if (bq_hash_fd(fd, text, &f->error) == 0) bq_buf_adds(&f->bytes, text);
  (void)close(fd);
}

// An operation on the path that is argument 1, and, when argument `other` isn't 0, on the one there.
static bq_file_op *new_op(lua_State *L, int other, void (*work)(bq_file_op *f),
                          int (*push)(bq_file_op *f, lua_State *L)) {
  size_t length, other_length = 0;
  const char *path = luaL_checklstring(L, 1, &length);
  const char *other_path = other != 0 ? luaL_checklstring(L, other, &other_length) : NULL;
  bq_file_op *f = bq_file_op_new(L, "fs", sizeof *f, work, push);
  bq_file_op_set_path(f, &f->path, path, length);
  if (other_path != NULL) bq_file_op_set_path(f, &f->other, other_path, other_length);
  return f;
}

// The same with the text that is argument 2. It is copied: a fiber that is ended leaves its strings before the work.
static bq_file_op *new_write(lua_State *L, void (*work)(bq_file_op *f)) {
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  luaL_argcheck(L, length <= MAX_FILE_BYTES, 2, "at most 64 MiB");
  bq_file_op *f = new_op(L, 0, work, NULL);
  f->text = bq_strndup(text, length);
  f->text_length = length;
  if (f->text == NULL) (void)bq_fail(&f->error, BQ_ENOMEM, "out of memory to write a file");
  return f;
}

static int fs_read(lua_State *L) {
  lua_Integer max_bytes = luaL_optinteger(L, 2, READ_BYTES);
  luaL_argcheck(L, max_bytes >= 0 && max_bytes <= MAX_FILE_BYTES, 2, "0 to 64 MiB");
  bq_file_op *f = new_op(L, 0, read_work, push_bytes);
  f->number = max_bytes;
  return bq_file_op_yield(L, f);
}

static int fs_write(lua_State *L) {
  static const char *const options[] = {"mode", NULL};
  lua_Integer mode = WRITE_MODE;
  if (bq_args_has_options(L, 3, "fs.write", options, "fs.write(\"run.sh\", text, {mode = 0x1ed})")) {
    if (lua_getfield(L, 3, "mode") != LUA_TNIL) mode = luaL_checkinteger(L, -1);
    luaL_argcheck(L, mode >= 0 && mode <= 0777, 3, "mode is 0 to 0x1ff");
  }
  bq_file_op *f = new_write(L, write_work);
  f->number = mode;
  return bq_file_op_yield(L, f);
}

static int fs_append(lua_State *L) {
  return bq_file_op_yield(L, new_write(L, append_work));
}

static int fs_exists(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, stat_work, push_exists));
}

static int fs_stat(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, stat_work, push_stat));
}

static int fs_list(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, list_work, push_names));
}

static int fs_mkdir(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, mkdir_work, NULL));
}

static int fs_remove(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, remove_work, NULL));
}

static int fs_copy(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 2, copy_work, NULL));
}

static int fs_move(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 2, move_work, NULL));
}

static int fs_glob(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, glob_work, push_names));
}

static int fs_sha256(lua_State *L) {
  return bq_file_op_yield(L, new_op(L, 0, sha256_work, push_bytes));
}

int bq_lua_open_fs(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"read", fs_read},     {"write", fs_write}, {"append", fs_append}, {"exists", fs_exists},
      {"stat", fs_stat},     {"list", fs_list},   {"mkdir", fs_mkdir},   {"remove", fs_remove},
      {"copy", fs_copy},     {"move", fs_move},   {"glob", fs_glob},     {"sha256", fs_sha256},
      {NULL, NULL},
  };
  luaL_newlib(L, functions);
  return 1;
}
