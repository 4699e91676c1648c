// buildq config init|show|options
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/settings.h"

typedef struct arguments {
  bq_common common;
  const char *action;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case ARGP_KEY_ARG:
    if (a->action != NULL) argp_usage(state);
    a->action = value;
    return 0;
  case ARGP_KEY_END:
    if (a->action == NULL) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int show(const bq_common *common, bq_error *err) {
  const bq_config_source source = {.path = common->config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return bq_fail(err, BQ_EINVAL, "the configuration has faults");
  int result = bq_config_print(config, stdout, err);
  bq_config_free(config);
  return result;
}

int bq_command_config(int argc, char **argv) {
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .parser = parse,
      .args_doc = "init\nshow\noptions",
      .doc = "init writes a commented configuration with all defaults to standard output, show prints the values in "
             "effect and where each comes from, options prints the table of options that README has." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  bq_error err;
  int result;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (strcmp(a.action, "init") == 0) result = bq_config_write_example(stdout, &err);
  else if (strcmp(a.action, "show") == 0) result = show(&a.common, &err);
  else if (strcmp(a.action, "options") == 0) result = bq_config_markdown(stdout, &err);
  else {
    argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, argv[0]);
    return BQ_EXIT_USAGE;
  }
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err.message);
  return result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
