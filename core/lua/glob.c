#include "lua/glob.h"

#include <string.h>

// One segment each. The last star takes one byte more whenever what follows it doesn't fit: no recursion.
static int match_segment(const char *pattern, size_t pattern_length, const char *name, size_t name_length) {
  size_t p = 0, n = 0;
  size_t star = pattern_length; // where the last star is; pattern_length: none yet
  size_t star_n = 0;            // where its match ends
  while (n < name_length) {
    if (p < pattern_length && pattern[p] == '*') {
      star = p++;
      star_n = n;
    } else if (p < pattern_length && (pattern[p] == '?' || pattern[p] == name[n])) {
      p++;
      n++;
    } else if (star < pattern_length) {
      p = star + 1;
      n = ++star_n;
    } else {
      return 0;
    }
  }
  while (p < pattern_length && pattern[p] == '*') p++;
  return p == pattern_length;
}

static const char *next_segment(const char *text) {
  text += strcspn(text, "/");
  return *text == '/' ? text + 1 : text;
}

// The same way over segments, with "**" as the star.
int bq_glob_match(const char *pattern, const char *path) {
  const char *star = NULL; // behind the last "**"
  const char *star_path = NULL;
  while (*path != '\0') {
    size_t length = strcspn(pattern, "/");
    if (length == 2 && memcmp(pattern, "**", 2) == 0) {
      pattern = next_segment(pattern);
      star = pattern;
      star_path = path;
    } else if (length > 0 && match_segment(pattern, length, path, strcspn(path, "/"))) {
      pattern = next_segment(pattern);
      path = next_segment(path);
    } else if (star != NULL) {
      pattern = star;
      path = star_path = next_segment(star_path);
    } else {
      return 0;
    }
  }
  while (strncmp(pattern, "**", 2) == 0 && (pattern[2] == '/' || pattern[2] == '\0')) pattern = next_segment(pattern);
  return *pattern == '\0';
}

size_t bq_glob_base(const char *pattern) {
  size_t base = 0;
  for (size_t at = 0;;) {
    size_t length = strcspn(pattern + at, "/");
    if (pattern[at + length] == '\0' || strcspn(pattern + at, "*?") < length) return base;
    base = at + length;
    at = base + 1;
  }
}
