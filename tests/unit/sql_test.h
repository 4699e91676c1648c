// What tests of SQL share: a private PostgreSQL, a database of its own for each test, named statements, blocking calls.
//
// Included by one test file; needs setjmp.h … cmocka.h before it.
#ifndef BQ_TESTS_SQL_TEST_H
#define BQ_TESTS_SQL_TEST_H

#include <ftw.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/cluster.h"
#include "io/statements.h"
#include "io/tree.h"
#include "queue/migrate.h"
#include "support.h"

typedef struct sql_fixture {
  char *directory;  // owned; with a copy of sql/, because the repository may be closed to nobody
  char *migrations; // owned; path
  bq_cluster *cluster;
  bq_statements *statements;
  int databases; // made so far
} sql_fixture;

static int sql_give_to_nobody(const char *path, const struct stat *info, int kind, struct FTW *place) {
  (void)info, (void)kind, (void)place;
  const struct passwd *user = getpwnam("nobody");
  return user != NULL ? lchown(path, user->pw_uid, user->pw_gid) : -1;
}

// To be called first in main(), in the repository: copies sql/, gives up root.
static void sql_prepare(sql_fixture *f) {
  char here[4096];
  int is_directory;
  bq_error err = {0};
  f->directory = support_make_directory();
  if (getcwd(here, sizeof here) == NULL || bq_tree_copy(here, "sql", f->directory, "sql", &is_directory, &err) < 0 ||
      (geteuid() == 0 && nftw(f->directory, sql_give_to_nobody, 16, FTW_PHYS) != 0)) {
    (void)fprintf(stderr, "copying sql/: %s\n", err.message);
    exit(1);
  }
  f->migrations = bq_format("%s/sql/migrations", f->directory);
  support_drop_root();
}

static PGconn *sql_connect(const char *conninfo) {
  PGconn *pg = PQconnectdb(conninfo);
  if (PQstatus(pg) != CONNECTION_OK) fail_msg("%s", PQerrorMessage(pg));
  PQclear(PQexec(pg, "set client_min_messages = warning"));
  return pg;
}

// Runs SQL without parameters; the first value of its last statement ("" when there is none) is the caller's.
static char *sql_ask(PGconn *pg, const char *sql) {
  PGresult *rows = PQexec(pg, sql);
  ExecStatusType status = PQresultStatus(rows);
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) fail_msg("%s: %s", sql, PQerrorMessage(pg));
  char *value = bq_strdup(PQntuples(rows) > 0 ? PQgetvalue(rows, 0, 0) : "");
  PQclear(rows);
  return value;
}

static void sql_do(PGconn *pg, const char *sql) {
  bq_free(sql_ask(pg, sql));
}

static void sql_expect_at(PGconn *pg, const char *sql, const char *expected, const char *file, int line) {
  char *value = sql_ask(pg, sql);
  if (strcmp(value, expected) != 0) {
    print_error("%s\n  gives %s\n  not   %s\n", sql, value, expected);
    _fail(file, line);
  }
  bq_free(value);
}
#define sql_expect(pg, sql, expected) sql_expect_at(pg, sql, expected, __FILE__, __LINE__)

// Until the query gives this; 10 s at most.
static inline void sql_wait(PGconn *pg, const char *sql, const char *expected) {
  for (int tries = 0; tries < 1000; tries++) {
    char *value = sql_ask(pg, sql);
    int equal = strcmp(value, expected) == 0;
    bq_free(value);
    if (equal) return;
    sql_do(pg, "select pg_sleep(0.01)");
  }
  fail_msg("%s never gives %s", sql, expected);
}

// A new database, empty or a copy of `from`; libpq's keywords for it are the caller's.
static char *sql_create(sql_fixture *f, const char *from) {
  PGconn *pg = sql_connect(bq_cluster_conninfo(f->cluster));
  char *sql = bq_format("create database t%d template %s", ++f->databases, from != NULL ? from : "template0");
  sql_do(pg, sql);
  bq_free(sql);
  PQfinish(pg);
  return bq_format("%s dbname=t%d", bq_cluster_conninfo(f->cluster), f->databases);
}

static void sql_migrate(sql_fixture *f, const char *conninfo) {
  bq_error err;
  bq_migrate_options options = {.max_retry_attempts = 3};
  if (bq_migrate(conninfo, f->migrations, &options, NULL, NULL, &err) < 0) fail_msg("%s", err.message);
}

// What finish_success takes for one build; the text is valid until the next call. `artifacts` is JSON.
static inline const char *sql_success(const char *build, const char *attempt, const char *node, const char *output,
                               const char *download, const char *artifacts, const char *tail) {
  static char text[1000];
  int length = snprintf(text, sizeof text,
                        "[{\"id\": \"%s\", \"attempt\": %s, \"node\": \"%s\", \"outputPath\": \"%s\", "
                        "\"downloadUrl\": %s%s%s, \"artifacts\": %s, \"logTail\": \"%s\"}]",
                        build, attempt, node, output, download != NULL ? "\"" : "", download != NULL ? download : "null",
                        download != NULL ? "\"" : "", artifacts, tail);
  assert_in_range(length, 1, sizeof text - 1);
  return text;
}
#define SUCCESS sql_success

static int sql_start(sql_fixture *f) {
  bq_error err;
  bq_cluster_options options = {.state_directory = f->directory};
  char *queries = bq_format("%s/sql/queries", f->directory);
  if (bq_cluster_start(&f->cluster, &options, &err) < 0 || bq_statements_load(&f->statements, queries, &err) < 0) {
    (void)fprintf(stderr, "%s\n", err.message);
    return -1;
  }
  bq_free(queries);
  return 0;
}

static int sql_stop(sql_fixture *f) {
  bq_statements_free(f->statements);
  bq_cluster_stop(f->cluster);
  bq_free(f->migrations);
  support_remove_directory(f->directory);
  return 0;
}

#endif
