// Every option: its default, its range, its name in the file and in the environment, and when a change applies. The table
// here is written from the product's description, not made from the program's own.
#include "config_fixture.h"

#include <limits.h>

#include "base/config_internal.h"

typedef enum kind { B, I, S, L, W, O } kind;

typedef struct expected {
  const char *section;
  const char *name;
  kind kind;
  size_t offset;
  const char *standard; // as bq_config_print shows it; NULL: tested elsewhere
  int min, max;
  const char *other;    // a right value that is not the default
  bool now;
} expected;

#define WHSEC "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
#define CREDENTIALS "{\"git\":{\"customers\":[\"*\"],\"hosts\":[\"git.example\"],\"value\":\"file:/x\"}}"
#define AT(field) offsetof(bq_config, field)
static const expected table[] = {
  {"BuildQueue", "MaxConcurrentBuilds", I, AT(max_concurrent_builds), "2", 1, 10000, "3", true},
  {"BuildQueue", "BuildTimeoutMinutes", I, AT(build_timeout_minutes), "60", 1, 43200, "3", true},
  {"BuildQueue", "MaxRetryAttempts", I, AT(max_retry_attempts), "3", 0, 1000, "4", true},
  {"BuildQueue", "PollIntervalSeconds", I, AT(poll_interval_seconds), "5", 1, 3600, "3", true},
  {"BuildQueue", "RetryDelayMinutes", I, AT(retry_delay_minutes), "5", 0, 1440, "3", true},
  {"BuildQueue", "UseExponentialBackoff", B, AT(use_exponential_backoff), "true", 0, 0, "false", true},
  {"BuildQueue", "CompletedBuildRetentionDays", I, AT(completed_build_retention_days), "30", 1, 36500, "3", true},
  {"BuildQueue", "EnableNotifications", B, AT(enable_notifications), "true", 0, 0, "false", true},
  {"BuildQueue", "ConnectionString", S, AT(connection_string), "", 0, 0, "service=builds", false},
  {"BuildQueue", "EnableHealthChecks", B, AT(enable_health_checks), "true", 0, 0, "false", true},
  {"BuildQueue", "WorkspaceDirectory", S, AT(workspace_directory), "/var/honua/builds", 0, 0, "/w", false},
  {"BuildQueue", "OutputDirectory", S, AT(output_directory), "/var/honua/output", 0, 0, "/o", false},
  {"BuildQueue", "DownloadBaseUrl", S, AT(download_base_url), "", 0, 0, "https://x.example/y", true},
  {"BuildQueue", "CleanupWorkspaceAfterBuild", B, AT(cleanup_workspace_after_build), "true", 0, 0, "false", true},
  {"BuildQueue", "EnableGracefulShutdown", B, AT(enable_graceful_shutdown), "true", 0, 0, "false", true},
  {"BuildQueue", "GracefulShutdownTimeoutSeconds", I, AT(graceful_shutdown_timeout_seconds), "300", 0, 86400, "3", true},
  {"BuildQueue", "Listen", S, AT(listen), "127.0.0.1:8080", 0, 0, "[::1]:81", false},
  {"BuildQueue", "StateDirectory", S, AT(state_directory), NULL, 0, 0, "/s", false},
  {"BuildQueue", "ScriptDirectory", S, AT(script_directory), "", 0, 0, "/x", false},
  {"BuildQueue", "TemplateDirectory", S, AT(template_directory), "", 0, 0, "/x", false},
  {"BuildQueue", "SecretsDirectory", S, AT(secrets_directory), "", 0, 0, "/x", false},
  {"BuildQueue", "ManifestDirectory", S, AT(manifest_directory), NULL, 0, 0, "/x", true},
  {"BuildQueue", "LeaseSeconds", I, AT(lease_seconds), "30", 3, 3600, "9", false},
  {"BuildQueue", "WorkerThreads", I, AT(worker_threads), "0", 0, 1024, "3", false},
  {"BuildQueue", "LuaMemoryMegabytes", I, AT(lua_memory_megabytes), "64", 1, 65536, "3", true},
  {"BuildQueue", "MaxGenerations", I, AT(max_generations), "32", 2, 1000, "4", false},
  {"BuildQueue", "LuaCpuSeconds", I, AT(lua_cpu_seconds), "60", 1, 86400, "3", true},
  {"BuildQueue", "MaxLogMegabytes", I, AT(max_log_megabytes), "64", 1, 1048576, "3", true},
  {"BuildQueue", "LogLevel", W, AT(log_level), "info", 0, 0, "debug", true},
  {"BuildQueue", "LogFormat", W, AT(log_format), "text", 0, 0, "json", true},
  {"BuildQueue", "RunAsUser", S, AT(run_as_user), "buildq", 0, 0, "builder", false},
  {"BuildQueue", "AllowedHosts", L, AT(allowed_hosts), "", 0, 0, "builds.example.com", true},
  {"BuildQueue", "AllowInlineCommands", B, AT(allow_inline_commands), "false", 0, 0, "true", true},
  {"BuildQueue", "Sandbox", W, AT(sandbox), "bwrap", 0, 0, "none", false},
  {"BuildQueue", "SandboxReadOnlyPaths", L, AT(sandbox_read_only_paths), "", 0, 0, "/opt/sdk", true},
  {"BuildQueue", "SandboxNetwork", B, AT(sandbox_network), "true", 0, 0, "false", true},
  {"BuildQueue", "Credentials", O, AT(credentials), "{}", 0, 0, CREDENTIALS, true},
  {"BuildQueue", "BaseImages", O, AT(base_images), "{}", 0, 0, "{\"linux-x64\":\"/base\"}", true},
  {"BuildQueue", "TrustedCertificates", S, AT(trusted_certificates), "", 0, 0, "/x", true},
  {"BuildQueue", "DotnetDirectory", S, AT(dotnet_directory), "", 0, 0, "/x", true},
  {"BuildQueue", "NuGetSource", S, AT(nuget_source), "", 0, 0, "https://packages.example/index.json", true},
  {"BuildQueue", "ChildAddressSpaceMegabytes", I, AT(child_address_space_megabytes), "0", 0, INT_MAX, "3", true},
  {"BuildQueue", "ChildMaxProcesses", I, AT(child_max_processes), "0", 0, 1000000, "3", true},
  {"BuildQueue", "ChildOpenFiles", I, AT(child_open_files), "4096", 0, 1048576, "3", true},
  {"BuildQueue", "ChildFileSizeMegabytes", I, AT(child_file_size_megabytes), "0", 0, INT_MAX, "3", true},
  {"BuildQueue", "StopGraceSeconds", I, AT(stop_grace_seconds), "10", 0, 3600, "3", true},
  {"BuildQueue", "Labels", L, AT(labels), "", 0, 0, "region=eu", false},
  {"BuildQueue", "MaxConnections", I, AT(max_connections), "1024", 1, 1000000, "3", false},
  {"BuildQueue", "MaxConnectionsPerPeer", I, AT(max_connections_per_peer), "256", 1, 1000000, "3", false},
  {"BuildQueue", "MaxBodyKilobytes", I, AT(max_body_kilobytes), "1024", 1, 1048576, "3", false},
  {"BuildQueue", "RequestHeadSeconds", I, AT(request_head_seconds), "10", 1, 3600, "3", false},
  {"BuildQueue", "RequestBodySeconds", I, AT(request_body_seconds), "30", 1, 3600, "3", false},
  {"BuildQueue", "IdleSeconds", I, AT(idle_seconds), "60", 1, 86400, "3", false},
  {"BuildQueue", "DatabaseConnections", I, AT(database_connections), "4", 1, 100, "3", false},
  {"BuildQueue", "ScriptDatabaseConnections", I, AT(script_database_connections), "4", 1, 100, "3", false},
  {"BuildQueue", "ScriptStatementTimeoutSeconds", I, AT(script_statement_timeout_seconds), "30", 1, 86400, "3", false},
  {"BuildQueue", "MigrateAtStart", B, AT(migrate_at_start), "true", 0, 0, "false", false},
  {"BuildQueue", "HistoryRetentionDays", I, AT(history_retention_days), "90", 1, 36500, "3", true},
  {"BuildQueue", "HorizonWarningSeconds", I, AT(horizon_warning_seconds), "300", 1, 31536000, "3", true},
  {"BuildQueue", "DiskReserveMegabytes", I, AT(disk_reserve_megabytes), "512", 0, INT_MAX, "3", true},
  {"BuildQueue", "MaxConcurrentDeliveries", I, AT(max_concurrent_deliveries), "8", 1, 256, "3", false},
  {"BuildQueue", "DeliveryRetrySeconds", I, AT(delivery_retry_seconds), "60", 1, 86400, "3", true},
  {"BuildQueue", "DeliveryRetryMaxSeconds", I, AT(delivery_retry_max_seconds), "3600", 1, 86400, "3", true},
  {"BuildQueue", "DeliveryGiveUpHours", I, AT(delivery_give_up_hours), "24", 1, 720, "3", true},
  {"Email", "Enabled", B, AT(email_enabled), "true", 0, 0, "false", true},
  {"Email", "SmtpServer", S, AT(email_smtp_server), "", 0, 0, "mail.example", true},
  {"Email", "SmtpPort", I, AT(email_smtp_port), "587", 1, 65535, "25", true},
  {"Email", "UseSsl", B, AT(email_use_ssl), "true", 0, 0, "false", true},
  {"Email", "SmtpUsername", S, AT(email_smtp_username), "", 0, 0, "me", true},
  {"Email", "SmtpPassword", S, AT(email_smtp_password), "", 0, 0, "pass1", true},
  {"Email", "OAuthToken", S, AT(email_oauth_token), "", 0, 0, "file:/x", true},
  {"Email", "CaFile", S, AT(email_ca_file), "", 0, 0, "/x", true},
  {"Email", "FromAddress", S, AT(email_from_address), "", 0, 0, "a@b.example", true},
  {"Email", "FromName", S, AT(email_from_name), "Honua Server", 0, 0, "X", true},
  {"Email", "TimeoutSeconds", I, AT(email_timeout_seconds), "30", 1, 3600, "3", true},
  {"Email", "ReplyTo", S, AT(email_reply_to), "", 0, 0, "a@b.example", false},
  {"Email", "BrandName", S, AT(email_brand_name), "", 0, 0, "Acme", false},
  {"Email", "BrandColor", S, AT(email_brand_color), "#2563c9", 0, 0, "#aB0123", false},
  {"Email", "LogoUrl", S, AT(email_logo_url), "", 0, 0, "https://a.example/l.png", false},
  {"Email", "SupportAddress", S, AT(email_support_address), "", 0, 0, "a@b.example", false},
  {"Email", "UnsubscribeUrl", S, AT(email_unsubscribe_url), "", 0, 0, "https://a.example/u", false},
  {"Email", "UnsubscribeSecret", S, AT(email_unsubscribe_secret), "", 0, 0, "0123456789abcdef", false},
  {"Notifications", "SlackWebhookUrl", S, AT(slack_webhook_url), "", 0, 0, "https://hooks.example/a?b=c", false},
  {"Notifications", "SlackEvents", L, AT(slack_events), "", 0, 0, "failed", false},
  {"Notifications", "TeamsWebhookUrl", S, AT(teams_webhook_url), "", 0, 0, "https://hooks.example/a?b=c", false},
  {"Notifications", "TeamsEvents", L, AT(teams_events), "", 0, 0, "queued", false},
  {"Notifications", "WebhookUrl", S, AT(webhook_url), "", 0, 0, "http://hooks.example:81/", false},
  {"Notifications", "WebhookSecrets", L, AT(webhook_secrets), "", 0, 0, WHSEC, true},
  {"Notifications", "WebhookEvents", L, AT(webhook_events), "", 0, 0, "timedout", false},
  {"Notifications", "AllowedNetworks", L, AT(allowed_networks), "", 0, 0, "127.0.0.0/8", true},
  {"Notifications", "TimeoutSeconds", I, AT(notifications_timeout_seconds), "15", 1, 300, "3", true},
};

