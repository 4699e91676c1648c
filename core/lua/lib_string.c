// String functions that loop in C: rep and the pattern functions, with Lua's meaning and a bound on their work.
#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

#include "lua/fiber.h"
#include "lua/match.h"
#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

static int string_rep(lua_State *L) {
  size_t length;
  size_t separator_length;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_Integer times = luaL_checkinteger(L, 2);
  const char *separator = luaL_optlstring(L, 3, "", &separator_length);
  if (times <= 0 || (length == 0 && separator_length == 0)) {
    lua_pushliteral(L, "");
    return 1;
  }
  size_t unit = length + separator_length;
  if (unit < length || (lua_Unsigned)times > (lua_Unsigned)(INT64_MAX / 2) / unit) {
    return luaL_error(L, "resulting string too large");
  }
  size_t total = (size_t)times * unit - separator_length;
  luaL_Buffer out;
  bq_vm_make_room(L, 2 * total);
  char *to = luaL_buffinitsize(L, &out, total); // the memory cap bounds it
  if (length > 0) memcpy(to, text, length);
  size_t filled = length;
  if (times > 1 && separator_length > 0) memcpy(to + length, separator, separator_length);
  if (times > 1) filled = unit;
  // What is there already is a whole number of units: copying it doubles it.
  while (filled < total) {
    size_t more = filled < total - filled ? filled : total - filled;
    memcpy(to + filled, to, more);
    filled += more;
  }
  luaL_pushresultsize(&out, total);
  bq_vm_tick(L);
  return 1;
}

// Pushes capture `i` (from 0). Without any capture in the pattern the first one is the whole match.
static void push_capture(bq_matcher *m, int i, const char *start, const char *end) {
  if (i >= m->count) {
    if (i != 0) (void)luaL_error(m->L, "invalid capture index %%%d", i + 1);
    lua_pushlstring(m->L, start, (size_t)(end - start));
    return;
  }
  const bq_capture *c = &m->captures[i];
  if (c->length == BQ_CAPTURE_OPEN) (void)luaL_error(m->L, "unfinished capture");
  if (c->length == BQ_CAPTURE_POSITION) lua_pushinteger(m->L, c->start - m->text + 1);
  else lua_pushlstring(m->L, c->start, (size_t)c->length);
}

// Pushes all captures; the whole match when there are none and `start` isn't NULL.
static int push_captures(bq_matcher *m, const char *start, const char *end) {
  int count = m->count == 0 && start != NULL ? 1 : m->count;
  luaL_checkstack(m->L, count, "too many captures");
  for (int i = 0; i < count; i++) push_capture(m, i, start, end);
  return count;
}

// The place an optional position argument means, as an offset; beyond the length: the length + 1.
static size_t start_offset(lua_State *L, int index, size_t length) {
  lua_Integer at = luaL_optinteger(L, index, 1);
  if (at > 0) return (lua_Unsigned)at - 1 > length ? length + 1 : (size_t)at - 1;
  if (at == 0 || at < -(lua_Integer)length) return 0;
  return length - (size_t)-at;
}

static int no_match(lua_State *L) {
  luaL_pushfail(L);
  return 1;
}

static int find_plain(lua_State *L, const char *text, size_t length, size_t start, const char *part,
                      size_t part_length) {
  const char *found = bq_find_plain(L, text + start, length - start, part, part_length);
  if (found == NULL) return no_match(L);
  lua_pushinteger(L, found - text + 1);
  lua_pushinteger(L, found - text + (lua_Integer)part_length);
  return 2;
}

static int has_specials(const char *pattern, size_t length) {
  for (size_t i = 0; i < length; i++) {
    switch (pattern[i]) {
    case '^': case '$': case '*': case '+': case '?': case '.': case '(': case '[': case '%': case '-': return 1;
    default: break;
    }
  }
  return 0;
}

static int find_or_match(lua_State *L, int is_find) {
  size_t length;
  size_t pattern_length;
  const char *text = luaL_checklstring(L, 1, &length);
  const char *pattern = luaL_checklstring(L, 2, &pattern_length);
  size_t start = start_offset(L, 3, length);
  if (start > length) return no_match(L);
  if (is_find && (lua_toboolean(L, 4) || !has_specials(pattern, pattern_length))) {
    return find_plain(L, text, length, start, pattern, pattern_length);
  }
  bq_matcher m;
  bq_matcher_init(&m, L, text, length, pattern, pattern_length);
  int anchored = pattern_length > 0 && *pattern == '^';
  const char *at = text + start;
  for (; (at = anchored ? at : bq_match_candidate(&m, at)) != NULL; at++) {
    const char *end = bq_match_at(&m, at, pattern + anchored);
    if (end != NULL) {
      if (!is_find) return push_captures(&m, at, end);
      lua_pushinteger(L, at - text + 1);
      lua_pushinteger(L, end - text);
      return push_captures(&m, NULL, NULL) + 2;
    }
    if (anchored) break;
  }
  return no_match(L);
}

static int string_find(lua_State *L) {
  return find_or_match(L, 1);
}

static int string_match(lua_State *L) {
  return find_or_match(L, 0);
}

// Where a gmatch is.
typedef struct search {
  const char *text;    // both strings are upvalues of the iterator, and stay where they are
  size_t length;
  const char *pattern;
  size_t pattern_length;
  const char *at;      // where to go on
  const char *last;    // the end of the last match; NULL: none
} search;

