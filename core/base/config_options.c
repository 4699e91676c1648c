// The table of all options, and the checks its rows name.
#include <limits.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/config_internal.h"
#include "base/label.h"
#include "base/memory.h"
#include "base/network.h"

static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL}; // in the order of bq_log_level
static const char *const log_formats[] = {"text", "json", NULL};                  // bq_log_format
static const char *const sandboxes[] = {"bwrap", "none", NULL};                   // bq_config_sandbox

static int is_port(const char *text) {
  size_t digits = strspn(text, "0123456789");
  return digits > 0 && digits <= 5 && text[digits] == '\0' && strtol(text, NULL, 10) <= 65535;
}

static const char *check_listen(const char *text) {
  static const char form[] = "must be an address and a port, such as 127.0.0.1:8080 or [::1]:8080";
  static const char loopback[] = "must be a loopback address (127.0.0.1, [::1] or localhost): there is no access "
                                 "control yet, so other machines must not reach it; put a proxy in front";
  char host[64];
  const char *colon = strrchr(text, ':');
  if (colon == NULL || !is_port(colon + 1)) return form;
  size_t length = (size_t)(colon - text);
  if (length == 0 || length >= sizeof host) return length == 0 ? loopback : form;
  memcpy(host, text, length);
  host[length] = '\0';
  if (host[0] == '[') {
    struct in6_addr six;
    if (host[length - 1] != ']') return form;
    host[length - 1] = '\0';
    if (inet_pton(AF_INET6, host + 1, &six) != 1) return form;
    return IN6_IS_ADDR_LOOPBACK(&six) ? NULL : loopback;
  }
  if (strchr(host, ':') != NULL) return form;
  struct in_addr four;
  if (inet_pton(AF_INET, host, &four) == 1) return (ntohl(four.s_addr) >> 24) == 127 ? NULL : loopback;
  return strcasecmp(host, "localhost") == 0 ? NULL : loopback;
}

static const char *check_not_empty(const char *text) {
  return *text != '\0' ? NULL : "must not be empty";
}

static const char *check_url(const char *text) {
  static const char right[] = "must be empty or a URL such as https://builds.example.com, without ? and #";
  if (*text == '\0') return NULL;
  const char *rest = strncasecmp(text, "https://", 8) == 0 ? text + 8 : NULL;
  if (rest == NULL && strncasecmp(text, "http://", 7) == 0) rest = text + 7;
  if (rest == NULL || *rest == '\0' || *rest == '/' || strpbrk(rest, " ?#\"<>\\@") != NULL) return right;
  return NULL;
}

static const char *check_address(const char *text) {
  static const char right[] = "must be empty or a mail address such as help@example.com";
  const char *at = strchr(text, '@');
  if (*text == '\0') return NULL;
  return at != NULL && at != text && at[1] != '\0' && strpbrk(text, " <>\",;\t\r\n") == NULL ? NULL : right;
}

static const char *check_token(const char *text) {
  static const char right[] = "must be command:PROGRAM, which prints a token, or file:PATH, which holds one";
  return *text == '\0' || strncmp(text, "command:", 8) == 0 || strncmp(text, "file:", 5) == 0 ? NULL : right;
}

static const char *check_color(const char *text) {
  int is_color = text[0] == '#' && strspn(text + 1, "0123456789abcdefABCDEF") == 6 && text[7] == '\0';
  return is_color ? NULL : "must be a colour such as #2563c9";
}

static const char *check_host(const char *text) {
  static const char right[] = "must be a host name, or a host name and a port, without a wildcard";
  return *text != '\0' && strpbrk(text, " */\\@?#,\"") == NULL ? NULL : right;
}

static const char *check_webhook_url(const char *text) {
  static const char right[] = "must be a URL that begins with https:// (or http://)";
  size_t scheme = strncasecmp(text, "https://", 8) == 0 ? 8 : strncasecmp(text, "http://", 7) == 0 ? 7 : 0;
  if (scheme == 0 || text[scheme] == '\0' || text[scheme] == '/') return right;
  for (const char *c = text; *c != '\0'; c++) {
    if (*c <= ' ' || *c > '~') return right;
  }
  return NULL;
}