enum { COUNT = sizeof table / sizeof table[0] };

static void value_of(const expected *row, char *out, size_t size) {
  static const char *const levels[] = {"debug", "info", "warn", "error"};
  static const char *const formats[] = {"text", "json"};
  static const char *const sandboxes[] = {"bwrap", "none"};
  const void *field = (const char *)config + row->offset;
  const char *const *words = row->offset == AT(log_level) ? levels : row->offset == AT(log_format) ? formats : sandboxes;
  switch (row->kind) {
  case B: (void)snprintf(out, size, "%s", *(const bool *)field ? "true" : "false"); break;
  case I: (void)snprintf(out, size, "%d", *(const int *)field); break;
  case W: (void)snprintf(out, size, "%s", words[*(const int *)field]); break;
  case O:
  case S: (void)snprintf(out, size, "%s", *(char *const *)field); break;
  case L:
    (void)snprintf(out, size, "%s", **(char **const *)field != NULL ? **(char **const *)field : "");
    break;
  }
}

static void settings_with(const expected *row, const char *value, bool quoted, char *out, size_t size) {
  const char *quote = quoted ? "\"" : "";
  (void)snprintf(out, size, row->kind == L ? "{\"%s\": {\"%s\": [%s%s%s]}}" : "{\"%s\": {\"%s\": %s%s%s}}", row->section,
                 row->name, quote, value, quote);
}

