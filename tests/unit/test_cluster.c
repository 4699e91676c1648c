// The private PostgreSQL.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/cluster.h"
#include "support.h"

enum { LIMIT_MS = 20000 };

static bq_cluster *start(const char *directory) {
  bq_cluster *cluster;
  bq_error err;
  bq_cluster_options options = {.state_directory = directory};
  if (bq_cluster_start(&cluster, &options, &err) < 0) fail_msg("%s", err.message);
  return cluster;
}

static int refuse(const bq_cluster_options *options, bq_error *err) {
  bq_cluster *cluster;
  int code = bq_cluster_start(&cluster, options, err);
  assert_true(code < 0);
  assert_null(cluster);
  return code;
}

// The first value of a query on the cluster's database; the caller's.
static char *value_of(const char *conninfo, const char *sql) {
  PGconn *pg = PQconnectdb(conninfo);
  PGresult *result = PQexec(pg, sql);
  ExecStatusType status = PQresultStatus(result);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) fail_msg("%s", PQerrorMessage(pg));
  char *value = bq_strdup(PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
  PQclear(result);
  PQfinish(pg);
  return value;
}

static void expect_answer(const bq_cluster *cluster, const char *sql, const char *expected) {
  char *value = value_of(bq_cluster_conninfo(cluster), sql);
  assert_string_equal(value, expected);
  bq_free(value);
}

static mode_t mode_of(const char *directory, const char *name) {
  char *path = bq_format("%s/%s", directory, name);
  struct stat info = {0};
  int result = stat(path, &info);
  bq_free(path);
  return result == 0 ? info.st_mode & 07777 : 0;
}

static void write_file(const char *directory, const char *name, const char *content) {
  char *path = bq_format("%s/%s", directory, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(content, file) >= 0);
  assert_int_equal(fclose(file), 0);
  bq_free(path);
}

static void is_made_stopped_and_found_again(void **state) {
  (void)state;
  char *directory = support_make_directory();
  bq_cluster *cluster = start(directory);
  expect_answer(cluster, "select current_database()", "buildq");
  expect_answer(cluster, "show server_encoding", "UTF8");
  expect_answer(cluster, "select datcollate from pg_database where datname = 'buildq'", "C.UTF-8");
  expect_answer(cluster, "show listen_addresses", "");
  expect_answer(cluster, "show fsync", "on");
  expect_answer(cluster, "create table kept as select 42 as n", "");
  expect_answer(cluster, "select count(*) from pg_hba_file_rules where auth_method not in ('peer', 'reject')", "0");
  assert_int_equal(mode_of(directory, "pg"), 0700);
  assert_int_equal(mode_of(directory, "postgres"), 0700);
  assert_int_equal(mode_of(directory, "postgres.log"), 0640);
  assert_int_equal(getpgid(bq_cluster_pid(cluster)), bq_cluster_pid(cluster)); // Ctrl-C does not reach it
  pid_t pid = bq_cluster_pid(cluster);
  bq_cluster_stop(cluster);
  assert_int_equal(kill(pid, 0), -1);
  assert_int_equal(errno, ESRCH);
  cluster = start(directory);
  expect_answer(cluster, "select n from kept", "42");
  bq_cluster_stop(cluster);
  support_remove_directory(directory);
}

// `make run` as root from a clone in root's home: the server's user can't enter it.
static void works_in_a_directory_that_is_closed_to_it(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char *closed = bq_format("%s/closed", directory);
  char *before = getcwd(NULL, 0);
  assert_int_equal(mkdir(closed, 0700), 0);
  assert_int_equal(chdir(closed), 0);
  assert_int_equal(chmod(closed, 0), 0);
  for (int time = 0; time < 2; time++) { // the second start compares versions
    bq_cluster *cluster = start(directory);
    expect_answer(cluster, "select current_database()", "buildq");
    bq_cluster_stop(cluster);
  }
  assert_int_equal(chdir(before), 0);
  free(before);
  bq_free(closed);
  support_remove_directory(directory);
}

static int is_reaped(void *arg) {
  const pid_t *pid = arg;
  return waitpid(*pid, NULL, WNOHANG) != 0;
}

