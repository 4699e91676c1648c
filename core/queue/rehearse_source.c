#include "queue/rehearse_source.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "io/hash.h"
#include "io/statements.h"
#include "queue/rehearse_past.h"

static int fail_database(PGconn *pg, bq_error *err) {
  return bq_fail(err, BQ_EDATABASE, "the history could not be read: %s", PQerrorMessage(pg));
}

static int execute(PGconn *pg, const char *sql, bq_error *err) {
  PGresult *result = PQexec(pg, sql);
  ExecStatusType status = PQresultStatus(result);
  PQclear(result);
  return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : fail_database(pg, err);
}

static int hand_over(const char *text, size_t length, bq_history_line line, void *arg, bq_error *err) {
  json_t *value;
  int result = bq_json_parse(text, length, BQ_JSON_STRICT, &value, err);
  if (result < 0) return result;
  result = line(arg, value, err);
  json_decref(value);
  return result;
}

// Runs a statement with one parameter, a row at a time; each is one line.
static int read_rows(PGconn *pg, const bq_statement *statement, const char *param, bq_history_line line, void *arg,
                     bq_error *err) {
  int result = 0;
  PGresult *row;
  if (!PQsendQueryParams(pg, statement->text, 1, NULL, &param, NULL, NULL, 0) || !PQsetSingleRowMode(pg)) {
    return fail_database(pg, err);
  }
  while ((row = PQgetResult(pg)) != NULL) {
    ExecStatusType status = PQresultStatus(row);
    if (result == 0 && status == PGRES_SINGLE_TUPLE) {
      result = hand_over(PQgetvalue(row, 0, 0), (size_t)PQgetlength(row, 0, 0), line, arg, err);
      if (result < 0) break; // the connection is closed: the rest isn't waited for
    } else if (result == 0 && status != PGRES_TUPLES_OK) {
      result = fail_database(pg, err);
    }
    PQclear(row);
    row = NULL;
  }
  PQclear(row);
  return result;
}

static int read_snapshot(PGconn *pg, const bq_statements *statements, const char *since, bq_history_line line,
                         void *arg, bq_error *err) {
  const bq_statement *head = bq_statements_find(statements, "history_head");
  const bq_statement *builds = bq_statements_find(statements, "history");
  if (head == NULL || builds == NULL) {
    return bq_fail(err, BQ_ENOTFOUND, "sql/queries has no statements history_head and history: the program's files are "
                                      "of another version");
  }
  int result = execute(pg, "begin transaction isolation level repeatable read, read only", err);
  if (result == 0) result = read_rows(pg, head, since, line, arg, err);
  if (result == 0) result = read_rows(pg, builds, since, line, arg, err);
  if (result == 0) result = execute(pg, "commit", err);
  return result;
}

// A session, with the named statements: what all that reads the database begins with.
static int open_session(PGconn **pg, bq_statements **statements, const char *conninfo, const char *queries,
                        bq_error *err) {
  int result = bq_statements_load(statements, queries, err);
  if (result < 0) return result;
  *pg = PQconnectdb(conninfo);
  if (PQstatus(*pg) == CONNECTION_OK) return 0;
  result = bq_fail(err, BQ_EUNAVAIL, "can't reach the database: %s", PQerrorMessage(*pg));
  PQfinish(*pg);
  bq_statements_free(*statements);
  return result;
}

int bq_history_read_database(const char *conninfo, const char *queries, const char *since, bq_history_line line,
                             void *arg, bq_error *err) {
  PGconn *pg;
  bq_statements *statements;
  int result = open_session(&pg, &statements, conninfo, queries, err);
  if (result < 0) return result;
  result = read_snapshot(pg, statements, since, line, arg, err);
  PQfinish(pg);
  bq_statements_free(statements);
  return result;
}

// The first value of a statement as JSON, the caller's; NULL when there is no row.
static int ask_json(PGconn *pg, const bq_statements *statements, const char *name, const char *param, json_t **out,
                    bq_error *err) {
  const bq_statement *statement = bq_statements_find(statements, name);
  *out = NULL;
  if (statement == NULL) return bq_fail(err, BQ_ENOTFOUND, "sql/queries has no statement %s", name);
  PGresult *rows = PQexecParams(pg, statement->text, param != NULL, NULL, &param, NULL, NULL, 0);
  int result = PQresultStatus(rows) == PGRES_TUPLES_OK ? 0 : fail_database(pg, err);
  if (result == 0 && PQntuples(rows) > 0 && !PQgetisnull(rows, 0, 0)) {
    result = bq_json_parse(PQgetvalue(rows, 0, 0), (size_t)PQgetlength(rows, 0, 0), BQ_JSON_STRICT, out, err);
  }
  PQclear(rows);
  return result;
}

static int make_sources(const json_t *files, bq_sources **out, bq_error *err) {
  size_t index;
  json_t *file;
  int result = bq_sources_new(out, err);
  if (result < 0) return result;
  json_array_foreach(files, index, file) {
    const char *path = json_string_value(json_object_get(file, "path"));
    const json_t *content = json_object_get(file, "content");
    if (path == NULL || !json_is_string(content)) continue;
    result = bq_sources_add(*out, path, json_string_value(content), json_string_length(content), 0, err);
    if (result < 0) break;
  }
  if (result == 0) result = bq_sources_seal(*out, err);
  if (result == 0) return 0;
  bq_sources_free(*out);
  *out = NULL;
  return result;
}

