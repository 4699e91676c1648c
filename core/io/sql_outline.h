// What a statement of somebody else's does, without what it says: for logs and metrics. Its literals may be anything.
#ifndef BQ_IO_SQL_OUTLINE_H
#define BQ_IO_SQL_OUTLINE_H

#include "base/buf.h"

// Appends `query`, of which the end may be missing: each literal is "?", comments are gone, white space is one space, and
// what a `set` sets is "?" as well, for it needs no quotes. Where it can't be known what a literal is (a backslash in one
// is an escape in old sessions), it ends with "? ...".
void bq_sql_outline(const char *query, bq_buf *out);

#endif
