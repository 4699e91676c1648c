// What commands print of a server's answer.
#ifndef BQ_CLI_OUTPUT_H
#define BQ_CLI_OUTPUT_H

#include <jansson.h>
#include <stddef.h>

#include "cli/table.h"

// The value and a line end to standard output, with flags of json_dumps.
void bq_print_json(const json_t *value, size_t flags);

// Adds one row for `item`.
typedef int (*bq_add_row)(bq_table *table, const json_t *item, bq_error *err);

// A table with a row for each item of the array, as wide as the terminal, to standard output. An exit code: what failed
// has been told.
int bq_print_list(const bq_table_column *columns, size_t count, const json_t *list, bq_add_row add);

#endif
