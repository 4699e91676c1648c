#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

void bq_uuid_make(char out[BQ_UUID_SIZE], const unsigned char random[BQ_UUID_RANDOM]) {
  static const char digits[] = "0123456789abcdef";
  unsigned char b[16];
  uint64_t ms = (uint64_t)(bq_clock_wall_us() / 1000);
  for (int i = 0; i < 6; i++) b[i] = (unsigned char)(ms >> (40 - 8 * i));
  memcpy(b + 6, random, BQ_UUID_RANDOM);
  b[6] = (unsigned char)((b[6] & 0x0f) | 0x70);
  b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
  char *to = out;
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *to++ = '-';
    *to++ = digits[b[i] >> 4];
    *to++ = digits[b[i] & 15];
  }
  *to = '\0';
}

int bq_uuid_new(char out[BQ_UUID_SIZE], bq_error *err) {
  unsigned char random[BQ_UUID_RANDOM];
  if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
    return bq_fail_errno(err, errno, "can't get random bytes");
  }
  bq_uuid_make(out, random);
  return 0;
}

int bq_uuid_is(const char *text) {
  if (strlen(text) != BQ_UUID_SIZE - 1) return 0;
  for (int i = 0; i < BQ_UUID_SIZE - 1; i++) {
    int dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i])) return 0;
  }
  return 1;
}
