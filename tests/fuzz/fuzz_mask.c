// Masking: however a stream is cut into pieces, the output is the same, and holds no secret.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/mask.h"

static const char secret[] = "hunter2hunter";
static const char other[] = "aaaaaab";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The first byte says how long the pieces are, the rest is the stream.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  const char *text = (const char *)data + 1;
  size_t length = size - 1;
  size_t piece = data[0] % 16 + 1U;
  bq_error err = {0};
  bq_mask_set *set = NULL;
  if (bq_mask_set_new(&set, NULL, &err) < 0) abort();
  if (bq_mask_set_add(set, secret, strlen(secret), &err) < 0) abort();
  if (bq_mask_set_add(set, other, strlen(other), &err) < 0) abort();
  bq_buf whole = {0};
  bq_buf cut = {0};
  bq_mask_text(set, text, length, &whole);
  bq_mask mask = {.set = set};
  for (size_t at = 0; at < length; at += piece) {
    bq_mask_feed(&mask, text + at, length - at < piece ? length - at : piece, &cut);
  }
  bq_mask_end(&mask, &cut);
  if (whole.length != cut.length) abort();
  if (whole.length > 0 && memcmp(whole.data, cut.data, whole.length) != 0) abort();
  if (whole.length > 0 && memmem(whole.data, whole.length, secret, strlen(secret)) != NULL) abort();
  bq_buf_free(&whole);
  bq_buf_free(&cut);
  bq_mask_set_free(set);
  return 0;
}
