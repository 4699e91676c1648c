#include "lua/stand_in.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/tree.h"

enum {
  MAX_ENTRIES = 20000, // looked at
  MAX_FILES = 200,     // kept of one command
  MAX_BYTES = 4 * 1024 * 1024,
  CLOCK_STEP_US = 10 * 1000 // file systems take the time from a clock that ticks
};

int bq_answer_is(const json_t *answer, const char *word) {
  return json_is_true(json_object_get(answer, word));
}

int bq_answer_error(const json_t *answer, bq_error *err) {
  const char *kind = json_string_value(json_object_get(answer, "error"));
  const char *message = json_string_value(json_object_get(answer, "message"));
  if (kind == NULL) return 0;
  int code = BQ_EDATABASE;
  while (code < BQ_ENOMEM && strcmp(bq_err_name(code), kind) != 0) code++;
  if (strcmp(bq_err_name(code), kind) != 0) code = BQ_EINVAL;
  return bq_fail(err, code, "%s", message != NULL ? message : kind);
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void bq_answer_bytes(const json_t *value, bq_buf *out) {
  if (json_is_string(value)) {
    bq_buf_add(out, json_string_value(value), json_string_length(value));
    return;
  }
  const char *hex = json_string_value(json_object_get(value, "hex"));
  for (; hex != NULL && hex_digit(hex[0]) >= 0 && hex_digit(hex[1]) >= 0; hex += 2) {
    bq_buf_addc(out, (char)(hex_digit(hex[0]) * 16 + hex_digit(hex[1])));
  }
}

json_t *bq_answer_from_bytes(const char *bytes, size_t length) {
  // The other side reads JSON as strictly as this one: no NUL.
  json_t *text = length == 0 || memchr(bytes, '\0', length) == NULL ? json_stringn(bytes, length) : NULL;
  if (text != NULL) return text;
  bq_buf hex = {0};
  for (size_t i = 0; i < length; i++) bq_buf_addf(&hex, "%02x", (unsigned)(unsigned char)bytes[i]);
  json_t *object = hex.failed ? NULL : json_pack("{s:s}", "hex", hex.data);
  bq_buf_free(&hex);
  return object;
}

static int write_file(const char *root, const char *path, const json_t *text, bq_error *err) {
  int fd;
  const char *name;
  int result = bq_tree_open_parent(root, path, 1, &name, &fd, err);
  if (result < 0) return result;
  (void)close(fd);
  const int flags = O_WRONLY | O_CREAT | O_TRUNC;
  result = bq_tree_open(root, path, flags, 0755, BQ_TREE_INNER_LINKS, &fd, err);
  if (result < 0) return result;
  bq_buf bytes = {0};
  bq_answer_bytes(text, &bytes);
  if (write(fd, bytes.data != NULL ? bytes.data : "", bytes.length) != (ssize_t)bytes.length) {
    result = bq_fail_errno(err, errno, "can't write %s into the workspace", path);
  }
  bq_buf_free(&bytes);
  (void)close(fd);
  return result;
}

int bq_answer_write_files(const json_t *answer, const char *root, bq_error *err) {
  int result = 0;
  const char *path;
  json_t *text;
  json_object_foreach(json_object_get(answer, "files"), path, text) {
    if (result == 0) result = write_file(root, path, text, err);
  }
  return result;
}

// The file's bytes when it was written since then; NULL when it wasn't, or is too large for what is `left`.
static char *read_if_new(const char *path, int64_t since_us, size_t left, size_t *length, int *is_new) {
  struct stat info;
  *is_new = 0;
  if (lstat(path, &info) < 0 || !S_ISREG(info.st_mode)) return NULL;
  // ctime: an archive's or a copy's mtime says when its original was written.
  if ((int64_t)info.st_ctim.tv_sec * 1000000 + info.st_ctim.tv_nsec / 1000 < since_us - CLOCK_STEP_US) return NULL;
  *is_new = 1;
  char *text = NULL;
  bq_error err;
  return bq_file_read(path, left, &text, length, &err) == 0 ? text : NULL;
}

int bq_answer_add_files(json_t *answer, const char *root, int64_t since_us, bq_error *err) {
  bq_tree_listing listing = {0};
  int result = bq_tree_list(&listing, root, ".", MAX_ENTRIES, err);
  json_t *files = json_object();
  size_t left = MAX_BYTES;
  json_int_t left_out = 0;
  for (size_t i = 0; result == 0 && i < listing.count; i++) {
    const char *name = listing.entries[i].path;
    char *path = strncmp(name, ".tmp/", 5) != 0 ? bq_format("%s/%s", root, name) : NULL;
    size_t length = 0;
    int is_new = 0;
    char *text = path != NULL ? read_if_new(path, since_us, left, &length, &is_new) : NULL;
    if (text != NULL && json_object_size(files) < MAX_FILES) {
      (void)json_object_set_new(files, name, bq_answer_from_bytes(text, length));
      left -= length;
    } else {
      left_out += is_new;
    }
    bq_free(text);
    bq_free(path);
  }
  if (json_object_size(files) > 0) (void)json_object_set(answer, "files", files);
  if (left_out > 0) (void)json_object_set_new(answer, "filesLeftOut", json_integer(left_out));
  json_decref(files);
  bq_tree_listing_free(&listing);
  return result;
}
