#include "queue/migrate.h"

#include <dirent.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

enum {
  MAX_FILES = 1000,
  MAX_FILE_BYTES = 1024 * 1024,
  LOCK_KEY = 0x62756971, // "buiq": the advisory lock of everything that changes the schema
  SESSION_PROBES = 3
};

typedef struct migration {
  int version;        // NNNN of its file's name
  int oldest_program; // the schema version that an older program must know at least
  char *name;         // owned; the file's name
  char *text;         // owned; SQL
} migration;

typedef struct run {
  PGconn *pg;
  migration *files; // owned, sorted by version
  size_t count;
  const bq_migrate_options *options;
  void (*report)(void *arg, const char *line);
  void *arg;
} run;

static void report(const run *r, const char *fmt, ...) BQ_PRINTF(2, 3);

static void report(const run *r, const char *fmt, ...) {
  char line[512];
  va_list args;
  va_start(args, fmt);
  (void)vsnprintf(line, sizeof line, fmt, args);
  va_end(args);
  if (r->report != NULL) r->report(r->arg, line);
}

// PostgreSQL's words end in a line break.
static int fail_pg(const run *r, const char *what, bq_error *err) {
  const char *text = PQerrorMessage(r->pg);
  int length = (int)strlen(text);
  while (length > 0 && text[length - 1] == '\n') length--;
  return bq_fail(err, BQ_EDATABASE, "%s: %.*s", what, length, text);
}

static int execute(const run *r, const char *sql, const char *what, bq_error *err) {
  PGresult *result = PQexec(r->pg, sql);
  ExecStatusType status = PQresultStatus(result);
  PQclear(result);
  return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : fail_pg(r, what, err);
}

// The first column of the first row as a number; `absent` without one.
static int query_number(const run *r, const char *sql, long long absent, long long *out, bq_error *err) {
  PGresult *result = PQexec(r->pg, sql);
  int code = 0;
  if (PQresultStatus(result) != PGRES_TUPLES_OK) code = fail_pg(r, "reading the schema's state failed", err);
  else if (PQntuples(result) == 0 || PQgetisnull(result, 0, 0)) *out = absent;
  else *out = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
  PQclear(result);
  return code;
}

// Files -----------------------------------------------------------------------------------------------------------

static int by_version(const void *a, const void *b) {
  return ((const migration *)a)->version - ((const migration *)b)->version;
}

static int read_header(migration *m, bq_error *err) {
  static const char header[] = "-- oldest program: ";
  if (strncmp(m->text, header, sizeof header - 1) != 0) {
    return bq_fail(err, BQ_EINVAL, "%s does not begin with \"%sN\"", m->name, header);
  }
  m->oldest_program = (int)strtol(m->text + sizeof header - 1, NULL, 10);
  return 0;
}

static int read_migration(const char *directory, const char *name, migration *out, bq_error *err) {
  char *path = bq_format("%s/%s", directory, name);
  size_t length;
  out->version = (int)strtol(name, NULL, 10);
  out->name = bq_strdup(name);
  if (path == NULL || out->name == NULL) {
    bq_free(path);
    return bq_fail(err, BQ_ENOMEM, "out of memory for migrations");
  }
  int result = bq_file_read(path, MAX_FILE_BYTES, &out->text, &length, err);
  bq_free(path);
  return result < 0 ? result : read_header(out, err);
}

