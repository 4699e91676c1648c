// Commands: one file each, one row each in main.c's table.
#ifndef BQ_CLI_COMMAND_H
#define BQ_CLI_COMMAND_H

#include <argp.h>

// Exit codes of all commands.
enum {
  BQ_EXIT_OK = 0,
  BQ_EXIT_FAILURE = 1,     // it could not be done; standard error says why
  BQ_EXIT_USAGE = 2,       // the command line can't be read
  BQ_EXIT_UNREACHABLE = 3, // no server answers
  BQ_EXIT_NOT_FOUND = 4,   // there is no such build
  BQ_EXIT_CONFLICT = 5,    // the build is in a state that forbids this
  BQ_EXIT_BUILD = 6        // the build that was followed or run did not succeed
};

#define BQ_EXIT_TEXT                                                                                                   \
  "\vExit codes: 0 done, 1 failed, 2 wrong usage, 3 no server answers, 4 no such build, 5 the build's state forbids "   \
  "it, 6 the build did not succeed."

typedef struct bq_command {
  const char *name;
  const char *summary; // one line of `buildq help`
  int (*run)(int argc, char **argv); // argv[0] is "buildq NAME"; returns an exit code
} bq_command;

// The options that most commands share; a child parser for argp (its input is a bq_common).
typedef struct bq_common {
  const char *config; // --config FILE, or NULL
  const char *server; // --server URL, or NULL
  int json;           // --json
} bq_common;
extern const struct argp bq_config_argp; // --config
extern const struct argp bq_client_argp; // --config, --server, --json

int bq_command_serve(int argc, char **argv);
int bq_command_check(int argc, char **argv);
int bq_command_config(int argc, char **argv);
int bq_command_migrate(int argc, char **argv);
int bq_command_retention(int argc, char **argv);
int bq_command_rehearse(int argc, char **argv);
int bq_command_run(int argc, char **argv);
int bq_command_test(int argc, char **argv);
int bq_command_new(int argc, char **argv);
int bq_command_enqueue(int argc, char **argv);
int bq_command_status(int argc, char **argv);
int bq_command_list(int argc, char **argv);
int bq_command_logs(int argc, char **argv);
int bq_command_cancel(int argc, char **argv);
int bq_command_retry(int argc, char **argv);
int bq_command_pause(int argc, char **argv);
int bq_command_resume(int argc, char **argv);
int bq_command_stats(int argc, char **argv);
int bq_command_archive(int argc, char **argv);
int bq_command_nodes(int argc, char **argv);
int bq_command_schedule(int argc, char **argv);
int bq_command_mail(int argc, char **argv);
int bq_command_unsubscribe(int argc, char **argv);
int bq_command_explain(int argc, char **argv);
int bq_command_override(int argc, char **argv);
int bq_command_manifest(int argc, char **argv);
int bq_command_reload(int argc, char **argv);
int bq_command_generations(int argc, char **argv);

#endif
