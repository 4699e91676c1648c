// The configuration: the old service's appsettings.json, the environment over it, and what both mean.
//
// Sources, later ones win, value by value (array items by index, as .NET does):
//   1. defaults                          2. appsettings.json (or --config FILE)
//   3. appsettings.{DOTNET_ENVIRONMENT}.json beside it ("Production" when that variable is unset or empty)
//   4. the environment: BuildQueue__Name=value, Email__Name=value, BuildQueue__AllowedHosts__0=value
//      (sections BuildQueue, Email and Notifications)
// Secrets that none of them gives are looked for in $CREDENTIALS_DIRECTORY (base/secret.h).
//
// Each option is one row of the table in config_options.c: loader, checker, help, example and README are made from it.
#ifndef BQ_BASE_CONFIG_H
#define BQ_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/error.h"

enum {
  BQ_CONFIG_MAX_BYTES = 1024 * 1024, // of one file
  BQ_CONFIG_MAX_ITEMS = 64,          // of one list: indexes 0 to 63
  BQ_CONFIG_MAX_VALUE = 8192,        // bytes of one value
  BQ_CONFIG_MAX_FAULTS = 200         // kept; later ones are only counted
};

typedef enum bq_config_sandbox { BQ_CONFIG_SANDBOX_BWRAP, BQ_CONFIG_SANDBOX_NONE } bq_config_sandbox;

typedef struct bq_config_details bq_config_details; // where each value came from; private to config*.c

// The values. The one struct of the core that is not opaque: it is plain data, read everywhere and written by
// bq_config_load and bq_config_apply alone. Strings and lists are owned by it; strings are never NULL ("" when not
// given), lists end with NULL and are never NULL. Paths are absolute or "". Figures are in the unit of their name.
typedef struct bq_config {
  // Section BuildQueue: the old service's options
  int max_concurrent_builds;             // on this server
  int build_timeout_minutes;             // of one attempt
  int max_retry_attempts;                // charged failures that are tried again; 0: never
  int poll_interval_seconds;             // between two looks for work that nobody announced
  int retry_delay_minutes;               // before the first retry
  bool use_exponential_backoff;          // the delay doubles with each retry
  int completed_build_retention_days;    // ended builds and their files
  bool enable_notifications;             // mails and hooks
  char *connection_string;               // libpq form, ready for PQconnectStart; "": the private cluster. Secret
  bool enable_health_checks;             // /healthz and /readyz answer
  char *workspace_directory;
  char *output_directory;
  char *download_base_url;               // without a slash at its end; "": the server's own address
  bool cleanup_workspace_after_build;
  bool enable_graceful_shutdown;         // running builds get time at SIGTERM
  int graceful_shutdown_timeout_seconds; // how much

  // Section BuildQueue: ours
  char *listen;                          // "127.0.0.1:8080", "localhost:8080" or "[::1]:8080": always loopback
  char *state_directory;
  char *script_directory;                // the team's scripts over the shipped ones; "" for none
  char *template_directory;              // likewise
  char *secrets_directory;               // one file for each secret of pipelines; "" for none
  char *manifest_directory;              // filled by the loader when not given
  int lease_seconds;                     // a node silent for so long is dead
  int worker_threads;                    // compute pool; 0: as many as cores
  int lua_memory_megabytes;              // of one build's Lua
  int max_generations;                   // of scripts, alive at a time
  int lua_cpu_seconds;                   // CPU time that one build's Lua may use
  int max_log_megabytes;                 // of one attempt's log
  int log_level;                         // bq_log_level
  int log_format;                        // bq_log_format
  char *run_as_user;                     // when started as root
  char **labels;                         // offered to builds besides what is found
  char **allowed_hosts;                  // Host headers taken besides the listen address
  bool allow_inline_commands;            // manifests of requests may bring commands, local paths and file: URLs
  int sandbox;                           // bq_config_sandbox
  char **sandbox_read_only_paths;        // absolute; shown to every build
  bool sandbox_network;                  // builds see the network
  char *credentials;                     // JSON object; values are references, resolved for each build that uses them
  char *base_images;                     // JSON object
  char *trusted_certificates;            // "": the system's alone
  char *dotnet_directory;                // "": dotnet is in PATH
  char *nuget_source;                    // a directory or a URL; "": the SDK's own
  int child_address_space_megabytes;     // of each child; 0: no limit. So below
  int child_max_processes;
  int child_open_files;
  int child_file_size_megabytes;
  int stop_grace_seconds;                // from SIGTERM to SIGKILL of a child
  int max_connections;                   // HTTP, in all
  int max_connections_per_peer;          // HTTP, of one address
  int max_body_kilobytes;                // of one request
  int request_head_seconds;              // from its first byte to the end of its head
  int request_body_seconds;              // from there to the end of the body
  int idle_seconds;                      // a connection kept without a request
  int database_connections;              // for the queue itself
  int script_database_connections;       // for db.query of scripts
  int script_statement_timeout_seconds;  // of one such query
  bool migrate_at_start;                 // serve brings the schema up to date
  int history_retention_days;            // events of ended builds
  int horizon_warning_seconds;           // age at which what keeps PostgreSQL from cleaning up is named
  int disk_reserve_megabytes;            // free space below which nothing is claimed
  int max_concurrent_deliveries;         // notifications sent at the same time, on this server
  int delivery_retry_seconds;            // before the first retry of one; the delay doubles with each
  int delivery_retry_max_seconds;        // the longest delay
  int delivery_give_up_hours;            // from the first try of one to the last

  // Section Email
  bool email_enabled;
  char *email_smtp_server;               // "": no mail is sent
  int email_smtp_port;
  bool email_use_ssl;                    // TLS is required: from the start on port 465, STARTTLS on others
  char *email_smtp_username;
  char *email_smtp_password;             // Secret
  char *email_from_address;
  char *email_from_name;
  char *email_oauth_token;               // where an OAuth 2 token is got for each login; "": the password
  char *email_ca_file;                   // certificate authorities of the mail server; "": the system's
  int email_timeout_seconds;             // of one delivery
  char *email_reply_to;                  // "": answers go to the sender
  char *email_brand_name;                // "": email_from_name
  char *email_brand_color;               // "#rrggbb"
  char *email_logo_url;                  // "": the brand's name instead
  char *email_support_address;           // "": none is named
  char *email_unsubscribe_url;           // "": mails have no link to stop them
  char *email_unsubscribe_secret;        // signs these links. Secret

  // Section Notifications
  char *slack_webhook_url;               // "": nothing goes to Slack. Secret
  char **slack_events;                   // empty: the script's choice. So below
  char *teams_webhook_url;               // "": nothing goes to Teams. Secret
  char **teams_events;
  char *webhook_url;                     // "": no webhook is called. Secret
  char **webhook_secrets;                // "whsec_…": each signs what webhooks are sent. Secrets
  char **webhook_events;
  char **allowed_networks;               // special-purpose addresses that may be called (base/network.h)
  int notifications_timeout_seconds;     // of one call

  bq_config_details *details;            // private
} bq_config;

