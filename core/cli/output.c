#include "cli/output.h"

#include <stdio.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/text.h"

void bq_print_json(const json_t *value, size_t flags) {
  char *text = bq_json_dumps(value, flags);
  (void)puts(text != NULL ? text : "{}");
  bq_free(text);
}

int bq_print_list(const bq_table_column *columns, size_t count, const json_t *list, bq_add_row add) {
  bq_table *table = NULL;
  char *text = NULL;
  size_t index;
  json_t *item;
  bq_error err;
  int result = bq_table_new(&table, columns, count, &err);
  json_array_foreach(list, index, item) {
    if (result == 0) result = add(table, item, &err);
  }
  if (result == 0) result = bq_table_text(table, bq_text_terminal(stdout), &text, &err);
  if (result == 0) (void)fputs(text, stdout);
  else (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_free(text);
  bq_table_free(table);
  return result == 0 ? BQ_EXIT_OK : BQ_EXIT_FAILURE;
}
