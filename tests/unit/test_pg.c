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
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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
static const bq_statement nap = {"nap", "select pg_sleep($1::float8)::text"};
static const bq_statement terminate = {
    "terminate", "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = $1"};
static const bq_statement count_active = {
    "count_active", "select count(*) from pg_stat_activity where application_name = $1 and state = 'active'"};

static bq_pg *open_pool(fixture *f, unsigned size, int64_t wait_ms, int64_t statement_timeout_ms,
                        const char *session_sql, const char *name) {
  bq_pg_options options = {.conninfo = f->conninfo, .application_name = name, .role = "test", .size = size,
                           .max_waiting = 1000, .wait_ms = wait_ms, .statement_timeout_ms = statement_timeout_ms,
                           .max_result_bytes = 10000000, .session_sql = session_sql, .blocking = f->blocking};
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

// --- losing connections ---

// Asks until the database itself says that `name` has a query under way.
static void wait_until_active(fixture *f, bq_pg *control, const char *name) {
  int64_t until = bq_clock_mono_us() + (int64_t)LIMIT_MS * 1000;
  answer a = {0};
  do ask(f, control, &count_active, name, &a);
  while (strcmp(a.value, "0") == 0 && bq_clock_mono_us() < until);
  assert_string_not_equal(a.value, "0");
}

static void a_terminated_query_is_unknown_and_the_next_works(void **state) {
  fixture *f = *state;
  bq_pg *control = open_pool(f, 1, 5000, 0, NULL, "control");
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "victim");
  answer running = {0}, killer = {0}, next = {0};
  ask(f, pg, &nap, "0", &running); // now it is prepared
  begin(pg, &nap, "60", &running);
  wait_until_active(f, control, "victim");
  ask(f, control, &terminate, "victim", &killer);
  assert_string_equal(killer.value, "1");
  wait_for(f, &running);
  assert_int_equal(running.code, BQ_EUNKNOWN);
  assert_string_equal(running.sqlstate, "");
  const char *last_words = "terminating connection due to administrator command";
  if (strstr(running.message, last_words) == NULL) fail_msg("%s", running.message);
  ask(f, pg, &nap, "0", &next); // is prepared again on the new connection
  assert_int_equal(next.code, 0);
  bq_pg_state s;
  bq_pg_get_state(pg, &s);
  assert_int_equal(s.reconnects, 1);
  assert_int_equal(s.down_since_us, 0);
  assert_string_equal(s.last_error, "");
  bq_pg_free(pg);
  bq_pg_free(control);
}

// The preparation stands behind a running query: it is lost with the connection, but nothing of its own was sent.
static void a_query_that_was_only_being_prepared_is_sent_again(void **state) {
  fixture *f = *state;
  bq_pg *control = open_pool(f, 1, 5000, 0, NULL, "control");
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "preparing");
  answer running = {0}, waiting = {0}, killer = {0};
  ask(f, pg, &nap, "0", &running);
  begin(pg, &nap, "60", &running);
  begin(pg, &echo, "kept", &waiting);
  wait_until_active(f, control, "preparing");
  ask(f, control, &terminate, "preparing", &killer);
  wait_for(f, &waiting);
  assert_int_equal(waiting.code, 0);
  assert_string_equal(waiting.value, "kept");
  assert_int_equal(running.code, BQ_EUNKNOWN);
  bq_pg_free(pg);
  bq_pg_free(control);
}

static void stop_cluster(fixture *f) {
  bq_cluster_stop(f->cluster);
  f->cluster = NULL;
}

static int is_down(void *arg) {
  bq_pg_state s;
  bq_pg_get_state(arg, &s);
  return s.down_since_us != 0;
}

static void start_cluster(fixture *f);

static void waiting_queries_are_served_when_the_database_is_back(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 2, 60000, 0, NULL, "patient");
  answer a = {0}, b[20] = {{0}};
  ask(f, pg, &echo, "before", &a);
  stop_cluster(f);
  assert_true(support_run_until(f->loop, is_down, pg, LIMIT_MS));
  bq_pg_state s;
  bq_pg_get_state(pg, &s);
  assert_int_equal(s.open, 0);
  assert_true(strlen(s.last_error) > 0);
  int total = 0;
  for (int i = 0; i < 20; i++) {
    b[i].total = &total;
    begin(pg, &echo, "after", &b[i]);
  }
  start_cluster(f);
  for (int i = 0; i < 20; i++) {
    wait_for(f, &b[i]);
    assert_int_equal(b[i].code, 0);
    assert_string_equal(b[i].value, "after");
  }
  bq_pg_free(pg);
}

