#include "lua/match.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

#include "lua/fiber.h"

enum { STEPS_PER_LOOK = 50 * 1000, ESCAPE = '%' };

// Most positions of a text are ruled out by the first byte alone.
static int first_byte(const char *pattern, size_t length) {
  if (length == 0 || pattern[0] == '\0' || strchr("^$*+?.()[%-", pattern[0]) != NULL) return -1;
  if (length > 1 && pattern[1] != '\0' && strchr("*?-", pattern[1]) != NULL) return -1;
  return (unsigned char)pattern[0];
}

const char *bq_match_candidate(const bq_matcher *m, const char *at) {
  if (m->first < 0) return at <= m->text_end ? at : NULL;
  return at < m->text_end ? memchr(at, m->first, (size_t)(m->text_end - at)) : NULL;
}

void bq_matcher_init(bq_matcher *m, lua_State *L, const char *text, size_t length, const char *pattern,
                     size_t pattern_length) {
  m->L = L;
  m->text = text;
  m->text_end = text + length;
  m->pattern_end = pattern + pattern_length;
  m->first = first_byte(pattern, pattern_length);
  m->steps = 0;
  m->count = 0;
  m->depth = BQ_MATCH_DEPTH;
}

static void step(bq_matcher *m) {
  if (++m->steps < STEPS_PER_LOOK) return;
  m->steps = 0;
  bq_vm_tick(m->L);
}

// The end of the single-character class that begins at `p`.
static const char *class_end(const bq_matcher *m, const char *p) {
  if (p == m->pattern_end) (void)luaL_error(m->L, "malformed pattern");
  if (*p == ESCAPE) {
    if (p + 1 == m->pattern_end) (void)luaL_error(m->L, "malformed pattern (ends with '%%')");
    return p + 2;
  }
  if (*p++ != '[') return p;
  if (p < m->pattern_end && *p == '^') p++;
  // A ']' right behind the opening is an ordinary character.
  for (int first = 1; first || p == m->pattern_end || *p != ']'; first = 0) {
    if (p == m->pattern_end) (void)luaL_error(m->L, "malformed pattern (missing ']')");
    if (*p++ == ESCAPE) {
      if (p == m->pattern_end) (void)luaL_error(m->L, "malformed pattern (missing ']')");
      p++;
    }
  }
  return p + 1;
}

static int in_letter_class(int c, int letter) {
  int is;
  switch (tolower(letter)) {
  case 'a': is = isalpha(c); break;
  case 'c': is = iscntrl(c); break;
  case 'd': is = isdigit(c); break;
  case 'g': is = isgraph(c); break;
  case 'l': is = islower(c); break;
  case 'p': is = ispunct(c); break;
  case 's': is = isspace(c); break;
  case 'u': is = isupper(c); break;
  case 'w': is = isalnum(c); break;
  case 'x': is = isxdigit(c); break;
  case 'z': is = c == 0; break; // deprecated, but still in Lua 5.4
  default: return letter == c;
  }
  return isupper(letter) ? !is : is != 0;
}

// `p` is at the '[', `last` at the closing ']'.
static int in_set(int c, const char *p, const char *last) {
  int inside = 1;
  p++;
  if (*p == '^') {
    inside = 0;
    p++;
  }
  while (p < last) {
    if (*p == ESCAPE) {
      if (in_letter_class(c, (unsigned char)p[1])) return inside;
      p += 2;
    } else if (p[1] == '-' && p + 2 < last) {
      if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2]) return inside;
      p += 3;
    } else {
      if ((unsigned char)*p == c) return inside;
      p++;
    }
  }
  return !inside;
}

// Whoever asks in a loop steps for itself.
static int fits(const bq_matcher *m, const char *at, const char *p, const char *after) {
  if (at >= m->text_end) return 0;
  int c = (unsigned char)*at;
  switch (*p) {
  case '.': return 1;
  case ESCAPE: return in_letter_class(c, (unsigned char)p[1]);
  case '[': return in_set(c, p, after - 1);
  default: return (unsigned char)*p == c;
  }
}

static const char *do_match(bq_matcher *m, const char *at, const char *p);

static const char *match_balance(bq_matcher *m, const char *at, const char *p) {
  if (p + 1 >= m->pattern_end) (void)luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
  if (at >= m->text_end || *at != *p) return NULL;
  int open = 1;
  for (const char *s = at + 1; s < m->text_end; s++) {
    step(m);
    if (*s == p[1]) {
      if (--open == 0) return s + 1;
    } else if (*s == p[0]) {
      open++;
    }
  }
  return NULL;
}

static const char *match_most(bq_matcher *m, const char *at, const char *p, const char *after) {
  ptrdiff_t count = 0;
  for (; fits(m, at + count, p, after); count++) step(m);
  for (; count >= 0; count--) {
    step(m);
    const char *end = do_match(m, at + count, after + 1);
    if (end != NULL) return end;
  }
  return NULL;
}

static const char *match_least(bq_matcher *m, const char *at, const char *p, const char *after) {
  for (;;) {
    const char *end = do_match(m, at, after + 1);
    if (end != NULL) return end;
    if (!fits(m, at, p, after)) return NULL;
    step(m);
    at++;
  }
}

static const char *begin_capture(bq_matcher *m, const char *at, const char *p, ptrdiff_t kind) {
  if (m->count >= BQ_MATCH_CAPTURES) (void)luaL_error(m->L, "too many captures");
  m->captures[m->count].start = at;
  m->captures[m->count].length = kind;
  m->count++;
  const char *end = do_match(m, at, p);
  if (end == NULL) m->count--;
  return end;
}