static void the_tables_have_the_same_rows(void **state) {
  (void)state;
  assert_int_equal(bq_config_option_count, COUNT);
}

static void defaults_are_right(void **state) {
  (void)state;
  load("{}");
  assert_int_equal(faults->count, 0);
  for (size_t i = 0; i < COUNT; i++) {
    char value[200];
    value_of(&table[i], value, sizeof value);
    if (table[i].standard != NULL) assert_string_equal(value, table[i].standard);
  }
}

static void files_and_environment_set_each(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT; i++) {
    const expected *row = &table[i];
    char settings[300];
    char entry[300];
    char value[200];
    settings_with(row, row->other, row->kind != I && row->kind != B && row->kind != O, settings, sizeof settings);
    load(settings);
    value_of(row, value, sizeof value);
    assert_string_equal(value, row->other);
    (void)snprintf(entry, sizeof entry, "%s__%s%s=%s", row->section, row->name, row->kind == L ? "__0" : "", row->other);
    variables[1] = entry;
    load("{}");
    variables[1] = NULL;
    value_of(row, value, sizeof value);
    assert_string_equal(value, row->other);
  }
}

static void ranges_hold(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT; i++) {
    const expected *row = &table[i];
    if (row->kind != I) continue;
    char settings[300];
    char number[32];
    char value[200];
    const long long right[] = {row->min, row->max};
    const long long wrong[] = {(long long)row->min - 1, (long long)row->max + 1};
    for (size_t j = 0; j < 2; j++) {
      (void)snprintf(number, sizeof number, "%lld", right[j]);
      settings_with(row, number, false, settings, sizeof settings);
      load(settings);
      value_of(row, value, sizeof value);
      assert_string_equal(value, number);
      (void)snprintf(number, sizeof number, "%lld", wrong[j]);
      settings_with(row, number, false, settings, sizeof settings);
      (void)snprintf(value, sizeof value, "%s.%s is \"%s\"", row->section, row->name, number);
      refuse(settings, value, "must be a whole number from ", NULL);
    }
  }
}

