#include "lua/lib_archive.h"

#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/archive.h"
#include "lua/arguments.h"
#include "lua/file_op.h"

enum {
  MAX_ENTRIES = 1000 * 1000,
  MAX_STRIP = 100
};
static const int64_t MAX_BYTES = 64ll << 30;     // of contents, packed or unpacked
static const int64_t UNPACKED_BYTES = 4ll << 30; // unless max_bytes says otherwise

typedef struct archive_op {
  bq_file_op file;          // path: dir or from; other: to
  bq_archive_format format;
  char *prefix;             // owned, or NULL
  int64_t mtime_s;
  unsigned strip;
  bq_archive_packed packed;
  bq_archive_unpacked unpacked;
} archive_op;

static void release(bq_file_op *f) {
  bq_free(((archive_op *)f)->prefix);
}

static void pack_work(bq_file_op *f) {
  archive_op *a = (archive_op *)f;
  const bq_archive_pack pack = {.from_root = f->root,
                                .from = f->path,
                                .to_root = f->root,
                                .to = f->other,
                                .format = a->format,
                                .prefix = a->prefix,
                                .mtime_s = a->mtime_s,
                                .max_bytes = (uint64_t)MAX_BYTES,
                                .max_entries = MAX_ENTRIES,
                                .stop = &f->stop};
  if (bq_archive_pack_tree(&pack, &a->packed, &f->error) < 0) (void)bq_fail_in(&f->error, "archive.pack");
}

static int pack_push(bq_file_op *f, lua_State *L) {
  const archive_op *a = (const archive_op *)f;
  lua_createtable(L, 0, 4);
  lua_pushlstring(L, f->text, f->text_length);
  lua_setfield(L, -2, "path");
  lua_pushinteger(L, (lua_Integer)a->packed.size);
  lua_setfield(L, -2, "size");
  lua_pushstring(L, a->packed.sha256);
  lua_setfield(L, -2, "sha256");
  lua_pushinteger(L, (lua_Integer)a->packed.files);
  lua_setfield(L, -2, "files");
  return 1;
}

static const char *string_option(lua_State *L, const char *function, const char *name, int needed, size_t *length) {
  int type = lua_getfield(L, 1, name);
  if (type == LUA_TNIL && !needed) return NULL;
  if (type != LUA_TSTRING) (void)luaL_error(L, "%s: %s must be a string", function, name);
  return lua_tolstring(L, -1, length);
}

static lua_Integer integer_option(lua_State *L, const char *function, const char *name, lua_Integer absent,
                                  lua_Integer max) {
  if (lua_getfield(L, 1, name) == LUA_TNIL) return absent;
  int is_integer;
  lua_Integer value = lua_tointegerx(L, -1, &is_integer);
  if (!is_integer || value < 0 || value > max) {
    (void)luaL_error(L, "%s: %s must be an integer, 0 to %I", function, name, (LUAI_UACINT)max);
  }
  return value;
}

static void set_format(archive_op *a, const char *format) {
  bq_error *err = &a->file.error;
  if (err->code != 0) return;
  if (format == NULL) {
    if (bq_archive_format_of(a->file.other, &a->format, err) < 0) (void)bq_fail_in(err, "archive.pack");
  } else if (strcmp(format, "tar.zst") == 0) {
    a->format = BQ_ARCHIVE_TAR_ZST;
  } else if (strcmp(format, "tar.gz") == 0) {
    a->format = BQ_ARCHIVE_TAR_GZ;
  } else if (strcmp(format, "tar") == 0) {
    a->format = BQ_ARCHIVE_TAR;
  } else if (strcmp(format, "zip") == 0) {
    a->format = BQ_ARCHIVE_ZIP;
  } else {
    (void)bq_fail(err, BQ_EINVAL, "archive.pack: format is tar.zst, tar.gz, tar or zip, not \"%.40s\"", format);
  }
}

