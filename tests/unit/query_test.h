// What tests of named statements share: a migrated database for each test, statements by name, builds by plain SQL.
//
// Included by one test file; needs setjmp.h … cmocka.h before it.
#ifndef BQ_TESTS_QUERY_TEST_H
#define BQ_TESTS_QUERY_TEST_H

#include "base/buf.h"
#include "sql_test.h"

#define NODE "11111111-0000-7000-8000-000000000001"
#define OTHER "11111111-0000-7000-8000-000000000002"
#define BUILD(n) "00000000-0000-7000-8000-00000000000" #n

static sql_fixture fixture;
static PGconn *pg;      // of the running test, on a migrated database of its own
static char *conninfo;  // its

// The rows of a named statement; the caller's.
static PGresult *call(PGconn *on, const char *name, int count, const char *const *params) {
  const bq_statement *statement = bq_statements_find(fixture.statements, name);
  if (statement == NULL) fail_msg("there is no statement %s", name);
  if (strstr(statement->text, "$1") == NULL) count = 0; // a list can't be empty: it has one NULL for none
  PGresult *rows = PQexecParams(on, statement->text, count, NULL, params, NULL, NULL, 0);
  ExecStatusType status = PQresultStatus(rows);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) fail_msg("%s: %s", name, PQerrorMessage(on));
  return rows;
}

#define LIST(...) ((const char *[]){__VA_ARGS__})
#define COUNT(...) ((int)(sizeof LIST(__VA_ARGS__) / sizeof(const char *)))
#define CALL(name, ...) call(pg, name, COUNT(__VA_ARGS__), LIST(__VA_ARGS__))
#define RUN(name, ...) PQclear(CALL(name, __VA_ARGS__))
// All values, columns split by "|", rows by a space.
#define EXPECT(expected, name, ...) expect_rows(CALL(name, __VA_ARGS__), expected, name, __LINE__)
#define EXPECT_SQL(sql, expected) sql_expect_at(pg, sql, expected, __FILE__, __LINE__)

static char *text_of(PGresult *rows) {
  bq_buf text = {0};
  bq_buf_adds(&text, "");
  for (int row = 0; row < PQntuples(rows); row++) {
    for (int column = 0; column < PQnfields(rows); column++) {
      if (column > 0) bq_buf_adds(&text, "|");
      bq_buf_adds(&text, PQgetisnull(rows, row, column) ? "null" : PQgetvalue(rows, row, column));
    }
    if (row + 1 < PQntuples(rows)) bq_buf_adds(&text, " ");
  }
  PQclear(rows);
  return bq_buf_take(&text);
}

static void expect_rows(PGresult *rows, const char *expected, const char *name, int line) {
  char *text = text_of(rows);
  if (strcmp(text, expected) != 0) {
    print_error("%s gives %s\nnot %s\n", name, text, expected);
    _fail(__FILE__, line);
  }
  bq_free(text);
}

// What plain SQL writes, as an old enqueuer does. `more` are columns, `values` theirs; "" is none.
static void insert(const char *id, const char *more, const char *values) {
  char *sql = bq_format("insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name,"
                        " manifest_path, tier, architecture, cloud_provider%s) values"
                        " ('%s', 'acme', 'Acme', 'a@acme.example', 'web', 'web.json', 'pro', 'linux-x64', 'aws'%s)",
                        more, id, values);
  sql_do(pg, sql);
  bq_free(sql);
}

static void set_clock(const char *time) {
  char *sql = bq_format("set buildq.now = '%s'", time);
  sql_do(pg, sql);
  bq_free(sql);
}

static void join(const char *id) {
  RUN("node_join", id, "node", "http://127.0.0.1:8080", "1.0", "4", "30", "[]", "false");
}

// Claims one build, which must be `id` ("" for none).
static void claim(const char *node, const char *id) {
  PGresult *rows = CALL("claim", node, "1", "0", "gen-1", "{}");
  char *text = text_of(rows);
  char *wanted = bq_format("\"id\" : \"%s\"", id);
  if (id[0] == '\0') assert_string_equal(text, "");
  else if (strstr(text, wanted) == NULL) fail_msg("claimed %s, not %s", text, id);
  bq_free(wanted);
  bq_free(text);
}

// `delay` in seconds; NULL: no retry.
static void fail_attempt(const char *id, const char *attempt, const char *delay, const char *expected) {
  EXPECT(expected, "finish_failure", id, attempt, NODE, "boom", "step", "failed", delay, "the tail", "false");
}

static int open_database(void **state) {
  (void)state;
  conninfo = sql_create(&fixture, "t1");
  pg = sql_connect(conninfo);
  join(NODE);
  return 0;
}

static int close_database(void **state) {
  (void)state;
  PQfinish(pg);
  bq_free(conninfo);
  return 0;
}

static int start(void **state) {
  (void)state;
  if (sql_start(&fixture) < 0) return -1;
  char *base = sql_create(&fixture, NULL);
  sql_migrate(&fixture, base);
  bq_free(base);
  return 0;
}

static int stop(void **state) {
  (void)state;
  return sql_stop(&fixture);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_database, close_database)

#endif
