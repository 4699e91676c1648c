// buildq check
#include <stdio.h>

#include "base/memory.h"
#include "cli/command.h"
#include "cli/database.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "queue/preflight.h"

enum { OPTION_CONNECT = 0x900 };

typedef struct arguments {
  bq_common common;
  int connect;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  (void)value;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_CONNECT: a->connect = 1; return 0;
  case ARGP_KEY_ARG: argp_usage(state); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static void print_line(void *arg, int fault, const char *subject, const char *text) {
  (void)arg;
  (void)fprintf(fault ? stderr : stdout, "%s %s: %s\n", fault ? "FAULT" : "ok   ", subject, text);
}

static int check(const bq_config *config, int connect) {
  char *share = NULL;
  char *conninfo = NULL;
  bq_error err;
  int faults = 0;
  if (bq_share_find(&share, &err) < 0) {
    print_line(NULL, 1, "program", err.message);
    return 1;
  }
  int found = connect ? bq_database_conninfo(config, &conninfo, &err) : 0;
  if (found < 0 && found != BQ_EUNAVAIL) { // that one: nothing runs, which may be right
    print_line(NULL, 1, "database", err.message);
    faults = 1;
  }
  const bq_preflight_options options = {.share = share, .connect = connect, .conninfo = conninfo, .report = print_line};
  faults += bq_preflight(config, &options);
  bq_free(conninfo);
  bq_free(share);
  return faults;
}

int bq_command_check(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"connect", OPTION_CONNECT, NULL, 0, "Also the database, the directories, the disk, the sandbox and the mail server's login", 1}, {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .doc = "Checks configuration, scripts, templates and the manifests of ManifestDirectory without starting; all "
             "faults at once." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  (void)puts("ok    configuration");
  int faults = check(config, a.connect);
  bq_config_free(config);
  if (faults > 0) (void)fprintf(stderr, "%d fault%s\n", faults, faults == 1 ? "" : "s");
  else (void)puts("no faults");
  return faults > 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