static int archive_pack(lua_State *L) {
  static const char name[] = "archive.pack";
  size_t dir_length, to_length, format_length, prefix_length;
  static const char *const options[] = {"dir", "to", "format", "prefix", "mtime", NULL};
  bq_args_options(L, 1, name, options, "archive.pack {dir = \"out\", to = \"out.tar.zst\"}");
  lua_settop(L, 1);
  const char *dir = string_option(L, name, "dir", 1, &dir_length);
  const char *to = string_option(L, name, "to", 1, &to_length);
  const char *format = string_option(L, name, "format", 0, &format_length);
  const char *prefix = string_option(L, name, "prefix", 0, &prefix_length);
  lua_Integer mtime_s = integer_option(L, name, "mtime", 0, 1ll << 33); // what a tar's header holds
  archive_op *a = bq_file_op_new(L, "archive", sizeof *a, pack_work, pack_push);
  a->file.release = release;
  a->mtime_s = mtime_s;
  bq_file_op_set_path(&a->file, &a->file.path, dir, dir_length);
  bq_file_op_set_path(&a->file, &a->file.other, to, to_length);
  if (prefix != NULL && strlen(prefix) == prefix_length) a->prefix = bq_strndup(prefix, prefix_length);
  a->file.text = bq_strndup(to, to_length);
  a->file.text_length = to_length;
  if ((prefix != NULL && a->prefix == NULL) || a->file.text == NULL) {
    (void)bq_fail(&a->file.error, BQ_EINVAL, "archive.pack: prefix can't be used");
  }
  set_format(a, format);
  return bq_file_op_yield(L, &a->file);
}

static void unpack_work(bq_file_op *f) {
  archive_op *a = (archive_op *)f;
  const bq_archive_unpack unpack = {.from_root = f->root,
                                    .from = f->path,
                                    .to_root = f->root,
                                    .to = f->other,
                                    .strip = a->strip,
                                    .max_bytes = (uint64_t)f->number,
                                    .max_entries = MAX_ENTRIES,
                                    .stop = &f->stop};
  if (bq_archive_unpack_tree(&unpack, &a->unpacked, &f->error) < 0) (void)bq_fail_in(&f->error, "archive.unpack");
}

static int unpack_push(bq_file_op *f, lua_State *L) {
  const archive_op *a = (const archive_op *)f;
  lua_createtable(L, 0, 2);
  lua_pushinteger(L, (lua_Integer)a->unpacked.files);
  lua_setfield(L, -2, "files");
  lua_pushinteger(L, (lua_Integer)a->unpacked.bytes);
  lua_setfield(L, -2, "bytes");
  return 1;
}

static int archive_unpack(lua_State *L) {
  static const char name[] = "archive.unpack";
  size_t from_length, to_length;
  static const char *const options[] = {"from", "to", "strip", "max_bytes", NULL};
  bq_args_options(L, 1, name, options, "archive.unpack {from = \"a.tar.gz\", to = \"source\"}");
  lua_settop(L, 1);
  const char *from = string_option(L, name, "from", 1, &from_length);
  const char *to = string_option(L, name, "to", 1, &to_length);
  lua_Integer strip = integer_option(L, name, "strip", 0, MAX_STRIP);
  lua_Integer max_bytes = integer_option(L, name, "max_bytes", UNPACKED_BYTES, MAX_BYTES);
  archive_op *a = bq_file_op_new(L, "archive", sizeof *a, unpack_work, unpack_push);
  a->strip = (unsigned)strip;
  a->file.number = max_bytes;
  bq_file_op_set_path(&a->file, &a->file.path, from, from_length);
  bq_file_op_set_path(&a->file, &a->file.other, to, to_length);
  return bq_file_op_yield(L, &a->file);
}

int bq_lua_open_archive(lua_State *L) {
  static const luaL_Reg functions[] = {{"pack", archive_pack}, {"unpack", archive_unpack}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