int bq_rehearse_activated(bq_sources **out, const char *conninfo, const char *queries, bq_error *err) {
  PGconn *pg;
  bq_statements *statements;
  json_t *activation = NULL;
  json_t *files = NULL;
  *out = NULL;
  int result = open_session(&pg, &statements, conninfo, queries, err);
  if (result < 0) return result;
  result = ask_json(pg, statements, "activation", NULL, &activation, err);
  const char *hash = json_string_value(json_object_get(activation, "generation"));
  int all = json_integer_value(json_object_get(activation, "share")) == 100; // else policies are the servers' own
  if (result == 0 && hash != NULL && all) result = ask_json(pg, statements, "load_generation", hash, &files, err);
  if (result == 0 && files != NULL) result = make_sources(files, out, err);
  json_decref(files);
  json_decref(activation);
  PQfinish(pg);
  bq_statements_free(statements);
  return result;
}

int bq_history_read_file(FILE *file, const char *name, bq_history_line line, void *arg, bq_error *err) {
  char *text = bq_alloc(BQ_PAST_MAX_LINE_BYTES);
  if (text == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a line of %s", name);
  int result = 0;
  for (size_t number = 1; result == 0 && fgets(text, BQ_PAST_MAX_LINE_BYTES, file) != NULL; number++) {
    size_t length = strlen(text);
    int whole = length > 0 && (text[length - 1] == '\n' || feof(file));
    if (whole && strspn(text, " \t\r\n") == length) continue;
    if (whole) result = hand_over(text, length, line, arg, err);
    else result = bq_fail(err, BQ_ELIMIT, "a line of more than %d bytes, or with a NUL", BQ_PAST_MAX_LINE_BYTES);
    if (result < 0) (void)bq_fail_in(err, "%s:%zu", name, number);
  }
  if (result == 0 && ferror(file)) result = bq_fail(err, BQ_EIO, "%s can't be read", name);
  bq_free(text);
  return result;
}

// Names --------------------------------------------------------------------------------------------------------------

static int hide(json_t *line, const char *member, const char *prefix, const char *salt, bq_error *err) {
  char hash[BQ_HASH_TEXT_SIZE];
  const char *text = json_string_value(json_object_get(line, member));
  if (text == NULL) return 0;
  char *salted = bq_format("%s\n%s\n%s", salt, member, text);
  if (salted == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a name");
  int result = bq_hash_bytes(salted, strlen(salted), hash, err);
  bq_free(salted);
  if (result < 0) return result;
  json_t *hidden = json_sprintf("%s%.16s", prefix, hash);
  return json_object_set_new(line, member, hidden) == 0 ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a name");
}

int bq_history_anonymize(json_t *line, const char *salt, bq_error *err) {
  int result = hide(line, "customerId", "c-", salt, err);
  if (result == 0) result = hide(line, "customerName", "Customer ", salt, err);
  if (result == 0) result = hide(line, "configurationName", "conf-", salt, err);
  if (result == 0) (void)json_object_del(line, "metadata");
  return result;
}

// Scripts ------------------------------------------------------------------------------------------------------------

static int name_of(const char *path, char name[BQ_POLICY_NAME_SIZE], bq_error *err) {
  const char *slash = strrchr(path, '/');
  const char *file = slash != NULL ? slash + 1 : path;
  size_t length = strlen(file);
  if (length < 5 || strcmp(file + length - 4, ".lua") != 0 || length - 4 >= BQ_POLICY_NAME_SIZE) {
    return bq_fail(err, BQ_EINVAL, "%s: a policy's file is named NAME.lua", path);
  }
  memcpy(name, file, length - 4);
  name[length - 4] = '\0';
  if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == length - 4 && strcmp(name, "active") != 0) return 0;
  return bq_fail(err, BQ_EINVAL, "%s: the name of a policy has lower-case letters, digits, - and _ only, and is not "
                                 "active", path);
}

// A copy of `from`; `path` not NULL: with `text` as that file.
static int copy_sources(const bq_sources *from, const char *path, const char *text, size_t length, bq_sources **out,
                        bq_error *err) {
  int result = bq_sources_new(out, err);
  if (result < 0) return result;
  for (size_t i = 0; i < bq_sources_count(from) && result == 0; i++) {
    const bq_source *source = bq_sources_at(from, i);
    if (path != NULL && strcmp(source->path, path) == 0) continue;
    result = bq_sources_add(*out, source->path, source->text, source->length, source->overlaid, err);
  }
  if (result == 0 && path != NULL) result = bq_sources_add(*out, path, text, length, 1, err);
  if (result == 0) result = bq_sources_seal(*out, err);
  if (result < 0) bq_sources_free(*out);
  return result;
}

// `base` with the policy at `path` in it.
static int add_policy(const bq_sources *base, const char *path, char name[BQ_POLICY_NAME_SIZE], bq_sources **out,
                      bq_error *err) {
  char *text = NULL;
  size_t length;
  int result = name_of(path, name, err);
  if (result == 0) result = bq_file_read(path, BQ_SOURCES_MAX_FILE_BYTES, &text, &length, err);
  if (result < 0) return result;
  char *place = bq_format("scripts/policies/%s.lua", name);
  result = place != NULL ? copy_sources(base, place, text, length, out, err)
                         : bq_fail(err, BQ_ENOMEM, "out of memory for %s", path);
  bq_free(place);
  bq_free(text);
  return result;
}

int bq_rehearse_generation(bq_generation **out, const bq_sources *base, const char *path,
                           char name[BQ_POLICY_NAME_SIZE], bq_error *err) {
  bq_sources *sources = NULL;
  int result = path != NULL ? add_policy(base, path, name, &sources, err)
                            : copy_sources(base, NULL, NULL, 0, &sources, err);
  return result == 0 ? bq_generation_compile(out, sources, NULL, err) : result;
}
