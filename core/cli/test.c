// buildq test: busted runs the team's specs, a process beside it is the runtime they test in (queue/trial.h).
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "io/tree.h"
#include "queue/trial.h"

enum { OPTION_FILTER = 0x900, OPTION_OUTPUT, OPTION_VERBOSE, OPTION_RECORD, OPTION_SCRIPTS };
enum { MAX_FILES = 1000, SPEC_IN = 3, SPEC_OUT = 4 }; // SPEC_…: descriptors in busted, as buildq/wire.lua opens them

extern char **environ;

typedef struct arguments {
  bq_common common;
  const char *files[MAX_FILES + 1];
  size_t file_count;
  const char *filter;
  const char *output;
  const char *scripts; // instead of ScriptDirectory
  int verbose;
  int record;
} arguments;

typedef struct test {
  const arguments *arguments;
  char *share;          // owned
  char *scratch;        // owned; removed at the end
  char *team_scripts;   // owned; ScriptDirectory, "" for none
  bq_config *config;    // owned; of the runtime
  int to_runtime[2];    // pipe: lines of the spec
  int from_runtime[2];  // pipe: lines for the spec
} test;

static error_t parse(int key, char *value, struct argp_state *state) {
  arguments *a = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case OPTION_FILTER: a->filter = value; return 0;
  case OPTION_OUTPUT: a->output = value; return 0;
  case OPTION_SCRIPTS: a->scripts = value; return 0;
  case OPTION_VERBOSE: a->verbose = 1; return 0;
  case OPTION_RECORD: a->record = 1; return 0;
  case ARGP_KEY_ARG:
    if (a->file_count == MAX_FILES) argp_error(state, "more than %d files", MAX_FILES);
    a->files[a->file_count++] = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// The scratch directory
// --------------------------------------------------------------------------------------------------

// What the runtime is given instead of the configured values: nothing of it reaches a real queue.
static const struct {
  const char *name;
  const char *below; // the scratch directory; NULL: `value` stands alone
  const char *value;
} replaced[] = {{"StateDirectory", "state", NULL},
                {"WorkspaceDirectory", "builds", NULL},
                {"OutputDirectory", "output", NULL},
                {"ManifestDirectory", "manifests", NULL},
                {"ScriptDirectory", "scripts", NULL},
                {"Listen", NULL, "127.0.0.1:0"},
                {"ConnectionString", NULL, ""},
                {"DatabaseConnections", NULL, "1"},
                {"ScriptDatabaseConnections", NULL, "1"},
                {"CleanupWorkspaceAfterBuild", NULL, "false"},
                {"EnableGracefulShutdown", NULL, "false"},
                {"MigrateAtStart", NULL, "true"},
                {"DiskReserveMegabytes", NULL, "0"},
                {"RunAsUser", NULL, "nobody"},
                {"LogLevel", NULL, "warn"}};
enum { REPLACED = sizeof replaced / sizeof replaced[0] };

static int load_config(test *t, bq_error *err) {
  size_t count = 0;
  size_t used = 0;
  while (environ[count] != NULL) count++;
  char *made[REPLACED] = {NULL};
  const char **environment = bq_alloc_array(count + REPLACED + 1, sizeof *environment);
  if (environment == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory");
  for (size_t i = 0; i < count; i++) {
    // A value in the environment would be given twice, and a connection string may have several names.
    if (strncasecmp(environ[i], "BuildQueue__", 12) != 0 && strncasecmp(environ[i], "ConnectionStrings__", 19) != 0) {
      environment[used++] = environ[i];
    }
  }
  for (size_t i = 0; i < REPLACED; i++) {
    made[i] = replaced[i].below != NULL
                  ? bq_format("BuildQueue__%s=%s/%s", replaced[i].name, t->scratch, replaced[i].below)
                  : bq_format("BuildQueue__%s=%s", replaced[i].name, replaced[i].value);
    if (made[i] != NULL) environment[used++] = made[i];
  }
  const bq_config_source source = {.path = t->arguments->common.config, .environment = environment};
  t->config = used > 0 ? bq_settings_load(&source) : NULL;
  for (size_t i = 0; i < REPLACED; i++) bq_free(made[i]);
  bq_free(environment);
  if (t->config == NULL) return bq_fail(err, BQ_EINVAL, "the configuration can't be used");
  if (t->config->connection_string[0] == '\0') return 0;
  return bq_fail(err, BQ_EINVAL, "a test never touches the configured database, but its connection string stays");
}

static int find_team_scripts(test *t, bq_error *err) {
  if (t->arguments->scripts != NULL) {
    char absolute[PATH_MAX];
    if (realpath(t->arguments->scripts, absolute) != NULL) t->team_scripts = bq_strdup(absolute);
    if (t->team_scripts != NULL) return 0;
    return bq_fail_errno(err, errno, "can't read the directory %s", t->arguments->scripts);
  }
  const bq_config_source source = {.path = t->arguments->common.config};
  bq_config *config = bq_settings_load(&source);
  if (config == NULL) return bq_fail(err, BQ_EINVAL, "the configuration can't be used");
  t->team_scripts = bq_strdup(config->script_directory);
  bq_config_free(config);
  return t->team_scripts != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
}

static int make_scratch(test *t, bq_error *err) {
  static const char *const directories[] = {"state", "builds", "output", "manifests"};
  const char *tmp = getenv("TMPDIR");
  t->scratch = bq_format("%s/buildq-test-XXXXXX", tmp != NULL && tmp[0] == '/' ? tmp : "/tmp");
  if (t->scratch == NULL || mkdtemp(t->scratch) == NULL) {
    bq_free(t->scratch);
    t->scratch = NULL;
    return bq_fail_errno(err, errno, "can't make a scratch directory in %s", tmp != NULL ? tmp : "/tmp");
  }
  int result = 0;
  int is_directory;
  for (size_t i = 0; i < sizeof directories / sizeof directories[0] && result == 0; i++) {
    result = bq_tree_make(t->scratch, directories[i], err);
  }
  if (result < 0) return result;
  if (t->team_scripts[0] == '\0') return bq_tree_make(t->scratch, "scripts", err);
  return bq_tree_copy(t->team_scripts, ".", t->scratch, "scripts", &is_directory, err);
}

// The runtime may give up root: what it works with is its user's.
static int give_away(const test *t, bq_error *err) {
  if (geteuid() != 0) return 0;
  const struct passwd *user = getpwnam(t->config->run_as_user);
  bq_tree_listing listing = {0};
  if (user == NULL) return bq_fail(err, BQ_ENOTFOUND, "there is no user %s", t->config->run_as_user);
  int result = bq_tree_list(&listing, t->scratch, ".", BQ_TREE_MAX_COPY, err);
  if (result == 0 && (chmod(t->scratch, 0755) < 0 || chown(t->scratch, user->pw_uid, user->pw_gid) < 0)) {
    result = bq_fail_errno(err, errno, "can't give %s to %s", t->scratch, user->pw_name);
  }
  for (size_t i = 0; i < listing.count && result == 0; i++) {
    char *path = bq_format("%s/%s", t->scratch, listing.entries[i].path);
    if (path == NULL || lchown(path, user->pw_uid, user->pw_gid) < 0) {
      result = bq_fail_errno(err, errno, "can't give %s to %s", t->scratch, user->pw_name);
    }
    bq_free(path);
  }
  bq_tree_listing_free(&listing);
  return result;
}

// The two processes
// --------------------------------------------------------------------------------------------------------

static int open_pipes(test *t, bq_error *err) {
  if (pipe2(t->to_runtime, O_CLOEXEC) == 0 && pipe2(t->from_runtime, O_CLOEXEC) == 0) return 0;
  return bq_fail_errno(err, errno, "can't make a pipe to the runtime");
}

static void close_pipes(test *t) {
  for (int i = 0; i < 2; i++) {
    if (t->to_runtime[i] >= 0) (void)close(t->to_runtime[i]);
    if (t->from_runtime[i] >= 0) (void)close(t->from_runtime[i]);
    t->to_runtime[i] = t->from_runtime[i] = -1;
  }
}

static int run_runtime(test *t) {
  const bq_trial_options options = {
      .share = t->share, .directory = t->scratch, .in = t->to_runtime[0], .out = t->from_runtime[1]};
  bq_error err;
  (void)close(t->to_runtime[1]);
  (void)close(t->from_runtime[0]);
  (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
  bq_config *config = t->config;
  t->config = NULL;
  bq_log_setup(t->arguments->verbose ? BQ_INFO : BQ_ERROR, BQ_LOG_TEXT);
  if (bq_trial_run(config, &options, &err) == 0) return BQ_EXIT_OK;
  (void)fprintf(stderr, "buildq: the runtime of the specs has ended: %s\n", err.message);
  return BQ_EXIT_FAILURE;
}

static void set_path(const char *share, const char *team) {
  const char *given = getenv("LUA_PATH_5_4");
  if (given == NULL) given = getenv("LUA_PATH");
  char *path = bq_format("%s/scripts/testing/?.lua;%s%s%s", share, team, team[0] != '\0' ? "/?.lua;" : "",
                         given != NULL ? given : ";");
  if (path != NULL) (void)setenv("LUA_PATH_5_4", path, 1);
  bq_free(path);
}

static int add_places(const test *t, const char **argv, int count) {
  const arguments *a = t->arguments;
  for (size_t i = 0; i < a->file_count; i++) argv[count++] = a->files[i];
  if (a->file_count > 0) return count;
  if (t->team_scripts[0] != '\0') argv[count++] = t->team_scripts;
  if (access("spec", R_OK | X_OK) == 0) argv[count++] = "spec";
  return count;
}

// In the child: descriptors 3 and 4 are its lines from and to the runtime.
static _Noreturn void run_busted(const test *t) {
  (void)setpgid(0, 0);
  const arguments *a = t->arguments;
  const char *argv[MAX_FILES + 16] = {"busted", "--lua=lua5.4"};
  int count = 2;
  char *helper = bq_format("--helper=%s/scripts/testing/helper.lua", t->share);
  char *filter = a->filter != NULL ? bq_format("--filter=%s", a->filter) : NULL;
  char *output = a->output != NULL ? bq_format("--output=%s", a->output) : NULL;
  argv[count++] = helper;
  if (filter != NULL) argv[count++] = filter;
  if (output != NULL) argv[count++] = output;
  argv[count++] = "--";
  count = add_places(t, argv, count);
  argv[count] = NULL;
  set_path(t->share, t->team_scripts);
  (void)setenv("BUILDQ_TEST_SCRIPTS", t->team_scripts, 1);
  if (a->record) (void)setenv("BUILDQ_TEST_RECORD", "1", 1);
  // Above what is free: dup2 must not overwrite one end with the other.
  int in = fcntl(t->from_runtime[0], F_DUPFD_CLOEXEC, 10);
  int out = fcntl(t->to_runtime[1], F_DUPFD_CLOEXEC, 10);
  if (in >= 0 && out >= 0 && dup2(in, SPEC_IN) >= 0 && dup2(out, SPEC_OUT) >= 0) {
    (void)execvp("busted", (char *const *)(uintptr_t)argv);
  }
  (void)fprintf(stderr, "buildq: can't start busted: %s; install it (Debian: apt install busted)\n", strerror(errno));
  _exit(BQ_EXIT_FAILURE);
}

static int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) { /* once more */ }
  return status;
}

// Waits for busted, which is several processes in a group of their own. Signals to stop are passed on to them, and the
// runtime ends behind them: this process stays to clean up. `signals` are blocked.
static int wait_for_busted(pid_t busted, const sigset_t *signals) {
  int status = 0;
  while (waitpid(busted, &status, WNOHANG) == 0) {
    int number = sigwaitinfo(signals, NULL);
    if (number == SIGTERM || number == SIGHUP || number == SIGINT) (void)kill(-busted, number);
  }
  return status;
}

static pid_t start(const sigset_t *before) {
  pid_t pid = fork();
  if (pid == 0) (void)sigprocmask(SIG_SETMASK, before, NULL);
  return pid;
}

static int run_both(test *t, bq_error *err) {
  sigset_t signals;
  sigset_t before;
  int result = open_pipes(t, err);
  if (result < 0) return result;
  (void)fflush(NULL);
  (void)sigemptyset(&signals);
  (void)sigaddset(&signals, SIGCHLD);
  (void)sigaddset(&signals, SIGINT);
  (void)sigaddset(&signals, SIGTERM);
  (void)sigaddset(&signals, SIGHUP);
  (void)sigprocmask(SIG_BLOCK, &signals, &before);
  pid_t runtime = start(&before);
  if (runtime == 0) exit(run_runtime(t));
  pid_t busted = runtime > 0 ? start(&before) : -1;
  if (busted == 0) run_busted(t);
  int errnum = errno;
  close_pipes(t);
  if (busted > 0) (void)setpgid(busted, busted); // whoever is first
  int status = busted > 0 ? wait_for_busted(busted, &signals) : 0;
  if (busted > 0) (void)kill(-busted, SIGKILL); // what a spec has left running would keep the runtime waiting
  int runtime_status = runtime > 0 ? wait_for(runtime) : 0;
  if (busted < 0) return bq_fail_errno(err, errnum, "can't start a process");
  if (WIFSIGNALED(runtime_status)) {
    (void)fprintf(stderr, "buildq: the runtime of the specs was ended by signal %d\n", WTERMSIG(runtime_status));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && runtime_status == 0) return 0;
  return bq_fail(err, BQ_ESCRIPT, "tests failed");
}

static int run(test *t, bq_error *err) {
  int result = bq_share_find(&t->share, err);
  if (result == 0) result = find_team_scripts(t, err);
  if (result == 0 && t->arguments->file_count == 0 && t->team_scripts[0] == '\0' && access("spec", R_OK | X_OK) < 0) {
    result = bq_fail(err, BQ_ENOTFOUND, "there are no specs: no ScriptDirectory is configured, there is no directory "
                                        "spec here, and no file was named");
  }
  if (result == 0) result = make_scratch(t, err);
  if (result == 0) result = load_config(t, err);
  if (result == 0) result = give_away(t, err);
  if (result < 0) (void)fprintf(stderr, "buildq: %s\n", err->message);
  if (result == 0) result = run_both(t, err);
  if (t->scratch != NULL) {
    char *name = strrchr(t->scratch, '/');
    bq_error cleanup;
    *name = '\0';
    if (bq_tree_remove(t->scratch, name + 1, &cleanup) < 0) (void)fprintf(stderr, "buildq: %s\n", cleanup.message);
  }
  return result;
}

int bq_command_test(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"filter", OPTION_FILTER, "PATTERN", 0, "Only tests whose name matches the Lua pattern", 1},
      {"output", OPTION_OUTPUT, "HANDLER", 0, "How busted reports: utfTerminal, TAP, json, junit …", 1},
      {"record", OPTION_RECORD, NULL, 0, "Do recorded commands and requests really, and record them anew", 1},
      {"scripts", OPTION_SCRIPTS, "DIR", 0, "The scripts there, instead of those in ScriptDirectory", 1},
      {"verbose", OPTION_VERBOSE, NULL, 0, "Show the runtime's log", 1},
      {0}};
  static const struct argp_child children[] = {{&bq_config_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "[FILE...]",
      .doc = "Runs busted specs (FILE, else *_spec.lua below ScriptDirectory and ./spec) beside the real runtime: "
             "require \"buildq.test\" in a spec runs pipelines, routes, policies and modules in it, with a virtual "
             "clock, stubbed commands and requests, and a scratch database when the spec asks for it. Exit code 0 "
             "when all tests pass." BQ_EXIT_TEXT,
      .children = children};
  arguments a = {0};
  bq_error err;
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  test t = {.arguments = &a, .to_runtime = {-1, -1}, .from_runtime = {-1, -1}};
  int result = run(&t, &err);
  bq_config_free(t.config);
  bq_free(t.share);
  bq_free(t.scratch);
  bq_free(t.team_scripts);
  return result == 0 ? BQ_EXIT_OK : BQ_EXIT_FAILURE;
}
