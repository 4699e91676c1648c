// The PostgreSQL driver against a real server.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "event/pool.h"
#include "io/cluster.h"
#include "io/pg.h"
#include "support.h"

enum { LIMIT_MS = 20000 };

typedef struct fixture {
  char *directory;     // owned
  bq_cluster *cluster; // owned; NULL while a test has stopped it
  char *conninfo;      // owned
  bq_loop *loop;       // owned, made for each test
  bq_pool *blocking;   // owned, made for each test
} fixture;

// What a query ended with.
typedef struct answer {
  int done;          // calls of `done`
  int code;          // 0 or a bq_err
  char sqlstate[6];
  char message[1000];
  int rows;
  char value[200];   // row 0, column 0
  int is_null;
  int *total;        // counts ends of several queries; may be NULL
} answer;

static void take(void *arg, const bq_pg_result *result) {
  answer *a = arg;
  a->done++;
  if (a->total != NULL) (*a->total)++;
  assert_true((result->rows == NULL) == (result->error != NULL));
  memcpy(a->sqlstate, result->sqlstate, sizeof a->sqlstate);
  if (result->error != NULL) {
    a->code = result->error->code;
    (void)snprintf(a->message, sizeof a->message, "%s", result->error->message);
    return;
  }
  a->code = 0;
  a->rows = PQntuples(result->rows);
  if (a->rows == 0 || PQnfields(result->rows) == 0) return;
  a->is_null = PQgetisnull(result->rows, 0, 0);
  (void)snprintf(a->value, sizeof a->value, "%s", PQgetvalue(result->rows, 0, 0));
}

static int is_done(void *arg) {
  const answer *a = arg;
  return a->done > 0;
}

static const bq_statement echo = {"echo", "select $1::text"};
static const bq_statement divide = {"divide", "select 10 / $1::int"};
static const bq_statement broken = {"broken", "select nothing from nowhere"};

static bq_pg *open_pool(fixture *f, unsigned size, int64_t wait_ms, int64_t statement_timeout_ms,
                        const char *session_sql, const char *name) {
  bq_pg_options options = {.conninfo = f->conninfo, .application_name = name, .role = "test", .size = size,
                           .max_waiting = 1000, .wait_ms = wait_ms, .statement_timeout_ms = statement_timeout_ms,
                           .session_sql = session_sql, .blocking = f->blocking};
  bq_pg *pg;
  bq_error err;
  if (bq_pg_new(&pg, f->loop, &options, &err) < 0) fail_msg("%s", err.message);
  return pg;
}

static void begin(bq_pg *pg, const bq_statement *statement, const char *param, answer *a) {
  *a = (answer){.total = a->total};
  bq_error err;
  int count = strchr(statement->text, '$') != NULL;
  if (bq_pg_query(pg, statement, count, &param, take, a, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(a->done, 0);
}

static void wait_for(fixture *f, answer *a) {
  if (!support_run_until(f->loop, is_done, a, LIMIT_MS)) fail_msg("no answer in %d ms", LIMIT_MS);
  assert_int_equal(a->done, 1);
}

static void ask(fixture *f, bq_pg *pg, const bq_statement *statement, const char *param, answer *a) {
  begin(pg, statement, param, a);
  wait_for(f, a);
}

static void ask_text(fixture *f, bq_pg *pg, const char *text, answer *a) {
  *a = (answer){0};
  bq_error err;
  if (bq_pg_query_text(pg, text, 0, NULL, take, a, NULL, &err) < 0) fail_msg("%s", err.message);
  wait_for(f, a);
}

// --- parameters, results, errors ---

static void passes_params_and_null(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "params");
  answer a = {0};
  ask(f, pg, &echo, "grün 'quoted' $1", &a);
  assert_int_equal(a.code, 0);
  assert_string_equal(a.value, "grün 'quoted' $1");
  ask(f, pg, &echo, NULL, &a);
  assert_int_equal(a.code, 0);
  assert_true(a.is_null);
  ask(f, pg, &echo, "", &a);
  assert_false(a.is_null);
  bq_pg_free(pg);
}

static void reports_errors_with_sqlstate(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "errors");
  answer a = {0};
  ask(f, pg, &divide, "0", &a);
  assert_int_equal(a.code, BQ_EDATABASE);
  assert_string_equal(a.sqlstate, "22012");
  assert_non_null(strstr(a.message, "divide: division by zero"));
  ask(f, pg, &broken, NULL, &a);
  assert_int_equal(a.code, BQ_EDATABASE);
  assert_string_equal(a.sqlstate, "42P01");
  ask_text(f, pg, "do $$ begin raise 'main' using detail = 'more', errcode = 'BQ001'; end $$", &a);
  assert_string_equal(a.sqlstate, "BQ001");
  assert_non_null(strstr(a.message, "main; more"));
  bq_pg_free(pg);
}