static void what_mails_show_is_checked(void **state) {
  (void)state;
  static const char *const colors[] = {"", "red", "#fff", "#12345g", "#2563c9;background:url(x)"};
  static const char *const addresses[] = {"help", "@b.example", "a@", "a b@c.example", "a@b.example>", "a@b,c@d"};
  char settings[200];
  for (size_t i = 0; i < sizeof colors / sizeof colors[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"Email\": {\"BrandColor\": \"%s\"}}", colors[i]);
    refuse(settings, "Email.BrandColor", "must be a colour", NULL);
  }
  for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"Email\": {\"ReplyTo\": \"%s\"}}", addresses[i]);
    refuse(settings, "Email.ReplyTo", "a mail address", NULL);
  }
}

static void webhooks_are_checked(void **state) {
  (void)state;
  static const char *const urls[] = {"ftp://a.example/", "https:///x", "hooks.example", "https://a b.example/"};
  static const char *const secrets[] = {"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_", "whsec_MDEyMzQ1Njc4OWFi",
                                        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY", "whsec_MDEyMzQ1Njc4OWFiY2Rl-jAxMjM0NTY3"};
  char settings[200];
  for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"Notifications\": {\"WebhookUrl\": \"%s\"}}", urls[i]);
    refuse(settings, "Notifications.WebhookUrl", "begins with https://", NULL);
    assert_null(strstr(all_faults(), urls[i]));
  }
  for (size_t i = 0; i < sizeof secrets / sizeof secrets[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"Notifications\": {\"WebhookSecrets\": [\"%s\"]}}", secrets[i]);
    refuse(settings, "Notifications.WebhookSecrets[0]", "must be whsec_", NULL);
    if (strlen(secrets[i]) > 6) assert_null(strstr(all_faults(), secrets[i]));
  }
  refuse("{\"Notifications\": {\"WebhookSecrets\": [\"file:/none/there\"]}}", "Notifications.WebhookSecrets[0]", "/none/there", NULL);
  refuse("{\"Notifications\": {\"AllowedNetworks\": [\"10.0.0.0/8\", \"10.0.0/8\"]}}", "AllowedNetworks[1]", "must be a network", NULL);
  refuse("{\"Notifications\": {\"SlackEvents\": [\"success\"]}}", "SlackEvents[0]", "timedout or cancelled", NULL);
  load("{\"Notifications\": {\"WebhookUrl\": \"https://a.example\", \"WebhookSecrets\": [\"" WHSEC "\", \"" WHSEC "\"]}}");
  assert_int_equal(faults->count, 0);
  assert_non_null(config->webhook_secrets[1]);
  load("{\"Notifications\": {\"WebhookUrl\": \"https://a.example\"}}");
  assert_int_equal(faults->count, 1);
  assert_true(faults->items[0].warning);
}

