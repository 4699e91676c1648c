#include "cli/table.h"

#include "base/buf.h"
#include "base/memory.h"
#include "cli/text.h"

enum { GAP = 2 };

struct bq_table {
  const bq_table_column *columns; // borrowed
  size_t count;                   // of columns
  char **cells;                   // owned, as are the texts; rows * count, row by row
  size_t rows;
  size_t room;                    // rows that `cells` has room for
};

int bq_table_new(bq_table **out, const bq_table_column *columns, size_t count, bq_error *err) {
  bq_table *table = bq_alloc(sizeof *table);
  if (table == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a table");
  *table = (bq_table){.columns = columns, .count = count};
  *out = table;
  return 0;
}

void bq_table_free(bq_table *table) {
  if (table == NULL) return;
  for (size_t i = 0; i < table->rows * table->count; i++) bq_free(table->cells[i]);
  bq_free(table->cells);
  bq_free(table);
}

int bq_table_add(bq_table *table, const char *const *cells, bq_error *err) {
  if (table->rows == table->room) {
    size_t room = table->room > 0 ? table->room * 2 : 16;
    char **more = bq_realloc(table->cells, room * table->count * sizeof *more);
    if (more == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a table of %zu rows", room);
    table->cells = more;
    table->room = room;
  }
  char **row = table->cells + table->rows * table->count;
  for (size_t i = 0; i < table->count; i++) {
    row[i] = bq_strdup(cells[i] != NULL ? cells[i] : "");
    if (row[i] != NULL) continue;
    while (i > 0) bq_free(row[--i]);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a row of a table");
  }
  table->rows++;
  return 0;
}

static void measure(const bq_table *table, size_t widths[BQ_TABLE_MAX_COLUMNS]) {
  for (size_t i = 0; i < table->count; i++) {
    widths[i] = bq_text_columns(table->columns[i].title);
    for (size_t row = 0; row < table->rows; row++) {
      size_t columns = bq_text_columns(table->cells[row * table->count + i]);
      if (columns > widths[i]) widths[i] = columns;
    }
  }
}

// Takes columns of the terminal from the widest column, one by one, until all fit or nothing can shrink any more.
static void shrink(const bq_table *table, size_t widths[BQ_TABLE_MAX_COLUMNS], size_t width) {
  size_t total = GAP * (table->count - 1);
  for (size_t i = 0; i < table->count; i++) total += widths[i];
  while (total > width) {
    size_t widest = table->count;
    for (size_t i = 0; i < table->count; i++) {
      if (!table->columns[i].shrinks || widths[i] <= bq_text_columns(table->columns[i].title)) continue;
      if (widest == table->count || widths[i] > widths[widest]) widest = i;
    }
    if (widest == table->count) return;
    widths[widest]--;
    total--;
  }
}

static void add_spaces(bq_buf *out, size_t count) {
  while (count-- > 0) bq_buf_addc(out, ' ');
}

static void add_cell(bq_buf *out, const bq_table_column *column, const char *text, size_t width, int last) {
  char fitted[4096]; // what is longer is cut, as it would be by any terminal
  size_t used = bq_text_fit(fitted, sizeof fitted, text, width);
  if (column->right) add_spaces(out, width - used);
  bq_buf_adds(out, fitted);
  if (last) return;
  if (!column->right) add_spaces(out, width - used);
  add_spaces(out, GAP);
}

// Whether all cells from `from` on are empty, so that the line can end before them.
static int is_empty_from(const bq_table *table, char *const *row, size_t from) {
  for (size_t i = from; i < table->count; i++) {
    if (row[i][0] != '\0') return 0;
  }
  return 1;
}

int bq_table_text(const bq_table *table, size_t width, char **out, bq_error *err) {
  size_t widths[BQ_TABLE_MAX_COLUMNS] = {0};
  bq_buf text = {0};
  measure(table, widths);
  if (width > 0) shrink(table, widths, width);
  for (size_t i = 0; i < table->count; i++) {
    add_cell(&text, &table->columns[i], table->columns[i].title, widths[i], i + 1 == table->count);
  }
  bq_buf_addc(&text, '\n');
  for (size_t row = 0; row < table->rows; row++) {
    char *const *cells = table->cells + row * table->count;
    for (size_t i = 0; i < table->count; i++) {
      int last = is_empty_from(table, cells, i + 1);
      add_cell(&text, &table->columns[i], cells[i], widths[i], last);
      if (last) break;
    }
    bq_buf_addc(&text, '\n');
  }
  *out = bq_buf_take(&text);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a table");
}
