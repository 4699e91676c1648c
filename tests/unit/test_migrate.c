// The migrator, and what it makes of a table of the old service.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/buf.h"
#include "base/log.h"
#include "sql_test.h"

static sql_fixture fixture;

// The old service's table with what its installer may have left out: defaults, indexes, two constraints, the key.
static const char old_table[] =
    "create table build_queue (id uuid not null, customer_id varchar(255) not null, customer_name varchar(255) not"
    " null, customer_email varchar(255) not null, configuration_name varchar(255) not null, manifest_path text not"
    " null, tier varchar(50) not null, architecture varchar(50) not null, cloud_provider varchar(50) not null,"
    " status varchar(50) not null default 'pending', priority integer not null default 1,"
    " progress_percent integer not null default 0, current_step text, output_path text, image_url text,"
    " download_url text, error_message text, retry_count integer not null default 0,"
    " enqueued_at timestamptz not null default now(), started_at timestamptz, completed_at timestamptz,"
    " updated_at timestamptz not null, build_duration_seconds double precision,"
    " constraint chk_priority check (priority >= 0 and priority <= 3));"
    "create function update_build_queue_updated_at() returns trigger as"
    " $$ begin new.updated_at = now(); return new; end $$ language plpgsql;"
    "create trigger trigger_update_build_queue_updated_at before update on build_queue"
    " for each row execute function update_build_queue_updated_at();"
    "create index idx_build_queue_status on build_queue (status);";

static const char old_rows[] =
    "insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name, manifest_path, tier,"
    " architecture, cloud_provider, status, priority, progress_percent, current_step, retry_count, enqueued_at,"
    " started_at, completed_at, updated_at) select ('00000000-0000-4000-8000-00000000000' || n)::uuid, 'c', 'n', 'e@x',"
    " 'x', 'm.json', 'pro', 'linux-x64', 'aws', s, p, 20, 'step', r, ('2020-01-0' || n)::timestamptz,"
    " '2020-02-01', e, '2020-02-01' from (values"
    " (1, 'pending', 1, 0, null::timestamptz), (2, 'pending', 3, 3, null), (3, 'building', 2, 3, null),"
    " (4, 'success', 1, 0, '2020-03-01'), (5, 'failed', 1, 3, '2020-03-01'), (6, 'cancelled', 1, 0, '2020-03-01'),"
    " (7, 'timedout', 1, 0, '2020-03-01')) as t(n, s, p, r, e);";

typedef enum mode { APPLY, DRY_RUN, CHECK } mode;

static void note_line(void *arg, const char *line) {
  bq_buf *lines = arg;
  bq_buf_addf(lines, "%s\n", line);
}

// What was reported is the caller's.
static int migrate(const char *conninfo, const char *directory, mode how, char **reported, bq_error *err) {
  bq_migrate_options options = {.max_retry_attempts = 3, .check_only = how == CHECK, .dry_run = how == DRY_RUN};
  bq_buf lines = {0};
  bq_buf_adds(&lines, "");
  int result = bq_migrate(conninfo, directory, &options, note_line, &lines, err);
  *reported = bq_buf_take(&lines);
  return result;
}

static void must_migrate(const char *conninfo, mode how, const char *reported) {
  bq_error err;
  char *lines;
  if (migrate(conninfo, fixture.migrations, how, &lines, &err) < 0) fail_msg("%s", err.message);
  if (reported[0] == '\0') assert_string_equal(lines, "");
  else if (strstr(lines, reported) == NULL) fail_msg("reports %s, not %s", lines, reported);
  bq_free(lines);
}

static void must_refuse(const char *conninfo, const char *directory, mode how, int code, const char *why) {
  bq_error err = {0};
  char *lines;
  int result = migrate(conninfo, directory, how, &lines, &err);
  bq_free(lines);
  if (result == code && strstr(err.message, why) != NULL) return;
  fail_msg("gives %d, %s; not %d, …%s…", result, err.message, code, why);
}

static void an_empty_database_gets_all_once(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  must_migrate(conninfo, APPLY, "applied 0001_build_queue.sql\napplied 0002_queue.sql\napplied 0003_triggers.sql\n");
  must_migrate(conninfo, APPLY, "");
  must_migrate(conninfo, CHECK, "");
  PGconn *pg = sql_connect(conninfo);
  sql_expect(pg, "select string_agg(name, ' ' order by version) from schema_migrations where version < 3",
             "0001_build_queue.sql 0002_queue.sql");
  sql_expect(pg, "select row(adopted_builds, retention_allowed) from queue_control", "(0,t)");
  PQfinish(pg);
  bq_free(conninfo);
}

