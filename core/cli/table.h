// A table as wide as its contents, and no wider than the terminal: pure.
#ifndef BQ_CLI_TABLE_H
#define BQ_CLI_TABLE_H

#include <stddef.h>

#include "base/error.h"

enum { BQ_TABLE_MAX_COLUMNS = 12 };

typedef struct bq_table bq_table;

typedef struct bq_table_column {
  const char *title; // borrowed
  int right;         // 1: numbers, set to the right
  int shrinks;       // 1: is cut when the terminal is too narrow; else it is always whole
} bq_table_column;

// `columns` (borrowed, 1 to BQ_TABLE_MAX_COLUMNS) must outlive the table. BQ_ENOMEM.
int bq_table_new(bq_table **out, const bq_table_column *columns, size_t count, bq_error *err) BQ_MUSTCHECK;
void bq_table_free(bq_table *table);

// A row: a text for each column, copied; NULL is empty. BQ_ENOMEM.
int bq_table_add(bq_table *table, const char *const *cells, bq_error *err) BQ_MUSTCHECK;

// Titles and rows, a line each, two spaces between columns, none at the end of a line. `width` in columns of the
// terminal: the widest shrinking columns are cut, down to their titles, until a row fits; 0: nothing is cut. `*out` is
// the caller's (bq_free). BQ_ENOMEM.
int bq_table_text(const bq_table *table, size_t width, char **out, bq_error *err) BQ_MUSTCHECK;

#endif