// A process that starts a cluster and is killed. Returns the cluster's process, which comes to us (a subreaper).
static pid_t start_in_a_killed_server(const char *directory) {
  int pipes[2];
  assert_int_equal(pipe(pipes), 0);
  pid_t server = fork();
  if (server == 0) {
    bq_cluster *cluster = start(directory);
    pid_t pid = bq_cluster_pid(cluster);
    if (write(pipes[1], &pid, sizeof pid) < 0) _exit(1);
    for (;;) (void)pause();
  }
  close(pipes[1]);
  pid_t pid = 0;
  assert_int_equal(read(pipes[0], &pid, sizeof pid), sizeof pid);
  close(pipes[0]);
  assert_int_equal(kill(pid, 0), 0);
  assert_int_equal(kill(server, SIGKILL), 0);
  assert_int_equal(waitpid(server, NULL, 0), server);
  return pid;
}

static void ends_with_a_killed_server(void **state) {
  (void)state;
  char *directory = support_make_directory();
  pid_t pid = start_in_a_killed_server(directory);
  assert_true(support_wait_until(is_reaped, &pid, LIMIT_MS)); // by itself
  pid = start_in_a_killed_server(directory);
  bq_cluster *cluster = start(directory); // at once, while the old one is still stopping
  expect_answer(cluster, "select 1", "1");
  assert_true(support_wait_until(is_reaped, &pid, LIMIT_MS));
  bq_cluster_stop(cluster);
  support_remove_directory(directory);
}

static void stops_a_cluster_that_still_runs(void **state) {
  (void)state;
  char *directory = support_make_directory();
  bq_cluster *left = start(directory);
  pid_t pid = bq_cluster_pid(left);
  expect_answer(left, "create table kept as select 43 as n", "");
  bq_cluster *cluster = start(directory);
  assert_int_not_equal(bq_cluster_pid(cluster), pid);
  expect_answer(cluster, "select n from kept", "43");
  struct pollfd ended = {.fd = bq_cluster_fd(left), .events = POLLIN};
  assert_int_equal(poll(&ended, 1, 0), 1);
  bq_cluster_stop(left);
  bq_cluster_stop(cluster);
  support_remove_directory(directory);
}

// After a crash of the whole tree the lock files name processes that may be anybody now: here, a child of this test
// (PostgreSQL itself sees through its own parent's number).
static void survives_kill_and_stale_locks(void **state) {
  (void)state;
  char *directory = support_make_directory();
  bq_cluster *cluster = start(directory);
  expect_answer(cluster, "create table kept as select 44 as n", "");
  assert_int_equal(kill(bq_cluster_pid(cluster), SIGKILL), 0);
  bq_cluster_stop(cluster);
  pid_t anybody = fork();
  if (anybody == 0) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) (void)pause();
  }
  char *lock = bq_format("%d\n%s/postgres\n1\n5432\n%s/pg\n\n", (int)anybody, directory, directory);
  write_file(directory, "postgres/postmaster.pid", lock);
  write_file(directory, "pg/.s.PGSQL.5432.lock", lock);
  bq_free(lock);
  cluster = start(directory);
  expect_answer(cluster, "select n from kept", "44");
  bq_cluster_stop(cluster);
  assert_int_equal(kill(anybody, SIGKILL), 0); // was left alone until now
  assert_int_equal(waitpid(anybody, NULL, 0), anybody);
  support_remove_directory(directory);
}

static void begins_anew_after_a_killed_initdb(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char *half = bq_format("%s/postgres.new", directory);
  assert_int_equal(mkdir(half, 0700), 0);
  bq_free(half);
  write_file(directory, "postgres.new/PG_VERSION", "15\n");
  bq_cluster *cluster = start(directory);
  expect_answer(cluster, "select 1", "1");
  bq_cluster_stop(cluster);
  assert_int_equal(mode_of(directory, "postgres.new"), 0);
  support_remove_directory(directory);
}

static void says_that_the_version_is_wrong(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char *data = bq_format("%s/postgres", directory);
  assert_int_equal(mkdir(data, 0700), 0);
  bq_error err;
  bq_cluster_options options = {.state_directory = directory};
  assert_int_equal(refuse(&options, &err), BQ_EINVAL); // a directory that is no cluster
  assert_non_null(strstr(err.message, data));
  write_file(directory, "postgres/PG_VERSION", "11\n");
  assert_int_equal(refuse(&options, &err), BQ_EINVAL);
  assert_non_null(strstr(err.message, "made by PostgreSQL 11"));
  bq_free(data);
  support_remove_directory(directory);
}

