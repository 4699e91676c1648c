// Links with which whoever gets mails stops them, without a login: who is meant is in the link, and signed.
//
//   {Email.UnsubscribeUrl}?token=PAYLOAD.SIGNATURE    both base64url without padding (RFC 4648, section 5)
//
// PAYLOAD is event, customer and recipient, a NUL between them. SIGNATURE is HMAC-SHA256 (RFC 2104) with
// Email.UnsubscribeSecret over a line that says what it is for, and the payload. A link is good as long as the secret is.
// Thread rule: any thread; nothing is kept.
#ifndef BQ_QUEUE_UNSUBSCRIBE_H
#define BQ_QUEUE_UNSUBSCRIBE_H

#include "base/config.h"
#include "base/error.h"

enum {
  // A header's line has 998 bytes at most (RFC 5322, section 2.1.1) and a URL can't be folded.
  BQ_UNSUBSCRIBE_MAX_URL = 900
};

// Which mails: those of `event` about builds of `customer` to `recipient`.
typedef struct bq_unsubscribe {
  char *event;     // owned
  char *customer;  // owned; its id
  char *recipient; // owned; the address
} bq_unsubscribe;
void bq_unsubscribe_free(bq_unsubscribe *unsubscribe); // its strings

// The link for one mail. `*out` is the caller's (bq_free); NULL, and success, when there is none: UnsubscribeUrl is not
// set, or the link would be longer than BQ_UNSUBSCRIBE_MAX_URL. BQ_ENOMEM.
int bq_unsubscribe_url(char **out, const bq_config *config, const char *event, const char *customer,
                       const char *recipient, bq_error *err) BQ_MUSTCHECK;

// What a token of such a link says; `out` is filled on success only (bq_unsubscribe_free). BQ_EINVAL: nobody who knows
// the secret has made it, also when there is no secret. BQ_ENOMEM.
int bq_unsubscribe_read(bq_unsubscribe *out, const bq_config *config, const char *token, bq_error *err) BQ_MUSTCHECK;

#endif
