#include "cli/text.h"

#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/utf8.h"

enum { DEFAULT_COLUMNS = 80 }; // of a terminal that doesn't know

typedef struct range {
  uint32_t first;
  uint32_t last;
} range;

static const range invisible[] = {{0x300, 0x36f}, {0x200b, 0x200d}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}};
static const range wide[] = {{0x1100, 0x115f},   {0x2e80, 0xa4cf},   {0xac00, 0xd7a3},  {0xf900, 0xfaff},
                             {0xfe30, 0xfe6f},   {0xff01, 0xff60},   {0xffe0, 0xffe6},  {0x1f300, 0x1faff},
                             {0x20000, 0x3fffd}};
// C0, DEL and C1; line and paragraph separators; what turns the direction of a line.
static const range replaced[] = {{0, 0x1f},        {0x7f, 0x9f},     {0x200e, 0x200f},
                                 {0x2028, 0x202e}, {0x2066, 0x2069}, {0xfeff, 0xfeff}};

static int is_in(const range *ranges, size_t count, uint32_t c) {
  for (size_t i = 0; i < count; i++) {
    if (c >= ranges[i].first && c <= ranges[i].last) return 1;
  }
  return 0;
}

#define IS_IN(ranges, c) is_in(ranges, sizeof(ranges) / sizeof(ranges)[0], c)

static uint32_t code_of(const char *text, size_t length) {
  const unsigned char *u = (const unsigned char *)text;
  if (length == 1) return u[0];
  uint32_t code = u[0] & (0x7fU >> length);
  for (size_t i = 1; i < length; i++) code = code << 6 | (u[i] & 0x3fU);
  return code;
}

// One character as it is shown.
typedef struct shown {
  const char *bytes; // borrowed
  size_t length;     // of bytes
  size_t taken;      // bytes of the text that it stands for
  size_t columns;
} shown;

static shown next(const char *text, size_t room) {
  size_t length = bq_utf8_character(text, room);
  if (length == 0) return (shown){"?", 1, 1, 1};
  uint32_t code = code_of(text, length);
  if (IS_IN(replaced, code)) return (shown){" ", 1, length, 1};
  return (shown){text, length, length, IS_IN(invisible, code) ? 0 : IS_IN(wide, code) ? 2 : 1};
}

size_t bq_text_columns(const char *text) {
  size_t columns = 0;
  for (size_t room = strlen(text); room > 0;) {
    shown c = next(text, room);
    columns += c.columns;
    text += c.taken;
    room -= c.taken;
  }
  return columns;
}

size_t bq_text_fit(char *out, size_t size, const char *text, size_t columns) {
  static const char more[] = "…";
  int cut = bq_text_columns(text) > columns;
  size_t limit = cut && columns > 0 ? columns - 1 : columns;
  size_t tail = cut && columns > 0 ? sizeof more - 1 : 0;
  size_t used = 0;
  size_t at = 0;
  for (size_t room = strlen(text); room > 0;) {
    shown c = next(text, room);
    if (used + c.columns > limit || at + c.length + tail >= size) break;
    memcpy(out + at, c.bytes, c.length);
    at += c.length;
    used += c.columns;
    text += c.taken;
    room -= c.taken;
  }
  if (tail > 0 && at + tail < size) {
    memcpy(out + at, more, tail);
    at += tail;
    used++;
  }
  if (size > 0) out[at] = '\0';
  return used;
}

void bq_text_print(FILE *out, const char *text) {
  for (size_t room = strlen(text); room > 0;) {
    shown c = next(text, room);
    (void)fwrite(c.bytes, 1, c.length, out);
    text += c.taken;
    room -= c.taken;
  }
}

size_t bq_text_terminal(FILE *out) {
  struct winsize size;
  if (!isatty(fileno(out))) return 0;
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : DEFAULT_COLUMNS;
}
