// buildq new: a commented starting file, and a spec that it passes (scripts/testing/new/).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/nearest.h"
#include "cli/command.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "io/tree.h"

enum { OPTION_DIRECTORY = 0xa00, MAX_NAME = 64, MAX_TEMPLATE_BYTES = 64 * 1024 };

static const struct {
  const char *name;
  const char *room; // directory below ScriptDirectory
  const char *hint; // what comes next, behind "buildq test …"
} kinds[] = {
    {"pipeline", "pipelines", "Run it: buildq run NAME --manifest FILE, or ask for it with \"pipeline\": \"NAME\"."},
    {"policy", "policies", "It is used when policies/active.lua there names it: return {retry = \"NAME\", …}."},
    {"route", "routes", "A running server answers it as soon as the file is saved: GET /NAME/{id}."},
    {"notification", "notifications", "A running server takes it as soon as the file is saved."}};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

typedef struct arguments {
  bq_common common;
  const char *kind;
  const char *name;
  const char *directory;
} arguments;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_DIRECTORY: a->directory = value; return 0;
  case ARGP_KEY_ARG:
    if (a->kind == NULL) a->kind = value;
    else if (a->name == NULL) a->name = value;
    else argp_usage(state);
    return 0;
  case ARGP_KEY_END:
    if (a->name == NULL) argp_usage(state);
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static int find_kind(const char *word, int *kind, bq_error *err) {
  const char *names[KINDS + 1] = {NULL};
  for (*kind = 0; *kind < KINDS; (*kind)++) {
    if (strcmp(kinds[*kind].name, word) == 0) return 0;
    names[*kind] = kinds[*kind].name;
  }
  const char *near = bq_nearest(word, names);
  return bq_fail(err, BQ_EINVAL, "there is no kind %s%s%s; there are: pipeline, policy, route, notification", word,
                 near != NULL ? ", did you mean " : "", near != NULL ? near : "");
}

static int check_name(const char *name, bq_error *err) {
  size_t length = strlen(name);
  int good = length > 0 && length <= MAX_NAME && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == length &&
             name[0] != '-' && (length < 5 || strcmp(name + length - 5, "_spec") != 0);
  if (good) return 0;
  return bq_fail(err, BQ_EINVAL, "the name %s: expected lower-case letters, digits, - and _, %d at most, without _spec "
                                 "at its end", name, MAX_NAME);
}

// `text` with every @WORD@ of the pairs replaced; the caller's.
static char *fill(const char *text, const char *const *pairs) {
  bq_buf out = {0};
  while (*text != '\0') {
    const char *const *pair = pairs;
    while (pair[0] != NULL && strncmp(text, pair[0], strlen(pair[0])) != 0) pair += 2;
    if (pair[0] != NULL) {
      bq_buf_adds(&out, pair[1]);
      text += strlen(pair[0]);
    } else {
      bq_buf_addc(&out, *text++);
    }
  }
  return bq_buf_take(&out);
}

// Writes a file that must not exist yet.
static int write_new(const char *path, const char *text, bq_error *err) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 && errno == EEXIST) return bq_fail(err, BQ_ECONFLICT, "%s exists already and is left as it is", path);
  if (fd < 0) return bq_fail_errno(err, errno, "can't make %s", path);
  size_t length = strlen(text);
  ssize_t put = write(fd, text, length);
  int errnum = errno;
  if (close(fd) == 0 && put == (ssize_t)length) return 0;
  (void)unlink(path);
  return bq_fail_errno(err, put < 0 ? errnum : ENOSPC, "can't write %s", path);
}

