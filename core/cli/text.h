// Texts of others in a terminal: nothing in them moves the cursor, and they are cut by what is seen, not by bytes.
//
// Customers, scripts and compilers write names, steps and error messages; JSON lets any of them hold an escape
// sequence. Columns are estimated from the character's block, without the locale: 2 for East Asian wide ones and emoji, 0 for
// combining marks.
#ifndef BQ_CLI_TEXT_H
#define BQ_CLI_TEXT_H

#include <stddef.h>
#include <stdio.h>

// Copies `text` into `out` (`size` bytes with the NUL, cut at a character), each control character and each mark that
// reorders a line replaced by a space, each byte that is no UTF-8 by "?". No more than `columns` are used; a text that
// is wider ends in "…". Returns the columns used. Pure.
size_t bq_text_fit(char *out, size_t size, const char *text, size_t columns);

// The columns of the whole text, replaced likewise. Pure.
size_t bq_text_columns(const char *text);

// Writes the whole text, replaced likewise.
void bq_text_print(FILE *out, const char *text);

// The columns of the terminal that `out` is; 0: it is none, so nothing needs to be cut.
size_t bq_text_terminal(FILE *out);

#endif