// Written from the old service's description: its programs may go on with this table.
static void a_new_table_is_the_old_services(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  sql_migrate(&fixture, conninfo);
  PGconn *pg = sql_connect(conninfo);
  sql_expect(pg,
             "select string_agg(attname || ' ' || format_type(atttypid, atttypmod)"
             " || case when attnotnull then ' not null' else '' end || coalesce(' ' || pg_get_expr(adbin, adrelid), ''),"
             " E'\n' order by attnum)"
             " from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum"
             " where attrelid = 'build_queue'::regclass and attnum between 1 and 23",
             "id uuid not null gen_random_uuid()\n"
             "customer_id character varying(255) not null\n"
             "customer_name character varying(255) not null\n"
             "customer_email character varying(255) not null\n"
             "configuration_name character varying(255) not null\n"
             "manifest_path text not null\n"
             "tier character varying(50) not null\n"
             "architecture character varying(50) not null\n"
             "cloud_provider character varying(50) not null\n"
             "status character varying(50) not null 'pending'::character varying\n"
             "priority integer not null 1\n"
             "progress_percent integer not null 0\n"
             "current_step text\n"
             "output_path text\n"
             "image_url text\n"
             "download_url text\n"
             "error_message text\n"
             "retry_count integer not null 0\n"
             "enqueued_at timestamp with time zone not null now()\n"
             "started_at timestamp with time zone\n"
             "completed_at timestamp with time zone\n"
             "updated_at timestamp with time zone not null now()\n"
             "build_duration_seconds double precision");
  sql_expect(pg,
             "select string_agg(regexp_replace(indexdef, '^CREATE INDEX | ON public.build_queue USING btree', '', 'g'),"
             " E'\n' order by indexname) from pg_indexes"
             " where tablename = 'build_queue' and indexname like 'idx_build_queue_%'",
             "idx_build_queue_completed_at (completed_at) WHERE (completed_at IS NOT NULL)\n"
             "idx_build_queue_customer (customer_id)\n"
             "idx_build_queue_enqueued_at (enqueued_at)\n"
             "idx_build_queue_priority_enqueued (priority DESC, enqueued_at) WHERE ((status)::text = 'pending'::text)\n"
             "idx_build_queue_status (status)");
  static const char *const refused[][2] = {{"priority", "4"},           {"priority", "-1"},
                                           {"progress_percent", "101"}, {"progress_percent", "-1"},
                                           {"retry_count", "-1"},       {"status", "'done'"}};
  for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
    char text[300];
    (void)snprintf(text, sizeof text,
                   "insert into build_queue (customer_id, customer_name, customer_email, configuration_name,"
                   " manifest_path, tier, architecture, cloud_provider, %s)"
                   " values ('c', 'n', 'e', 'x', 'm', 't', 'a', 'p', %s)",
                   refused[i][0], refused[i][1]);
    PGresult *result = PQexec(pg, text);
    assert_string_equal(PQresultErrorField(result, PG_DIAG_SQLSTATE), "23514");
    PQclear(result);
  }
  sql_expect(pg, "select tgfoid::regproc from pg_trigger where tgname = 'trigger_update_build_queue_updated_at'",
             "update_build_queue_updated_at");
  PQfinish(pg);
  bq_free(conninfo);
}

static void a_dry_run_changes_nothing_and_a_check_says_what_to_do(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  must_migrate(conninfo, DRY_RUN, "would apply 0001_build_queue.sql\nwould apply 0002_queue.sql\n");
  must_refuse(conninfo, fixture.migrations, CHECK, BQ_ECONFLICT, "lacks 0001_build_queue.sql: run `buildq migrate`");
  PGconn *pg = sql_connect(conninfo);
  sql_expect(pg, "select count(*) from pg_class where relnamespace = 'public'::regnamespace", "0");
  PQfinish(pg);
  bq_free(conninfo);
}

