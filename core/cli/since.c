#include "cli/since.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static int64_t seconds_of(char unit) {
  switch (unit) {
  case 's': return 1;
  case 'm': return 60;
  case 'h': return 3600;
  case 'd': return 86400;
  case 'w': return 604800;
  default: return 0;
  }
}

int bq_since_read(const char *text, int64_t now_us, char *out, size_t size) {
  size_t digits = strspn(text, "0123456789");
  int64_t unit = text[digits] != '\0' && text[digits + 1] == '\0' ? seconds_of(text[digits]) : 0;
  if (digits > 0 && digits <= 9 && unit > 0) {
    char when[BQ_CLOCK_TEXT_SIZE];
    int64_t seconds = strtoll(text, NULL, 10) * unit; // nine digits of weeks fit, but not as microseconds
    bq_clock_format(seconds < now_us / 1000000 ? now_us - seconds * 1000000 : 0, when);
    (void)snprintf(out, size, "%s", when);
    return 1;
  }
  // A date and a time of day; the server reads the rest.
  if (strlen(text) < 19 || strlen(text) >= size || text[4] != '-' || text[7] != '-' || text[10] != 'T') return 0;
  (void)snprintf(out, size, "%s", text);
  return 1;
}
