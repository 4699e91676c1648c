// Patterns of paths: "out/**/*.so". Pure functions.
#ifndef BQ_LUA_GLOB_H
#define BQ_LUA_GLOB_H

#include <stddef.h>

// Whether `path` matches: "*" is any bytes and "?" one byte of a segment, "**" as a whole segment is any number of
// segments, none included. Names that begin with a dot are like others. Takes at most about length times length steps.
int bq_glob_match(const char *pattern, const char *path);

// The length of the directory that everything that matches lies in: the leading segments without "*" and "?", without
// the slash behind them and never the last segment. 0: none.
size_t bq_glob_base(const char *pattern);

#endif
