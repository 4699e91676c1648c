#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/memory.h"

enum { MAX_SECRETS = 256, MIN_SECRET_BYTES = 8 };

// The one log of the process. Levels and secrets change rarely, lines come from every thread.
static struct {
  pthread_mutex_t lock;
  bq_log_level least;
  bq_log_format format;
  int fd;
  char *secrets[MAX_SECRETS]; // owned; live as long as the process
  size_t secret_count;
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER, .least = BQ_INFO, .format = BQ_LOG_TEXT, .fd = STDERR_FILENO};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void bq_log_setup(bq_log_level least, bq_log_format format) {
  pthread_mutex_lock(&sink.lock);
  sink.least = least;
  sink.format = format;
  pthread_mutex_unlock(&sink.lock);
}

void bq_log_setup_fd(int fd) {
  pthread_mutex_lock(&sink.lock);
  sink.fd = fd;
  pthread_mutex_unlock(&sink.lock);
}

int bq_log_enabled(bq_log_level level) {
  pthread_mutex_lock(&sink.lock);
  int enabled = level >= sink.least;
  pthread_mutex_unlock(&sink.lock);
  return enabled;
}

const char *bq_log_level_name(bq_log_level level) {
  return level_names[level];
}

int bq_log_level_parse(const char *name) {
  for (int i = BQ_DEBUG; i <= BQ_ERROR; i++) {
    if (strcasecmp(name, level_names[i]) == 0) return i;
  }
  return strcasecmp(name, "warning") == 0 ? BQ_WARN : -1;
}

// Adds `text` with every registered secret replaced by ***. Called with the lock held.
static void add_masked(bq_buf *out, const char *text) {
  while (*text != '\0') {
    const char *found = NULL;
    size_t length = 0;
    for (size_t i = 0; i < sink.secret_count; i++) {
      const char *at = strstr(text, sink.secrets[i]);
      if (at != NULL && (found == NULL || at < found)) {
        found = at;
        length = strlen(sink.secrets[i]);
      }
    }
    if (found == NULL) {
      bq_buf_adds(out, text);
      return;
    }
    bq_buf_add(out, text, (size_t)(found - text));
    bq_buf_adds(out, "***");
    text = found + length;
  }
}

static void add_escaped(bq_buf *line, const char *text) {
  for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
    switch (*c) {
    case '"': bq_buf_adds(line, "\\\""); break;
    case '\\': bq_buf_adds(line, "\\\\"); break;
    case '\n': bq_buf_adds(line, "\\n"); break;
    case '\r': bq_buf_adds(line, "\\r"); break;
    case '\t': bq_buf_adds(line, "\\t"); break;
    default:
      if (*c < 0x20 || *c == 0x7f) bq_buf_addf(line, "\\u%04x", *c);
      else bq_buf_addc(line, (char)*c);
    }
  }
}

// Keeps a copy of one text to mask. Called with the lock held.
static int remember(const char *text) {
  for (size_t i = 0; i < sink.secret_count; i++) {
    if (strcmp(sink.secrets[i], text) == 0) return 0;
  }
  if (sink.secret_count == MAX_SECRETS) return BQ_ELIMIT;
  char *copy = bq_strdup(text);
  if (copy == NULL) return BQ_ENOMEM;
  sink.secrets[sink.secret_count++] = copy;
  return 0;
}

int bq_log_hide(const char *secret) {
  if (secret == NULL || strlen(secret) < MIN_SECRET_BYTES) return 0;
  // Lines are masked after they were escaped: a quote or backslash in the secret stands there in its other form.
  bq_buf escaped = {0};
  add_escaped(&escaped, secret);
  pthread_mutex_lock(&sink.lock);
  int result = escaped.failed ? BQ_ENOMEM : remember(secret);
  if (result == 0) result = remember(escaped.data);
  pthread_mutex_unlock(&sink.lock);
  bq_buf_free(&escaped);
  return result;
}

static int needs_quotes(const char *text) {
  if (*text == '\0') return 1;
  for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
    if (*c <= ' ' || *c == '"' || *c == '=' || *c == '\\' || *c == 0x7f) return 1;
  }
  return 0;
}

static void add_pair(bq_buf *line, const char *key, const char *value) {
  if (sink.format == BQ_LOG_JSON) {
    bq_buf_addf(line, ",\"%s\":\"", key);
    add_escaped(line, value);
    bq_buf_addc(line, '"');
  } else if (needs_quotes(value)) {
    bq_buf_addf(line, " %s=\"", key);
    add_escaped(line, value);
    bq_buf_addc(line, '"');
  } else {
    bq_buf_addf(line, " %s=%s", key, value);
  }
}

void bq_log(bq_log_level level, const char *message, ...) {
  if (!bq_log_enabled(level)) return;
  char when[BQ_CLOCK_TEXT_SIZE];
  bq_clock_format(bq_clock_wall_us(), when);
  bq_buf line = {0};
  bq_buf masked = {0};
  pthread_mutex_lock(&sink.lock);
  if (sink.format == BQ_LOG_JSON) {
    bq_buf_addf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"", when, level_names[level]);
    add_escaped(&line, message);
    bq_buf_addc(&line, '"');
  } else {
    bq_buf_addf(&line, "%s %-5s ", when, level_names[level]);
    add_escaped(&line, message);
  }
  va_list args;
  va_start(args, message);
  for (const char *key = va_arg(args, const char *); key != NULL; key = va_arg(args, const char *)) {
    const char *value = va_arg(args, const char *);
    if (value != NULL) add_pair(&line, key, value);
  }
  va_end(args);
  bq_buf_adds(&line, sink.format == BQ_LOG_JSON ? "}\n" : "\n");
  if (line.data != NULL && !line.failed) {
    add_masked(&masked, line.data);
    // A log that can't be written has nowhere to complain: the server goes on without that line.
    if (!masked.failed && write(sink.fd, masked.data, masked.length) < 0) { /* nothing to do */ }
  }
  pthread_mutex_unlock(&sink.lock);
  bq_buf_free(&line);
  bq_buf_free(&masked);
}

void bq_log_error(const char *message, const bq_error *err) {
  bq_log(BQ_ERROR, message, "reason", bq_err_name(err->code), "error", err->message, NULL);
}