static int write_from(const char *share, const char *template, const char *path, const char *const *pairs,
                      bq_error *err) {
  char *from = bq_format("%s/scripts/testing/new/%s", share, template);
  char *text = NULL;
  char *filled = NULL;
  size_t length;
  int result = from != NULL ? bq_file_read(from, MAX_TEMPLATE_BYTES, &text, &length, err)
                            : bq_fail(err, BQ_ENOMEM, "out of memory");
  if (result == 0) {
    filled = fill(text, pairs);
    result = filled != NULL ? write_new(path, filled, err) : bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  bq_free(filled);
  bq_free(text);
  bq_free(from);
  return result;
}

// The editor's and luacheck's settings: only when the directory has none of its own.
static int write_settings(const char *share, const char *directory, bq_error *err) {
  static const char *const files[][2] = {{"luacheckrc", ".luacheckrc"}, {"luarc.json", ".luarc.json"}};
  const char *pairs[] = {"@SHARE@", share, NULL};
  int result = 0;
  for (size_t i = 0; i < 2 && result == 0; i++) {
    char *path = bq_format("%s/%s", directory, files[i][1]);
    if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
    if (access(path, F_OK) < 0) result = write_from(share, files[i][0], path, pairs, err);
    bq_free(path);
  }
  return result;
}

static int write_pair(const arguments *a, int kind, const char *share, const char *directory, bq_error *err) {
  char *room = bq_format("%s/%s", directory, kinds[kind].room);
  char *script = bq_format("%s/%s/%s.lua", directory, kinds[kind].room, a->name);
  char *spec = bq_format("%s/%s/%s_spec.lua", directory, kinds[kind].room, a->name);
  char *script_from = bq_format("%s.lua", a->kind);
  char *spec_from = bq_format("%s_spec.lua", a->kind);
  const char *pairs[] = {"@NAME@", a->name, "@DIRECTORY@", room, NULL};
  int result = 0;
  if (room == NULL || script == NULL || spec == NULL || script_from == NULL || spec_from == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory");
    goto cleanup;
  }
  result = bq_tree_make_path(room, err);
  if (result == 0) result = write_from(share, spec_from, spec, pairs, err);
  if (result < 0) goto cleanup;
  // The spec first: a server takes the script the moment it is there.
  result = write_from(share, script_from, script, pairs, err);
  if (result < 0) (void)unlink(spec);
  if (result == 0) result = write_settings(share, directory, err);
  if (result < 0) goto cleanup;
  (void)printf("%s\n%s\nTest it: buildq test %s\n", script, spec, spec);
  const char *hint_pairs[] = {"NAME", a->name, NULL};
  char *hint = fill(kinds[kind].hint, hint_pairs);
  if (hint != NULL) (void)puts(hint);
  bq_free(hint);
cleanup:
  bq_free(room);
  bq_free(script);
  bq_free(spec);
  bq_free(script_from);
  bq_free(spec_from);
  return result;
}

static int run(const arguments *a, bq_error *err) {
  int kind;
  char *share = NULL;
  bq_config *config = NULL;
  int result = find_kind(a->kind, &kind, err);
  if (result == 0) result = check_name(a->name, err);
  if (result == 0) result = bq_share_find(&share, err);
  if (result < 0) goto cleanup;
  const char *directory = a->directory;
  if (directory == NULL) {
    const bq_config_source source = {.path = a->common.config};
    config = bq_settings_load(&source);
    if (config == NULL) {
      result = bq_fail(err, BQ_EINVAL, "the configuration can't be used");
      goto cleanup;
    }
    directory = config->script_directory;
  }
  if (directory[0] == '\0') {
    result = bq_fail(err, BQ_EINVAL, "no ScriptDirectory is configured: set BuildQueue.ScriptDirectory, or name a "
                                     "directory with --directory");
    goto cleanup;
  }
  result = write_pair(a, kind, share, directory, err);
cleanup:
  bq_config_free(config);
  bq_free(share);
  return result;
}

int bq_command_new(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"directory", OPTION_DIRECTORY, "DIR", 0, "Where to write, instead of ScriptDirectory", 1}, {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "pipeline|policy|route|notification NAME",
      .doc = "Writes a commented starting file and its spec into ScriptDirectory, and settings for luacheck and "
             "editors when there are none. Overwrites nothing. The spec passes under `buildq test`." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  bq_error err;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (run(&a, &err) == 0) return BQ_EXIT_OK;
  (void)fprintf(stderr, "buildq: %s\n", err.message);
  return err.code == BQ_EINVAL ? BQ_EXIT_USAGE : BQ_EXIT_FAILURE;
}
