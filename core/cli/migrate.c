// buildq migrate
#include <stdio.h>

#include "base/memory.h"
#include "cli/command.h"
#include "cli/database.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "queue/migrate.h"

enum { OPTION_DRY_RUN = 0x700 };

typedef struct arguments {
  bq_common common;
  int dry_run;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  (void)value;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_DRY_RUN: a->dry_run = 1; return 0;
  case ARGP_KEY_ARG: argp_usage(state); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static void print_line(void *arg, const char *line) {
  (void)arg;
  (void)puts(line);
}

static int migrate(const bq_config *config, int dry_run, bq_error *err) {
  char *conninfo = NULL;
  char *share = NULL;
  char *directory = NULL;
  const bq_migrate_options options = {.max_retry_attempts = config->max_retry_attempts, .dry_run = dry_run};
  int result = bq_database_conninfo(config, &conninfo, err);
  if (result == 0) result = bq_share_find(&share, err);
  if (result == 0) {
    directory = bq_format("%s/sql/migrations", share);
    result = directory != NULL ? bq_migrate(conninfo, directory, &options, print_line, NULL, err)
                               : bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  bq_free(directory);
  bq_free(share);
  bq_free(conninfo);
  return result;
}

int bq_command_migrate(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"dry-run", OPTION_DRY_RUN, NULL, 0, "Say what would be applied, change nothing", 1}, {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {.options = options,
                                   .parser = parse,
                                   .doc = "Brings the database's schema up to date, and adopts the table of the old "
                                          "service." BQ_EXIT_TEXT,
                                   .children = children};
  arguments a = {0};
  bq_error err;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  int result = migrate(config, a.dry_run, &err);
  bq_config_free(config);
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err.message);
  else if (!a.dry_run) (void)puts("the schema is up to date");
  return result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
