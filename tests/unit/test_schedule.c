// Schedules and statistics in SQL: clocks that change, servers that claim at the same time, figures counted once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>

#include "base/log.h"
#include "sql_test.h"

enum { SERVERS = 8 };

static sql_fixture fixture;
static PGconn *pg;     // of the running test, on a migrated database of its own
static char *conninfo; // its

// What cron.lua makes of an expression with these minutes and hours and no other restriction.
static const char fields_function[] =
    "create function fields(minutes integer[], hours integer[]) returns jsonb language sql as $$"
    " select jsonb_build_object('minutes', to_jsonb(minutes), 'hours', to_jsonb(hours),"
    " 'days', (select jsonb_agg(d) from generate_series(1, 31) d),"
    " 'months', (select jsonb_agg(m) from generate_series(1, 12) m),"
    " 'weekdays', (select jsonb_agg(w) from generate_series(0, 6) w),"
    " 'either', false, 'wild', cardinality(hours) = 24) $$";

// The answer of a named statement as JSON, the caller's; NULL for none.
static json_t *ask(PGconn *on, const char *name, int count, const char *const *params) {
  const bq_statement *statement = bq_statements_find(fixture.statements, name);
  if (statement == NULL) fail_msg("there is no statement %s", name);
  PGresult *rows = PQexecParams(on, statement->text, count, NULL, params, NULL, NULL, 0);
  ExecStatusType status = PQresultStatus(rows);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) fail_msg("%s: %s", name, PQerrorMessage(on));
  json_t *answer = PQntuples(rows) > 0 ? json_loads(PQgetvalue(rows, 0, 0), JSON_DECODE_ANY, NULL) : NULL;
  PQclear(rows);
  return answer;
}

static const char *text_of(const json_t *object, const char *name) {
  return json_string_value(json_object_get(object, name));
}

// Each of them once --------------------------------------------------------------------------------------------------

typedef struct server {
  char id[40];
  pthread_t thread;
} server;

static int take(PGconn *own, const char *id) {
  const char *params[] = {id, "7"};
  json_t *work = ask(own, "schedule_claim", 2, params);
  size_t index;
  json_t *run;
  json_array_foreach(json_object_get(work, "runs"), index, run) {
    const char *seen[] = {text_of(run, "name"), text_of(run, "occurrence")};
    const char *settled[] = {seen[0], seen[1], "enqueued", NULL};
    PQclear(PQexecParams(own, "insert into seen values ($1, $2::timestamptz)", 2, NULL, seen, NULL, NULL, 0));
    json_decref(ask(own, "schedule_settle", 4, settled));
  }
  int more = json_array_size(json_object_get(work, "runs")) > 0 ||
             json_number_value(json_object_get(work, "waitSeconds")) <= 0;
  json_decref(work);
  return more;
}

static void *claim_all(void *arg) {
  server *s = arg;
  PGconn *own = PQconnectdb(conninfo);
  PQclear(PQexec(own, "set buildq.now = '2026-05-05T12:00:30Z'"));
  while (take(own, s->id)) { /* until nothing is due */ }
  PQfinish(own);
  return NULL;
}

static void each_occurrence_goes_to_one_server(void **state) {
  (void)state;
  static server servers[SERVERS];
  sql_do(pg, "create table seen (name text, occurrence timestamptz);"
             "insert into schedules (name, definition, next_at) select 's' || n, jsonb_build_object('zone', 'UTC',"
             " 'missed', 'all', 'request', '{}'::jsonb, 'fields',"
             " fields((select array_agg(m) from generate_series(0, 59) m),"
             " (select array_agg(h) from generate_series(0, 23) h))), '2026-05-05T11:00Z'"
             " from generate_series(1, 20) n");
  for (int i = 0; i < SERVERS; i++) {
    (void)snprintf(servers[i].id, sizeof servers[i].id, "11111111-0000-7000-8000-00000000000%d", i);
    assert_int_equal(pthread_create(&servers[i].thread, NULL, claim_all, &servers[i]), 0);
  }
  for (int i = 0; i < SERVERS; i++) (void)pthread_join(servers[i].thread, NULL);
  sql_expect(pg, "select count(*) || ' ' || count(distinct (name, occurrence)) from seen", "1220 1220");
  sql_expect(pg, "select count(*) from schedule_runs where outcome = 'enqueued'", "1220");
  sql_expect(pg, "select string_agg(distinct next_at::text, ' ') from schedules", "2026-05-05 12:01:00+00");
}

