// libpq's own connection strings: keywords and URIs (PostgreSQL 15, section 34.1.1), and what of them may be shown.
#include <ctype.h>
#include <string.h>

#include "base/connection_internal.h"
#include "base/connection_string.h"
#include "base/log.h"
#include "base/memory.h"

static const char *const keywords[] = {
  "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "channel_binding", "connect_timeout",
  "client_encoding", "options", "application_name", "fallback_application_name", "keepalives", "keepalives_idle",
  "keepalives_interval", "keepalives_count", "tcp_user_timeout", "replication", "gssencmode", "sslmode",
  "sslcompression", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer",
  "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib", "service", "target_session_attrs",
};

static int is_secret(const char *keyword) {
  return strcmp(keyword, "password") == 0 || strcmp(keyword, "sslpassword") == 0;
}

int bq_libpq_is_uri(const char *text) {
  return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

int bq_libpq_knows(const char *keyword) {
  for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++) {
    if (strcmp(keywords[i], keyword) == 0) return 1;
  }
  return 0;
}

static int is_blank(char c) {
  return isspace((unsigned char)c);
}

int bq_libpq_next(const char **at, bq_buf *key, bq_buf *value, bq_error *err) {
  const char *c = *at;
  bq_buf_clear(key);
  bq_buf_clear(value);
  while (is_blank(*c)) c++;
  if (*c == '\0') return 0;
  while (*c != '\0' && *c != '=' && !is_blank(*c)) bq_buf_addc(key, *c++);
  while (is_blank(*c)) c++;
  if (*c != '=' || key->length == 0) return bq_fail(err, BQ_EINVAL, "a keyword without = in the connection string");
  c++;
  while (is_blank(*c)) c++;
  int quoted = *c == '\'';
  if (quoted) c++;
  while (*c != '\0' && (quoted ? *c != '\'' : !is_blank(*c))) {
    if (*c == '\\' && c[1] != '\0') c++;
    bq_buf_addc(value, *c++);
  }
  if (quoted && *c != '\'') return bq_fail(err, BQ_EINVAL, "a quoted value in the connection string has no end");
  *at = quoted ? c + 1 : c;
  bq_buf_adds(value, ""); // an empty value is a text, too
  int code = key->failed ? bq_buf_check(key, err) : bq_buf_check(value, err);
  return code < 0 ? code : 1;
}

