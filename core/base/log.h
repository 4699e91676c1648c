// The server's log: one line per fact on standard error, text or JSON, with stable keys.
//
//   bq_log(BQ_INFO, "build finished", "build", id, "status", "success", NULL);
//   → 2026-11-23T21:36:17.123Z info  build finished build=0190… status=success
//
// Thread-safe: a line is written with one write(2). Control characters are escaped. Secrets that were
// registered with bq_log_hide never appear.
#ifndef BQ_BASE_LOG_H
#define BQ_BASE_LOG_H

#include "base/error.h"

typedef enum bq_log_level { BQ_DEBUG, BQ_INFO, BQ_WARN, BQ_ERROR } bq_log_level;
typedef enum bq_log_format { BQ_LOG_TEXT, BQ_LOG_JSON } bq_log_format;

void bq_log_setup(bq_log_level least, bq_log_format format);
void bq_log_setup_fd(int fd); // for tests; standard error until called
int bq_log_enabled(bq_log_level level);

// `message` is a constant phrase; then pairs of key and value (const char *, a NULL value is left out),
// ended by a NULL key.
void bq_log(bq_log_level level, const char *message, ...) __attribute__((sentinel));

// Logs an error as `message error="…"` at BQ_ERROR.
void bq_log_error(const char *message, const bq_error *err);

// From now on `secret` (8 bytes or more; shorter ones are ignored, they would eat ordinary words) is
// written as *** in every line. Keeps a copy. At most 256; returns BQ_ELIMIT beyond.
int bq_log_hide(const char *secret);

// The level's word ("debug", "info", "warn", "error"), and back (-1 when unknown, any case).
const char *bq_log_level_name(bq_log_level level);
int bq_log_level_parse(const char *name);

#endif
