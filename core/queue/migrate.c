#include "queue/migrate.h"

#include <dirent.h>
#include <errno.h>
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/hash.h"

enum {
  MAX_MIGRATIONS = 1000,
  MAX_FILE_BYTES = 1000 * 1000,
  POOLER_ROUNDS = 5 // looks at whether two statements come to the same session
};

typedef struct migration {
  int version;        // from the file's name
  int oldest_program; // from its first line: programs that know fewer migrations must not run on the result
  char *name;         // owned; the file's name
  char *text;         // owned
  char checksum[BQ_HASH_TEXT_SIZE]; // of the text
  int missing;        // the database has not got it
} migration;

typedef struct migrations {
  migration *list; // owned; versions 1 … count in order
  int count;
} migrations;

typedef struct job {
  const bq_migrate_options *options;
  void (*report)(void *arg, const char *line); // or NULL
  void *arg;
  migrations all;
  PGconn *pg; // owned
} job;

static void report(const job *j, const char *fmt, ...) BQ_PRINTF(2, 3);

static void report(const job *j, const char *fmt, ...) {
  char line[512];
  va_list args;
  va_start(args, fmt);
  (void)vsnprintf(line, sizeof line, fmt, args);
  va_end(args);
  if (j->report != NULL) j->report(j->arg, line);
}

// The files ----------------------------------------------------------------------------------------------------------

static void free_migrations(migrations *all) {
  for (int i = 0; i < all->count; i++) {
    bq_free(all->list[i].name);
    bq_free(all->list[i].text);
  }
  bq_free(all->list);
}

// "0001_build_queue.sql" gives 1; 0 when it is no migration's name.
static int version_of(const char *file) {
  size_t length = strlen(file);
  if (length < 10 || strspn(file, "0123456789") != 4 || file[4] != '_') return 0;
  if (strcmp(file + length - 4, ".sql") != 0) return 0;
  return (int)strtol(file, NULL, 10);
}

static int read_migration(migration *m, const char *directory, const char *file, bq_error *err) {
  static const char mark[] = "-- oldest program: ";
  size_t length;
  m->version = version_of(file);
  m->missing = 1;
  m->name = bq_strdup(file);
  char *path = bq_format("%s/%s", directory, file);
  int result = m->name != NULL && path != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for the migrations");
  if (result == 0) result = bq_file_read(path, MAX_FILE_BYTES, &m->text, &length, err);
  bq_free(path);
  if (result < 0) return result;
  if (strncmp(m->text, mark, sizeof mark - 1) == 0) m->oldest_program = atoi(m->text + sizeof mark - 1);
  if (m->oldest_program >= 1 && m->oldest_program <= m->version && strlen(m->text) == length) {
    return bq_hash_bytes(m->text, length, m->checksum, err);
  }
  return bq_fail(err, BQ_EINVAL, "the migration %s/%s must begin with the line `%sN`, N from 1 to %d, and be text",
                 directory, file, mark, m->version);
}

static int by_version(const void *a, const void *b) {
  return ((const migration *)a)->version - ((const migration *)b)->version;
}

static int read_directory(migrations *all, DIR *dir, const char *directory, bq_error *err) {
  const struct dirent *file;
  for (errno = 0; (file = readdir(dir)) != NULL; errno = 0) {
    if (version_of(file->d_name) == 0) continue;
    if (all->count == MAX_MIGRATIONS) {
      return bq_fail(err, BQ_ELIMIT, "%s holds more than %d migrations", directory, MAX_MIGRATIONS);
    }
    int result = read_migration(&all->list[all->count++], directory, file->d_name, err);
    if (result < 0) return result;
  }
  if (errno != 0) return bq_fail_errno(err, errno, "can't list the migrations in %s", directory);
  if (all->count == 0) return bq_fail(err, BQ_EINVAL, "there is no migration in %s", directory);
  qsort(all->list, (size_t)all->count, sizeof all->list[0], by_version);
  for (int i = 0; i < all->count; i++) {
    if (all->list[i].version == i + 1) continue;
    return bq_fail(err, BQ_EINVAL, "the migrations in %s must be numbered from 1 without a gap: %s comes where %04d "
                                   "should", directory, all->list[i].name, i + 1);
  }
  return 0;
}

