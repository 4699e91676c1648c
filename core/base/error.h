// Errors: every fallible function returns 0 or a negative bq_err and fills the caller's bq_error.
//
// A message is one sentence for a person: what failed, on what, what to do. It never holds a secret.
#ifndef BQ_BASE_ERROR_H
#define BQ_BASE_ERROR_H

#include <stdarg.h>

enum bq_err {
  BQ_OK = 0,
  BQ_ENOMEM = -1,    // an allocation failed
  BQ_EINVAL = -2,    // the input is wrong; trying again will not help
  BQ_EIO = -3,       // the operating system refused a read, write, spawn or socket call
  BQ_ENOTFOUND = -4, // the thing named does not exist
  BQ_ECONFLICT = -5, // the thing is in a state that forbids this
  BQ_EUNAVAIL = -6,  // a peer (database, SMTP server) can't be reached now; nothing was sent to it
  BQ_EUNKNOWN = -7,  // the connection was lost after sending: it may or may not have happened
  BQ_ETIMEOUT = -8,  // a time limit ran out
  BQ_ELIMIT = -9,    // a configured bound was reached
  BQ_ECANCELED = -10, // somebody asked for the end
  BQ_ESCRIPT = -11,  // a Lua script or template failed
  BQ_EDATABASE = -12 // PostgreSQL refused the statement (its SQLSTATE is in the message)
};

typedef struct bq_error {
  int code;           // 0 or one of bq_err
  char message[1000]; // NUL-terminated UTF-8; cut, never overrun
} bq_error;

#define BQ_PRINTF(fmt_index, args_index) __attribute__((format(printf, fmt_index, args_index)))
#define BQ_MUSTCHECK __attribute__((warn_unused_result))

// Fills `err` (which may be NULL) and returns `code`, so that a failing path is one statement.
int bq_fail(bq_error *err, int code, const char *fmt, ...) BQ_PRINTF(3, 4);

// Like bq_fail, with ": " and the text of `errnum` (an errno value) appended.
int bq_fail_errno(bq_error *err, int errnum, const char *fmt, ...) BQ_PRINTF(3, 4);

// Puts "context: " before the message that `err` holds already. Returns err's code.
int bq_fail_in(bq_error *err, const char *fmt, ...) BQ_PRINTF(2, 3);

#ifdef __clang_analyzer__
// Linters see one file at a time and can't know that these never return 0; without it each output argument of a failed
// call looks used before it is set. The definitions in error.c are in parentheses for this.
#define bq_fail(err, code, ...) ((void)(bq_fail)(err, code, __VA_ARGS__), (code))
#define bq_fail_errno(err, errnum, ...) ((void)(bq_fail_errno)(err, errnum, __VA_ARGS__), (int)BQ_EIO)
#define bq_fail_in(err, ...) ((void)(bq_fail_in)(err, __VA_ARGS__), (int)BQ_EIO)
#endif

// The short stable word for a code ("invalid", "unavailable", …), for logs and metrics.
const char *bq_err_name(int code);

#endif
