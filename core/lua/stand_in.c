#include "lua/stand_in.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "io/tree.h"

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
