// buildq rehearse
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/database.h"
#include "cli/rehearse_print.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "cli/since.h"
#include "queue/rehearse.h"
#include "queue/rehearse_source.h"

enum {
  OPTION_SINCE = 0xC00,
  OPTION_CONCURRENCY,
  OPTION_FROM,
  OPTION_EXPORT,
  OPTION_ANONYMOUS,
  OPTION_JSON,
  SALT_BYTES = 16
};

typedef struct arguments {
  bq_common common;
  const char *policy; // a file
  const char *since;
  int64_t slots;      // 0: not said
  const char *from;
  const char *export;
  int anonymous;
  int json;
} arguments;

static int64_t read_slots(const char *text, struct argp_state *state) {
  char *end;
  long long value = strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < 1 || value > BQ_REHEARSE_MAX_SLOTS) {
    argp_error(state, "--concurrency must be 1 to %d", BQ_REHEARSE_MAX_SLOTS);
  }
  return value;
}

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_SINCE: a->since = value; return 0;
  case OPTION_CONCURRENCY: a->slots = read_slots(value, state); return 0;
  case OPTION_FROM: a->from = value; return 0;
  case OPTION_EXPORT: a->export = value; return 0;
  case OPTION_ANONYMOUS: a->anonymous = 1; return 0;
  case OPTION_JSON: a->json = 1; return 0;
  case ARGP_KEY_ARG:
    if (a->policy != NULL) argp_usage(state);
    a->policy = value;
    return 0;
  case ARGP_KEY_END:
    if ((a->policy == NULL) == (a->export == NULL)) argp_usage(state); // one of them
    if (a->export != NULL && a->from != NULL) argp_error(state, "--export reads the database, not --from a file");
    if (a->since != NULL && a->from != NULL) argp_error(state, "--since doesn't go with --from: a file is whole");
    if (a->anonymous && a->export == NULL) argp_error(state, "--anonymous belongs to --export");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// Where everything is.
typedef struct places {
  const bq_config *config; // borrowed
  char *share;             // owned, as the next one
  char *queries;
} places;

static int read_database(const places *p, const char *since, bq_history_line line, void *arg, bq_error *err) {
  char *conninfo;
  int result = bq_database_conninfo(p->config, &conninfo, err);
  if (result < 0) return result;
  result = bq_history_read_database(conninfo, p->queries, since, line, arg, err);
  bq_free(conninfo);
  return result;
}

// Export -------------------------------------------------------------------------------------------------------------

static int write_json(const json_t *value, FILE *file, const char *name, bq_error *err) {
  char *text;
  int result = bq_json_dump(value, &text, err);
  if (result < 0) return result;
  if (fputs(text, file) == EOF || fputc('\n', file) == EOF) result = bq_fail_errno(err, errno, "can't write %s", name);
  bq_free(text);
  return result;
}

typedef struct export {
  FILE *file;
  const char *name;
  const char *salt; // NULL: names stay as they are
  long builds;
} export;

static int write_line(void *arg, json_t *line, bq_error *err) {
  export *e = arg;
  int is_build = json_object_get(line, "format") == NULL;
  int result = e->salt != NULL && is_build ? bq_history_anonymize(line, e->salt, err) : 0;
  if (result < 0) return result;
  e->builds += is_build;
  return write_json(line, e->file, e->name, err);
}

// A salt of this export alone: nobody can try which id gives which hash.
static int make_salt(char salt[2 * SALT_BYTES + 1], bq_error *err) {
  unsigned char bytes[SALT_BYTES];
  if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) return bq_fail_errno(err, errno, "no random bytes");
  for (size_t i = 0; i < sizeof bytes; i++) (void)snprintf(salt + 2 * i, 3, "%02x", bytes[i]);
  return 0;
}

static int export_history(const places *p, const arguments *a, const char *since, bq_error *err) {
  char salt[2 * SALT_BYTES + 1];
  int to_output = strcmp(a->export, "-") == 0;
  int result = make_salt(salt, err);
  if (result < 0) return result;
  FILE *file = to_output ? stdout : fopen(a->export, "wxe");
  export e = {.file = file, .name = a->export, .salt = a->anonymous ? salt : NULL};
  if (e.file == NULL) return bq_fail_errno(err, errno, "can't make %s", a->export);
  result = read_database(p, since, write_line, &e, err);
  if ((to_output ? fflush(e.file) : fclose(e.file)) != 0 && result == 0) {
    result = bq_fail_errno(err, errno, "can't write %s", a->export);
  }
  if (result < 0 && !to_output) (void)remove(a->export);
  if (result == 0) (void)fprintf(stderr, "%ld build%s exported\n", e.builds, e.builds == 1 ? "" : "s");
  return result;
}