static void an_outcome_that_was_enqueued_is_final(void **state) {
  (void)state;
  const char *enqueued[] = {"s", "2026-01-01Z", "enqueued", NULL};
  const char *refused[] = {"s", "2026-01-01Z", "refused", "late"};
  sql_do(pg, "insert into schedule_runs (name, occurrence, through, outcome)"
             " values ('s', '2026-01-01Z', '2026-01-01Z', 'claimed')");
  json_decref(ask(pg, "schedule_settle", 4, refused));
  sql_expect(pg, "select outcome || ' ' || reason from schedule_runs", "refused late");
  json_decref(ask(pg, "schedule_settle", 4, enqueued));
  json_decref(ask(pg, "schedule_settle", 4, refused));
  sql_expect(pg, "select outcome from schedule_runs", "enqueued");
}

static void old_runs_go_unless_they_are_unfinished(void **state) {
  (void)state;
  const char *params[] = {"30", "100"};
  sql_do(pg, "insert into schedule_runs (name, occurrence, through, outcome) values"
             " ('s', '2020-01-01Z', '2020-01-01Z', 'enqueued'), ('s', '2020-01-02Z', '2020-01-02Z', 'claimed'),"
             " ('s', now(), now(), 'skipped')");
  json_decref(ask(pg, "purge_schedule_runs", 2, params));
  sql_expect(pg, "select string_agg(outcome, ' ' order by occurrence) from schedule_runs", "claimed skipped");
}

// Clocks --------------------------------------------------------------------------------------------------------------

// Against a walk over all minutes around each change of a zone's offset: a time of the day comes when a clock on the
// wall first shows it or a later one.
static void a_clock_on_the_wall_agrees(void **state) {
  (void)state;
  static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago",
                                      "Africa/Casablanca", "Asia/Tehran", "Asia/Kolkata"};
  sql_do(pg, "create function disagreements(zone text) returns bigint language sql as $$"
             " with changed as ("
             "   select d::date as day from generate_series(timestamp '2025-01-01', timestamp '2026-12-31', '1 day') d"
             "   where (d at time zone 'UTC' at time zone zone) - d"
             "     <> ((d + interval '1 day') at time zone 'UTC' at time zone zone) - (d + interval '1 day')"
             " ), days as (select distinct day + n as day from changed, generate_series(-1, 2) n"
             " ), times as (select make_interval(hours => h, mins => m) as t, h, m"
             "   from unnest(array[0, 1, 2, 3, 23]) h, unnest(array[0, 15, 30, 59]) m"
             " ), expected as ("
             "   select h, m, (select min(i) from generate_series((day + t) at time zone 'UTC' - interval '16 hours',"
             "     (day + t) at time zone 'UTC' + interval '16 hours', interval '1 minute') i"
             "     where i at time zone zone >= day + t"
             "       and i at time zone zone < day + t + interval '3 hours') as moment"
             "   from days, times)"
             " select count(*) from expected where moment is distinct from (select o from buildq_occurrences("
             "   fields(array[m], array[h]), zone, moment - interval '1 microsecond', moment, 1) o) $$");
  for (size_t i = 0; i < sizeof zones / sizeof zones[0]; i++) {
    char *sql = bq_format("select disagreements('%s')", zones[i]);
    sql_expect(pg, sql, "0");
    bq_free(sql);
  }
}

static void every_hour_follows_elapsed_time(void **state) {
  (void)state;
  static const char *const zones[] = {"Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"};
  for (size_t i = 0; i < sizeof zones / sizeof zones[0]; i++) {
    char *sql = bq_format(
        "select count(*) from (select i from generate_series(timestamptz '2026-01-01Z', '2026-12-31Z', '1 minute') i"
        " where extract(minute from i at time zone '%s') = 20 except all"
        " select o from buildq_occurrences(fields(array[20], (select array_agg(h) from generate_series(0, 23) h)),"
        " '%s', '2025-12-31T23:59Z', '2026-12-31Z', 100000) o) as missing", zones[i], zones[i]);
    sql_expect(pg, sql, "0");
    bq_free(sql);
  }
}

