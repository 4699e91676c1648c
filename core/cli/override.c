// buildq override: copies a shipped script or template into the team's directory, and notes what was copied.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "io/tree.h"
#include "queue/overrides.h"

enum { OPTION_ACCEPT = 0xb00 };

typedef struct arguments {
  bq_common common;
  const char *path;
  int accept;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_ACCEPT: a->accept = 1; return 0;
  case ARGP_KEY_ARG:
    if (a->path != NULL) argp_usage(state);
    a->path = value;
    return 0;
  case ARGP_KEY_END:
    if (a->path == NULL) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// The file must not exist yet: a team's work is never written over.
static int write_new(const char *path, const char *text, size_t length, bq_error *err) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 && errno == EEXIST) {
    return bq_fail(err, BQ_ECONFLICT, "%s exists already and is left as it is; --accept notes that it is up to date", path);
  }
  if (fd < 0) return bq_fail_errno(err, errno, "can't make %s", path);
  ssize_t put = write(fd, text, length);
  int errnum = put < 0 ? errno : ENOSPC;
  if (close(fd) == 0 && put == (ssize_t)length) return 0;
  (void)unlink(path);
  return bq_fail_errno(err, errnum, "can't write %s", path);
}

// `path` is "scripts/…" or "templates/…"; it was found among the shipped ones, so it has no "..".
static int copy_file(const bq_source_directories *directories, const char *path, bq_error *err) {
  const char *below = strchr(path, '/') + 1;
  const char *directory = path[0] == 's' ? directories->scripts : directories->templates;
  char *from = bq_format("%s/%s", directories->share, path);
  char *to = bq_format("%s/%s", directory, below);
  char *parent = to != NULL ? bq_strdup(to) : NULL;
  char *text = NULL;
  size_t length = 0;
  int result = from != NULL && parent != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
  if (result == 0) *strrchr(parent, '/') = '\0';
  if (result == 0) result = bq_file_read(from, BQ_SOURCES_MAX_FILE_BYTES, &text, &length, err);
  if (result == 0) result = bq_tree_make_path(parent, err);
  if (result == 0) result = write_new(to, text, length, err);
  if (result == 0) (void)puts(to);
  bq_free(text);
  bq_free(parent);
  bq_free(to);
  bq_free(from);
  return result;
}

static int override(const arguments *a, const bq_config *config, const char *share, bq_error *err) {
  const bq_source_directories directories = {
      .share = share,
      .scripts = config->script_directory[0] != '\0' ? config->script_directory : NULL,
      .templates = config->template_directory[0] != '\0' ? config->template_directory : NULL};
  // Noted first: it refuses what is no shipped file, and a note without a copy does no harm.
  int result = bq_overrides_note(&directories, a->path, err);
  if (result == 0 && !a->accept) result = copy_file(&directories, a->path, err);
  return result;
}

int bq_command_override(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"accept", OPTION_ACCEPT, NULL, 0, "Copy nothing: note that your file goes with the shipped one as it is now", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "PATH",
      .doc = "Copies a shipped file (PATH is scripts/… or templates/…) into ScriptDirectory or TemplateDirectory, to be "
             "changed there, and notes what was copied: after an upgrade `buildq check` names the files whose original has "
             "changed since." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  char *share = NULL;
  bq_error err;
  if (config == NULL) return BQ_EXIT_FAILURE;
  int result = bq_share_find(&share, &err);
  if (result == 0) result = override(&a, config, share, &err);
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_free(share);
  bq_config_free(config);
  return result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