static void says_what_postgresql_says(void **state) {
  (void)state;
  char *directory = support_make_directory();
  bq_cluster_stop(start(directory));
  write_file(directory, "postgres/postgresql.conf", "no_such_setting = 1\n");
  bq_error err;
  bq_cluster_options options = {.state_directory = directory};
  assert_int_equal(refuse(&options, &err), BQ_EIO);
  assert_non_null(strstr(err.message, "no_such_setting"));
  support_remove_directory(directory);
}

static void refuses_bad_directories(void **state) {
  (void)state;
  char *directory = support_make_directory();
  bq_error err;
  bq_cluster_options options = {.state_directory = "/nowhere/at/all"};
  assert_int_equal(refuse(&options, &err), BQ_EIO);
  options = (bq_cluster_options){.state_directory = directory, .bin_directory = "/nowhere"};
  assert_int_equal(refuse(&options, &err), BQ_ENOTFOUND);
  char *comma = bq_format("%s/a,b", directory);
  char *deep = bq_format("%s/%0100d", directory, 0);
  assert_int_equal(mkdir(comma, 0700), 0);
  assert_int_equal(mkdir(deep, 0700), 0);
  options = (bq_cluster_options){.state_directory = comma};
  assert_int_equal(refuse(&options, &err), BQ_EINVAL);
  assert_non_null(strstr(err.message, "comma"));
  options.state_directory = deep;
  assert_int_equal(refuse(&options, &err), BQ_EINVAL);
  assert_non_null(strstr(err.message, "shorter StateDirectory"));
  bq_free(comma);
  bq_free(deep);
  support_remove_directory(directory);
}

// The longest path that fits, with everything that needs quoting.
static void takes_an_odd_path(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char name[128];
  size_t room = 107 - strlen("/pg/.s.PGSQL.5432") - strlen(directory) - 1;
  assert_true(room < sizeof name);
  memset(name, 'x', sizeof name);
  memcpy(name, "a b'c\\d\"e", 9);
  name[room] = '\0';
  char *odd = bq_format("%s/%s", directory, name);
  assert_int_equal(mkdir(odd, 0700), 0);
  bq_cluster *cluster = start(odd);
  expect_answer(cluster, "select 1", "1");
  bq_cluster_stop(cluster);
  bq_free(odd);
  support_remove_directory(directory);
}

static void rotates_a_large_log(void **state) {
  (void)state;
  char *directory = support_make_directory();
  char *path = bq_format("%s/postgres.log", directory);
  write_file(directory, "postgres.log", "old\n");
  assert_int_equal(truncate(path, 10 * 1000 * 1000 + 1), 0);
  bq_cluster_stop(start(directory));
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_true(info.st_size < 100000);
  assert_int_not_equal(mode_of(directory, "postgres.log.1"), 0);
  bq_free(path);
  support_remove_directory(directory);
}

static void refuses_root(void **state) {
  (void)state;
  bq_error err;
  bq_cluster_options options = {.state_directory = "/tmp"};
  assert_int_equal(refuse(&options, &err), BQ_EINVAL);
  assert_non_null(strstr(err.message, "RunAsUser"));
}

int main(void) {
  bq_log_setup(BQ_ERROR, BQ_LOG_TEXT);
  const struct CMUnitTest as_root[] = {cmocka_unit_test(refuses_root)};
  int failed = geteuid() == 0 ? cmocka_run_group_tests(as_root, NULL, NULL) : 0;
  support_drop_root();
  // Orphans of ends_with_a_killed_server are ours to reap, wherever this runs.
  (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(is_made_stopped_and_found_again), cmocka_unit_test(ends_with_a_killed_server),
      cmocka_unit_test(works_in_a_directory_that_is_closed_to_it),
      cmocka_unit_test(stops_a_cluster_that_still_runs), cmocka_unit_test(survives_kill_and_stale_locks),
      cmocka_unit_test(begins_anew_after_a_killed_initdb), cmocka_unit_test(says_that_the_version_is_wrong),
      cmocka_unit_test(says_what_postgresql_says),        cmocka_unit_test(refuses_bad_directories),
      cmocka_unit_test(takes_an_odd_path),                cmocka_unit_test(rotates_a_large_log),
  };
  return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
