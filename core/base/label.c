#include "base/label.h"

#include <string.h>

#define ALNUM "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

int bq_label_is(const char *text) {
  size_t length = strlen(text);
  return length >= 1 && length <= BQ_LABEL_MAX && strspn(text, ALNUM "._+=/-") == length && strspn(text, ALNUM) > 0;
}