static void waiting_ends_after_its_time(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 150, 0, NULL, "impatient");
  stop_cluster(f);
  answer a = {0};
  int64_t begun_us = bq_clock_mono_us();
  ask(f, pg, &echo, "never", &a);
  int64_t took_ms = (bq_clock_mono_us() - begun_us) / 1000;
  assert_int_equal(a.code, BQ_EUNAVAIL);
  assert_true(took_ms >= 100 && took_ms < 5000);
  assert_null(strstr(a.message, "password"));
  start_cluster(f);
  for (int i = 0; i < 100 && a.code != 0; i++) ask(f, pg, &echo, "now", &a);
  assert_string_equal(a.value, "now");
  bq_pg_free(pg);
}

static void bounds_what_waits(void **state) {
  fixture *f = *state;
  bq_pg_options options = {.conninfo = "host=/nowhere/at/all", .application_name = "full", .role = "test", .size = 1,
                           .max_waiting = 2, .wait_ms = 60000};
  bq_pg *pg;
  bq_error err;
  assert_int_equal(bq_pg_new(&pg, f->loop, &options, &err), 0);
  answer a[3] = {{0}};
  const char *param = "x";
  begin(pg, &echo, param, &a[0]);
  begin(pg, &echo, param, &a[1]);
  assert_int_equal(bq_pg_query(pg, &echo, 1, &param, take, &a[2], &err), BQ_ELIMIT);
  bq_pg_free(pg);
  assert_int_equal(a[0].code, BQ_ECANCELED);
  assert_int_equal(a[1].code, BQ_ECANCELED);
  assert_int_equal(a[0].done + a[1].done, 2);
  assert_int_equal(a[2].done, 0);
}

static void never_repeats_a_bad_conninfo(void **state) {
  fixture *f = *state;
  bq_pg_options options = {.conninfo = "host=x password=top secret", .role = "test", .size = 1, .max_waiting = 1};
  bq_pg *pg;
  bq_error err;
  assert_int_equal(bq_pg_new(&pg, f->loop, &options, &err), BQ_EINVAL);
  assert_null(strstr(err.message, "secret"));
  assert_null(pg);
}

// --- time limits and cancel ---

static void applies_statement_timeout_and_session_sql(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 50, "set search_path = pg_catalog; set my.word = 'hello'", "limited");
  answer a = {0};
  ask_text(f, pg, "select current_setting('my.word')", &a);
  assert_string_equal(a.value, "hello");
  ask(f, pg, &nap, "60", &a);
  assert_int_equal(a.code, BQ_EDATABASE);
  assert_string_equal(a.sqlstate, "57014");
  ask(f, pg, &nap, "0", &a);
  assert_int_equal(a.code, 0);
  bq_pg_free(pg);
}

static void cancels_what_runs_and_what_waits(void **state) {
  fixture *f = *state;
  bq_pg *control = open_pool(f, 1, 5000, 0, NULL, "control");
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "canceled");
  answer running = {0}, waiting = {0}, next = {0};
  bq_pg_request *first, *second;
  bq_error err;
  assert_int_equal(bq_pg_query_text(pg, "select pg_sleep(60)", 0, NULL, take, &running, &first, &err), 0);
  assert_int_equal(bq_pg_query_text(pg, "select 2", 0, NULL, take, &waiting, &second, &err), 0);
  begin(pg, &echo, "next", &next);
  wait_until_active(f, control, "canceled");
  bq_pg_cancel(second);
  bq_pg_cancel(second);
  assert_int_equal(waiting.done, 0);
  wait_for(f, &waiting);
  assert_int_equal(waiting.code, BQ_ECANCELED);
  assert_int_equal(running.done, 0);
  bq_pg_cancel(first);
  bq_pg_cancel(first);
  wait_for(f, &running);
  assert_int_equal(running.code, BQ_ECANCELED);
  assert_string_equal(running.sqlstate, "");
  wait_for(f, &next);
  assert_int_equal(next.code, 0);
  bq_pg_free(pg);
  bq_pg_free(control);
}

static int is_busy(void *arg) {
  bq_pg_state s;
  bq_pg_get_state(arg, &s);
  return s.busy == 1;
}
static int has_task(void *arg) {
  return bq_pool_pending(arg) > 0;
}
static int has_no_task(void *arg) {
  return bq_pool_pending(arg) == 0;
}

