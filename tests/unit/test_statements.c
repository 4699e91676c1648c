// Named statements from files.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/statements.h"
#include "support.h"

static void write_file(const char *directory, const char *name, const char *content) {
  char *path = bq_format("%s/%s", directory, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(content, file) >= 0);
  assert_int_equal(fclose(file), 0);
  bq_free(path);
}

static void reads_all_files(void **state) {
  (void)state;
  char *directory = support_make_directory();
  write_file(directory, "a.sql",
             "-- About this file; holds no statement.\n\n"
             "-- name: first_one\n-- What it protects.\nselect 1\n-- inside\nfrom t;\n\n-- behind it\n"
             "-- name: second\r\nselect ';' \n");
  write_file(directory, "b.sql", "-- name: third\nselect '-- name: no', $$\n  -- name: no\n$$; -- note");
  write_file(directory, "empty.sql", "");
  write_file(directory, "ignored.txt", "select nonsense");
  write_file(directory, ".hidden.sql", "select nonsense");
  bq_statements *statements;
  bq_error err;
  if (bq_statements_load(&statements, directory, &err) < 0) fail_msg("%s", err.message);
  assert_string_equal(bq_statements_find(statements, "first_one")->text, "select 1\n-- inside\nfrom t");
  assert_string_equal(bq_statements_find(statements, "first_one")->name, "first_one");
  assert_string_equal(bq_statements_find(statements, "second")->text, "select ';'");
  assert_string_equal(bq_statements_find(statements, "third")->text,
                      "select '-- name: no', $$\n  -- name: no\n$$; -- note");
  assert_null(bq_statements_find(statements, "no"));
  assert_null(bq_statements_find(statements, "firs"));
  bq_statements_free(statements);
  support_remove_directory(directory);
}

static void refuse(const char *content, const char *more, const char *expected) {
  char *directory = support_make_directory();
  write_file(directory, "a.sql", content);
  if (more != NULL) write_file(directory, "b.sql", more);
  bq_statements *statements;
  bq_error err;
  assert_int_equal(bq_statements_load(&statements, directory, &err), BQ_EINVAL);
  assert_null(statements);
  if (strstr(err.message, expected) == NULL) fail_msg("%s", err.message);
  support_remove_directory(directory);
}

static void refuses_faults_with_their_place(void **state) {
  (void)state;
  refuse("-- name: x\nselect 1;", "\n-- name: x\nselect 2;", "b.sql:2");
  refuse("-- name: x\nselect 1;\n-- name: x\nselect 1", NULL, "a.sql:3");
  refuse("-- name: x\n-- only this\n\n-- name: y\nselect 1", NULL, "a.sql:1: the statement x is empty");
  refuse("-- name: x\nselect 1;\n-- name: y", NULL, "a.sql:3: the statement y is empty");
  refuse("-- name: x\n;\n", NULL, "the statement x is empty");
  refuse("select 1;\n-- name: x\nselect 1", NULL, "SQL before the first line");
  refuse("select 1", NULL, "SQL before the first line");
  refuse("\n-- name: Bad\nselect 1", NULL, "a.sql:2: a statement's name");
  refuse("-- name: two words\nselect 1", NULL, "a statement's name");
  refuse("-- name: 1st\nselect 1", NULL, "a statement's name");
  refuse("-- name:\nselect 1", NULL, "a statement's name");
  refuse("-- name: a123456789012345678901234567890123456789012345678901234567890123\nselect 1", NULL,
         "a statement's name");
}

static void refuses_a_missing_directory(void **state) {
  (void)state;
  bq_statements *statements;
  bq_error err;
  assert_int_equal(bq_statements_load(&statements, "/nowhere/at/all", &err), BQ_EIO);
  assert_non_null(strstr(err.message, "/nowhere/at/all"));
}

static void refuses_more_than_a_thousand(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char *path = bq_format("%s/many.sql", directory);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  for (int i = 0; i < 1001; i++) assert_true(fprintf(file, "-- name: s%d\nselect %d;\n", i, i) > 0);
  assert_int_equal(fclose(file), 0);
  bq_statements *statements;
  bq_error err;
  assert_int_equal(bq_statements_load(&statements, directory, &err), BQ_ELIMIT);
  bq_free(path);
  support_remove_directory(directory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_all_files),
      cmocka_unit_test(refuses_faults_with_their_place),
      cmocka_unit_test(refuses_a_missing_directory),
      cmocka_unit_test(refuses_more_than_a_thousand),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
