// buildq manifest check|convert|hash|schema
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "queue/script_tool.h"

enum { OPTION_REQUEST = 0xc00, OPTION_TIER, OPTION_ARCHITECTURE, OPTION_CLOUD, MAX_MANIFEST_BYTES = 1024 * 1024 };

typedef struct arguments {
  bq_common common;
  const char *action;
  const char *file;
  const char *tier;
  const char *architecture;
  const char *cloud;
  int request; // it is checked as if it came in a request
  int json;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  static const char *const actions[] = {"check", "convert", "hash", "schema", NULL};
  arguments *a = state->input;
  int known = 0;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_REQUEST: a->request = 1; return 0;
  case OPTION_TIER: a->tier = value; return 0;
  case OPTION_ARCHITECTURE: a->architecture = value; return 0;
  case OPTION_CLOUD: a->cloud = value; return 0;
  case 'j': a->json = 1; return 0;
  case ARGP_KEY_ARG:
    if (a->action == NULL) {
      for (size_t i = 0; actions[i] != NULL; i++) known |= strcmp(actions[i], value) == 0;
      if (!known) argp_error(state, "%s is none of check, convert, hash and schema", value);
      a->action = value;
    } else if (a->file == NULL) {
      a->file = value;
    } else {
      argp_usage(state);
    }
    return 0;
  case ARGP_KEY_END:
    if (a->action == NULL || (strcmp(a->action, "schema") == 0) != (a->file == NULL)) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int read_manifest(const char *path, json_t **manifest, bq_error *err) {
  char *text = NULL;
  size_t length;
  int result = bq_file_read(path, MAX_MANIFEST_BYTES, &text, &length, err);
  if (result == 0) result = bq_json_parse(text, length, BQ_JSON_RELAXED, manifest, err);
  bq_free(text);
  return result < 0 ? bq_fail_in(err, "%s", path) : 0;
}

static int run(const arguments *a, const bq_config *config, bq_error *err) {
  char *share = NULL;
  json_t *manifest = NULL;
  json_t *options = NULL;
  bq_script_answer answer = {0};
  int result = bq_share_find(&share, err);
  if (result == 0 && a->file != NULL) result = read_manifest(a->file, &manifest, err);
  if (result < 0) goto cleanup;
  options = json_pack("{s:s, s:b, s:b, s:s*, s:s*, s:s*}", "file", a->file != NULL ? a->file : "", "trusted", !a->request,
                      "json", a->json, "tier", a->tier, "architecture", a->architecture, "cloudProvider", a->cloud);
  if (options == NULL) {
    result = bq_fail(err, BQ_EINVAL, "what was given is no UTF-8");
    goto cleanup;
  }
  result = bq_script_tool(&answer, config, share, "manifest.tool", a->action, manifest, options, err);
  if (result < 0) goto cleanup;
  (void)fputs(answer.output, stdout);
  (void)fputs(answer.errors, stderr);
  result = answer.code;
  bq_script_answer_free(&answer);
cleanup:
  json_decref(options);
  json_decref(manifest);
  bq_free(share);
  return result;
}

int bq_command_manifest(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"request", OPTION_REQUEST, NULL, 0, "Check it as if it came in a request: no commands, no local paths", 1},
      {"tier", OPTION_TIER, "TIER", 0, "What a request would say besides", 1},
      {"architecture", OPTION_ARCHITECTURE, "NAME", 0, NULL, 1},
      {"cloud", OPTION_CLOUD, "NAME", 0, NULL, 1},
      {"json", 'j', NULL, 0, "Faults and warnings as JSON", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "check FILE\nconvert FILE\nhash FILE\nschema",
      .doc = "Looks at a manifest without a server.\n\ncheck names all its faults at once, and what would be right; convert "
             "prints what is built of it; hash the SHA-256 of what changes the output; schema a JSON Schema for "
             "editors." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  bq_error err;
  if (config == NULL) return BQ_EXIT_FAILURE;
  int result = run(&a, config, &err);
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_config_free(config);
  return result < 0 ? BQ_EXIT_FAILURE : result;
}
