#include "base/json.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/memory.h"

// Fills `err` with the place of byte `offset`: a reader counts lines and characters, not bytes.
static int fail_at(bq_error *err, int code, const char *text, size_t offset, const char *reason) {
  size_t line = 1;
  size_t column = 1;
  for (size_t i = 0; i < offset; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '\n') {
      line++;
      column = 1;
    } else if ((c & 0xc0) != 0x80) {
      column++;
    }
  }
  return bq_fail(err, code, "line %zu, column %zu: %s", line, column, reason);
}

// Where the string that opens at `at` ends: behind its closing quote, or the end of the text.
static size_t skip_string(const char *text, size_t length, size_t at) {
  for (at++; at < length; at++) {
    if (text[at] == '\\') at++;
    else if (text[at] == '"') return at + 1;
  }
  return length;
}

// Blanks the comment at `*at` and moves behind it. Blanks keep every later byte where it was.
static int blank_comment(const char *text, char *copy, size_t length, size_t *at, bq_error *err) {
  size_t start = *at;
  size_t end = start + 2;
  if (copy[start + 1] == '/') {
    while (end < length && copy[end] != '\n' && copy[end] != '\r') end++;
  } else {
    while (end + 1 < length && (copy[end] != '*' || copy[end + 1] != '/')) end++;
    if (end + 1 >= length) return fail_at(err, BQ_EINVAL, text, start, "a comment is opened here and never closed");
    end += 2;
  }
  for (size_t i = start; i < end; i++) {
    if (copy[i] != '\n' && copy[i] != '\r') copy[i] = ' ';
  }
  *at = end;
  return 0;
}

typedef struct scan {
  char last;         // the last byte outside of strings and blanks ('"' for a string), 0 at the start
  char before_comma; // what stood before the last comma
  size_t comma;      // where the last comma is
  size_t depth;      // objects and arrays open now
} scan;

// Takes one byte outside of strings and comments into account. A comma right before a closing bracket is blanked when
// `relaxed`, unless nothing stands before it ("[,]").
static void scan_byte(scan *s, char *copy, size_t at, int relaxed) {
  char c = copy[at];
  if (c == ' ' || c == '\t' || c == '\n' || c == '\r') return;
  if (c == ',') {
    s->before_comma = s->last;
    s->comma = at;
  } else if (c == '[' || c == '{') {
    s->depth++;
  } else if (c == ']' || c == '}') {
    int value_before = s->before_comma != '\0' && strchr("[{,:", s->before_comma) == NULL;
    if (relaxed && s->last == ',' && value_before) copy[s->comma] = ' ';
    if (s->depth > 0) s->depth--;
  }
  s->last = c;
}

// Walks over the text once: holds the depth and, when relaxed, blanks what strict JSON does not have.
static int prepare(const char *text, char *copy, size_t length, int relaxed, bq_error *err) {
  scan s = {0};
  size_t at = 0;
  if (relaxed && length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
    memset(copy, ' ', 3);
    at = 3;
  }
  while (at < length) {
    if (copy[at] == '"') {
      at = skip_string(copy, length, at);
      s.last = '"';
    } else if (relaxed && copy[at] == '/' && at + 1 < length && (copy[at + 1] == '/' || copy[at + 1] == '*')) {
      int code = blank_comment(text, copy, length, &at, err);
      if (code < 0) return code;
    } else {
      scan_byte(&s, copy, at, relaxed);
      if (s.depth > BQ_JSON_MAX_DEPTH) return fail_at(err, BQ_ELIMIT, text, at, "nested more than 100 deep");
      at++;
    }
  }
  return 0;
}

int bq_json_parse(const char *text, size_t length, unsigned flags, json_t **out, bq_error *err) {
  int code = 0;
  char *copy = NULL;
  *out = NULL;
  if (length > BQ_JSON_MAX_BYTES) return bq_fail(err, BQ_ELIMIT, "the JSON text is longer than 64 MB");
  copy = bq_strndup(text, length);
  if (copy == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a JSON text of %zu bytes", length);
  code = prepare(text, copy, length, (flags & BQ_JSON_RELAXED) != 0, err);
  if (code < 0) goto cleanup;

  json_error_t problem;
  // A string that jansson has no memory for it calls an invalid token. What is wrong with a text is wrong twice.
  for (int tries = 0; tries < 2 && *out == NULL; tries++) {
    *out = json_loadb(copy, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
  }
  if (*out != NULL) goto cleanup;
  // Of a text it says what is wrong.
  if (problem.text[0] == '\0' || json_error_code(&problem) == json_error_out_of_memory) {
    code = bq_fail(err, BQ_ENOMEM, "out of memory for a JSON text of %zu bytes", length);
    goto cleanup;
  }
  // jansson quotes the text behind " near ".
  char *quote = strstr(problem.text, " near ");
  if (quote != NULL) *quote = '\0';
  size_t offset = problem.position < 0 ? 0 : (size_t)problem.position;
  code = fail_at(err, BQ_EINVAL, text, offset < length ? offset : length, problem.text);
cleanup:
  bq_free(copy);
  return code;
}

json_t *bq_json_get_ci(const json_t *object, const char *name) {
  json_t *exact = json_object_get(object, name);
  if (exact != NULL || !json_is_object(object)) return exact;
  // jansson's iteration takes a json_t it may change, but doesn't.
  json_t *members = (json_t *)(uintptr_t)object;
  json_t *found = NULL;
  const char *key;
  json_t *value;
  json_object_foreach(members, key, value) {
    if (found == NULL && strcasecmp(key, name) == 0) found = value;
  }
  return found;
}

// 15 digits are always kept by a double, 17 always name it.
static int digits_of(double number) {
  char text[40];
  for (int digits = 15; digits < 17; digits++) {
    (void)snprintf(text, sizeof text, "%.*g", digits, number);
    if (strtod(text, NULL) == number) return digits;
  }
  return 17;
}

static int digits_within(const json_t *value) {
  int most = 15;
  size_t index;
  const char *key;
  json_t *item;
  if (json_is_real(value)) return digits_of(json_real_value(value));
  json_array_foreach(value, index, item) {
    int digits = digits_within(item);
    if (digits > most) most = digits;
  }
  // jansson's iteration takes a json_t it may change, but doesn't.
  json_object_foreach((json_t *)(uintptr_t)value, key, item) {
    int digits = digits_within(item);
    if (digits > most) most = digits;
  }
  return most;
}

const char *bq_json_text(const json_t *object, const char *name) {
  const char *text = json_string_value(json_object_get(object, name));
  return text != NULL ? text : "";
}

char *bq_json_dumps(const json_t *value, size_t flags) {
  return json_dumps(value, flags | JSON_REAL_PRECISION((size_t)digits_within(value)));
}

static int add_bytes(const char *bytes, size_t size, void *arg) {
  bq_buf *buf = arg;
  bq_buf_add(buf, bytes, size);
  return buf->failed ? -1 : 0;
}

int bq_json_dump(const json_t *value, char **out, bq_error *err) {
  bq_buf buf = {0};
  *out = NULL;
  if (json_dump_callback(value, add_bytes, &buf, JSON_COMPACT | JSON_ENCODE_ANY |
                         JSON_REAL_PRECISION((size_t)digits_within(value))) < 0 || buf.failed) {
    bq_buf_free(&buf);
    return bq_fail(err, BQ_ENOMEM, "out of memory for writing JSON");
  }
  *out = bq_buf_take(&buf);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for writing JSON");
}
