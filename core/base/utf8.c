#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

size_t bq_utf8_character(const char *text, size_t room) {
  const unsigned char *u = (const unsigned char *)text;
  if (room == 0 || u[0] == 0) return 0;
  if (u[0] < 0x80) return 1;
  size_t length = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
  if (u[0] < 0xc2 || u[0] > 0xf4 || length > room) return 0;
  for (size_t i = 1; i < length; i++) {
    if ((u[i] & 0xc0) != 0x80) return 0;
  }
  if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f)) return 0; // overlong, surrogates
  if ((u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f)) return 0; // overlong, above U+10FFFF
  return length;
}

size_t bq_utf8_ascii(const char *text, size_t length) {
  const uint64_t ones = UINT64_MAX / 255, tops = ones * 128;
  size_t i = 0;
  uint64_t word;
  // Eight at a time: no byte has its top bit, and none borrows because it is 0.
  for (; i + sizeof word <= length; i += sizeof word) {
    memcpy(&word, text + i, sizeof word);
    if (((word | (word - ones)) & tops) != 0) break;
  }
  while (i < length && (unsigned char)text[i] - 1U < 0x7f) i++;
  return i;
}

int bq_utf8_is(const char *text, size_t length) {
  for (size_t step; length > 0; text += step, length -= step) {
    step = bq_utf8_character(text, length);
    if (step == 0) return 0;
  }
  return 1;
}

// Whether the bytes to the end are the beginning of a character.
static int is_cut(const char *text, size_t room) {
  unsigned char first = (unsigned char)*text;
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || room >= length) return 0;
  for (size_t i = 1; i < room; i++) {
    if (((unsigned char)text[i] & 0xc0) != 0x80) return 0;
  }
  return 1;
}

void bq_utf8_clean(char *text) {
  size_t room = strlen(text);
  while (room > 0) {
    size_t length = bq_utf8_character(text, room);
    if (length == 0 && is_cut(text, room)) {
      *text = '\0';
      return;
    }
    if (length == 0) {
      *text = '?';
      length = 1;
    }
    text += length;
    room -= length;
  }
}
