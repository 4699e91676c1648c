// Mails to a mail server: SMTP (RFC 5321) by libcurl, several at a time, connections are used again.
//
// Port 465 is TLS from the first byte (RFC 8314); on other ports STARTTLS (RFC 3207) must work unless `tls` is 0. The
// server's certificate is always checked. A login goes by what the server offers: a password (SASL PLAIN, LOGIN,
// CRAM-MD5), or an OAuth 2 token (OAUTHBEARER of RFC 7628, else XOAUTH2).
//
// What a reply means: 5xx to the sender, the recipient or the mail itself is the end (BQ_TRANSPORT_DEAD, with the
// server's words). Everything else may go well later: 4xx, no connection, a certificate that does not fit, a timeout, a
// lost reply, and a refused login, which is not the mail's fault.
//
// Each mail has a thread while it is sent: libcurl waits for the reply to a mail, and to its goodbye, without giving
// the loop back.
// Thread rule: loop thread only, but for bq_smtp_check.
#ifndef BQ_IO_SMTP_H
#define BQ_IO_SMTP_H

#include <stddef.h>

#include "base/error.h"
#include "event/loop.h"
#include "event/pool.h"
#include "io/transport.h"

typedef struct bq_smtp bq_smtp;

typedef struct bq_smtp_account {
  const char *server;   // host name or address
  int port;
  int tls;              // the connection must be encrypted
  const char *ca_file;  // instead of the system's certificate authorities; "" for those
  const char *username; // "": no login
  const char *password;
  const char *token;    // "file:PATH" or "command:PROGRAM" (base/secret.h): an OAuth 2 token; "": the password
  int timeout_s;        // for one mail, from the connection to the last reply
} bq_smtp_account;

enum {
  BQ_SMTP_IDLE_S = 5,    // a connection that is idle for longer is closed
  BQ_SMTP_TOKEN_S = 300  // how long a token is kept, unless the login fails
};

// `threads` mails are sent at a time, 256 at most; later ones wait. `loop` is borrowed.
int bq_smtp_new(bq_smtp **out, bq_loop *loop, unsigned threads, bq_error *err) BQ_MUSTCHECK;
// Ends what is under way, within about a second: `done` is called with BQ_TRANSPORT_RETRY. The loop does not run
// afterwards.
void bq_smtp_free(bq_smtp *smtp); // NULL is fine

// Sends a mail (CRLF at the end of each line) from one address to another. `account` is copied, `content` is asked on the
// mail's thread: whether it may go when the thread has time for it, and again when the server waits for the mail itself.
// `done` follows on a later turn. BQ_EINVAL: an address can't be one. BQ_ENOMEM, BQ_ELIMIT (too many wait).
int bq_smtp_send(bq_smtp *smtp, const bq_smtp_account *account, const char *from, const char *to,
                 const bq_content *content, bq_transport_done done, void *arg, bq_error *err) BQ_MUSTCHECK;

// Connects, encrypts, logs in, and says goodbye. Blocks; any thread. BQ_EUNAVAIL with the server's words, or what
// failed.
int bq_smtp_check(const bq_smtp_account *account, bq_error *err) BQ_MUSTCHECK;

#endif