// Standard Webhooks 1.0, "Signature scheme": base64 of 24 to 64 bytes behind the prefix.
static const char *check_webhook_secret(const char *text) {
  static const char right[] = "must be whsec_ and the base64 of 24 to 64 bytes, such as "
                              "`echo whsec_$(openssl rand -base64 32)` prints";
  if (strncmp(text, "whsec_", 6) != 0) return right;
  const char *code = text + 6;
  size_t length = strspn(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
  size_t padding = strspn(code + length, "=");
  int is_base64 = code[length + padding] == '\0' && padding <= 2 && (length + padding) % 4 == 0;
  size_t bytes = length * 3 / 4;
  return is_base64 && bytes >= 24 && bytes <= 64 ? NULL : right;
}

static const char *check_network(const char *text) {
  bq_network network;
  if (bq_network_parse(&network, text) == 0) return NULL;
  return "must be a network such as 10.1.0.0/16 or fd00::/8, or an address";
}

static const char *check_event(const char *text) {
  static const char *const events[] = {"queued", "started", "retrying", "completed", "failed", "timedout", "cancelled"};
  for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
    if (strcmp(text, events[i]) == 0) return NULL;
  }
  return "must be queued, started, retrying, completed, failed, timedout or cancelled";
}

static const char *check_label(const char *text) {
  return bq_label_is(text) ? NULL : "must be " BQ_LABEL_RULE;
}

static const char *check_absolute(const char *text) {
  return *text == '/' ? NULL : "must be an absolute path";
}

static const char *check_source(const char *text) {
  return *text == '\0' || *text == '/' || strncasecmp(text, "https://", 8) == 0
             ? NULL
             : "must be empty, an absolute path or an https URL";
}

static const char *check_user(const char *text) {
  static const char right[] = "must be the name of a user: letters, digits, - and _";
  size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.");
  return length > 0 && length <= 32 && text[length] == '\0' && text[0] != '-' && text[0] != '.' ? NULL : right;
}

// The rows. NOW: a running server takes it over at SIGHUP. RESTART: it waits for the next start.
#define NOW true
#define RESTART false
#define AT(field) offsetof(bq_config, field)
#define BOOL(section, name, field, standard, when, help) \
  {section, name, NULL, BQ_OPTION_BOOL, AT(field), standard, NULL, 0, 0, NULL, NULL, NULL, when, help}
#define INTEGER(section, name, old, field, standard, min, max, unit, when, help) \
  {section, name, old, BQ_OPTION_INTEGER, AT(field), standard, NULL, min, max, unit, NULL, NULL, when, help}
#define WORD(section, name, field, standard, words, when, help) \
  {section, name, NULL, BQ_OPTION_WORD, AT(field), standard, NULL, 0, 0, NULL, words, NULL, when, help}
#define TEXT(section, name, old, kind, field, standard, standard_help, check, when, help) \
  {section, name, old, kind, AT(field), standard, standard_help, 0, 0, NULL, NULL, check, when, help}
#define Q "BuildQueue"
#define E "Email"
#define N "Notifications"
#define ENDS "completed, failed, timedout and cancelled"
#define STRING BQ_OPTION_STRING
#define PATH BQ_OPTION_PATH
#define SECRET BQ_OPTION_SECRET
#define LIST BQ_OPTION_LIST
#define SECRETS BQ_OPTION_SECRETS
#define OBJECT BQ_OPTION_OBJECT