// The server hears of the cancel while its process has not even read the query: it is stopped meanwhile.
static void a_cancel_that_came_too_early_is_sent_again(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "early");
  answer a = {0};
  ask_text(f, pg, "select pg_backend_pid()", &a);
  pid_t backend = atoi(a.value);
  assert_int_equal(kill(backend, SIGSTOP), 0);
  a = (answer){0};
  bq_pg_request *request;
  bq_error err;
  assert_int_equal(bq_pg_query_text(pg, "select pg_sleep(60)", 0, NULL, take, &a, &request, &err), 0);
  assert_true(support_run_until(f->loop, is_busy, pg, LIMIT_MS));
  bq_pg_cancel(request);
  assert_true(support_run_until(f->loop, has_task, f->blocking, LIMIT_MS));
  assert_true(support_run_until(f->loop, has_no_task, f->blocking, LIMIT_MS));
  assert_int_equal(kill(backend, SIGCONT), 0);
  wait_for(f, &a);
  assert_int_equal(a.code, BQ_ECANCELED);
  bq_pg_free(pg);
}

// --- scripts' text ---

static void text_leaves_nothing_behind(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "text");
  answer a = {0};
  ask_text(f, pg, "select 1; select 2", &a);
  assert_string_equal(a.sqlstate, "42601");
  ask_text(f, pg, "", &a);
  assert_int_equal(a.code, BQ_EINVAL);
  ask_text(f, pg, "begin", &a);
  assert_int_equal(a.code, BQ_EINVAL);
  ask_text(f, pg, "savepoint inside", &a);
  assert_string_equal(a.sqlstate, "25P01"); // no transaction is open
  ask_text(f, pg, "set my.word = 'left'", &a);
  assert_int_equal(a.code, 0);
  ask_text(f, pg, "select current_setting('my.word', true)", &a);
  assert_string_not_equal(a.value, "left");
  ask_text(f, pg, "copy (select 1) to stdout", &a);
  assert_int_equal(a.code, BQ_EINVAL);
  ask_text(f, pg, "copy pg_class from stdin", &a);
  assert_true(a.code == BQ_EINVAL || a.code == BQ_EDATABASE);
  ask_text(f, pg, "select repeat('x', 3000000)", &a);
  assert_int_equal(a.code, 0);
  ask_text(f, pg, "select 5", &a);
  assert_string_equal(a.value, "5");
  bq_pg_free(pg);
}

static void bounds_the_result_of_text(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "bounded");
  answer a = {0};
  ask_text(f, pg, "select case when i = 1 then null else i end, 'b' from generate_series(1, 5000) i", &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.rows, 5000);
  assert_true(a.is_null);
  // Below the select, so that the rows are sent while they are made, not when all are there.
  ask_text(f, pg, "select repeat('x', 1000) from (select generate_series(1, 100000000)) i", &a);
  assert_int_equal(a.code, BQ_ELIMIT);
  ask_text(f, pg, "select 10 / (3 - i) from generate_series(1, 5) i", &a); // an error behind rows
  assert_string_equal(a.sqlstate, "22012");
  ask_text(f, pg, "select 1 where false", &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.rows, 0);
  bq_pg_free(pg);
}

// A server that takes the connection and says nothing.
static void gives_up_on_a_silent_server(void **state) {
  fixture *f = *state;
  char *directory = support_make_directory();
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/.s.PGSQL.5432", directory);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(fd, 5), 0);
  char *conninfo = bq_format("host=%s port=5432 user=x dbname=x password=verysecret connect_timeout=1", directory);
  bq_pg_options options = {.conninfo = conninfo, .role = "test", .size = 1, .max_waiting = 2, .wait_ms = 1500};
  bq_pg *pg;
  bq_error err;
  assert_int_equal(bq_pg_new(&pg, f->loop, &options, &err), 0);
  answer a = {0};
  ask(f, pg, &echo, "x", &a);
  assert_int_equal(a.code, BQ_EUNAVAIL);
  assert_non_null(strstr(a.message, "no session after 1000 ms"));
  assert_null(strstr(a.message, "verysecret"));
  bq_pg_free(pg);
  close(fd);
  bq_free(conninfo);
  support_remove_directory(directory);
}

// --- memory runs out ---

static int allocations_left;

static void *limited_realloc(void *old, size_t size) {
  if (allocations_left == 0) return NULL;
  allocations_left--;
  return realloc(old, size);
}

// A stopped backend breaks no connection and keeps no statement_timeout.
static void gives_up_on_a_frozen_backend(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 200, NULL, "frozen");
  answer a = {0};
  ask_text(f, pg, "select pg_backend_pid()", &a);
  pid_t backend = (pid_t)strtol(a.value, NULL, 10);
  assert_true(backend > 1);
  ask(f, pg, &echo, "prepared", &a);
  assert_int_equal(kill(backend, SIGSTOP), 0);
  int64_t before = bq_clock_mono_us();
  begin(pg, &echo, "lost", &a);
  int ended = support_run_until(f->loop, is_done, &a, LIMIT_MS);
  int64_t took_ms = (bq_clock_mono_us() - before) / 1000;
  (void)kill(backend, SIGCONT);
  assert_true(ended);
  assert_int_equal(a.code, BQ_EUNKNOWN);
  assert_true(took_ms >= 5100 && took_ms < 10000);
  ask(f, pg, &echo, "again", &a); // on a new session
  assert_string_equal(a.value, "again");
  bq_pg_free(pg);
}

