#include "base/error.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

int (bq_fail)(bq_error *err, int code, const char *fmt, ...) {
  if (err == NULL) return code;
  va_list args;
  va_start(args, fmt);
  err->code = code;
  // Formatted aside first: an argument may be err->message itself.
  char text[sizeof err->message];
  if (vsnprintf(text, sizeof text, fmt, args) >= (int)sizeof text) bq_utf8_clean(text); // it may end inside a character
  va_end(args);
  memcpy(err->message, text, sizeof text);
  return code;
}

int (bq_fail_errno)(bq_error *err, int errnum, const char *fmt, ...) {
  if (err == NULL) return BQ_EIO;
  va_list args;
  va_start(args, fmt);
  char text[sizeof err->message];
  (void)vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  char reason[128];
  // The GNU strerror_r may answer from its own table instead of the buffer.
  const char *words = strerror_r(errnum, reason, sizeof reason);
  return bq_fail(err, BQ_EIO, "%s: %s", text, words);
}

int (bq_fail_in)(bq_error *err, const char *fmt, ...) {
  if (err == NULL) return BQ_EINVAL;
  va_list args;
  va_start(args, fmt);
  char text[sizeof err->message];
  (void)vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  return bq_fail(err, err->code, "%s: %s", text, err->message);
}

const char *bq_err_name(int code) {
  switch ((enum bq_err)code) {
  case BQ_OK: return "ok";
  case BQ_ENOMEM: return "out_of_memory";
  case BQ_EINVAL: return "invalid";
  case BQ_EIO: return "io";
  case BQ_ENOTFOUND: return "not_found";
  case BQ_ECONFLICT: return "conflict";
  case BQ_EUNAVAIL: return "unavailable";
  case BQ_EUNKNOWN: return "outcome_unknown";
  case BQ_ETIMEOUT: return "timeout";
  case BQ_ELIMIT: return "limit";
  case BQ_ECANCELED: return "canceled";
  case BQ_ESCRIPT: return "script";
  case BQ_EDATABASE: return "database";
  }
  return "error";
}