// Upvalues: the search, subject, pattern.
static int next_match(lua_State *L) {
  search *s = lua_touserdata(L, lua_upvalueindex(1));
  bq_matcher m;
  bq_matcher_init(&m, L, s->text, s->length, s->pattern, s->pattern_length);
  const char *at = s->at;
  for (; (at = bq_match_candidate(&m, at)) != NULL; at++) {
    const char *end = bq_match_at(&m, at, s->pattern);
    if (end == NULL || end == s->last) continue; // an empty match where the last one ended is none
    s->at = s->last = end;
    return push_captures(&m, at, end);
  }
  s->at = m.text_end + 1;
  return 0;
}

static int string_gmatch(lua_State *L) {
  search found = {0};
  found.text = luaL_checklstring(L, 1, &found.length);
  found.pattern = luaL_checklstring(L, 2, &found.pattern_length);
  found.at = found.text + start_offset(L, 3, found.length);
  lua_settop(L, 2);
  search *s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = found;
  lua_insert(L, 1);
  lua_pushcclosure(L, next_match, 3);
  return 1;
}

static void add_capture(bq_matcher *m, luaL_Buffer *out, int i, const char *start, const char *end) {
  if (i < m->count && m->captures[i].length >= 0) {
    luaL_addlstring(out, m->captures[i].start, (size_t)m->captures[i].length);
    return;
  }
  push_capture(m, i, start, end);
  (void)luaL_tolstring(m->L, -1, NULL); // a position is a number
  lua_remove(m->L, -2);
  luaL_addvalue(out);
}

// Adds the replacement text, in which %0 to %9 and %% mean something.
static void add_text(bq_matcher *m, luaL_Buffer *out, const char *start, const char *end) {
  lua_State *L = m->L;
  size_t length;
  const char *text = lua_tolstring(L, 3, &length);
  const char *text_end = text + length;
  for (const char *escape; (escape = memchr(text, '%', (size_t)(text_end - text))) != NULL; text = escape + 2) {
    luaL_addlstring(out, text, (size_t)(escape - text));
    char kind = '\0';
    if (escape + 1 < text_end) kind = escape[1];
    if (kind == '%') {
      luaL_addchar(out, '%');
    } else if (kind == '0') {
      luaL_addlstring(out, start, (size_t)(end - start));
    } else if (kind >= '1' && kind <= '9') {
      add_capture(m, out, kind - '1', start, end);
    } else {
      (void)luaL_error(L, "invalid use of '%%' in replacement string");
    }
  }
  luaL_addlstring(out, text, (size_t)(text_end - text));
}

// Adds what the match is replaced by. 1 when it was changed.
static int add_replacement(bq_matcher *m, luaL_Buffer *out, const char *start, const char *end) {
  lua_State *L = m->L;
  switch (lua_type(L, 3)) {
  case LUA_TFUNCTION:
    lua_pushvalue(L, 3);
    lua_call(L, push_captures(m, start, end), 1);
    break;
  case LUA_TTABLE:
    push_capture(m, 0, start, end);
    lua_gettable(L, 3);
    break;
  default: add_text(m, out, start, end); return 1;
  }
  if (!lua_toboolean(L, -1)) { // nil or false keeps the match
    lua_pop(L, 1);
    luaL_addlstring(out, start, (size_t)(end - start));
    return 0;
  }
  if (!lua_isstring(L, -1)) {
    (void)luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
  }
  luaL_addvalue(out);
  return 1;
}

static int string_gsub(lua_State *L) {
  size_t length;
  size_t pattern_length;
  const char *text = luaL_checklstring(L, 1, &length);
  const char *pattern = luaL_checklstring(L, 2, &pattern_length);
  int type = lua_type(L, 3);
  luaL_argexpected(L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE, 3,
                   "string/function/table");
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)length + 1);
  int anchored = pattern_length > 0 && *pattern == '^';
  lua_Integer count = 0;
  int changed = 0;
  const char *last = NULL;
  const char *at = text;
  bq_matcher m;
  luaL_Buffer out;
  bq_matcher_init(&m, L, text, length, pattern, pattern_length);
  luaL_buffinit(L, &out);
  while (count < most) {
    const char *next = anchored ? at : bq_match_candidate(&m, at);
    if (next == NULL) break;
    if (next > at) luaL_addlstring(&out, at, (size_t)(next - at));
    at = next;
    const char *end = bq_match_at(&m, at, pattern + anchored);
    if (end != NULL && end != last) {
      count++;
      changed |= add_replacement(&m, &out, at, end);
      at = last = end;
    } else if (at < m.text_end) {
      luaL_addchar(&out, *at++);
    } else {
      break;
    }
    if (anchored) break;
  }
  if (!changed) {
    lua_pushvalue(L, 1);
  } else {
    luaL_addlstring(&out, at, (size_t)(m.text_end - at));
    luaL_pushresult(&out);
  }
  lua_pushinteger(L, count);
  bq_vm_tick(L);
  return 2;
}

static const luaL_Reg functions[] = {
  {"find", string_find},
  {"gmatch", string_gmatch},
  {"gsub", string_gsub},
  {"match", string_match},
  {"rep", string_rep},
  {NULL, NULL}
};

void bq_lib_string_set(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
