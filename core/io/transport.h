// What became of a message that was handed to a server elsewhere: a mail server (smtp.h), a web server (webhook.h).
#ifndef BQ_IO_TRANSPORT_H
#define BQ_IO_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// Bytes that are made where they are needed, on the thread that sends them.
typedef struct bq_content {
  // `*bytes` (bq_free) and their `*length`. BQ_EINVAL: they can't be made, and never will; anything else may go well later.
  int (*make)(void *arg, char **bytes, size_t *length, bq_error *err);
  // Right before the first of them goes: whether it still may. NULL: it may.
  int (*may_go)(void *arg);
  void *arg; // stays until the end was told
} bq_content;

typedef enum bq_transport_outcome {
  BQ_TRANSPORT_SENT,
  BQ_TRANSPORT_RETRY, // it may go well later: no connection, a timeout, a temporary refusal, a lost reply
  BQ_TRANSPORT_DEAD,  // it won't
  BQ_TRANSPORT_GONE,  // the recipient wants no more of them (HTTP 410)
  BQ_TRANSPORT_BACK   // nothing was sent: it may not go any more
} bq_transport_outcome;

typedef struct bq_transport_result {
  bq_transport_outcome outcome;
  int code;               // of the server's last reply; 0: none came
  const char *reply;      // its text, or what failed; borrowed, UTF-8, without secrets
  int64_t retry_after_s;  // what the server asked for; 0: nothing
} bq_transport_result;

// Called once, on a later turn of the loop.
typedef void (*bq_transport_done)(void *arg, const bq_transport_result *result);

#endif