static void an_old_table_is_completed(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  sql_do(pg, old_table);
  sql_migrate(&fixture, conninfo);
  sql_expect(pg, "select string_agg(conname, ' ' order by conname) from pg_constraint"
                 " where conrelid = 'build_queue'::regclass",
             "build_queue_pkey chk_priority chk_progress chk_retry_count chk_status");
  sql_expect(pg, "select string_agg(indexname, ' ' order by indexname) from pg_indexes where indexname like 'idx_%'",
             "idx_build_queue_completed_at idx_build_queue_customer idx_build_queue_enqueued_at "
             "idx_build_queue_priority_enqueued idx_build_queue_status");
  sql_expect(pg, "select column_default from information_schema.columns where table_name = 'build_queue'"
                 " and column_name = 'id'", "gen_random_uuid()");
  sql_do(pg, "insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,"
             " tier, architecture, cloud_provider) values ('c', 'n', 'e', 'x', 'm', 't', 'a', 'p');"
             "update build_queue set updated_at = '2020-01-01'");
  // The trigger keeps updated_at for writers that don't set it, and only for them.
  sql_expect(pg, "select updated_at < '2021-01-01' from build_queue", "t");
  sql_do(pg, "update build_queue set current_step = 'x'");
  sql_expect(pg, "select updated_at > '2021-01-01' from build_queue", "t");
  PQfinish(pg);
  bq_free(conninfo);
}

static void a_table_of_somebody_else_is_left_alone(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  sql_do(pg, old_table);
  sql_do(pg, "alter table build_queue alter column priority type text, drop constraint chk_priority");
  must_refuse(conninfo, fixture.migrations, APPLY, BQ_EDATABASE,
              "its column priority is of type text, not integer");
  sql_do(pg, "alter table build_queue drop column priority");
  must_refuse(conninfo, fixture.migrations, APPLY, BQ_EDATABASE, "its column priority is missing");
  sql_do(pg, "alter table build_queue add column priority int not null, alter column tier type varchar(20)");
  must_refuse(conninfo, fixture.migrations, APPLY, BQ_EDATABASE,
              "its column tier is of type character varying(20)");
  sql_expect(pg, "select count(*) from schema_migrations", "0");
  sql_expect(pg, "select count(*) from pg_constraint where conname = 'chk_status'", "0");
  PQfinish(pg);
  bq_free(conninfo);
}

static void old_rows_are_adopted(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  sql_do(pg, old_table);
  sql_do(pg, old_rows);
  must_migrate(conninfo, APPLY, "adopted 7 builds of the previous service, 2 of them pending\n"
                                "no old build is removed before you confirm it: buildq retention confirm 5\n");
  sql_expect(pg, "select string_agg(status, ' ' order by id) from build_queue",
             "pending failed pending success failed cancelled timedout");
  sql_expect(pg, "select count(*) from outbox", "0");
  sql_expect(pg, "select bool_and(adopted) from build_queue", "t");
  // The dead service's running build begins anew, uncharged; the used-up one has ended and says why.
  sql_expect(pg, "select row(progress_percent, current_step, started_at, retry_count) from build_queue"
                 " where id::text like '%3'", "(0,,,3)");
  sql_expect(pg, "select error_message from build_queue where id::text like '%2' and completed_at is not null",
             "all retries were used up under the previous service");
  sql_expect(pg, "select string_agg(right(build_id::text, 1) || type, ' ' order by build_id) from build_events",
             "2failed 3requeued");
  // Claims find them in the old order.
  sql_expect(pg, "select string_agg(right(id::text, 1), '' order by claim_key) from build_queue"
                 " where status = 'pending'", "31");
  // Nothing is deleted before the count has been confirmed. The failed one of adoption counts too.
  sql_expect(pg, "select row(adopted_builds, retention_allowed) from queue_control", "(5,f)");
  PQfinish(pg);
  bq_free(conninfo);
}

static void only_an_older_program_refuses_a_newer_schema(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  sql_migrate(&fixture, conninfo);
  sql_do(pg, "insert into schema_migrations (version, name, oldest_program) values (900, '0900_more.sql', 1)");
  sql_migrate(&fixture, conninfo);
  sql_do(pg, "insert into schema_migrations (version, name, oldest_program) values (901, '0901_break.sql', 901)");
  must_refuse(conninfo, fixture.migrations, CHECK, BQ_ECONFLICT, "0901_break");
  must_refuse(conninfo, fixture.migrations, APPLY, BQ_ECONFLICT, "install a newer buildq");
  sql_do(pg, "delete from schema_migrations where version > 900;"
             "update schema_migrations set name = '0002_other.sql' where version = 2");
  must_refuse(conninfo, fixture.migrations, CHECK, BQ_ECONFLICT, "0002_other");
  PQfinish(pg);
  bq_free(conninfo);
}