static int all_done(void *arg) {
  const int *total = arg;
  return *total >= 200;
}

static void keeps_200_in_flight_and_neighbours_apart(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 2, 5000, 0, NULL, "many");
  static answer answers[200];
  int total = 0;
  for (int i = 0; i < 200; i++) {
    answers[i] = (answer){.total = &total};
    char text[16];
    (void)snprintf(text, sizeof text, "%d", i % 10);
    begin(pg, i % 50 == 7 ? &broken : &divide, text, &answers[i]);
  }
  assert_true(support_run_until(f->loop, all_done, &total, LIMIT_MS));
  for (int i = 0; i < 200; i++) {
    assert_int_equal(answers[i].done, 1);
    if (i % 50 == 7 || i % 10 == 0) {
      assert_int_equal(answers[i].code, BQ_EDATABASE);
      continue;
    }
    assert_int_equal(answers[i].code, 0);
    assert_int_equal(atoi(answers[i].value), 10 / (i % 10));
  }
  bq_pg_state s;
  bq_pg_get_state(pg, &s);
  assert_int_equal(s.queries, 200);
  assert_int_equal(s.busy, 0);
  assert_int_equal(s.waiting, 0);
  assert_int_equal(s.reconnects, 0);
  bq_pg_free(pg);
}

// --- the fixture ---

static void start_cluster(fixture *f) {
  bq_error err;
  bq_cluster_options options = {.state_directory = f->directory};
  if (bq_cluster_start(&f->cluster, &options, &err) < 0) {
    print_error("%s\n", err.message);
    exit(1);
  }
}

static int start_all(void **state) {
  static fixture f;
  f.directory = support_make_directory();
  start_cluster(&f);
  f.conninfo = bq_strdup(bq_cluster_conninfo(f.cluster));
  *state = &f;
  return 0;
}

static int stop_all(void **state) {
  fixture *f = *state;
  bq_cluster_stop(f->cluster);
  bq_free(f->conninfo);
  support_remove_directory(f->directory);
  return 0;
}

static int start_loop(void **state) {
  fixture *f = *state;
  bq_error err;
  if (bq_loop_new(&f->loop, &err) < 0) return -1;
  return bq_pool_new(&f->blocking, f->loop, "blocking", 1, 100, &err);
}

static int stop_loop(void **state) {
  fixture *f = *state;
  bq_pool_free(f->blocking);
  bq_loop_free(f->loop);
  return 0;
}

#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, start_loop, stop_loop)

int main(void) {
  support_drop_root();
  bq_log_setup(BQ_ERROR, BQ_LOG_TEXT);
  const struct CMUnitTest tests[] = {
      WITH_LOOP(passes_params_and_null),
      WITH_LOOP(reports_errors_with_sqlstate),
      WITH_LOOP(keeps_200_in_flight_and_neighbours_apart),
  };
  return cmocka_run_group_tests(tests, start_all, stop_all);
}
