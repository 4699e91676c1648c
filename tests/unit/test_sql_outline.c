// What is left of a statement for the log: never a literal.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "io/sql_outline.h"

static void test_outlines(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"", ""},
      {"select 1", "select ?"},
      {"  select\n\t*  from builds\n", "select * from builds"},
      {"select * from t where name = 'secret' and n = -12.5e3 or x1 = .5", "select * from t where name = ? and n = -? or x1 = .?"},
      {"select 'it''s' || \"a name\", \"a \"\"b\"\"\"", "select ? || \"a name\", \"a \"\"b\"\"\""},
      {"select E'a\\'secret' , e'\\\\', b'101', X'1f', U&'sec\\0041ret' x", "select ? , ?, ?, ?, U&? ..."},
      {"select U&'secret' x", "select U&? x"},
      {"select $1, $2::text, $$secret$$, $a$se$b$cret$a$ from t", "select $1, $2::text, ?, ? from t"},
      {"select 1 -- secret\n, 2 /* secret /* inner */ secret */ , 3", "select ? , ? , ?"},
      {"alter role app password 'secret'", "alter role app password ?"},
      {"set app.token = secret", "set ?"},
      {"begin; SET LOCAL app.token to secret; update t set a = b", "begin; SET ?; update t set a = b"},
      {"set x = 'a;b'; select 1", "set ?; select ?"},
      {"/* why */ set x = secret", "set ?"},
      // The end is missing: PostgreSQL keeps the first kilobyte.
      {"select 'secr", "select ?"},
      {"select $a$secr", "select ?"},
      {"select \"half", "select \"half"},
      {"select /* secr", "select"},
      {"select e'secr\\", "select ?"},
      // An escape or not: whoever guesses wrong shows what is a literal.
      {"select 'a\\', 'secret'", "select ? ..."},
      {"gr\xc3\xbc\xc3\x9f" "e 7\x7f" "a\x01" "b", "gr\xc3\xbc\xc3\x9f" "e ??a b"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    bq_buf out = {0};
    bq_sql_outline(cases[i][0], &out);
    bq_buf_adds(&out, "");
    char *text = bq_buf_take(&out);
    assert_string_equal(text, cases[i][1]);
    bq_free(text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_outlines)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
