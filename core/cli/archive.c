// buildq archive --before DATE --to FILE, buildq archive --restore FILE
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/database.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "cli/since.h"
#include "io/statements.h"

enum { BATCH = 200 }; // restored builds of one transaction

typedef struct arguments {
  bq_common common;
  const char *before;
  const char *to;
  const char *restore;
} arguments;

// A session and its named statements.
typedef struct session {
  PGconn *pg;
  bq_statements *statements;
} session;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 'b': a->before = value; return 0;
  case 't': a->to = value; return 0;
  case 'r': a->restore = value; return 0;
  case ARGP_KEY_ARG: argp_usage(state); return 0;
  case ARGP_KEY_END:
    if ((a->restore != NULL) == (a->before != NULL) || (a->before == NULL) != (a->to == NULL)) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int fail_database(PGconn *pg, bq_error *err) {
  return bq_fail(err, BQ_EDATABASE, "the database: %s", PQerrorMessage(pg));
}

static void close_session(session *s) {
  if (s->pg != NULL) PQfinish(s->pg);
  bq_statements_free(s->statements);
}

static int open_session(session *s, const bq_config *config, bq_error *err) {
  char *conninfo = NULL;
  char *share = NULL;
  char *queries = NULL;
  int result = bq_database_conninfo(config, &conninfo, err);
  if (result == 0) result = bq_share_find(&share, err);
  if (result == 0) {
    queries = bq_format("%s/sql/queries", share);
    result = queries != NULL ? bq_statements_load(&s->statements, queries, err)
                             : bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  if (result == 0) {
    s->pg = PQconnectdb(conninfo);
    if (PQstatus(s->pg) != CONNECTION_OK) {
      result = bq_fail(err, BQ_EUNAVAIL, "can't reach the database: %s", PQerrorMessage(s->pg));
    }
  }
  bq_free(queries);
  bq_free(share);
  bq_free(conninfo);
  return result;
}

static int execute(session *s, const char *sql, bq_error *err) {
  PGresult *done = PQexec(s->pg, sql);
  ExecStatusType status = PQresultStatus(done);
  PQclear(done);
  return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : fail_database(s->pg, err);
}

// Archive ------------------------------------------------------------------------------------------------------------

// Writes each row of a statement as a line, one row in memory at a time.
static int write_rows(session *s, const char *name, const char *before, FILE *file, long *count, bq_error *err) {
  const bq_statement *statement = bq_statements_find(s->statements, name);
  PGresult *row;
  int result = 0;
  if (statement == NULL) return bq_fail(err, BQ_ENOTFOUND, "sql/queries has no statement %s", name);
  if (!PQsendQueryParams(s->pg, statement->text, 1, NULL, &before, NULL, NULL, 0) || !PQsetSingleRowMode(s->pg)) {
    return fail_database(s->pg, err);
  }
  while ((row = PQgetResult(s->pg)) != NULL) {
    ExecStatusType status = PQresultStatus(row);
    if (result == 0 && status == PGRES_SINGLE_TUPLE) {
      if (fputs(PQgetvalue(row, 0, 0), file) == EOF || fputc('\n', file) == EOF) {
        result = bq_fail_errno(err, errno, "can't write the archive");
      }
      (*count)++;
    } else if (result == 0 && status != PGRES_TUPLES_OK) {
      result = fail_database(s->pg, err);
    }
    PQclear(row);
  }
  return result;
}

// On the disk when it returns: retention may remove the builds next.
static int finish_file(FILE *file, int to_output, bq_error *err) {
  int failed = fflush(file) != 0 || (!to_output && fsync(fileno(file)) != 0);
  if (!to_output && fclose(file) != 0) failed = 1;
  return failed ? bq_fail_errno(err, errno, "can't write the archive") : 0;
}

static int archive(session *s, const char *before, const char *path, bq_error *err) {
  int to_output = strcmp(path, "-") == 0;
  long lines = 0;
  // It holds mail addresses.
  int fd = to_output ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  FILE *file = to_output ? stdout : fd >= 0 ? fdopen(fd, "w") : NULL;
  if (file == NULL) return bq_fail_errno(err, errno, "can't make %s", path);
  int result = execute(s, "begin transaction isolation level repeatable read, read only", err);
  if (result == 0) result = write_rows(s, "archive_head", before, file, &lines, err);
  if (result == 0) result = write_rows(s, "archive", before, file, &lines, err);
  bq_error ended;
  int flushed = finish_file(file, to_output, &ended);
  if (result == 0 && flushed < 0) {
    *err = ended;
    result = flushed;
  }
  if (result < 0 && !to_output) (void)unlink(path);
  if (result == 0) (void)fprintf(stderr, "%ld build%s archived\n", lines - 1, lines == 2 ? "" : "s");
  return result;
}

// Restore ------------------------------------------------------------------------------------------------------------

static int restore_line(session *s, const bq_statement *statement, const char *line, long counts[2], bq_error *err) {
  PGresult *rows = PQexecParams(s->pg, statement->text, 1, NULL, &line, NULL, NULL, 0);
  int result = PQresultStatus(rows) == PGRES_TUPLES_OK ? 0 : fail_database(s->pg, err);
  if (result == 0) counts[strcmp(PQgetvalue(rows, 0, 0), "t") == 0]++;
  PQclear(rows);
  return result;
}

static int restore_lines(session *s, FILE *file, const char *name, long counts[2], bq_error *err) {
  const bq_statement *statement = bq_statements_find(s->statements, "restore");
  char *line = NULL;
  size_t room = 0;
  int has_head = getline(&line, &room, file) > 0;
  int result = 0;
  if (!has_head || strstr(line, "\"buildq archive 1\"") == NULL) {
    result = bq_fail(err, BQ_EINVAL, "%s is no archive: its first line must say \"buildq archive 1\"", name);
  } else if (statement == NULL) {
    result = bq_fail(err, BQ_ENOTFOUND, "sql/queries has no statement restore");
  }
  for (long number = 2; result == 0 && getline(&line, &room, file) > 0; number++) {
    if (number % BATCH == 2) result = execute(s, number == 2 ? "begin" : "commit; begin", err);
    if (result == 0) result = restore_line(s, statement, line, counts, err);
    if (result < 0) (void)bq_fail_in(err, "%s:%ld", name, number);
  }
  if (result == 0 && ferror(file)) result = bq_fail_errno(err, errno, "can't read %s", name);
  if (result == 0) result = execute(s, "commit", err);
  free(line); // getline's
  return result;
}

static int restore(session *s, const char *path, bq_error *err) {
  int is_input = strcmp(path, "-") == 0;
  long counts[2] = {0, 0}; // there already; restored
  FILE *file = is_input ? stdin : fopen(path, "re");
  if (file == NULL) return bq_fail_errno(err, errno, "can't read %s", path);
  int result = restore_lines(s, file, is_input ? "standard input" : path, counts, err);
  if (!is_input) (void)fclose(file);
  if (result == 0) {
    (void)fprintf(stderr, "%ld build%s restored, %ld there already\n", counts[1], counts[1] == 1 ? "" : "s", counts[0]);
  }
  return result;
}

// A date is its beginning in UTC.
static int read_before(const char *text, char *out, size_t size) {
  int is_date = strlen(text) == 10 && text[4] == '-' && text[7] == '-';
  char whole[24];
  (void)snprintf(whole, sizeof whole, "%.10sT00:00:00Z", text);
  return bq_since_read(is_date ? whole : text, bq_clock_wall_us(), out, size);
}

static int perform(const arguments *a, const bq_config *config, bq_error *err) {
  char before[40];
  session s = {0};
  if (a->before != NULL && !read_before(a->before, before, sizeof before)) {
    return bq_fail(err, BQ_EINVAL, "--before %s is neither a date (2026-01-31), nor a time, nor so long ago (90d)",
                   a->before);
  }
  int result = open_session(&s, config, err);
  if (result == 0 && a->restore != NULL) result = restore(&s, a->restore, err);
  else if (result == 0) result = archive(&s, before, a->to, err);
  close_session(&s);
  return result;
}

int bq_command_archive(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"before", 'b', "WHEN", 0, "Builds that ended before: a date, a time, or how long ago (90d)", 1},
      {"to", 't', "FILE", 0, "A new file, readable by you alone; - is standard output", 1},
      {"restore", 'r', "FILE", 0, "Put the builds of an archive back; - is standard input", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "--before WHEN --to FILE\n--restore FILE",
      .doc = "Writes builds that have ended, with their attempts and history, as JSON lines; or puts them back. "
             "Archiving removes nothing: retention does, after CompletedBuildRetentionDays. What was restored is kept "
             "as long as if it had ended now; its files are not in the archive." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  bq_error err;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  int result = perform(&a, config, &err);
  bq_config_free(config);
  if (result == 0) return BQ_EXIT_OK;
  (void)fprintf(stderr, "buildq: %s\n", err.message);
  return result == BQ_EINVAL && a.before != NULL ? BQ_EXIT_USAGE : BQ_EXIT_FAILURE;
}
