// The program: its commands, one row each.
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"
#include "base/version.h"
#include "cli/command.h"

static int print_version(int argc, char **argv) {
  static const struct argp argp = {.doc = "Prints the version." BQ_EXIT_TEXT};
  (void)argp_parse(&argp, argc, argv, 0, NULL, NULL);
  (void)puts("buildq " BQ_VERSION);
  return BQ_EXIT_OK;
}

static const bq_command commands[] = {
    {"serve", "run the server", bq_command_serve},
    {"check", "check configuration, scripts and manifests without starting", bq_command_check},
    {"config", "write an example configuration, show the one in effect", bq_command_config},
    {"migrate", "bring the database's schema up to date", bq_command_migrate},
    {"retention", "confirm the removal of the old service's builds", bq_command_retention},
    {"archive", "write ended builds to a file, or put them back", bq_command_archive},
    {"enqueue", "queue a build", bq_command_enqueue},
    {"status", "show one build, or follow it", bq_command_status},
    {"explain", "say why a build waits, when it starts and what it costs", bq_command_explain},
    {"list", "list builds", bq_command_list},
    {"logs", "print a build's log, or follow it", bq_command_logs},
    {"cancel", "cancel a build", bq_command_cancel},
    {"retry", "put ended builds into the queue again", bq_command_retry},
    {"pause", "let no build start, on all servers", bq_command_pause},
    {"resume", "let builds start again", bq_command_resume},
    {"stats", "show the queue's figures", bq_command_stats},
    {"nodes", "list servers, drain one and let it go on", bq_command_nodes},
    {"schedule", "list, run, pause and resume schedules", bq_command_schedule},
    {"mail", "show what customers were told, preview and resend it", bq_command_mail},
    {"unsubscribe", "say who gets no notifications, of which events", bq_command_unsubscribe},
    {"rehearse", "play recorded builds through another policy", bq_command_rehearse},
    {"override", "copy a shipped script or template, to change it", bq_command_override},
    {"reload", "read the scripts again, and say what has changed", bq_command_reload},
    {"generations", "list, compare, activate and release generations of scripts", bq_command_generations},
    {"manifest", "check a manifest, say what is built of it, print its hash or the schema", bq_command_manifest},
    {"run", "do one build in the foreground, without a queue", bq_command_run},
    {"new", "write a starting pipeline, policy, route or notification, with its spec", bq_command_new},
    {"test", "run specs of your scripts inside the real runtime", bq_command_test},
    {"version", "print the version", print_version},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out) {
  (void)fputs("Usage: buildq COMMAND [OPTION...]\n\n", out);
  for (int i = 0; i < COMMAND_COUNT; i++) (void)fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].summary);
  (void)fputs("\nbuildq help COMMAND, or buildq COMMAND --help, says more.\n", out);
}

static int refuse(const char *word) {
  const char *names[COMMAND_COUNT + 1] = {NULL};
  for (int i = 0; i < COMMAND_COUNT; i++) names[i] = commands[i].name;
  const char *near = bq_nearest(word, names);
  (void)fprintf(stderr, "buildq: there is no command %s", word);
  if (near != NULL) (void)fprintf(stderr, "; did you mean %s?", near);
  (void)fputs("\n", stderr);
  return BQ_EXIT_USAGE;
}

// `argv[0]` is the command's name.
static int run(int argc, char **argv) {
  char name[64];
  for (int i = 0; i < COMMAND_COUNT; i++) {
    if (strcmp(argv[0], commands[i].name) != 0) continue;
    (void)snprintf(name, sizeof name, "buildq %s", argv[0]);
    argv[0] = name;
    argp_err_exit_status = BQ_EXIT_USAGE;
    return commands[i].run(argc, argv);
  }
  return refuse(argv[0]);
}

int main(int argc, char **argv) {
  char version[] = "version";
  char help[] = "--help";
  if (argc < 2) {
    print_help(stderr);
    return BQ_EXIT_USAGE;
  }
  if (strcmp(argv[1], "help") == 0 && argc > 2) return run(2, (char *[]){argv[2], help, NULL});
  if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    print_help(stdout);
    return BQ_EXIT_OK;
  }
  if (strcmp(argv[1], "--version") == 0) argv[1] = version;
  return run(argc - 1, argv + 1);
}