void bq_libpq_add(bq_buf *out, const char *key, const char *value) {
  bq_buf_addf(out, "%s%s='", out->length > 0 ? " " : "", key);
  for (; *value != '\0'; value++) {
    if (*value == '\'' || *value == '\\') bq_buf_addc(out, '\\');
    bq_buf_addc(out, *value);
  }
  bq_buf_addc(out, '\'');
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = (char)tolower((unsigned char)c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Adds `length` bytes of `text` with percent escapes decoded. 0 for a broken escape or an escaped NUL.
static int add_decoded(bq_buf *out, const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (text[i] != '%') {
      bq_buf_addc(out, text[i]);
      continue;
    }
    if (i + 2 >= length || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0) return 0;
    int byte = hex(text[i + 1]) * 16 + hex(text[i + 2]);
    if (byte == 0) return 0;
    bq_buf_addc(out, (char)byte);
    i += 2;
  }
  bq_buf_adds(out, "");
  return 1;
}

// The next parameter of a URI's query at `*at` (behind ? or &): its key, and where its raw value is. 0 at the end.
static int next_parameter(const char **at, bq_buf *key, const char **value, size_t *length) {
  bq_buf_clear(key);
  if (**at == '\0') return 0;
  size_t whole = strcspn(*at, "&");
  size_t name = strcspn(*at, "=&");
  (void)add_decoded(key, *at, name);
  *value = *at + name + (name < whole ? 1 : 0);
  *length = (size_t)(*at + whole - *value);
  *at += whole;
  if (**at == '&') (*at)++;
  return 1;
}

int bq_libpq_check_uri(const char *text, bq_error *err) {
  bq_buf decoded = {0};
  bq_buf key = {0};
  int code = 0;
  if (!add_decoded(&decoded, text, strlen(text))) {
    code = bq_fail(err, BQ_EINVAL, "the URI has a %% that two hexadecimal digits do not follow; write %%25 for a %%");
    goto cleanup;
  }
  const char *query = strchr(text, '?');
  const char *value;
  size_t length;
  query = query != NULL ? query + 1 : text + strlen(text);
  while (next_parameter(&query, &key, &value, &length)) {
    // ssl=true is JDBC's word for sslmode=require; libpq takes it in URIs only.
    int known = key.data != NULL && (bq_libpq_knows(key.data) || strcmp(key.data, "ssl") == 0);
    if (!known || memchr(value, '=', length) != NULL) {
      code = bq_fail(err, BQ_EINVAL, "the URI has a parameter that libpq does not know; write %%3F, %%26 and %%3D for "
                     "a ?, & or = that is part of a value");
      goto cleanup;
    }
  }
  code = decoded.failed ? bq_buf_check(&decoded, err) : bq_buf_check(&key, err);
cleanup:
  bq_buf_free(&decoded);
  bq_buf_free(&key);
  return code;
}

// Marks the bytes of a URI that are or may be a password: from the first colon behind // to the last @ (a password with
// an unescaped / or ? is found this way, too), and the values of password parameters.
static int mark_uri(const char *text, char *marks) {
  const char *authority = strstr(text, "//") + 2;
  const char *colon = strchr(authority, ':');
  const char *at = strrchr(authority, '@');
  if (colon != NULL && at != NULL && colon < at) memset(marks + (colon + 1 - text), 1, (size_t)(at - colon - 1));
  bq_buf key = {0};
  int whole = 1;
  for (const char *c = authority; *c != '\0'; c++) {
    if (*c != '?' && *c != '&') continue;
    const char *parameter = c + 1;
    const char *value;
    size_t length;
    if (!next_parameter(&parameter, &key, &value, &length)) continue;
    if (key.failed) whole = 0;
    else if (key.data != NULL && is_secret(key.data)) memset(marks + (value - text), 1, length);
  }
  bq_buf_free(&key);
  return whole;
}

// Calls `part` for each run of bytes of a URI, marked or not.
static int each_run(const char *text, void (*part)(void *arg, const char *bytes, size_t length, int marked), void *arg) {
  size_t length = strlen(text);
  char *marks = bq_alloc(length + 1);
  int whole = marks != NULL && mark_uri(text, marks);
  for (size_t start = 0, end; whole && start < length; start = end) {
    for (end = start; end < length && marks[end] == marks[start]; end++) {}
    part(arg, text + start, end - start, marks[start]);
  }
  bq_free(marks);
  return whole;
}

static void print_run(void *arg, const char *bytes, size_t length, int marked) {
  if (marked) bq_buf_adds(arg, "***");
  else bq_buf_add(arg, bytes, length);
}

static int print_keywords(const char *text, bq_buf *out, bq_error *err) {
  bq_buf key = {0};
  bq_buf value = {0};
  int code;
  while ((code = bq_libpq_next(&text, &key, &value, err)) > 0) {
    if (is_secret(key.data)) bq_buf_addf(out, "%s%s=***", out->length > 0 ? " " : "", key.data);
    else bq_libpq_add(out, key.data, value.data);
  }
  bq_buf_free(&key);
  bq_buf_free(&value);
  return code;
}

int bq_connection_string_printable(const char *libpq_text, char **out, bq_error *err) {
  bq_buf text = {0};
  int code = 0;
  *out = NULL;
  if (!bq_libpq_is_uri(libpq_text)) code = print_keywords(libpq_text, &text, err);
  else if (!each_run(libpq_text, print_run, &text)) text.failed = 1;
  if (code == 0) code = bq_buf_check(&text, err);
  if (code == 0) *out = bq_buf_take(&text);
  bq_buf_free(&text);
  if (code == 0 && *out == NULL) code = bq_fail(err, BQ_ENOMEM, "out of memory for a connection string");
  return code;
}

typedef struct hiding {
  int code; // 0 until something could not be hidden
} hiding;

static void hide(hiding *h, const char *bytes, size_t length) {
  char *secret = bq_strndup(bytes, length);
  int code = secret != NULL ? bq_log_hide(secret) : BQ_ENOMEM;
  if (code < 0 && h->code == 0) h->code = code;
  bq_free(secret);
}

static void hide_run(void *arg, const char *bytes, size_t length, int marked) {
  if (!marked) return;
  hide(arg, bytes, length);
  bq_buf decoded = {0};
  if (add_decoded(&decoded, bytes, length) && !decoded.failed) hide(arg, decoded.data, decoded.length);
  bq_buf_free(&decoded);
}

int bq_connection_string_hide(const char *libpq_text, bq_error *err) {
  hiding h = {0};
  bq_buf key = {0};
  bq_buf value = {0};
  int code = 0;
  if (bq_libpq_is_uri(libpq_text)) {
    if (!each_run(libpq_text, hide_run, &h)) h.code = BQ_ENOMEM;
  } else {
    const char *at = libpq_text;
    const char *before = at;
    while ((code = bq_libpq_next(&at, &key, &value, err)) > 0) {
      if (is_secret(key.data)) {
        hide(&h, value.data, value.length);
        // As it is written, with its escapes: from behind the = to the pair's end.
        const char *equals = strchr(before, '=');
        const char *raw = equals + 1 + strspn(equals + 1, " '");
        size_t length = (size_t)(at - raw);
        if (length > 0 && raw[length - 1] == '\'') length--;
        hide(&h, raw, length);
      }
      before = at;
    }
  }
  if (code == 0 && h.code < 0) code = bq_fail(err, h.code, "a password can't be hidden from the log");
  bq_buf_free(&key);
  bq_buf_free(&value);
  return code;
}