static void survives_each_failed_allocation(void **state) {
  fixture *f = *state;
  int succeeded = 0;
  for (int n = 0; n < 500 && !succeeded; n++) {
    bq_pg_options options = {.conninfo = f->conninfo, .application_name = "tight", .role = "test", .size = 2,
                             .max_waiting = 10, .wait_ms = 50};
    bq_pg *pg;
    bq_error err = {0};
    answer a = {0};
    const char *param = "x";
    allocations_left = n;
    bq_memory_replace(limited_realloc);
    int result = bq_pg_new(&pg, f->loop, &options, &err);
    if (result == 0) result = bq_pg_query(pg, &echo, 1, &param, take, &a, &err);
    if (result == 0) {
      wait_for(f, &a);
      result = a.code;
    }
    bq_memory_replace(NULL);
    assert_true(result == 0 || result == BQ_ENOMEM);
    succeeded = result == 0;
    bq_pg_free(pg);
  }
  assert_true(succeeded);
}

static void a_changed_table_is_prepared_anew(void **state) {
  fixture *f = *state;
  static const bq_statement all = {"all_of_it", "select * from changing"};
  bq_pg *pg = open_pool(f, 3, 5000, 0, NULL, "changing");
  answer a = {0}, b[3] = {{0}};
  ask_text(f, pg, "create table changing as select 1 as b", &a);
  bq_error err;
  for (int i = 0; i < 3; i++) { // opens all three connections
    assert_int_equal(bq_pg_query_text(pg, "select pg_sleep(0.1)", 0, NULL, take, &b[i], NULL, &err), 0);
  }
  for (int i = 0; i < 3; i++) wait_for(f, &b[i]);
  bq_pg_state s;
  bq_pg_get_state(pg, &s);
  assert_int_equal(s.open, 3);
  for (int i = 0; i < 3; i++) begin(pg, &all, NULL, &b[i]); // each prepares it
  for (int i = 0; i < 3; i++) {
    wait_for(f, &b[i]);
    assert_string_equal(b[i].value, "1");
  }
  ask_text(f, pg, "alter table changing add column c int", &a);
  ask(f, pg, &all, NULL, &a);
  assert_int_equal(a.code, 0);
  ask_text(f, pg, "drop table changing", &a);
  assert_int_equal(a.code, 0);
  bq_pg_free(pg);
}

static void large_parameters_get_through(void **state) {
  fixture *f = *state;
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "large");
  static const bq_statement measure = {"measure", "select length($1), $1"};
  size_t length = 4000000;
  char *large = bq_alloc(length + 1);
  memset(large, 'y', length);
  static answer answers[8];
  int total = 0;
  for (int i = 0; i < 8; i++) {
    answers[i].total = &total;
    begin(pg, &measure, large, &answers[i]);
  }
  for (int i = 0; i < 8; i++) {
    wait_for(f, &answers[i]);
    assert_string_equal(answers[i].value, "4000000");
  }
  bq_free(large);
  bq_pg_free(pg);
}

// --- freeing ---

static void free_ends_what_is_under_way(void **state) {
  fixture *f = *state;
  bq_pg *control = open_pool(f, 1, 5000, 0, NULL, "control");
  bq_pg *pg = open_pool(f, 1, 5000, 0, NULL, "freed");
  answer a[5] = {{0}};
  bq_error err;
  assert_int_equal(bq_pg_query_text(pg, "select pg_sleep(60)", 0, NULL, take, &a[0], NULL, &err), 0);
  for (int i = 1; i < 5; i++) begin(pg, &echo, "x", &a[i]);
  wait_until_active(f, control, "freed");
  bq_pg_free(pg);
  for (int i = 0; i < 5; i++) {
    assert_int_equal(a[i].done, 1);
    assert_int_equal(a[i].code, BQ_ECANCELED);
  }
  bq_pg_free(control);
}

typedef struct freeing {
  bq_pg *pg;
  int done;
  int refused;
} freeing;