static void write_file(const char *directory, const char *name, const char *text) {
  char *path = bq_format("%s/%s", directory, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
  bq_free(path);
}

static void a_failed_migration_leaves_no_trace(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char *conninfo = sql_create(&fixture, NULL);
  write_file(directory, "0001_one.sql", "-- oldest program: 1\ncreate table one (x int);");
  write_file(directory, "0002_two.sql", "-- oldest program: 2\ncreate table two (x int);\nselect 1 / 0;");
  must_refuse(conninfo, directory, APPLY, BQ_EDATABASE, "the migration 0002_two.sql failed: division by zero");
  PGconn *pg = sql_connect(conninfo);
  sql_expect(pg, "select row(to_regclass('one'), to_regclass('two'))", "(one,)");
  sql_expect(pg, "select string_agg(name, ' ') from schema_migrations", "0001_one.sql");
  write_file(directory, "0002_two.sql", "-- oldest program: 2\ncreate table two (x int);\ncommit;");
  must_refuse(conninfo, directory, APPLY, BQ_EINVAL, "ends its transaction itself");
  PQfinish(pg);
  support_remove_directory(directory);
  bq_free(conninfo);
}

static void must_report(const char *conninfo, const char *directory, mode how, const char *expected) {
  bq_error err;
  char *lines;
  if (migrate(conninfo, directory, how, &lines, &err) < 0) fail_msg("%s", err.message);
  if (expected[0] == '\0') assert_string_equal(lines, "");
  else if (strstr(lines, expected) == NULL) fail_msg("reports %s, not %s", lines, expected);
  bq_free(lines);
}

static void a_file_that_was_changed_later_is_told(void **state) {
  (void)state;
  static const char changed[] = "warning: 0001_one.sql is not the file any more";
  char *directory = support_make_directory();
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  write_file(directory, "0001_one.sql", "-- oldest program: 1\n" // what a migrator looks at
                                        "create table build_queue (status text, adopted boolean);"
                                        "create table queue_control (adopted_builds int, retention_allowed boolean);");
  must_report(conninfo, directory, APPLY, "applied 0001_one.sql\n");
  must_report(conninfo, directory, APPLY, "");
  write_file(directory, "0001_one.sql", "-- oldest program: 1\ncreate table build_queue (status text);");
  must_report(conninfo, directory, APPLY, changed);
  must_report(conninfo, directory, CHECK, changed);
  must_report(conninfo, directory, DRY_RUN, changed);
  // What an earlier program applied has no checksum; what comes after has.
  sql_do(pg, "alter table schema_migrations drop column checksum");
  must_report(conninfo, directory, CHECK, "");
  write_file(directory, "0002_two.sql", "-- oldest program: 1\ncreate table two (x int);");
  must_report(conninfo, directory, APPLY, "applied 0002_two.sql\n");
  sql_expect(pg, "select string_agg(coalesce(length(checksum), 0)::text, ' ' order by version) from schema_migrations",
             "0 64");
  PQfinish(pg);
  support_remove_directory(directory);
  bq_free(conninfo);
}

static void directories_are_checked_first(void **state) {
  (void)state;
  char *directory = support_make_directory();
  const char *conninfo = bq_cluster_conninfo(fixture.cluster);
  must_refuse(conninfo, directory, DRY_RUN, BQ_EINVAL, "there is no migration");
  must_refuse(conninfo, "/nonexistent", DRY_RUN, BQ_EIO, "/nonexistent");
  write_file(directory, "README.md", "not one");
  write_file(directory, "0002_two.sql", "-- oldest program: 1\nselect 1;");
  must_refuse(conninfo, directory, DRY_RUN, BQ_EINVAL, "without a gap: 0002_two.sql comes where 0001 should");
  write_file(directory, "0001_one.sql", "select 1;");
  must_refuse(conninfo, directory, DRY_RUN, BQ_EINVAL, "must begin with the line `-- oldest program: N`");
  write_file(directory, "0001_one.sql", "-- oldest program: 2\nselect 1;");
  must_refuse(conninfo, directory, DRY_RUN, BQ_EINVAL, "N from 1 to 1");
  write_file(directory, "0001_one.sql", "-- oldest program: 1\nselect 1;");
  write_file(directory, "0001_uno.sql", "-- oldest program: 1\nselect 1;");
  must_refuse(conninfo, directory, DRY_RUN, BQ_EINVAL, "without a gap");
  support_remove_directory(directory);
}

typedef struct racer {
  const char *conninfo;
  char *reported; // owned
  bq_error error;
  int code;
} racer;

static void *race(void *arg) {
  racer *r = arg;
  r->code = migrate(r->conninfo, fixture.migrations, APPLY, &r->reported, &r->error);
  return NULL;
}

static void servers_that_start_together_migrate_once(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  racer racers[4];
  pthread_t threads[4];
  int applied = 0;
  for (int i = 0; i < 4; i++) {
    racers[i] = (racer){.conninfo = conninfo};
    assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
  }
  for (int i = 0; i < 4; i++) {
    assert_int_equal(pthread_join(threads[i], NULL), 0);
    if (racers[i].code < 0) fail_msg("%s", racers[i].error.message);
    applied += strstr(racers[i].reported, "applied 0001") != NULL;
    bq_free(racers[i].reported);
  }
  assert_int_equal(applied, 1);
  bq_free(conninfo);
}

static void a_secret_is_never_repeated(void **state) {
  (void)state;
  static const char *const wrong[] = {"host=/nonexistent password=s3cret dbname='", "postgres://u:s3cret@[::1/x",
                                      "host=/nonexistent password=s3cret dbname=x"};
  for (int i = 0; i < 3; i++) {
    bq_error err = {0};
    char *lines;
    int code = migrate(wrong[i], fixture.migrations, APPLY, &lines, &err);
    bq_free(lines);
    assert_int_equal(code, i < 2 ? BQ_EINVAL : BQ_EUNAVAIL);
    assert_null(strstr(err.message, "s3cret"));
  }
}

// pg_backend_pid() as it looks from behind a pooler: never what the greeting said.
static void a_pooler_in_transaction_mode_is_refused(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  sql_do(pg, "do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database());"
             " end $$; create function public.pg_backend_pid() returns integer language sql as"
             " $$ select pg_catalog.pg_backend_pid() + 1000000 $$"); // session mode: another pid, but always the same
  must_migrate(conninfo, DRY_RUN, "would apply");
  sql_do(pg, "create sequence turn; create or replace function public.pg_backend_pid() returns integer language sql as"
             " $$ select (1000000 + nextval('public.turn'))::integer $$"); // one client, a session for each transaction
  must_refuse(conninfo, fixture.migrations, DRY_RUN, BQ_EINVAL, "pool_mode=session");
  sql_do(pg, "create or replace function public.pg_backend_pid() returns integer language sql as"
             " $$ select 1000000 $$"); // one session, two clients
  must_refuse(conninfo, fixture.migrations, DRY_RUN, BQ_EINVAL, "pool_mode=session");
  PQfinish(pg);
  bq_free(conninfo);
}

static int start(void **state) {
  (void)state;
  return sql_start(&fixture);
}

static int stop(void **state) {
  (void)state;
  return sql_stop(&fixture);
}

int main(void) {
  sql_prepare(&fixture);
  bq_log_setup(BQ_ERROR, BQ_LOG_TEXT);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_empty_database_gets_all_once), cmocka_unit_test(a_new_table_is_the_old_services),
      cmocka_unit_test(a_dry_run_changes_nothing_and_a_check_says_what_to_do),
      cmocka_unit_test(an_old_table_is_completed),
      cmocka_unit_test(a_table_of_somebody_else_is_left_alone),
      cmocka_unit_test(old_rows_are_adopted),
      cmocka_unit_test(only_an_older_program_refuses_a_newer_schema),
      cmocka_unit_test(a_failed_migration_leaves_no_trace),
      cmocka_unit_test(a_file_that_was_changed_later_is_told),
      cmocka_unit_test(directories_are_checked_first),
      cmocka_unit_test(servers_that_start_together_migrate_once),
      cmocka_unit_test(a_secret_is_never_repeated),
      cmocka_unit_test(a_pooler_in_transaction_mode_is_refused),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