const bq_config_option bq_config_options[] = {
  INTEGER(Q, "MaxConcurrentBuilds", NULL, max_concurrent_builds, "2", 1, 10000, NULL, NOW,
          "How many builds run at the same time on this server."),
  INTEGER(Q, "BuildTimeoutMinutes", NULL, build_timeout_minutes, "60", 1, 43200, "minutes", NOW,
          "A build that runs longer is ended and becomes timedout."),
  INTEGER(Q, "MaxRetryAttempts", "RetryAttempts", max_retry_attempts, "3", 0, 1000, NULL, NOW,
          "How often a failed build is tried again; 0: never."),
  INTEGER(Q, "PollIntervalSeconds", "PollingIntervalSeconds", poll_interval_seconds, "5", 1, 3600, "seconds", NOW,
          "How often the table is looked at for builds that nobody announced."),
  INTEGER(Q, "RetryDelayMinutes", NULL, retry_delay_minutes, "5", 0, 1440, "minutes", NOW,
          "How long a failed build waits for its first retry."),
  BOOL(Q, "UseExponentialBackoff", use_exponential_backoff, "true", NOW,
       "The delay doubles with each retry, up to 24 hours."),
  INTEGER(Q, "CompletedBuildRetentionDays", NULL, completed_build_retention_days, "30", 1, 36500, "days", NOW,
          "How long ended builds and their files are kept."),
  BOOL(Q, "EnableNotifications", enable_notifications, "true", NOW, "Customers are told how their builds end."),
  TEXT(Q, "ConnectionString", NULL, SECRET, connection_string, "", "the server's own private PostgreSQL", NULL, RESTART,
       "The database: Host=...;Database=...;Username=...;Password=..., a postgresql:// URI or libpq keywords."),
  BOOL(Q, "EnableHealthChecks", enable_health_checks, "true", NOW, "/healthz and /readyz answer."),
  TEXT(Q, "WorkspaceDirectory", NULL, PATH, workspace_directory, "/var/honua/builds", NULL, check_not_empty, RESTART,
       "Where builds work."),
  TEXT(Q, "OutputDirectory", NULL, PATH, output_directory, "/var/honua/output", NULL, check_not_empty, RESTART,
       "Where finished artifacts lie."),
  TEXT(Q, "DownloadBaseUrl", NULL, STRING, download_base_url, "", "the server's own address", check_url, NOW,
       "What download links begin with."),
  BOOL(Q, "CleanupWorkspaceAfterBuild", cleanup_workspace_after_build, "true", NOW,
       "A build's workspace is removed when it ends, whatever the outcome."),
  BOOL(Q, "EnableGracefulShutdown", enable_graceful_shutdown, "true", NOW,
       "At SIGTERM running builds get time to end; otherwise they go back to pending at once."),
  INTEGER(Q, "GracefulShutdownTimeoutSeconds", NULL, graceful_shutdown_timeout_seconds, "300", 0, 86400, "seconds", NOW,
          "How much time that is."),

  TEXT(Q, "Listen", NULL, STRING, listen, "127.0.0.1:8080", NULL, check_listen, RESTART,
       "Address and port of the API; a loopback address, port 0 takes a free one."),
  TEXT(Q, "StateDirectory", NULL, PATH, state_directory, NULL,
       "/var/lib/buildq for root, else $XDG_STATE_HOME/buildq or ~/.local/state/buildq", check_not_empty, RESTART,
       "Where the server keeps logs, its private PostgreSQL and its node id."),
  TEXT(Q, "ScriptDirectory", NULL, PATH, script_directory, "", "only the shipped ones", NULL, RESTART,
       "Your own scripts; a file here wins over the shipped one of the same path."),
  TEXT(Q, "TemplateDirectory", NULL, PATH, template_directory, "", "only the shipped ones", NULL, RESTART,
       "Your own templates, likewise."),
  TEXT(Q, "SecretsDirectory", NULL, PATH, secrets_directory, "", "none", NULL, RESTART,
       "One file for each secret that pipelines may ask for with build:secret."),
  TEXT(Q, "ManifestDirectory", NULL, PATH, manifest_directory, "", "manifests in StateDirectory", NULL, NOW,
       "Where the files are that manifestPath names."),
  INTEGER(Q, "LeaseSeconds", NULL, lease_seconds, "30", 3, 3600, "seconds", RESTART,
          "A server that is silent for so long is taken for dead and its builds are taken over."),
  INTEGER(Q, "WorkerThreads", NULL, worker_threads, "0", 0, 1024, NULL, RESTART,
          "Threads that compute; 0: one for each processor core."),
  INTEGER(Q, "LuaMemoryMegabytes", NULL, lua_memory_megabytes, "64", 1, 65536, "MB", NOW,
          "Memory that the Lua of one build may use."),
  INTEGER(Q, "MaxGenerations", NULL, max_generations, "32", 2, 1000, "generations", RESTART,
          "Generations of scripts alive at a time; at it a change is refused until builds on old ones have ended."),
  INTEGER(Q, "LuaCpuSeconds", NULL, lua_cpu_seconds, "60", 1, 86400, "seconds", NOW,
          "CPU time that the Lua of one build may use; its compilers are not counted."),
  INTEGER(Q, "MaxLogMegabytes", NULL, max_log_megabytes, "64", 1, 1048576, "MB", NOW,
          "Where the log of one attempt is cut."),
  WORD(Q, "LogLevel", log_level, "info", log_levels, NOW, "The least important lines in the server's log."),
  WORD(Q, "LogFormat", log_format, "text", log_formats, NOW, "How the server's log is written."),
  TEXT(Q, "RunAsUser", NULL, STRING, run_as_user, "buildq", NULL, check_user, RESTART,
       "Who the server, its database and its builds run as when it is started as root."),
  TEXT(Q, "AllowedHosts", NULL, LIST, allowed_hosts, "", "none", check_host, NOW,
       "Names that requests may have in Host besides the listen address."),
  BOOL(Q, "AllowInlineCommands", allow_inline_commands, "false", NOW,
       "Manifests inside of requests may bring commands, local paths and file: URLs."),
  WORD(Q, "Sandbox", sandbox, "bwrap", sandboxes, RESTART,
       "What builds run in: bubblewrap, or process groups where namespaces are forbidden."),
  TEXT(Q, "SandboxReadOnlyPaths", NULL, LIST, sandbox_read_only_paths, "", "none", check_absolute, NOW,
       "Paths that builds may read besides the system's: SDKs, caches."),
  BOOL(Q, "SandboxNetwork", sandbox_network, "true", NOW, "Builds may use the network."),
  TEXT(Q, "Credentials", NULL, OBJECT, credentials, "{}", "none", bq_config_check_credentials, NOW,
       "What manifests may name to reach private repositories and registries: name → {value: file:PATH or env:NAME, "
       "username, hosts, customers}."),
  TEXT(Q, "BaseImages", NULL, OBJECT, base_images, "{}", "none", bq_config_check_base_images, NOW,
       "What images stand on: architecture → an OCI layout's directory or docker://REFERENCE."),
  TEXT(Q, "TrustedCertificates", NULL, PATH, trusted_certificates, "", "the system's alone", NULL, NOW,
       "A PEM file of certificate authorities that git, skopeo, NuGet and webhooks trust besides."),
  TEXT(Q, "DotnetDirectory", NULL, PATH, dotnet_directory, "", "dotnet in /usr", NULL, NOW,
       "Where the .NET SDK lies."),
  TEXT(Q, "NuGetSource", NULL, STRING, nuget_source, "", "as the SDK and the product say", check_source, NOW,
       "Where packages come from: an https URL, or a directory of packages for builds without the network."),
  INTEGER(Q, "ChildAddressSpaceMegabytes", NULL, child_address_space_megabytes, "0", 0, INT_MAX, "MB", NOW,
          "Address space of each process of a build; 0: no limit."),
  INTEGER(Q, "ChildMaxProcesses", NULL, child_max_processes, "0", 0, 1000000, NULL, NOW,
          "Processes of the user that builds run as; 0: no limit."),
  INTEGER(Q, "ChildOpenFiles", NULL, child_open_files, "4096", 0, 1048576, NULL, NOW,
          "Open files of each process of a build; 0: no limit."),
  INTEGER(Q, "ChildFileSizeMegabytes", NULL, child_file_size_megabytes, "0", 0, INT_MAX, "MB", NOW,
          "Size of each file that a build writes; 0: no limit."),
  INTEGER(Q, "StopGraceSeconds", NULL, stop_grace_seconds, "10", 0, 3600, "seconds", NOW,
          "From SIGTERM to SIGKILL for the processes of a build that is stopped."),
  TEXT(Q, "Labels", NULL, LIST, labels, "", "none", check_label, RESTART,
       "What this server offers to builds besides its system and the tools found here: gpu, region=eu."),
  INTEGER(Q, "MaxConnections", NULL, max_connections, "1024", 1, 1000000, NULL, RESTART,
          "HTTP connections in all."),
  INTEGER(Q, "MaxConnectionsPerPeer", NULL, max_connections_per_peer, "256", 1, 1000000, NULL, RESTART,
          "HTTP connections of one address."),
  INTEGER(Q, "MaxBodyKilobytes", NULL, max_body_kilobytes, "1024", 1, 1048576, "kB", RESTART,
          "The largest body of a request."),
  INTEGER(Q, "RequestHeadSeconds", NULL, request_head_seconds, "10", 1, 3600, "seconds", RESTART,
          "How long a request may take to send its head."),
  INTEGER(Q, "RequestBodySeconds", NULL, request_body_seconds, "30", 1, 3600, "seconds", RESTART,
          "How long it may take to send its body after that."),
  INTEGER(Q, "IdleSeconds", NULL, idle_seconds, "60", 1, 86400, "seconds", RESTART,
          "How long a connection is kept without a request."),
  INTEGER(Q, "DatabaseConnections", NULL, database_connections, "4", 1, 100, NULL, RESTART,
          "Database connections of the queue itself."),
  INTEGER(Q, "ScriptDatabaseConnections", NULL, script_database_connections, "4", 1, 100, NULL, RESTART,
          "Database connections for the queries of scripts."),
  INTEGER(Q, "ScriptStatementTimeoutSeconds", NULL, script_statement_timeout_seconds, "30", 1, 86400, "seconds",
          RESTART, "How long one query of a script may take."),
  BOOL(Q, "MigrateAtStart", migrate_at_start, "true", RESTART, "The server brings the database's schema up to date."),
  INTEGER(Q, "HistoryRetentionDays", NULL, history_retention_days, "90", 1, 36500, "days", NOW,
          "How long the events of builds are kept."),
  INTEGER(Q, "HorizonWarningSeconds", NULL, horizon_warning_seconds, "300", 1, 31536000, "seconds", NOW,
          "A transaction or replication slot that keeps PostgreSQL from cleaning up for longer is named in the log and in "
          "/metrics."),
  INTEGER(Q, "DiskReserveMegabytes", NULL, disk_reserve_megabytes, "512", 0, INT_MAX, "MB", NOW,
          "With less free space no build is started."),
  INTEGER(Q, "MaxConcurrentDeliveries", NULL, max_concurrent_deliveries, "8", 1, 256, NULL, RESTART,
          "How many notifications are sent at the same time by this server."),
  INTEGER(Q, "DeliveryRetrySeconds", NULL, delivery_retry_seconds, "60", 1, 86400, "seconds", NOW,
          "How long a notification that could not be sent waits for its first retry; the delay doubles with each."),
  INTEGER(Q, "DeliveryRetryMaxSeconds", NULL, delivery_retry_max_seconds, "3600", 1, 86400, "seconds", NOW,
          "The longest such delay."),
  INTEGER(Q, "DeliveryGiveUpHours", NULL, delivery_give_up_hours, "24", 1, 720, "hours", NOW,
          "How long after its first try a notification is tried again."),

  BOOL(E, "Enabled", email_enabled, "true", NOW,
       "Mails are sent; otherwise they become files in StateDirectory/outbox."),
  TEXT(E, "SmtpServer", "SmtpHost", STRING, email_smtp_server, "", "mails become files in StateDirectory/outbox", NULL, NOW,
       "The mail server."),
  INTEGER(E, "SmtpPort", NULL, email_smtp_port, "587", 1, 65535, NULL, NOW, "Its port."),
  BOOL(E, "UseSsl", email_use_ssl, "true", NOW, "The connection must be encrypted: TLS at once on port 465, else STARTTLS."),
  TEXT(E, "SmtpUsername", "Username", STRING, email_smtp_username, "", "no login", NULL, NOW, "The login there."),
  TEXT(E, "SmtpPassword", "Password", SECRET, email_smtp_password, "", "none", NULL, NOW, "Its password."),
  TEXT(E, "OAuthToken", NULL, STRING, email_oauth_token, "", "SmtpPassword", check_token, NOW,
       "Where the login gets an OAuth 2 token instead of the password: command:PROGRAM or file:PATH."),
  TEXT(E, "CaFile", NULL, PATH, email_ca_file, "", "the system's", NULL, NOW,
       "Certificate authorities for the mail server, in PEM form."),
  TEXT(E, "FromAddress", "FromEmail", STRING, email_from_address, "", "none", NULL, NOW, "Who mails come from."),
  TEXT(E, "FromName", NULL, STRING, email_from_name, "Honua Server", NULL, NULL, NOW, "The name shown with it."),
  INTEGER(E, "TimeoutSeconds", NULL, email_timeout_seconds, "30", 1, 3600, "seconds", NOW,
          "How long the sending of one mail may take."),
  TEXT(E, "ReplyTo", NULL, STRING, email_reply_to, "", "the sender", check_address, RESTART,
       "Where answers to mails go."),
  TEXT(E, "BrandName", NULL, STRING, email_brand_name, "", "FromName", NULL, RESTART,
       "The name at the head of mails."),
  TEXT(E, "BrandColor", NULL, STRING, email_brand_color, "#2563c9", NULL, check_color, RESTART,
       "The colour of a mail's button; white text stands on it."),
  TEXT(E, "LogoUrl", NULL, STRING, email_logo_url, "", "the name in letters", check_url, RESTART,
       "A picture for the head of mails, shown 28 pixels high."),
  TEXT(E, "SupportAddress", NULL, STRING, email_support_address, "", "none", check_address, RESTART,
       "Whom mails name for questions."),
  TEXT(E, "UnsubscribeUrl", NULL, STRING, email_unsubscribe_url, "", "mails have no link to stop them", check_url, RESTART,
       "What people reach /notifications/unsubscribe of this server by; mails have a signed link to it."),
  TEXT(E, "UnsubscribeSecret", NULL, SECRET, email_unsubscribe_secret, "", "none", NULL, RESTART,
       "Signs these links, 16 characters or more; with another one the links of sent mails are void."),

  TEXT(N, "SlackWebhookUrl", NULL, SECRET, slack_webhook_url, "", "nothing goes to Slack", check_webhook_url, RESTART,
       "The incoming webhook of a Slack channel. Who has it can write there: keep it as a secret."),
  TEXT(N, "SlackEvents", NULL, LIST, slack_events, "", ENDS, check_event, RESTART,
       "What Slack is told of a build."),
  TEXT(N, "TeamsWebhookUrl", NULL, SECRET, teams_webhook_url, "", "nothing goes to Teams", check_webhook_url, RESTART,
       "The workflow webhook of a channel in Microsoft Teams, likewise a secret."),
  TEXT(N, "TeamsEvents", NULL, LIST, teams_events, "", ENDS, check_event, RESTART, "What Teams is told of a build."),
  TEXT(N, "WebhookUrl", NULL, SECRET, webhook_url, "", "no webhook is called", check_webhook_url, RESTART,
       "A server of your own that gets each event as signed JSON (Standard Webhooks)."),
  TEXT(N, "WebhookSecrets", NULL, SECRETS, webhook_secrets, "", "none", check_webhook_secret, NOW,
       "Sign it, each of them: whsec_ and base64. To change one, name the new and the old until the receiver has it."),
  TEXT(N, "WebhookEvents", NULL, LIST, webhook_events, "", "all", check_event, RESTART, "What the webhook is told."),
  TEXT(N, "AllowedNetworks", NULL, LIST, allowed_networks, "", "none", check_network, NOW,
       "Private, loopback and link-local addresses that notifications may be sent to; public ones need no leave."),
  INTEGER(N, "TimeoutSeconds", NULL, notifications_timeout_seconds, "15", 1, 300, "seconds", NOW,
          "How long one call of Slack, Teams or a webhook may take."),
};