static const char *end_capture(bq_matcher *m, const char *at, const char *p) {
  int i = m->count - 1;
  while (i >= 0 && m->captures[i].length != BQ_CAPTURE_OPEN) i--;
  if (i < 0) (void)luaL_error(m->L, "invalid pattern capture");
  m->captures[i].length = at - m->captures[i].start;
  const char *end = do_match(m, at, p);
  if (end == NULL) m->captures[i].length = BQ_CAPTURE_OPEN;
  return end;
}

// %1 to %9: what that capture has matched, again.
static const char *match_again(bq_matcher *m, const char *at, int digit) {
  int i = digit - '1';
  if (i < 0 || i >= m->count || m->captures[i].length == BQ_CAPTURE_OPEN) {
    (void)luaL_error(m->L, "invalid capture index %%%d", i + 1);
  }
  ptrdiff_t length = m->captures[i].length;
  if (length < 0) return NULL; // a position
  if (m->text_end - at < length || memcmp(m->captures[i].start, at, (size_t)length) != 0) return NULL;
  return at + length;
}

// %f[set]: the border between what is not in the set and what is; outside the subject counts as '\0'.
static int at_frontier(const bq_matcher *m, const char *at, const char *p, const char *after) {
  int before = at == m->text ? 0 : (unsigned char)at[-1];
  int here = at < m->text_end ? (unsigned char)*at : 0;
  return !in_set(before, p, after - 1) && in_set(here, p, after - 1);
}

// One item of the pattern that is a single character class, with what may follow it. *next is where the pattern goes
// on when the result is to be matched further; NULL in it: the result is final.
static const char *match_class(bq_matcher *m, const char *at, const char *p, const char **next) {
  const char *after = class_end(m, p);
  char suffix = '\0';
  if (after < m->pattern_end) suffix = *after;
  *next = NULL;
  switch (suffix) {
  case '*': return match_most(m, at, p, after);
  case '+': return fits(m, at, p, after) ? match_most(m, at + 1, p, after) : NULL;
  case '-': return match_least(m, at, p, after);
  case '?': {
    const char *end = fits(m, at, p, after) ? do_match(m, at + 1, after + 1) : NULL;
    if (end != NULL) return end;
    *next = after + 1;
    return at;
  }
  default:
    if (!fits(m, at, p, after)) return NULL;
    *next = after;
    return at + 1;
  }
}

// An item that begins with '%' and is no class. 1: handled, with *at (NULL: no match) and *p moved on.
static int match_special(bq_matcher *m, const char **at, const char **p) {
  if (*p + 1 >= m->pattern_end) return 0;
  char kind = (*p)[1];
  if (kind == 'b') {
    *at = match_balance(m, *at, *p + 2);
    *p += 4;
    return 1;
  }
  if (kind == 'f') {
    const char *set = *p + 2;
    if (set >= m->pattern_end || *set != '[') (void)luaL_error(m->L, "missing '[' after '%%f' in pattern");
    const char *after = class_end(m, set);
    if (!at_frontier(m, *at, set, after)) *at = NULL;
    *p = after;
    return 1;
  }
  if (kind >= '0' && kind <= '9') {
    *at = match_again(m, *at, kind);
    *p += 2;
    return 1;
  }
  return 0;
}

static const char *do_match(bq_matcher *m, const char *at, const char *p) {
  if (m->depth-- == 0) (void)luaL_error(m->L, "pattern too complex");
  while (at != NULL && p != NULL && p != m->pattern_end) {
    step(m);
    if (*p == '(') {
      int position = p + 1 < m->pattern_end && p[1] == ')';
      at = position ? begin_capture(m, at, p + 2, BQ_CAPTURE_POSITION) : begin_capture(m, at, p + 1, BQ_CAPTURE_OPEN);
      break;
    }
    if (*p == ')') {
      at = end_capture(m, at, p + 1);
      break;
    }
    if (*p == '$' && p + 1 == m->pattern_end) {
      if (at != m->text_end) at = NULL;
      break;
    }
    if (*p == ESCAPE && match_special(m, &at, &p)) continue;
    at = match_class(m, at, p, &p);
  }
  m->depth++;
  return at;
}

const char *bq_match_at(bq_matcher *m, const char *at, const char *pattern) {
  m->count = 0;
  m->depth = BQ_MATCH_DEPTH;
  return do_match(m, at, pattern);
}

// For short texts: memmem looks at its needle first, which costs more than most searches in a line of text.
static const char *find_short(const char *text, size_t length, const char *part, size_t part_length) {
  if (part_length == 0) return text;
  const char *last = text + (length - part_length);
  for (const char *at = text; at <= last; at++) {
    at = memchr(at, part[0], (size_t)(last - at) + 1);
    if (at == NULL || memcmp(at + 1, part + 1, part_length - 1) == 0) return at;
  }
  return NULL;
}

const char *bq_find_plain(lua_State *L, const char *text, size_t length, const char *part, size_t part_length) {
  enum { PIECE = 1024 * 1024, SHORT = 1024 }; // memmem is linear: a piece takes less than a millisecond
  if (part_length > length) return NULL;
  if (length <= SHORT) return find_short(text, length, part, part_length);
  for (size_t at = 0; at + part_length <= length; at += PIECE) {
    size_t window = length - at;
    if (window > PIECE + part_length) window = PIECE + part_length;
    const char *found = memmem(text + at, window, part, part_length);
    if (found != NULL) return found;
    if (window < length - at) bq_vm_tick(L);
  }
  return NULL;
}
