// Named SQL statements, read once at start from sql/queries/*.sql.
//
// A file holds statements, each below a line `-- name: the_name` and the comment that says what it protects. Names are
// lower-case letters, digits and underscores, 63 at most. The semicolon at the end is optional.
#ifndef BQ_IO_STATEMENTS_H
#define BQ_IO_STATEMENTS_H

#include "base/error.h"
#include "io/pg.h"

typedef struct bq_statements bq_statements;

// Reads every *.sql file of `directory`, blocking. Two statements of one name, one without SQL, SQL above the first
// name are BQ_EINVAL, with file and line. At most 1000 statements, 1 MB a file (BQ_ELIMIT).
int bq_statements_load(bq_statements **out, const char *directory, bq_error *err) BQ_MUSTCHECK;
void bq_statements_free(bq_statements *statements);

// Borrowed, as long as `statements`. NULL when there is none of that name.
const bq_statement *bq_statements_find(const bq_statements *statements, const char *name);

#endif
