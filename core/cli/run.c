// buildq run
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "io/tree.h"
#include "queue/run.h"

enum { OPTION_MANIFEST = 0x800, OPTION_KEEP, OPTION_DIRECTORY, OPTION_SET, OPTION_STOP_AFTER, MAX_SETS = 100 };

typedef struct arguments {
  bq_common common;
  const char *pipeline;
  const char *manifest;
  const char *directory;
  const char *sets[MAX_SETS + 1]; // ended by NULL
  size_t set_count;
  const char *stop_after;
  int keep;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_MANIFEST: a->manifest = value; return 0;
  case OPTION_KEEP: a->keep = 1; return 0;
  case OPTION_DIRECTORY: a->directory = value; return 0;
  case OPTION_STOP_AFTER: a->stop_after = value; return 0;
  case OPTION_SET:
    if (a->set_count == MAX_SETS) argp_error(state, "--set is given more than %d times", MAX_SETS);
    a->sets[a->set_count++] = value;
    return 0;
  case ARGP_KEY_ARG:
    if (a->pipeline != NULL) argp_usage(state);
    a->pipeline = value;
    return 0;
  case ARGP_KEY_END:
    if (a->pipeline == NULL || a->manifest == NULL) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int run(const bq_config *config, const arguments *a, const char *share) {
  char made[] = "/tmp/buildq-run-XXXXXX";
  bq_run_result outcome;
  bq_error err;
  const char *directory = a->directory != NULL ? a->directory : mkdtemp(made);
  if (directory == NULL || (a->directory != NULL && mkdir(directory, 0750) < 0 && errno != EEXIST)) {
    (void)fprintf(stderr, "buildq: can't make a directory for the build: %s\n", strerror(errno));
    return BQ_EXIT_FAILURE;
  }
  const bq_run_options options = {.share = share,
                                  .pipeline = a->pipeline,
                                  .manifest = a->manifest,
                                  .directory = directory,
                                  .sets = a->sets,
                                  .stop_after = a->stop_after,
                                  .keep = a->keep || a->stop_after != NULL,
                                  .log = stdout};
  if (bq_run_pipeline(config, &options, &outcome, &err) < 0) {
    (void)fprintf(stderr, "buildq: %s\n", err.message);
    // Nothing was built: what was made for it would only lie about.
    if (a->directory == NULL && bq_tree_remove("/tmp", strrchr(made, '/') + 1, &err) < 0) {
      (void)fprintf(stderr, "buildq: can't remove %s: %s\n", made, err.message);
    }
    return BQ_EXIT_FAILURE;
  }
  if (outcome.stopped) {
    (void)printf("%s; its workspace: %s\n", outcome.message, outcome.workspace);
    return BQ_EXIT_OK;
  }
  if (outcome.success && a->stop_after != NULL) {
    (void)fprintf(stderr, "buildq: the build has ended without a step %s (--stop-after)\n", a->stop_after);
    return BQ_EXIT_FAILURE;
  }
  if (!outcome.success) {
    (void)fprintf(stderr, "buildq: the build failed: %s\nIts files: %s\n", outcome.message, directory);
    return BQ_EXIT_BUILD;
  }
  (void)printf("success: %s\n", outcome.output);
  if (a->keep) (void)printf("workspace: %s\n", outcome.workspace);
  return BQ_EXIT_OK;
}

int bq_command_run(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"manifest", OPTION_MANIFEST, "FILE", 0, "The manifest; it may hold commands and local paths", 1},
      {"directory", OPTION_DIRECTORY, "DIR", 0, "Where workspace and output go (a new one in /tmp)", 1},
      {"keep", OPTION_KEEP, NULL, 0, "Keep the workspace", 1},
      {"set", OPTION_SET, "NAME=VALUE", 0, "What the build is given; again for more. NAME: " BQ_RUN_SET_NAMES, 1},
      {"stop-after", OPTION_STOP_AFTER, "STEP", 0, "End behind that step and keep the workspace", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {.options = options,
                                   .parser = parse,
                                   .args_doc = "PIPELINE --manifest FILE",
                                   .doc = "Does one build in the foreground, without a queue and a database; its log "
                                          "goes to the terminal." BQ_EXIT_TEXT,
                                   .children = children};
  arguments a = {0};
  bq_error err;
  char *share = NULL;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  int code = BQ_EXIT_FAILURE;
  if (bq_share_find(&share, &err) == 0) code = run(config, &a, share);
  else (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_free(share);
  bq_config_free(config);
  return code;
}
