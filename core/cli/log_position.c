#include "cli/log_position.h"

#include <stdlib.h>
#include <string.h>

// Every line of a log begins with a digit, so only a mark can begin with this.
static const char mark_begin[] = "…";
static const char mark_word[] = "it goes on at offset ";

static void end_mark(bq_log_position *position) {
  position->mark[position->mark_length] = '\0';
  const char *word = strstr(position->mark, mark_word);
  if (word != NULL) position->offset = strtoull(word + sizeof mark_word - 1, NULL, 10);
  else position->offset += position->mark_length + 1; // no mark after all
  position->mark_length = 0;
}

// Returns how many of the bytes belonged to the mark; its line end is the last of them.
static size_t feed_mark(bq_log_position *position, const char *bytes, size_t length) {
  const char *end = memchr(bytes, '\n', length);
  size_t n = end != NULL ? (size_t)(end - bytes) : length;
  if (position->mark_length + n >= sizeof position->mark) { // too long for one: a line like others
    position->offset += position->mark_length + n;
    position->mark_length = 0;
    position->inside = 1;
    return n;
  }
  memcpy(position->mark + position->mark_length, bytes, n);
  position->mark_length += n;
  if (end == NULL) return n;
  end_mark(position);
  return n + 1;
}

void bq_log_position_feed(bq_log_position *position, const char *bytes, size_t length) {
  while (length > 0) {
    size_t n;
    if (position->mark_length > 0 || (!position->inside && bytes[0] == mark_begin[0])) {
      n = feed_mark(position, bytes, length);
    } else {
      const char *end = memchr(bytes, '\n', length);
      n = end != NULL ? (size_t)(end - bytes) + 1 : length;
      position->inside = end == NULL;
      position->offset += n;
    }
    bytes += n;
    length -= n;
  }
}

void bq_log_position_cut(bq_log_position *position) {
  position->mark_length = 0;
}