const size_t bq_config_option_count = sizeof bq_config_options / sizeof bq_config_options[0];

int bq_config_is_secret(const bq_config_option *option) {
  return option->kind == BQ_OPTION_SECRET || option->kind == BQ_OPTION_SECRETS;
}

const bq_config_option *bq_config_find(const char *section, const char *name, bool *misspelt) {
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    if (strcasecmp(option->section, section) != 0) continue;
    *misspelt = option->misspelt != NULL && strcasecmp(option->misspelt, name) == 0;
    if (*misspelt || strcasecmp(option->name, name) == 0) return option;
  }
  return NULL;
}

char *bq_config_range_text(const bq_config_option *option) {
  bq_buf text = {0};
  switch (option->kind) {
  case BQ_OPTION_BOOL: return bq_strdup("true or false");
  case BQ_OPTION_INTEGER:
    if (option->max == INT_MAX) return bq_format("a whole number from %d", option->min);
    return bq_format("a whole number from %d to %d", option->min, option->max);
  case BQ_OPTION_WORD:
    for (size_t i = 0; option->words[i] != NULL; i++) {
      if (i > 0) bq_buf_adds(&text, option->words[i + 1] == NULL ? " or " : ", ");
      bq_buf_adds(&text, option->words[i]);
    }
    return bq_buf_take(&text);
  case BQ_OPTION_STRING: return bq_strdup("a text");
  case BQ_OPTION_PATH: return bq_strdup("a path");
  case BQ_OPTION_SECRET: return bq_strdup("a text, file:PATH, env:NAME or command:PROGRAM");
  case BQ_OPTION_LIST: return bq_strdup("a list of texts");
  case BQ_OPTION_SECRETS: return bq_strdup("a list of texts, file:PATH, env:NAME or command:PROGRAM");
  case BQ_OPTION_OBJECT: return bq_strdup("an object");
  }
  return NULL;
}