// Rehearsal ----------------------------------------------------------------------------------------------------------

static int add_line(void *arg, json_t *line, bq_error *err) {
  return bq_past_add(arg, line, err);
}

static int read_past(const places *p, const arguments *a, const char *since, bq_past *past, bq_error *err) {
  int result = 0;
  if (a->from == NULL) {
    result = read_database(p, since, add_line, past, err);
  } else {
    int is_input = strcmp(a->from, "-") == 0;
    FILE *file = is_input ? stdin : fopen(a->from, "re");
    if (file == NULL) return bq_fail_errno(err, errno, "can't read %s", a->from);
    result = bq_history_read_file(file, is_input ? "standard input" : a->from, add_line, past, err);
    if (!is_input) (void)fclose(file);
  }
  if (result == 0) result = bq_past_finish(past, err);
  if (result == 0 && past->count == 0) {
    if (a->from != NULL) result = bq_fail(err, BQ_ENOTFOUND, "there is nothing to rehearse in %s", a->from);
    else result = bq_fail(err, BQ_ENOTFOUND, "there is nothing to rehearse: no build since %s", since);
  }
  return result;
}

// One set of policies, loaded.
typedef struct side {
  bq_policies *policies; // owned
  json_t *names;         // owned; hook → which file decides
  bq_replay replay;      // owned; what became of the builds under it
} side;

static int name_files(side *to, const char *first, const char *path, bq_error *err) {
  to->names = json_object();
  for (int i = 0; i < BQ_HOOK_COUNT; i++) {
    const char *file = bq_policies_file(to->policies, (bq_hook)i);
    if (file != NULL && first != NULL && strcmp(file, first) == 0) file = path;
    if (json_object_set_new(to->names, bq_hook_name((bq_hook)i), json_string(file != NULL ? file : "built-in")) < 0) {
      return bq_fail(err, BQ_ENOMEM, "out of memory for the policies");
    }
  }
  return 0;
}

// The scripts in force: of the generation that is activated for the cluster, unless a file is rehearsed; else the
// disk's.
static int find_scripts(const places *p, const arguments *a, bq_sources **out, bq_error *err) {
  const char *scripts = p->config->script_directory;
  const bq_source_directories directories = {.share = p->share, .scripts = scripts[0] != '\0' ? scripts : NULL};
  char *conninfo;
  *out = NULL;
  if (a->from == NULL) {
    int result = bq_database_conninfo(p->config, &conninfo, err);
    if (result < 0) return result;
    result = bq_rehearse_activated(out, conninfo, p->queries, err);
    bq_free(conninfo);
    if (result < 0) return result;
  }
  return *out != NULL ? 0 : bq_sources_read(out, &directories, err);
}

// The policies that are active in `scripts`; `path` not NULL: first those in that file.
static int load(const bq_sources *scripts, side *to, bq_loop *loop, const char *path, bq_error *err) {
  char name[BQ_POLICY_NAME_SIZE];
  const char *first = path != NULL ? name : NULL;
  bq_generation *generation;
  int result = bq_rehearse_generation(&generation, scripts, path, name, err);
  if (result < 0) return result;
  const bq_policies_options options = {
      .loop = loop, .memory_bytes = BQ_POLICY_MEMORY_BYTES, .call_us = BQ_POLICY_CALL_US, .first = first};
  result = bq_policies_new(&to->policies, &options, generation, err);
  bq_generation_release(generation);
  return result == 0 ? name_files(to, first, path, err) : result;
}

static void drop(side *s) {
  bq_policies_free(s->policies);
  json_decref(s->names);
  bq_replay_clear(&s->replay);
}