static int load(migrations *all, const char *directory, bq_error *err) {
  *all = (migrations){.list = bq_alloc_array(MAX_MIGRATIONS, sizeof(migration))};
  if (all->list == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the migrations");
  DIR *dir = opendir(directory);
  if (dir == NULL) return bq_fail_errno(err, errno, "can't read the migrations in %s", directory);
  int result = read_directory(all, dir, directory, err);
  closedir(dir);
  return result;
}

// The connection -----------------------------------------------------------------------------------------------------

static void on_notice(void *arg, const char *message) {
  (void)arg;
  bq_log(BQ_DEBUG, "a migration's notice", "message", message, NULL);
}

static int connect_to(PGconn **out, const char *conninfo, bq_error *err) {
  *out = NULL;
  PQconninfoOption *options = PQconninfoParse(conninfo, NULL); // its message would quote the string, and a password
  PQconninfoFree(options);
  if (options == NULL) {
    return bq_fail(err, BQ_EINVAL, "the database connection string is neither a libpq URI nor keywords and values "
                                   "(host=… dbname=…): check its quotes and option names");
  }
  // What the string itself says comes last and wins.
  static const char *const keywords[] = {"connect_timeout", "client_encoding", "application_name", "dbname", NULL};
  const char *const values[] = {"10", "UTF8", "buildq migrate", conninfo, NULL};
  PGconn *pg = PQconnectdbParams(keywords, values, 1);
  if (pg == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a database connection");
  *out = pg;
  if (PQstatus(pg) != CONNECTION_OK) {
    return bq_fail(err, BQ_EUNAVAIL, "can't reach the database: %.*s", (int)strcspn(PQerrorMessage(pg), "\n"),
                   PQerrorMessage(pg));
  }
  if (PQserverVersion(pg) < 150000) {
    return bq_fail(err, BQ_EINVAL, "the database server is PostgreSQL %s; 15 or newer is needed",
                   PQparameterStatus(pg, "server_version"));
  }
  (void)PQsetNoticeProcessor(pg, on_notice, NULL);
  return 0;
}

static const char *or_empty(const char *text) {
  return text != NULL ? text : "";
}

static int refused(PGconn *pg, const PGresult *rows, bq_error *err) {
  const char *why = PQresultErrorField(rows, PG_DIAG_MESSAGE_PRIMARY);
  const char *detail = PQresultErrorField(rows, PG_DIAG_MESSAGE_DETAIL);
  const char *hint = PQresultErrorField(rows, PG_DIAG_MESSAGE_HINT);
  const char *state = or_empty(PQresultErrorField(rows, PG_DIAG_SQLSTATE));
  if (PQstatus(pg) != CONNECTION_OK) return bq_fail(err, BQ_EUNKNOWN, "the connection to the database was lost");
  if (strcmp(state, "55P03") == 0) {
    return bq_fail(err, BQ_EUNAVAIL, "somebody else holds a lock on the schema for a minute already (another "
                                     "migration, or a long transaction on build_queue): try again");
  }
  if (*state == '\0') return bq_fail(err, BQ_EUNKNOWN, "the database gave no answer: %s", PQerrorMessage(pg));
  return bq_fail(err, BQ_EDATABASE, "%s%s%s%s%s (SQLSTATE %s)", why != NULL ? why : "the database refused",
                 detail != NULL ? "; " : "", or_empty(detail), hint != NULL ? "; " : "", or_empty(hint), state);
}

// Without parameters `sql` may hold several statements. `*out` (which may be NULL: no rows are wanted) is the caller's.
static int run(PGconn *pg, const char *sql, int count, const char *const *params, PGresult **out, bq_error *err) {
  PGresult *rows = count == 0 ? PQexec(pg, sql) : PQexecParams(pg, sql, count, NULL, params, NULL, NULL, 0);
  ExecStatusType status = PQresultStatus(rows);
  int result = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : refused(pg, rows, err);
  if (out != NULL) *out = NULL;
  if (out != NULL && result == 0) *out = rows;
  else PQclear(rows);
  return result;
}

// The first value as a number.
static int ask(PGconn *pg, const char *sql, int64_t *out, bq_error *err) {
  PGresult *rows = NULL;
  int result = run(pg, sql, 0, NULL, &rows, err);
  if (result < 0) return result;
  *out = PQntuples(rows) > 0 ? strtoll(PQgetvalue(rows, 0, 0), NULL, 10) : 0;
  PQclear(rows);
  return 0;
}

// A pooler in transaction mode lends one session to several clients between their transactions. Then locks, LISTEN,
// prepared statements and settings land anywhere: two clients see one session, or one client sees two.
static int look_for_pooler(PGconn *pg, const char *conninfo, bq_error *err) {
  static const char whose[] = "select pg_backend_pid()";
  int64_t mine = 0;
  int64_t again = 0;
  int64_t other = 0;
  PGconn *second = NULL;
  int result = ask(pg, whose, &mine, err);
  if (result < 0 || mine == PQbackendPID(pg)) return result; // PostgreSQL itself: no pooler between
  result = connect_to(&second, conninfo, err);
  for (int round = 0; result == 0 && round < POOLER_ROUNDS; round++) {
    result = run(second, "begin", 0, NULL, NULL, err);
    if (result == 0) result = ask(second, whose, &other, err);
    if (result == 0) result = ask(pg, whose, &again, err);
    if (result == 0) result = run(second, "rollback", 0, NULL, NULL, err);
    if (result < 0) {
      result = bq_fail_in(err, "trying the connection pooler before the database (it must have pool_mode=session and "
                               "sessions for at least ten connections)");
    } else if (again != mine || other == mine) {
      result = bq_fail(err, BQ_EINVAL, "the connection pooler before the database gives each transaction another "
                                       "session, which the queue can't work with: set it to pool_mode=session, or "
                                       "name PostgreSQL itself in BuildQueue.ConnectionString");
    }
  }
  PQfinish(second);
  return result;
}

// What the database has ----------------------------------------------------------------------------------------------

// One row of schema_migrations: version, name, oldest_program, checksum.
static int compare_row(const job *j, const PGresult *rows, int row, bq_error *err) {
  int version = atoi(PQgetvalue(rows, row, 0));
  int oldest_program = atoi(PQgetvalue(rows, row, 2));
  const char *name = PQgetvalue(rows, row, 1);
  if (oldest_program > j->all.count) {
    return bq_fail(err, BQ_ECONFLICT, "the database has the migration %s, which programs that know fewer than %d "
                                      "migrations can't work with; this one knows %d: install a newer buildq",
                   name, oldest_program, j->all.count);
  }
  if (version < 1 || version > j->all.count) return 0;
  migration *m = &j->all.list[version - 1];
  m->missing = 0;
  if (strcmp(m->name, name) != 0) {
    return bq_fail(err, BQ_ECONFLICT, "the database has a migration %s where this program has %s: it belongs to "
                                      "another program", name, m->name);
  }
  if (!PQgetisnull(rows, row, 3) && strcmp(PQgetvalue(rows, row, 3), m->checksum) != 0) {
    report(j, "warning: %s is not the file any more that this database was given: the schema may differ from what the "
              "program expects", name);
  }
  return 0;
}

static int compare(const job *j, bq_error *err) {
  // A table of a program that kept no checksums has no such column, and so gives null.
  static const char applied[] = "select version, name, oldest_program, to_jsonb(m) ->> 'checksum' "
                                "from schema_migrations m order by version";
  int64_t there = 0;
  int result = ask(j->pg, "select (to_regclass('schema_migrations') is not null)::int", &there, err);
  if (result < 0 || !there) return result;
  PGresult *rows = NULL;
  result = run(j->pg, applied, 0, NULL, &rows, err);
  for (int i = 0; result == 0 && i < PQntuples(rows); i++) result = compare_row(j, rows, i, err);
  PQclear(rows);
  return result;
}

static int apply(PGconn *pg, const migration *m, int max_retry_attempts, bq_error *err) {
  char retries[16];
  char version[16];
  char oldest[16];
  (void)snprintf(retries, sizeof retries, "%d", max_retry_attempts);
  (void)snprintf(version, sizeof version, "%d", m->version);
  (void)snprintf(oldest, sizeof oldest, "%d", m->oldest_program);
  const char *settings[] = {retries};
  const char *record[] = {version, m->name, oldest, m->checksum};
  int result = run(pg, "begin isolation level read committed", 0, NULL, NULL, err);
  if (result == 0) {
    result = run(pg, "select set_config('buildq.max_retry_attempts', $1, true)", 1, settings, NULL, err);
  }
  if (result == 0) result = run(pg, m->text, 0, NULL, NULL, err);
  if (result == 0 && PQtransactionStatus(pg) != PQTRANS_INTRANS) {
    result = bq_fail(err, BQ_EINVAL, "it ends its transaction itself");
  }
  if (result == 0) {
    result = run(pg, "insert into schema_migrations (version, name, oldest_program, checksum) "
                     "values ($1::int, $2, $3::int, $4)", 4, record, NULL, err);
  }
  if (result == 0) result = run(pg, "commit", 0, NULL, NULL, err);
  if (result == 0) return 0;
  PQclear(PQexec(pg, "rollback"));
  return bq_fail_in(err, "the migration %s failed", m->name);
}

// What the operator should know about the old service's rows.
static int report_adoption(const job *j, bq_error *err) {
  PGresult *rows = NULL;
  int result = run(j->pg, "select count(*), count(*) filter (where status = 'pending'), "
                          "(select adopted_builds from queue_control where not retention_allowed) "
                          "from build_queue where adopted having count(*) > 0", 0, NULL, &rows, err);
  if (result < 0) return result;
  if (PQntuples(rows) > 0) {
    report(j, "adopted %s builds of the previous service, %s of them pending", PQgetvalue(rows, 0, 0),
           PQgetvalue(rows, 0, 1));
    if (!PQgetisnull(rows, 0, 2)) {
      report(j, "no old build is removed before you confirm it: buildq retention confirm %s", PQgetvalue(rows, 0, 2));
    }
  }
  PQclear(rows);
  return 0;
}

static int bring_up(job *j, bq_error *err) {
  static const char table[] = "create table if not exists schema_migrations (version integer primary key, name text "
                              "not null, applied_at timestamptz not null default now(), oldest_program integer not "
                              "null); alter table schema_migrations add column if not exists checksum text";
  const bq_migrate_options *options = j->options;
  int applies = !options->check_only && !options->dry_run;
  int applied = 0;
  int missing = 0;
  int result = compare(j, err);
  for (int i = 0; i < j->all.count; i++) missing += j->all.list[i].missing;
  if (result == 0 && applies && missing > 0) result = run(j->pg, table, 0, NULL, NULL, err);
  for (int i = 0; i < j->all.count && result == 0; i++) {
    const migration *m = &j->all.list[i];
    if (!m->missing) continue;
    if (options->check_only) {
      return bq_fail(err, BQ_ECONFLICT, "the database's schema lacks %s: run `buildq migrate`", m->name);
    }
    if (applies) result = apply(j->pg, m, options->max_retry_attempts, err);
    if (result == 0) report(j, "%s %s", applies ? "applied" : "would apply", m->name);
    applied += result == 0 && applies;
  }
  return result == 0 && applied > 0 ? report_adoption(j, err) : result;
}

int bq_migrate(const char *conninfo, const char *directory, const bq_migrate_options *options,
               void (*report_line)(void *arg, const char *line), void *arg, bq_error *err) {
  job j = {.options = options, .report = report_line, .arg = arg};
  int result = load(&j.all, directory, err);
  if (result == 0) result = connect_to(&j.pg, conninfo, err);
  if (result == 0) result = look_for_pooler(j.pg, conninfo, err);
  if (result < 0) goto cleanup;
  // The lock goes with the connection. A table in long use must not queue everybody behind a waiting ALTER.
  result = run(j.pg, "set lock_timeout = '60s'; set statement_timeout = 0; "
                     "select pg_advisory_lock(hashtext('buildq migrate'))", 0, NULL, NULL, err);
  if (result == 0) result = bring_up(&j, err);
cleanup:
  PQfinish(j.pg);
  free_migrations(&j.all);
  return result;
}