static void free_inside(void *arg, const bq_pg_result *result) {
  (void)result;
  freeing *x = arg;
  x->done++;
  if (x->done == 1) {
    bq_pg_free(x->pg);
    return;
  }
  bq_error err;
  const char *param = "late";
  x->refused += bq_pg_query(x->pg, &echo, 1, &param, free_inside, x, &err) == BQ_ECANCELED;
}

static int all_five(void *arg) {
  const freeing *x = arg;
  return x->done == 5;
}

static void free_is_allowed_inside_a_callback(void **state) {
  fixture *f = *state;
  freeing x = {.pg = open_pool(f, 1, 5000, 0, NULL, "inside")};
  bq_error err;
  const char *param = "x";
  for (int i = 0; i < 5; i++) assert_int_equal(bq_pg_query(x.pg, &echo, 1, &param, free_inside, &x, &err), 0);
  assert_true(support_run_until(f->loop, all_five, &x, LIMIT_MS));
  assert_int_equal(x.refused, 4);
}

// --- LISTEN ---

typedef struct heard {
  int sessions;      // calls without a payload
  int notifications;
  char channel[64];
  char payload[64];
  bq_pg_listener *listener;
  int free_at;       // frees itself inside this many-th notification; 0: never
} heard;

static void hear(void *arg, const char *channel, const char *payload) {
  heard *h = arg;
  if (payload == NULL) {
    h->sessions++;
    return;
  }
  h->notifications++;
  (void)snprintf(h->channel, sizeof h->channel, "%s", channel);
  (void)snprintf(h->payload, sizeof h->payload, "%s", payload);
  if (h->notifications == h->free_at) bq_pg_listener_free(h->listener);
}

static int heard_one_session(void *arg) {
  return ((heard *)arg)->sessions == 1;
}
static int heard_two_sessions(void *arg) {
  return ((heard *)arg)->sessions == 2;
}
static int heard_one(void *arg) {
  return ((heard *)arg)->notifications == 1;
}
static int heard_two(void *arg) {
  return ((heard *)arg)->notifications == 2;
}

static void listens_and_says_when_it_may_have_missed_something(void **state) {
  fixture *f = *state;
  bq_pg *control = open_pool(f, 1, 5000, 0, NULL, "control");
  static const char *const channels[] = {"work", "odd \"name\""};
  heard h = {.free_at = 2};
  bq_error err;
  assert_int_equal(bq_pg_listen(&h.listener, f->loop, f->conninfo, channels, 2, hear, &h, &err), 0);
  assert_true(support_run_until(f->loop, heard_one_session, &h, LIMIT_MS));
  answer a = {0};
  ask_text(f, control, "select pg_notify('odd \"name\"', 'hello')", &a);
  assert_true(support_run_until(f->loop, heard_one, &h, LIMIT_MS));
  assert_string_equal(h.channel, "odd \"name\"");
  assert_string_equal(h.payload, "hello");
  ask(f, control, &terminate, "buildq listen", &a);
  assert_string_equal(a.value, "1");
  assert_true(support_run_until(f->loop, heard_two_sessions, &h, LIMIT_MS));
  // Two at once, and it frees itself inside the first.
  ask_text(f, control, "select pg_notify('work', 'a'), pg_notify('work', 'b')", &a);
  assert_true(support_run_until(f->loop, heard_two, &h, LIMIT_MS));
  assert_string_equal(h.payload, "a");
  bq_pg_free(control);
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
      WITH_LOOP(a_terminated_query_is_unknown_and_the_next_works),
      WITH_LOOP(a_query_that_was_only_being_prepared_is_sent_again),
      WITH_LOOP(waiting_queries_are_served_when_the_database_is_back),
      WITH_LOOP(waiting_ends_after_its_time),
      WITH_LOOP(bounds_what_waits),
      WITH_LOOP(never_repeats_a_bad_conninfo),
      WITH_LOOP(applies_statement_timeout_and_session_sql),
      WITH_LOOP(cancels_what_runs_and_what_waits),
      WITH_LOOP(a_cancel_that_came_too_early_is_sent_again),
      WITH_LOOP(text_leaves_nothing_behind),
      WITH_LOOP(bounds_the_result_of_text),
      WITH_LOOP(gives_up_on_a_silent_server),
      WITH_LOOP(gives_up_on_a_frozen_backend),
      WITH_LOOP(survives_each_failed_allocation),
      WITH_LOOP(a_changed_table_is_prepared_anew),
      WITH_LOOP(large_parameters_get_through),
      WITH_LOOP(free_ends_what_is_under_way),
      WITH_LOOP(free_is_allowed_inside_a_callback),
      WITH_LOOP(listens_and_says_when_it_may_have_missed_something),
  };
  return cmocka_run_group_tests(tests, start_all, stop_all);
}
