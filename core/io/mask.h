// Masking of secrets in a stream of bytes: each secret, and what base64 makes of it inside a longer text, becomes ***.
//
// Thread rule: a set and its streams belong to one thread at a time.
#ifndef BQ_IO_MASK_H
#define BQ_IO_MASK_H

#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"

enum {
  BQ_MASK_MIN_BYTES = 6,    // of a secret: shorter ones would eat ordinary words, and guessing them needs no log
  BQ_MASK_MAX_BYTES = 8192, // of a secret
  BQ_MASK_MAX_SECRETS = 64  // in one set
};

// Secrets: those of a server, and on top of them those of one attempt.
typedef struct bq_mask_set bq_mask_set;

// `base`: a set whose secrets are masked too, NULL for none; borrowed, and nothing is added to it any more.
int bq_mask_set_new(bq_mask_set **out, const bq_mask_set *base, bq_error *err) BQ_MUSTCHECK;
void bq_mask_set_free(bq_mask_set *set); // after all of its streams, and all sets on top of it
int bq_mask_set_count(const bq_mask_set *set); // secrets of its own
const bq_mask_set *bq_mask_set_base(const bq_mask_set *set);

// Adds a copy of `secret`, without line ends behind it; also while streams are under way. A secret that is known
// already is fine. BQ_EINVAL: too short or too long; BQ_ELIMIT: too many. The error doesn't hold the secret.
int bq_mask_set_add(bq_mask_set *set, const char *secret, size_t length, bq_error *err) BQ_MUSTCHECK;

// One stream. Zeroed but for `set` it is ready; bq_mask_end ends it.
typedef struct bq_mask {
  const bq_mask_set *set; // borrowed; NULL masks nothing
  bq_buf held;            // bytes that may be the beginning of a secret; shorter than the longest pattern
  size_t masked_left;     // bytes to come that belong to a secret found already
} bq_mask;

// Appends to `out` what is safe to show. A secret that is split over calls is masked, because bytes that may begin one
// are held back until more come (only those: a prompt without a line end passes at once). When memory is out,
// out->failed is set, and bytes are lost rather than shown.
void bq_mask_feed(bq_mask *mask, const char *bytes, size_t length, bq_buf *out);
void bq_mask_end(bq_mask *mask, bq_buf *out); // gives out what is held and frees it; the stream may begin anew

// A whole text at once.
void bq_mask_text(const bq_mask_set *set, const char *bytes, size_t length, bq_buf *out);

#endif
