// buildq serve
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/demonstrate.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "queue/server.h"

enum { OPTION_NO_MIGRATE = 0x600, OPTION_DEMONSTRATE, MAX_DEMONSTRATIONS = 4 };

typedef struct arguments {
  bq_common common;
  int no_migrate;
  const char *demonstrate[MAX_DEMONSTRATIONS + 1]; // paths of manifests in ManifestDirectory, NULL at the end
  size_t demonstrations;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_NO_MIGRATE: a->no_migrate = 1; return 0;
  case OPTION_DEMONSTRATE:
    if (a->demonstrations == MAX_DEMONSTRATIONS) argp_error(state, "--demonstrate is given more than 4 times");
    a->demonstrate[a->demonstrations++] = value;
    return 0;
  case ARGP_KEY_ARG: argp_usage(state); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static void on_ready(void *arg, const char *address) {
  bq_demonstrate(address, arg);
}

int bq_command_serve(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"no-migrate", OPTION_NO_MIGRATE, NULL, 0, "Leave the schema as it is; stop when it isn't up to date", 1},
      {"demonstrate", OPTION_DEMONSTRATE, "MANIFEST", 0, "Submit this manifest of ManifestDirectory and follow it; given again, the next one",
       1},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .doc = "Runs the server until SIGTERM or Ctrl-C (a second one stops at once). SIGHUP reads configuration and "
             "scripts again." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  bq_log_setup((bq_log_level)config->log_level, (bq_log_format)config->log_format);
  char *share = NULL;
  bq_error err;
  int result = bq_share_find(&share, &err);
  if (result == 0) {
    const bq_serve_options serve = {.share = share,
                                    .source = &source,
                                    .migrate = !a.no_migrate,
                                    .ends_with_parent = a.demonstrations > 0,
                                    .ready = a.demonstrations > 0 ? on_ready : NULL,
                                    .arg = a.demonstrate};
    result = bq_serve(config, &serve, &err);
  } else {
    bq_config_free(config);
  }
  if (result < 0) bq_log_error("the server could not go on", &err);
  // What exit() takes down (OpenSSL, libraries of Lua) is in use by the threads that are still at work.
  if (result != 0) _exit(result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK);
  bq_free(share);
  return result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
