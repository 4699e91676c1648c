// A mail as bytes: RFC 5322 with MIME (RFC 2045 to 2047), made by GMime.
//
// Whatever a name, subject or text holds, it stays where it was put: header values lose their control characters and
// are encoded, so no value begins a header or a body of its own. Lines end in CRLF, none is longer than 998 bytes.
// Thread rule: any thread; nothing is kept.
#ifndef BQ_IO_MIME_H
#define BQ_IO_MIME_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// All text is UTF-8; NULL or "" where nothing is said, borrowed.
typedef struct bq_mime_mail {
  const char *from_name;
  const char *from_address;    // required, as are to_address, subject, text and message_id
  const char *to_name;
  const char *to_address;
  const char *reply_to;        // an address
  const char *subject;
  const char *text;            // text/plain; lines end in LF
  const char *html;            // text/html; then the mail is multipart/alternative
  const char *message_id;      // "<…@…>"
  const char *in_reply_to;     // likewise; also References
  const char *unsubscribe_url; // for List-Unsubscribe (RFC 2369); with https for its one click (RFC 8058)
  int64_t date_s;              // seconds since 1970
} bq_mime_mail;

// `*out` is the caller's (bq_free), `*length` bytes. BQ_EINVAL: an address that can't be one.
int bq_mime_write(const bq_mime_mail *mail, char **out, size_t *length, bq_error *err) BQ_MUSTCHECK;

// Whether this can be an address: one @ with something before and behind it, no blanks, controls or any of <>",;:\[]()
// outside of that, 254 bytes at most (RFC 5321, section 4.5.3.1.3). Letters of any script are fine (RFC 6531).
int bq_mime_is_address(const char *text);

#endif
