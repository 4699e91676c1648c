// buildq retention show|confirm COUNT
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/command.h"
#include "cli/database.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "io/statements.h"

typedef struct arguments {
  bq_common common;
  const char *words[2];
  int count;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case ARGP_KEY_ARG:
    if (a->count == 2) argp_usage(state);
    a->words[a->count++] = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// Runs one named statement with one parameter. The result is the caller's (PQclear).
static int query(const bq_config *config, const char *name, const char *param, PGresult **out, bq_error *err) {
  char *conninfo = NULL;
  char *share = NULL;
  char *directory = NULL;
  bq_statements *statements = NULL;
  PGconn *pg = NULL;
  int result = bq_database_conninfo(config, &conninfo, err);
  if (result == 0) result = bq_share_find(&share, err);
  if (result == 0) {
    directory = bq_format("%s/sql/queries", share);
    result = directory != NULL ? bq_statements_load(&statements, directory, err)
                               : bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  if (result < 0) goto cleanup;
  const bq_statement *statement = bq_statements_find(statements, name);
  pg = PQconnectdb(conninfo);
  if (statement == NULL || PQstatus(pg) != CONNECTION_OK) {
    result = bq_fail(err, BQ_EUNAVAIL, "can't reach the database: %s", PQerrorMessage(pg));
    goto cleanup;
  }
  *out = PQexecParams(pg, statement->text, 1, NULL, &param, NULL, NULL, 0);
  if (PQresultStatus(*out) != PGRES_TUPLES_OK) {
    result = bq_fail(err, BQ_EDATABASE, "%s", PQresultErrorMessage(*out));
    PQclear(*out);
    *out = NULL;
  }
cleanup:
  if (pg != NULL) PQfinish(pg);
  bq_statements_free(statements);
  bq_free(directory);
  bq_free(share);
  bq_free(conninfo);
  return result;
}

static int show(const bq_config *config, bq_error *err) {
  char days[16];
  PGresult *rows = NULL;
  (void)snprintf(days, sizeof days, "%d", config->completed_build_retention_days);
  int result = query(config, "retention_state", days, &rows, err);
  if (result == 0) (void)puts(PQntuples(rows) > 0 ? PQgetvalue(rows, 0, 0) : "{}");
  PQclear(rows);
  return result;
}

static int confirm(const bq_config *config, const char *count, bq_error *err) {
  PGresult *rows = NULL;
  int result = query(config, "retention_confirm", count, &rows, err);
  if (result == 0 && PQntuples(rows) == 0) {
    result = bq_fail(err, BQ_ECONFLICT, "%s is not the number of adopted builds: `buildq retention show` tells it", count);
  } else if (result == 0) {
    (void)printf("confirmed: builds that ended more than %d days ago will be removed\n",
                 config->completed_build_retention_days);
  }
  PQclear(rows);
  return result;
}

int bq_command_retention(int argc, char **argv) {
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .parser = parse,
      .args_doc = "show\nconfirm COUNT",
      .doc = "On a database that was taken over from the old service nothing is removed before somebody has confirmed "
             "how many builds it had." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  bq_error err;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  int shows = a.count == 1 && strcmp(a.words[0], "show") == 0;
  int confirms = a.count == 2 && strcmp(a.words[0], "confirm") == 0 && a.words[1][0] != '\0' &&
                 strspn(a.words[1], "0123456789") == strlen(a.words[1]);
  if (!shows && !confirms) {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    return BQ_EXIT_USAGE;
  }
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  int result = shows ? show(config, &err) : confirm(config, a.words[1], &err);
  bq_config_free(config);
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err.message);
  return result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