static void wrong_types_are_refused(void **state) {
  (void)state;
  static const char *const values[][5] = {
    [B] = {"1", "\"yes\"", "[true]", "{}", "0.5"},
    [I] = {"true", "\"many\"", "[1]", "2.0", "\"\""},
    [S] = {"5", "true", "[\"/x\"]", "{\"a\": 1}", "1.5"},
    [W] = {"5", "true", "[\"json\"]", "\"loud\"", "{}"},
    [O] = {"5", "true", "[\"/x\"]", "\"x\"", "{\"a\": 5}"},
    [L] = {"\"/x\"", "true", "[5]", "{\"a\": \"/x\"}", "[[\"/x\"]]"},
  };
  for (size_t i = 0; i < COUNT; i++) {
    for (size_t j = 0; j < 5; j++) {
      char settings[300];
      char name[200];
      (void)snprintf(settings, sizeof settings, "{\"%s\": {\"%s\": %s}}", table[i].section, table[i].name,
                     values[table[i].kind][j]);
      (void)snprintf(name, sizeof name, "E %s.%s", table[i].section, table[i].name);
      refuse(settings, name, "must ", NULL);
    }
  }
}

static void note_change(void *arg, const bq_config_change *change) {
  char *text = arg;
  (void)snprintf(text + strlen(text), 400 - strlen(text), "%s:%s>%s:%d;", change->name, change->before, change->after,
                 change->now);
}

static void changes_are_told(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT; i++) {
    const expected *row = &table[i];
    char settings[300];
    char name[100];
    char text[400] = "";
    bool secret = strstr(row->name, "ConnectionString") != NULL || strstr(row->name, "Password") != NULL ||
                  strstr(row->name, "WebhookUrl") != NULL || strstr(row->name, "Secret") == row->name + strlen(row->name) - 6 ||
                  strstr(row->name, "WebhookSecrets") != NULL;
    load("{\"BuildQueue\": {\"StateDirectory\": \"/st\", \"ManifestDirectory\": \"/m\"}}");
    bq_config *before = config;
    config = NULL;
    (void)snprintf(settings, sizeof settings, "{\"BuildQueue\": {%s%s}, \"Email\": {}}",
                   row->offset != AT(state_directory) ? "\"StateDirectory\": \"/st\"," : "",
                   row->offset != AT(manifest_directory) ? "\"ManifestDirectory\": \"/m\"," : "");
    char entry[300];
    (void)snprintf(entry, sizeof entry, "%s__%s%s=%s", row->section, row->name, row->kind == L ? "__0" : "", row->other);
    variables[1] = entry;
    load(settings);
    variables[1] = NULL;
    assert_int_equal(bq_config_diff(before, config, note_change, text, &problem), 0);
    (void)snprintf(name, sizeof name, "%s.%s:", row->section, row->name);
    if (strncmp(text, name, strlen(name)) != 0 || strchr(text, ';') != text + strlen(text) - 1) fail_msg("%s", text);
    char end[300];
    (void)snprintf(end, sizeof end, ">%s:%d;", secret ? "***" : row->other, row->now);
    assert_non_null(strstr(text, end));
    // Applying takes over what may change now, and nothing else.
    bq_config_apply(before, config);
    bq_config *newer = config;
    config = before;
    char value[200];
    value_of(row, value, sizeof value);
    if (row->now) assert_string_equal(value, row->other);
    else assert_string_not_equal(value, row->other);
    bq_config_free(newer);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_tables_have_the_same_rows),
    cmocka_unit_test_setup_teardown(defaults_are_right, setup, teardown),
    cmocka_unit_test_setup_teardown(files_and_environment_set_each, setup, teardown),
    cmocka_unit_test_setup_teardown(ranges_hold, setup, teardown),
    cmocka_unit_test_setup_teardown(what_mails_show_is_checked, setup, teardown),
    cmocka_unit_test_setup_teardown(webhooks_are_checked, setup, teardown),
    cmocka_unit_test_setup_teardown(wrong_types_are_refused, setup, teardown),
    cmocka_unit_test_setup_teardown(changes_are_told, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