static int play(const places *p, const arguments *a, const bq_past *past, side *old, side *new, json_t **out,
                bq_error *err) {
  const bq_config *config = p->config;
  int64_t slots = a->slots > 0 ? a->slots : past->slots > 0 ? past->slots : config->max_concurrent_builds;
  if (slots > BQ_REHEARSE_MAX_SLOTS) slots = BQ_REHEARSE_MAX_SLOTS;
  bq_rehearse_options options = {.policies = old->policies,
                                 .slots = slots,
                                 .max_retries = config->max_retry_attempts,
                                 .retry_minutes = config->retry_delay_minutes,
                                 .exponential = config->use_exponential_backoff};
  int result = bq_rehearse(&old->replay, past, &options, err);
  options.policies = new->policies;
  if (result == 0) result = bq_rehearse(&new->replay, past, &options, err);
  if (result < 0) return result;
  json_t *policies = json_pack("{s:O, s:O}", "old", old->names, "new", new->names);
  *out = bq_rehearse_compare(past, &old->replay, &new->replay, slots);
  if (*out != NULL && json_object_set_new(*out, "policies", policies) == 0) return 0;
  return bq_fail(err, BQ_ENOMEM, "out of memory for the figures");
}

static int print(const json_t *figures, int json, bq_error *err) {
  return json ? write_json(figures, stdout, "the figures", err) : bq_rehearse_print(figures, err);
}

static int rehearse(const places *p, const arguments *a, const char *since, bq_error *err) {
  bq_past past = {0};
  bq_loop *loop = NULL;
  side old = {0};
  side new = {0};
  json_t *figures = NULL;
  bq_sources *scripts = NULL;
  int result = bq_past_init(&past, p->config->max_retry_attempts, err);
  if (result == 0) result = bq_loop_new(&loop, err);
  if (result == 0) result = find_scripts(p, a, &scripts, err);
  if (result == 0) result = load(scripts, &new, loop, a->policy, err);
  if (result == 0) result = load(scripts, &old, loop, NULL, err);
  if (result == 0) result = read_past(p, a, since, &past, err);
  if (result == 0) result = play(p, a, &past, &old, &new, &figures, err);
  if (result == 0) result = print(figures, a->json, err);
  json_decref(figures);
  drop(&old);
  drop(&new);
  bq_sources_free(scripts);
  if (loop != NULL) bq_loop_free(loop);
  bq_past_free(&past);
  return result;
}

static int run(const bq_config *config, const arguments *a, bq_error *err) {
  char since[64];
  places p = {.config = config};
  if (!bq_since_read(a->since != NULL ? a->since : "30d", bq_clock_wall_us(), since, sizeof since)) {
    return bq_fail(err, BQ_EINVAL, "--since %s: say 30d, 12h, or a time like 2026-01-31T12:00:00Z", a->since);
  }
  int result = bq_share_find(&p.share, err);
  if (result == 0) {
    p.queries = bq_format("%s/sql/queries", p.share);
    if (p.queries == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory");
    else if (a->export != NULL) result = export_history(&p, a, since, err);
    else result = rehearse(&p, a, since, err);
  }
  bq_free(p.queries);
  bq_free(p.share);
  return result;
}

int bq_command_rehearse(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"since", OPTION_SINCE, "TIME", 0, "Builds that were enqueued since then: 30d (default), 12h, or a time", 1},
      {"concurrency", OPTION_CONCURRENCY, "N", 0, "Builds at a time; else as many as the cluster had slots", 1},
      {"from", OPTION_FROM, "FILE", 0, "What was exported, instead of the database; - is standard input", 1},
      {"json", OPTION_JSON, NULL, 0, "All figures as JSON, of every customer", 1},
      {"export", OPTION_EXPORT, "FILE", 0, "Write the history as JSON lines to a new file; - is standard output", 2},
      {"anonymous", OPTION_ANONYMOUS, NULL, 0, "Export hashes of customers and configurations, no metadata", 2},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "FILE.lua\n--export FILE",
      .doc = "Plays the recorded builds of the queue through again, in simulated time, under the policies that are "
             "active and under those in FILE.lua, and shows the figures side by side. Nothing is changed." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  bq_error err;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  const bq_config_source source = {.path = a.common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return BQ_EXIT_FAILURE;
  int result = run(config, &a, &err);
  bq_config_free(config);
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err.message);
  return result < 0 ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}
