// UTF-8: what is a character, and texts that must hold nothing else.
#ifndef BQ_BASE_UTF8_H
#define BQ_BASE_UTF8_H

#include <stddef.h>

// The length in bytes of the character at `text`, of which `room` bytes may be looked at; 0 when it is none (or NUL).
size_t bq_utf8_character(const char *text, size_t room);

// How many bytes from `text` on are ASCII and no NUL: most texts are little else, and this takes eight at a time.
size_t bq_utf8_ascii(const char *text, size_t length);

// Whether these bytes are characters and nothing else.
int bq_utf8_is(const char *text, size_t length);

// Makes a text valid where it stands: a character that was cut at the end goes, any other byte that is no character
// becomes "?".
void bq_utf8_clean(char *text);

#endif