// Where to read from. All fields may be NULL: then the process's own are taken.
typedef struct bq_config_source {
  const char *path;               // --config FILE: must exist. NULL: the first of the next two that exists, or none
  const char *local_path;         // NULL: "appsettings.json" in the current directory
  const char *system_path;        // NULL: "/etc/buildq/appsettings.json"
  const char *const *environment; // "NAME=value", NULL-terminated
} bq_config_source;

// What is wrong, or only worth saying. All strings are owned by the list.
typedef struct bq_config_fault {
  bool warning; // the start goes on
  char *name;   // "BuildQueue.MaxConcurrentBuilds", or the path of a file
  char *value;  // as it was given, cut at 200 bytes; "***" for what is or may be a secret; "" when there is none
  char *where;  // the file's path, "environment BuildQueue__X", or "" when no single source is to blame
  char *right;  // what would be right
} bq_config_fault;

typedef struct bq_config_faults {
  bq_config_fault *items;
  size_t count;   // in items, warnings included
  size_t errors;  // all errors found, also those beyond BQ_CONFIG_MAX_FAULTS
} bq_config_faults;

// Reads, merges and checks everything. On success `*out` is the caller's (bq_config_free); passwords in it are known to
// the log (bq_log_hide) and never shown. On BQ_EINVAL *all* faults are in `*faults` and `err` holds the first and their
// number. `*faults` is set in each case, except BQ_ENOMEM (it may hold warnings after a success; bq_config_faults_free).
// May block for file reads and `command:` secrets (10 s each): not for the loop's thread while serving.
int bq_config_load(bq_config **out, const bq_config_source *source, bq_config_faults **faults,
                   bq_error *err) BQ_MUSTCHECK;
// Calls `each` with every value that is never shown, but empty ones.
void bq_config_each_secret(const bq_config *config, void (*each)(void *arg, const char *secret), void *arg);

void bq_config_free(bq_config *config);

// One sentence for one fault: "BuildQueue.X is 0 (in FILE): must be a whole number from 1 to 10000". The caller's.
char *bq_config_fault_text(const bq_config_fault *fault);
void bq_config_faults_log(const bq_config_faults *faults); // a line each, at BQ_WARN or BQ_ERROR
void bq_config_faults_free(bq_config_faults *faults);

// Calls `changed` for each option whose value differs. `now` tells whether it applies to a running server or waits for
// a restart. Values are text as bq_config_print shows it (secrets are "***"), borrowed for the call.
typedef struct bq_config_change {
  const char *name; // "BuildQueue.LogLevel"
  const char *before;
  const char *after;
  bool now;
} bq_config_change;
int bq_config_diff(const bq_config *before, const bq_config *after,
                   void (*changed)(void *arg, const bq_config_change *change), void *arg, bq_error *err) BQ_MUSTCHECK;

// Exchanges the values of all options that apply to a running server between the two: `running` then has the new ones.
// `newer` holds the replaced strings; free it when no other thread can still read them.
void bq_config_apply(bq_config *running, bq_config *newer);

// `buildq config init`: a commented file that loads as it is and says all defaults.
int bq_config_write_example(FILE *out, bq_error *err) BQ_MUSTCHECK;
// The effective values, one a line, and where each came from. Secrets are "***".
int bq_config_print(const bq_config *config, FILE *out, bq_error *err) BQ_MUSTCHECK;
// README's tables of options.
int bq_config_markdown(FILE *out, bq_error *err) BQ_MUSTCHECK;

#endif
