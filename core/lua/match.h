// Lua's patterns, with a bound on the work: the same meaning as in the manual (section 6.4.1), but the matcher looks at
// the clock and at the kill mark as it goes, so that no pattern can hold a thread.
#ifndef BQ_LUA_MATCH_H
#define BQ_LUA_MATCH_H

#include <lua.h>
#include <stddef.h>

enum { BQ_MATCH_CAPTURES = 32, BQ_MATCH_DEPTH = 200 };

typedef struct bq_capture {
  const char *start;
  ptrdiff_t length; // or one of the two below
} bq_capture;

enum { BQ_CAPTURE_OPEN = -1, BQ_CAPTURE_POSITION = -2 };

typedef struct bq_matcher {
  lua_State *L;          // for errors and for looking at the clock
  const char *text;      // the subject, `text_end` behind its last byte
  const char *text_end;
  const char *pattern_end;
  int first;             // the byte that every match begins with; -1: not known
  unsigned steps;        // since the last look at the clock
  int depth;             // nested calls still allowed
  int count;             // captures begun
  bq_capture captures[BQ_MATCH_CAPTURES];
} bq_matcher;

void bq_matcher_init(bq_matcher *m, lua_State *L, const char *text, size_t length, const char *pattern,
                     size_t pattern_length);

// The next place from `at` on where the pattern (without an anchor) may match; NULL when there is none.
const char *bq_match_candidate(const bq_matcher *m, const char *at);

// Tries the pattern (without its anchor) exactly at `at`. The end of the match, or NULL. Raises for a malformed pattern
// and when the fiber is to be ended.
const char *bq_match_at(bq_matcher *m, const char *at, const char *pattern);

// The position of `part` in `text`, looking at the clock on the way; NULL when it is not there.
const char *bq_find_plain(lua_State *L, const char *text, size_t length, const char *part, size_t part_length);

#endif