static int read_migrations(run *r, const char *directory, bq_error *err) {
  DIR *dir = opendir(directory);
  if (dir == NULL) return bq_fail(err, BQ_EIO, "there is no directory of migrations %s: is the program installed whole?",
                                  directory);
  struct dirent *entry;
  int result = 0;
  r->files = bq_alloc_array(MAX_FILES, sizeof r->files[0]);
  if (r->files == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for migrations");
  while (result == 0 && (entry = readdir(dir)) != NULL) {
    size_t length = strlen(entry->d_name);
    if (length < 9 || strcmp(entry->d_name + length - 4, ".sql") != 0 || strspn(entry->d_name, "0123456789") != 4) continue;
    if (r->count == MAX_FILES) result = bq_fail(err, BQ_ELIMIT, "more than %d migrations", MAX_FILES);
    else result = read_migration(directory, entry->d_name, &r->files[r->count++], err);
  }
  (void)closedir(dir);
  if (result < 0) return result;
  if (r->count == 0) return bq_fail(err, BQ_ENOTFOUND, "there are no migrations in %s", directory);
  qsort(r->files, r->count, sizeof r->files[0], by_version);
  return 0;
}

// State -----------------------------------------------------------------------------------------------------------

// A pooler in transaction mode gives each statement another session: prepared statements, LISTEN and settings are lost.
static int check_session(const run *r, bq_error *err) {
  int result = execute(r, "set buildq.session_probe = 'buildq'", "a session setting failed", err);
  for (int i = 0; i < SESSION_PROBES && result == 0; i++) {
    long long kept = 0;
    result = query_number(r, "select 1 where current_setting('buildq.session_probe', true) = 'buildq'", 0, &kept, err);
    if (result == 0 && kept != 1) {
      result = bq_fail(err, BQ_EINVAL, "the connection is through a pooler in transaction mode: buildq needs session "
                                       "mode (pgbouncer: pool_mode = session)");
    }
  }
  return result;
}

static int check_newer(const run *r, bq_error *err) {
  long long oldest = 0;
  int newest = r->files[r->count - 1].version;
  int result = query_number(r, "select max(oldest_program) from schema_migrations", 0, &oldest, err);
  if (result == 0 && oldest > newest) {
    result = bq_fail(err, BQ_ECONFLICT, "the database's schema needs a program that knows version %lld, this one knows "
                                        "%d: install the newer buildq", oldest, newest);
  }
  return result;
}

static int is_applied(const run *r, const migration *m, int *applied, bq_error *err) {
  char sql[120];
  long long found = 0;
  (void)snprintf(sql, sizeof sql, "select 1 from schema_migrations where version = %d", m->version);
  int result = query_number(r, sql, 0, &found, err);
  *applied = found == 1;
  return result;
}

static int apply(const run *r, const migration *m, bq_error *err) {
  char setting[160];
  char record[400];
  char *name = PQescapeLiteral(r->pg, m->name, strlen(m->name));
  if (name == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for migrations");
  (void)snprintf(setting, sizeof setting, "set local buildq.max_retry_attempts = '%d'", r->options->max_retry_attempts);
  (void)snprintf(record, sizeof record,
                 "insert into schema_migrations (version, name, oldest_program) values (%d, %s, %d)", m->version, name,
                 m->oldest_program);
  PQfreemem(name);
  int result = execute(r, "begin", m->name, err);
  if (result == 0) result = execute(r, setting, m->name, err);
  if (result == 0) result = execute(r, m->text, m->name, err);
  if (result == 0) result = execute(r, record, m->name, err);
  if (result == 0) result = execute(r, "commit", m->name, err);
  if (result < 0) {
    PQclear(PQexec(r->pg, "rollback"));
    return result;
  }
  report(r, "applied %s", m->name);
  return 0;
}

static void report_adoption(const run *r) {
  PGresult *result = PQexec(r->pg, "select count(*), count(*) filter (where status = 'pending'), "
                                   "(select adopted_builds from queue_control), "
                                   "(select retention_allowed from queue_control) from build_queue where adopted");
  if (PQresultStatus(result) == PGRES_TUPLES_OK && strcmp(PQgetvalue(result, 0, 0), "0") != 0) {
    report(r, "adopted %s builds of the previous service, %s of them pending", PQgetvalue(result, 0, 0),
           PQgetvalue(result, 0, 1));
    if (PQgetvalue(result, 0, 3)[0] == 'f') {
      report(r, "no old build is removed before you confirm it: buildq retention confirm %s", PQgetvalue(result, 0, 2));
    }
  }
  PQclear(result);
}

static int migrate_locked(const run *r, bq_error *err) {
  static const char table[] = "create table if not exists schema_migrations (version integer primary key, name text not "
                              "null, applied_at timestamptz not null default now(), oldest_program integer not null)";
  long long exists = 0;
  int applied_any = 0;
  int result = query_number(r, "select 1 where to_regclass('schema_migrations') is not null", 0, &exists, err);
  if (result == 0 && exists == 0 && r->options->check_only) {
    return bq_fail(err, BQ_ECONFLICT, "the database has no schema of buildq: run `buildq migrate`");
  }
  if (result == 0 && exists == 0) result = execute(r, table, "making schema_migrations failed", err);
  if (result == 0) result = check_newer(r, err);
  for (size_t i = 0; i < r->count && result == 0; i++) {
    int applied = 0;
    result = is_applied(r, &r->files[i], &applied, err);
    if (result < 0 || applied) continue;
    if (r->options->check_only) {
      return bq_fail(err, BQ_ECONFLICT, "the database's schema lacks %s: run `buildq migrate`", r->files[i].name);
    }
    result = apply(r, &r->files[i], err);
    applied_any = 1;
  }
  if (result == 0 && applied_any) report_adoption(r);
  return result;
}

static void drop_notice(void *arg, const char *message) {
  (void)arg;
  (void)message; // "already exists, skipping": the migrations are written to be run on either
}

int bq_migrate(const char *conninfo, const char *directory, const bq_migrate_options *options,
               void (*report_line)(void *arg, const char *line), void *arg, bq_error *err) {
  char lock[80];
  run r = {.options = options, .report = report_line, .arg = arg};
  int result = read_migrations(&r, directory, err);
  if (result < 0) goto cleanup;
  r.pg = PQconnectdb(conninfo);
  if (r.pg == NULL || PQstatus(r.pg) != CONNECTION_OK) {
    result = r.pg == NULL ? bq_fail(err, BQ_ENOMEM, "out of memory") : fail_pg(&r, "can't reach the database", err);
    goto cleanup;
  }
  (void)PQsetNoticeProcessor(r.pg, drop_notice, NULL);
  result = check_session(&r, err);
  // One at a time: the others wait here and then find everything done.
  (void)snprintf(lock, sizeof lock, "select pg_advisory_lock(%d)", LOCK_KEY);
  if (result == 0) result = execute(&r, lock, "locking the schema failed", err);
  if (result == 0) result = migrate_locked(&r, err);
cleanup:
  if (r.pg != NULL) PQfinish(r.pg); // the lock goes with the session
  for (size_t i = 0; i < r.count; i++) {
    bq_free(r.files[i].name);
    bq_free(r.files[i].text);
  }
  bq_free(r.files);
  return result;
}