// Statistics ----------------------------------------------------------------------------------------------------------

static void finish(const char *tier, const char *seconds, const char *at) {
  char *sql = bq_format(
      "insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,"
      " architecture, cloud_provider, status, completed_at, build_duration_seconds) values"
      " ('c', 'c', 'c', 'c', 'c', '%s', 'a', 'aws', 'success', '%s', %s)", tier, at, seconds);
  sql_do(pg, sql);
  bq_free(sql);
}

static void refresh(const char *now) {
  const char *params[] = {"100"};
  char *sql = bq_format("set buildq.now = '%s'", now);
  sql_do(pg, sql);
  bq_free(sql);
  json_decref(ask(pg, "refresh_statistics", 1, params));
}

static void expect_counts(const char *expected) {
  sql_expect(pg, "select string_agg(level || tier || cardinality(durations) || ':' || p50, ' ' order by level, tier)"
                 " from build_statistics", expected);
}

static void builds_are_counted_once(void **state) {
  (void)state;
  finish("pro", "10", "2026-01-01T00:00:00Z");
  finish("pro", "30", "2026-01-01T00:00:01Z");
  finish("free", "5", "2026-01-01T00:00:02Z");
  sql_do(pg, "update build_queue set status = 'failed' where tier = 'free'");
  refresh("2026-01-01T00:01:00Z");
  expect_counts("0pro2:20 12:20 22:20 32:20");
  refresh("2026-01-01T00:01:10Z");
  expect_counts("0pro2:20 12:20 22:20 32:20");
  finish("free", "50", "2026-01-01T00:01:09.5Z"); // the last second of the look before
  refresh("2026-01-01T00:01:20Z");
  expect_counts("0free1:50 0pro2:20 13:30 23:30 33:30");
}

static void a_look_is_bounded(void **state) {
  (void)state;
  sql_do(pg, "insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,"
             " tier, architecture, cloud_provider, status, completed_at, build_duration_seconds)"
             " select 'c', 'c', 'c', 'c', 'c', 't' || n % 150, 'a', 'aws', 'success', '2026-01-01Z'::timestamptz"
             " + n * interval '1 s', n from generate_series(1, 400) n");
  refresh("2026-01-02Z");
  sql_expect(pg, "select cardinality(durations) || ' ' || durations[1] from build_statistics where level = 3",
             "100 301");
}

static void only_one_server_counts_at_a_time(void **state) {
  (void)state;
  finish("pro", "10", "2026-01-01T00:00:00Z");
  PGconn *other = sql_connect(conninfo);
  sql_do(other, "begin; select pg_advisory_xact_lock(hashtext('buildq.statistics'))");
  refresh("2026-01-01T00:01:00Z");
  sql_expect(pg, "select count(*) from build_statistics", "0");
  sql_do(other, "rollback");
  PQfinish(other);
  refresh("2026-01-01T00:01:00Z");
  sql_expect(pg, "select count(*) from build_statistics", "4");
}

static int open_database(void **state) {
  (void)state;
  conninfo = sql_create(&fixture, "t1");
  pg = sql_connect(conninfo);
  sql_do(pg, "set timezone = 'UTC'");
  sql_do(pg, fields_function);
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

int main(void) {
  sql_prepare(&fixture);
  bq_log_setup(BQ_ERROR, BQ_LOG_TEXT);
  const struct CMUnitTest tests[] = {TEST(each_occurrence_goes_to_one_server),
                                     TEST(an_outcome_that_was_enqueued_is_final),
                                     TEST(old_runs_go_unless_they_are_unfinished),
                                     TEST(a_clock_on_the_wall_agrees),
                                     TEST(every_hour_follows_elapsed_time),
                                     TEST(builds_are_counted_once),
                                     TEST(a_look_is_bounded),
                                     TEST(only_one_server_counts_at_a_time)};
  return cmocka_run_group_tests(tests, start, stop);
}
