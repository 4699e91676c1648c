// The configuration as its users know it: .NET's reading rules, the old file's names, faults, secrets, what is written.
#include "config_fixture.h"

#include "base/config_internal.h"
#include "base/log.h"

static void names_are_taken_in_any_case(void **state) {
  (void)state;
  variable("BUILDQUEUE__LEASESECONDS=9");
  load("{\"buildQUEUE\": {\"maxconcurrentbuilds\": 7}, \"EMAIL\": {\"smtpPORT\": 25}}");
  assert_int_equal(config->max_concurrent_builds, 7);
  assert_int_equal(config->email_smtp_port, 25);
  assert_int_equal(config->lease_seconds, 9);
}

static void comments_and_trailing_commas_are_allowed(void **state) {
  (void)state;
  load("\xef\xbb\xbf// about\n{\"BuildQueue\": { /* two */ \"MaxConcurrentBuilds\": 7, // seven\n \"AllowedHosts\": [\"a\",], },}");
  assert_int_equal(config->max_concurrent_builds, 7);
  assert_string_equal(config->allowed_hosts[0], "a");
  assert_null(config->allowed_hosts[1]);
}

static void numbers_and_words_may_be_texts(void **state) {
  (void)state;
  load("{\"BuildQueue\": {\"MaxConcurrentBuilds\": \" 7 \", \"MigrateAtStart\": \"False\", \"LogLevel\": \"WARN\"}}");
  assert_int_equal(config->max_concurrent_builds, 7);
  assert_false(config->migrate_at_start);
  assert_int_equal(config->log_level, BQ_WARN);
}

static void the_overlay_wins_over_the_file(void **state) {
  (void)state;
  write_text("appsettings.Staging.json", "{\"BuildQueue\": {\"LeaseSeconds\": 8, \"AllowedHosts\": [\"x\"]}}");
  write_text("appsettings.Production.json", "{\"BuildQueue\": {\"LeaseSeconds\": 9}}");
  const char *base = "{\"BuildQueue\": {\"LeaseSeconds\": 7, \"IdleSeconds\": 70, \"AllowedHosts\": [\"a\", \"b\"]}}";
  load(base);
  assert_int_equal(config->lease_seconds, 9); // Production unless told otherwise
  variable("DOTNET_ENVIRONMENT=Staging");
  load(NULL);
  assert_int_equal(config->lease_seconds, 8);
  assert_int_equal(config->idle_seconds, 70);
  assert_string_equal(config->allowed_hosts[0], "x");
  assert_string_equal(config->allowed_hosts[1], "b");
  variables[1] = "DOTNET_ENVIRONMENT=Development";
  load(NULL);
  assert_int_equal(config->lease_seconds, 7);
  variables[1] = "DOTNET_ENVIRONMENT=../x";
  refuse(NULL, "DOTNET_ENVIRONMENT", "slash", NULL);
}

static void the_environment_wins_over_both(void **state) {
  (void)state;
  write_text("appsettings.Production.json", "{\"BuildQueue\": {\"MaxConcurrentBuilds\": 8}}");
  variable("BuildQueue__MaxConcurrentBuilds=4");
  variable("BuildQueue__AllowedHosts__1=second");
  variable("BuildQueue__AllowedHosts__0=first");
  variable("BuildQueue:IdleSeconds=61");
  variable("Email__SmtpServer=mail.example");
  variable("Email__FromAddress=a@b.example");
  variable("Email=somebody@example.com");
  variable("BuildQueueFoo__Bar=1");
  load("{\"BuildQueue\": {\"MaxConcurrentBuilds\": 7, \"AllowedHosts\": [\"a\", \"b\", \"c\"]}}");
  assert_int_equal(config->max_concurrent_builds, 4);
  assert_int_equal(config->idle_seconds, 61);
  assert_string_equal(config->email_smtp_server, "mail.example");
  assert_string_equal(config->allowed_hosts[0], "first");
  assert_string_equal(config->allowed_hosts[1], "second");
  assert_string_equal(config->allowed_hosts[2], "c");
  assert_null(config->allowed_hosts[3]);
  // An empty item takes out what a file gave at its place.
  variables[2] = "BuildQueue__AllowedHosts__1=";
  load(NULL);
  assert_string_equal(config->allowed_hosts[0], "first");
  assert_string_equal(config->allowed_hosts[1], "c");
  assert_null(config->allowed_hosts[2]);
}

static void list_items_have_bounds(void **state) {
  (void)state;
  variable("BuildQueue__AllowedHosts__63=last");
  load("{}");
  assert_string_equal(config->allowed_hosts[0], "last");
  variables[1] = "BuildQueue__AllowedHosts__64=x";
  refuse(NULL, "BuildQueue.AllowedHosts[64]", "from 0 to 63", NULL);
  variables[1] = "BuildQueue__AllowedHosts__one=x";
  refuse(NULL, "BuildQueue.AllowedHosts[one]", NULL);
  variables[1] = "BuildQueue__AllowedHosts=x";
  refuse(NULL, "BuildQueue__AllowedHosts__0=", NULL);
}

static void other_sections_are_left_alone(void **state) {
  (void)state;
  variable("Logging__LogLevel__Default=Debug");
  load("{\"Logging\": {\"LogLevel\": {\"Default\": \"Loud\"}}, \"AllowedHosts\": \"*\", \"LeaderElection\": {\"Foo\": [1, {}]},"
       " \"$schema\": 5, \"BuildQueue:LeaseSeconds\": 9}");
  assert_int_equal(faults->count, 0);
  assert_int_equal(config->lease_seconds, 9);
  assert_null(config->allowed_hosts[0]);
}

static void null_is_as_good_as_absent(void **state) {
  (void)state;
  load("{\"BuildQueue\": {\"MaxConcurrentBuilds\": null, \"AllowedHosts\": null}, \"Email\": null}");
  assert_int_equal(config->max_concurrent_builds, 2);
  refuse("{\"BuildQueue\": {\"Foo\": null}}", "BuildQueue.Foo", NULL);
}

static void misspelt_names_are_taken_with_a_warning(void **state) {
  (void)state;
  load("{\"BuildQueue\": {\"RetryAttempts\": 9, \"pollingintervalseconds\": 8},"
       " \"Email\": {\"SmtpHost\": \"h\", \"Username\": \"u\", \"Password\": \"p4ssw0rd1\", \"FromEmail\": \"a@b\"}}");
  assert_int_equal(config->max_retry_attempts, 9);
  assert_int_equal(config->poll_interval_seconds, 8);
  assert_string_equal(config->email_smtp_server, "h");
  assert_string_equal(config->email_smtp_username, "u");
  assert_string_equal(config->email_smtp_password, "p4ssw0rd1");
  assert_string_equal(config->email_from_address, "a@b");
  assert_int_equal(faults->count, 6);
  assert_int_equal(faults->errors, 0);
  static const char *const names[][2] = {
    {"BuildQueue.RetryAttempts", "BuildQueue.MaxRetryAttempts"}, {"BuildQueue.PollingIntervalSeconds", "BuildQueue.PollIntervalSeconds"},
    {"Email.SmtpHost", "Email.SmtpServer"}, {"Email.Username", "Email.SmtpUsername"}, {"Email.Password", "Email.SmtpPassword"},
    {"Email.FromEmail", "Email.FromAddress"}};
  for (size_t i = 0; i < 6; i++) {
    assert_true(faults->items[i].warning);
    assert_string_equal(faults->items[i].name, names[i][0]);
    assert_non_null(strstr(faults->items[i].right, names[i][1]));
  }
  assert_null(strstr(all_faults(), "p4ssw0rd1"));
  refuse("{\"BuildQueue\": {\"RetryAttempts\": 9999}}", "E BuildQueue.RetryAttempts is \"9999\"", NULL);
}

static void both_spellings_must_agree(void **state) {
  (void)state;
  load("{\"BuildQueue\": {\"RetryAttempts\": \"9\", \"MaxRetryAttempts\": 9}}");
  assert_int_equal(config->max_retry_attempts, 9);
  assert_int_equal(faults->count, 1);
  refuse("{\"BuildQueue\": {\"RetryAttempts\": 8, \"MaxRetryAttempts\": 9}}", "E BuildQueue.RetryAttempts is \"8\"",
         "BuildQueue.MaxRetryAttempts", "different", NULL);
  refuse("{\"Email\": {\"Password\": \"one-secret\", \"SmtpPassword\": \"two-secret\"}}", "E Email.Password is \"***\"", NULL);
  assert_null(strstr(all_faults(), "-secret"));
  variable("BuildQueue__PollingIntervalSeconds=7");
  refuse("{\"BuildQueue\": {\"PollIntervalSeconds\": 8}}", "environment BuildQueue__PollingIntervalSeconds", NULL);
}

static void one_name_in_two_cases_must_agree(void **state) {
  (void)state;
  refuse("{\"BuildQueue\": {\"LeaseSeconds\": 8, \"leaseseconds\": 9}}", "BuildQueue.LeaseSeconds is \"9\"", "twice", NULL);
  load("{\"BuildQueue\": {\"LeaseSeconds\": 8, \"leaseseconds\": 8}}");
}

static void unknown_names_come_with_the_nearest(void **state) {
  (void)state;
  variable("BuildQueue__Lisen=127.0.0.1:1");
  refuse("{\"BuildQueue\": {\"MaxConcurentBuilds\": 3, \"Zebra\": \"striped\", \"SmtpServer\": \"h\"},"
         " \"Email\": {\"SmtpPasword\": \"leak-me-not\", \"ApiToken\": \"leak-me-not\"}}",
         "BuildQueue.MaxConcurentBuilds is \"3\"", "did you mean BuildQueue.MaxConcurrentBuilds?",
         "BuildQueue.Zebra is \"striped\"", "take it out", "did you mean Email.SmtpServer?",
         "did you mean Email.SmtpPassword?", "environment BuildQueue__Lisen", "did you mean BuildQueue.Listen?", NULL);
  assert_int_equal(faults->errors, 6);
  assert_null(strstr(all_faults(), "leak-me-not"));
}

static void all_faults_are_found_at_once(void **state) {
  (void)state;
  refuse("{\"BuildQueue\": {\"MaxConcurrentBuilds\": 0, \"LogLevel\": \"loud\", \"Foo\": 1, \"WorkspaceDirectory\": \"\","
         " \"EnableHealthChecks\": \"perhaps\"}, \"Email\": {\"SmtpPort\": 70000}}",
         "BuildQueue.MaxConcurrentBuilds is \"0\"", "must be a whole number from 1 to 10000",
         "BuildQueue.LogLevel is \"loud\"", "debug, info, warn or error", "BuildQueue.Foo",
         "BuildQueue.WorkspaceDirectory", "must not be empty", "true or false", "from 1 to 65535", "appsettings.json", NULL);
  assert_int_equal(faults->errors, 6);
  assert_non_null(strstr(problem.message, "6 faults"));
}

static void the_faults_list_is_bounded(void **state) {
  (void)state;
  bq_buf text = {0};
  bq_buf_adds(&text, "{\"BuildQueue\": {");
  for (int i = 0; i < BQ_CONFIG_MAX_FAULTS + 50; i++) bq_buf_addf(&text, "\"Unknown%d\": 1,", i);
  bq_buf_adds(&text, "}}");
  write_text("appsettings.json", text.data);
  bq_buf_free(&text);
  assert_int_equal(load_from(NULL), BQ_EINVAL);
  assert_int_equal(faults->count, BQ_CONFIG_MAX_FAULTS);
  assert_int_equal(faults->errors, BQ_CONFIG_MAX_FAULTS + 50);
}

static void broken_files_are_faults(void **state) {
  (void)state;
  variable("BuildQueue__Foo=1");
  refuse("{\n \"BuildQueue\": {\"ConnectionString\": \"hunter2-and-more\" x}", "line 2, column ", main_file, "BuildQueue.Foo", NULL);
  assert_null(strstr(all_faults(), "hunter2"));
  refuse("[1]", "one JSON object", NULL);
  refuse("", main_file, NULL);
  refuse("{\"BuildQueue\": 5}", "E BuildQueue is \"5\"", "object", NULL);
  refuse("{\"BuildQueue\": []}", "E BuildQueue", NULL);
}

static void files_are_looked_for_in_order(void **state) {
  (void)state;
  load(NULL); // none at all: the defaults
  assert_int_equal(config->lease_seconds, 30);
  write_text("system.json", "{\"BuildQueue\": {\"LeaseSeconds\": 11}}");
  load(NULL);
  assert_int_equal(config->lease_seconds, 11);
  load("{\"BuildQueue\": {\"LeaseSeconds\": 12}}");
  assert_int_equal(config->lease_seconds, 12);
  char other[128];
  (void)snprintf(other, sizeof other, "%s/other.json", directory);
  assert_int_equal(load_from(other), BQ_EINVAL);
  assert_non_null(strstr(all_faults(), "does not exist"));
  write_text("other.json", "{\"BuildQueue\": {\"LeaseSeconds\": 13, \"IdleSeconds\": 7}}");
  write_text("other.Production.json", "{\"BuildQueue\": {\"LeaseSeconds\": 14}}");
  assert_int_equal(load_from(other), 0);
  assert_int_equal(config->lease_seconds, 14);
  assert_int_equal(config->idle_seconds, 7);
}

static void connection_strings_take_all_forms(void **state) {
  (void)state;
  load("{\"BuildQueue\": {\"ConnectionString\": \"Host=db;Username=u;Password=p;SSL Mode=Require;Pooling=true\"}}");
  assert_string_equal(config->connection_string, "host='db' user='u' password='p' sslmode='require'");
  assert_int_equal(faults->count, 1);
  assert_non_null(strstr(faults->items[0].right, "Pooling"));
  load("{\"BuildQueue\": {\"ConnectionString\": \"postgresql://u:p@h/d\"}}");
  assert_string_equal(config->connection_string, "postgresql://u:p@h/d");
  load("{\"BuildQueue\": {\"ConnectionString\": \"host=h dbname=d\"}}");
  assert_string_equal(config->connection_string, "host=h dbname=d");
  refuse("{\"BuildQueue\": {\"ConnectionString\": \"Hots=h;Password=leak-me-not\"}}", "BuildQueue.ConnectionString is \"***\"", NULL);
  assert_null(strstr(all_faults(), "leak-me-not"));
}

static void another_section_s_connection_strings_are_asked_about(void **state) {
  (void)state;
  const char *filled = "{\"ConnectionStrings\": {\"Default\": \"Host=h;Password=leak-me-not\"}, \"BuildQueue\": {\"ConnectionString\": \"\"}}";
  refuse(filled, "E ConnectionStrings", "which database is meant", NULL);
  assert_null(strstr(all_faults(), "leak-me-not"));
  load("{\"ConnectionStrings\": {\"Default\": \"Host=h\"}, \"BuildQueue\": {\"ConnectionString\": \"Host=x\"}}");
  load("{\"ConnectionStrings\": {\"Default\": \"\"}}");
  load("{\"ConnectionStrings\": {}}");
  variable("ConnectionStrings__Default=Host=h");
  refuse("{}", "environment ConnectionStrings__Default", NULL);
  variable("BuildQueue__ConnectionString=Host=h");
  load(NULL);
}

static void secrets_may_be_elsewhere(void **state) {
  (void)state;
  char settings[400];
  write_text("password", "from a file\n");
  (void)snprintf(settings, sizeof settings, "{\"Email\": {\"SmtpPassword\": \"file:%s/password\"}}", directory);
  load(settings);
  assert_string_equal(config->email_smtp_password, "from a file");
  variable("DB=Host=h;Password=pp");
  load("{\"Email\": {\"SmtpPassword\": \"command:printf from%sprogram _\"}, \"BuildQueue\": {\"ConnectionString\": \"env:DB\"}}");
  assert_string_equal(config->email_smtp_password, "from_program");
  assert_string_equal(config->connection_string, "host='h' password='pp'");
  refuse("{\"Email\": {\"SmtpPassword\": \"env:NO_SUCH\"}}", "Email.SmtpPassword is \"***\"", "NO_SUCH is not set", NULL);
  refuse("{\"Email\": {\"SmtpPassword\": \"command:false\"}}", "Email.SmtpPassword", "status 1", NULL);
  // Only secrets are looked up: other texts are what they say.
  load("{\"Email\": {\"SmtpUsername\": \"env:DB\"}}");
  assert_string_equal(config->email_smtp_username, "env:DB");
}

static void credentials_fill_what_is_not_given(void **state) {
  (void)state;
  char entry[128];
  (void)snprintf(entry, sizeof entry, "CREDENTIALS_DIRECTORY=%s", directory);
  variable(entry);
  write_text("ConnectionString", "Host=credential;Password=x\n");
  write_text("SmtpPassword", "credential-password\n");
  load("{\"Email\": {\"SmtpPassword\": \"\"}, \"ConnectionStrings\": {\"A\": \"Host=a\"}}");
  assert_string_equal(config->connection_string, "host='credential' password='x'");
  assert_string_equal(config->email_smtp_password, "credential-password");
  load("{\"Email\": {\"SmtpPassword\": \"given\"}, \"BuildQueue\": {\"ConnectionString\": \"Host=given\"}}");
  assert_string_equal(config->email_smtp_password, "given");
  assert_string_equal(config->connection_string, "host='given'");
}

// What `write` puts into a file. The caller's (bq_free).
static char *written(int (*write)(FILE *out, bq_error *err)) {
  char *text = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&text, &length);
  assert_non_null(out);
  assert_int_equal(write != NULL ? write(out, &problem) : bq_config_print(config, out, &problem), 0);
  assert_int_equal(fclose(out), 0);
  return text;
}

static void secrets_never_show(void **state) {
  (void)state;
  load("{\"Email\": {\"SmtpPassword\": \"mail-s3cret\"}, \"BuildQueue\": {\"ConnectionString\": \"Host=h;Password=base-s3cret\"}}");
  char *text = written(NULL);
  assert_null(strstr(text, "s3cret"));
  assert_non_null(strstr(text, "Email.SmtpPassword = ***"));
  assert_non_null(strstr(text, "BuildQueue.ConnectionString = ***"));
  bq_free(text);
  char path[160];
  (void)snprintf(path, sizeof path, "%s/output", directory);
  FILE *file = fopen(path, "w+");
  assert_non_null(file);
  bq_log_setup_fd(fileno(file));
  bq_log(BQ_ERROR, "test", "a", "mail-s3cret", "b", "base-s3cret", NULL);
  bq_log_setup_fd(STDERR_FILENO);
  char line[300];
  rewind(file);
  assert_non_null(fgets(line, sizeof line, file));
  assert_null(strstr(line, "s3cret"));
  (void)fclose(file);
}

static void print_tells_where_values_come_from(void **state) {
  (void)state;
  variable("BuildQueue__LeaseSeconds=9");
  load("{\"BuildQueue\": {\"IdleSeconds\": 7}}");
  char *text = written(NULL);
  assert_non_null(strstr(text, "BuildQueue.LeaseSeconds = 9  (environment BuildQueue__LeaseSeconds)\n"));
  assert_non_null(strstr(text, "BuildQueue.MaxConcurrentBuilds = 2  (default)\n"));
  char line[200];
  (void)snprintf(line, sizeof line, "BuildQueue.IdleSeconds = 7  (%s)\n", main_file);
  assert_non_null(strstr(text, line));
  bq_free(text);
}

static void count_change(void *arg, const bq_config_change *change) {
  print_error("%s: %s > %s\n", change->name, change->before, change->after);
  ++*(int *)arg;
}

static void the_example_loads_and_says_the_defaults(void **state) {
  (void)state;
  load("{}");
  bq_config *standard = config;
  config = NULL;
  char *text = written(bq_config_write_example);
  load(text);
  assert_int_equal(faults->count, 0);
  int changes = 0;
  assert_int_equal(bq_config_diff(standard, config, count_change, &changes, &problem), 0);
  assert_int_equal(changes, 0);
  bq_config_free(standard);
  for (size_t i = 0; i < bq_config_option_count; i++) {
    assert_non_null(strstr(text, bq_config_options[i].name));
    assert_non_null(strstr(text, bq_config_options[i].help));
  }
  bq_free(text);
  text = written(bq_config_markdown);
  for (size_t i = 0; i < bq_config_option_count; i++) {
    char cell[100];
    (void)snprintf(cell, sizeof cell, "| `%s` |", bq_config_options[i].name);
    assert_non_null(strstr(text, cell));
  }
  bq_free(text);
}

static void a_full_disk_is_an_error(void **state) {
  (void)state;
  FILE *full = fopen("/dev/full", "w");
  assert_non_null(full);
  assert_int_equal(bq_config_write_example(full, &problem), BQ_EIO);
  (void)fclose(full);
}

static void only_loopback_is_listened_on(void **state) {
  (void)state;
  static const char *const right[][2] = {{"127.0.0.1:0", "127.0.0.1:0"}, {"127.3.2.1:65535", "127.3.2.1:65535"},
                                         {"[::1]:80", "[::1]:80"}, {"localhost:8080", "127.0.0.1:8080"}};
  static const char *const open[] = {"0.0.0.0:8080", "[::]:8080", "192.168.1.2:80", ":8080", "*:8080", "builds.example.com:80",
                                     "128.0.0.1:80", "[::ffff:127.0.0.1]:80"};
  static const char *const broken[] = {"", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "::1:80", "[::1]"};
  char settings[200];
  for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"BuildQueue\": {\"Listen\": \"%s\"}}", right[i][0]);
    load(settings);
    assert_string_equal(config->listen, right[i][1]);
  }
  for (size_t i = 0; i < sizeof open / sizeof open[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"BuildQueue\": {\"Listen\": \"%s\"}}", open[i]);
    refuse(settings, "no access control", NULL);
  }
  for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
    (void)snprintf(settings, sizeof settings, "{\"BuildQueue\": {\"Listen\": \"%s\"}}", broken[i]);
    refuse(settings, "address and a port", NULL);
  }
}

static void texts_are_checked(void **state) {
  (void)state;
  refuse("{\"BuildQueue\": {\"AllowedHosts\": [\"*\"]}}", "BuildQueue.AllowedHosts[0] is \"*\"", "wildcard", NULL);
  refuse("{\"BuildQueue\": {\"SandboxReadOnlyPaths\": [\"/a\", \"b\"]}}", "BuildQueue.SandboxReadOnlyPaths[1]", "absolute", NULL);
  refuse("{\"BuildQueue\": {\"DownloadBaseUrl\": \"ftp://x\"}}", "BuildQueue.DownloadBaseUrl", "https://", NULL);
  refuse("{\"BuildQueue\": {\"RunAsUser\": \"a b\"}}", "BuildQueue.RunAsUser", NULL);
  refuse("{\"Email\": {\"FromName\": \"a\\r\\nBcc: x\"}}", "Email.FromName", "line breaks", NULL);
  refuse("{\"Email\": {\"SmtpPassword\": \"a\\nb\"}}", "Email.SmtpPassword", "single line", NULL);
  refuse("{\"BuildQueue\": {\"WorkspaceDirectory\": \"/same/\", \"OutputDirectory\": \"/same\"}}", "OutputDirectory",
         "WorkspaceDirectory", NULL);
  load("{\"BuildQueue\": {\"DownloadBaseUrl\": \"https://x/y//\", \"WorkspaceDirectory\": \"work/\"}}");
  assert_string_equal(config->download_base_url, "https://x/y");
  char here[1024];
  char path[1100];
  assert_non_null(getcwd(here, sizeof here));
  (void)snprintf(path, sizeof path, "%s/work", here);
  assert_string_equal(config->workspace_directory, path);
}

static void a_value_has_a_length(void **state) {
  (void)state;
  bq_buf text = {0};
  bq_buf_adds(&text, "{\"Email\": {\"FromName\": \"");
  for (int i = 0; i <= BQ_CONFIG_MAX_VALUE; i++) bq_buf_addc(&text, 'x');
  bq_buf_adds(&text, "\"}}");
  refuse(text.data, "Email.FromName", "at most 8192 bytes", NULL);
  bq_buf_free(&text);
}

static void directories_follow_the_user(void **state) {
  (void)state;
  static const char *const with_xdg[] = {"HOME=/home/a", "XDG_STATE_HOME=/state", NULL};
  static const char *const relative_xdg[] = {"HOME=/home/a", "XDG_STATE_HOME=state", NULL};
  char *path = bq_config_standard_state(0, with_xdg);
  assert_string_equal(path, "/var/lib/buildq");
  bq_free(path);
  path = bq_config_standard_state(1000, with_xdg);
  assert_string_equal(path, "/state/buildq");
  bq_free(path);
  path = bq_config_standard_state(1000, relative_xdg);
  assert_string_equal(path, "/home/a/.local/state/buildq");
  bq_free(path);
  load("{\"BuildQueue\": {\"StateDirectory\": \"/st/\"}}");
  assert_string_equal(config->state_directory, "/st");
  assert_string_equal(config->manifest_directory, "/st/manifests");
}

static void mails_need_a_sender(void **state) {
  (void)state;
  load("{\"Email\": {\"SmtpServer\": \"h\"}}");
  assert_int_equal(faults->count, 1);
  assert_string_equal(faults->items[0].name, "Email.FromAddress");
  load("{\"Email\": {\"SmtpServer\": \"h\", \"Enabled\": false}}");
  assert_int_equal(faults->count, 0);
}

static int calls_left;
static void *fail_later(void *old, size_t size) {
  return calls_left-- > 0 ? realloc(old, size) : NULL;
}

// Each allocation fails once: nothing leaks (under the sanitizer), nothing passes as right.
static void memory_can_run_out(void **state) {
  (void)state;
  variable("BuildQueue__AllowedHosts__0=a");
  write_text("appsettings.json", "{\"BuildQueue\": {\"RetryAttempts\": 4, \"ConnectionString\": \"Host=h;Password=x;Pooling=true\"},"
             " \"Email\": {\"SmtpPassword\": \"env:HOME\"}}");
  int code = -1;
  for (int n = 0; code < 0; n++) {
    bq_config_source source = {NULL, main_file, system_file, variables};
    forget();
    calls_left = n;
    bq_memory_replace(fail_later);
    code = bq_config_load(&config, &source, &faults, &problem);
    bq_memory_replace(NULL);
    if (code == 0) break;
    if (code != BQ_ENOMEM) fail_msg("the %d-th allocation: %d %s", n, code, problem.message);
    assert_null(config);
    assert_true(n < 5000);
  }
  assert_int_equal(config->max_retry_attempts, 4);
  assert_int_equal(faults->count, 2);
}

#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    WITH_FILES(names_are_taken_in_any_case),
    WITH_FILES(comments_and_trailing_commas_are_allowed),
    WITH_FILES(numbers_and_words_may_be_texts),
    WITH_FILES(the_overlay_wins_over_the_file),
    WITH_FILES(the_environment_wins_over_both),
    WITH_FILES(list_items_have_bounds),
    WITH_FILES(other_sections_are_left_alone),
    WITH_FILES(null_is_as_good_as_absent),
    WITH_FILES(misspelt_names_are_taken_with_a_warning),
    WITH_FILES(both_spellings_must_agree),
    WITH_FILES(one_name_in_two_cases_must_agree),
    WITH_FILES(unknown_names_come_with_the_nearest),
    WITH_FILES(all_faults_are_found_at_once),
    WITH_FILES(the_faults_list_is_bounded),
    WITH_FILES(broken_files_are_faults),
    WITH_FILES(files_are_looked_for_in_order),
    WITH_FILES(connection_strings_take_all_forms),
    WITH_FILES(another_section_s_connection_strings_are_asked_about),
    WITH_FILES(secrets_may_be_elsewhere),
    WITH_FILES(credentials_fill_what_is_not_given),
    WITH_FILES(secrets_never_show),
    WITH_FILES(print_tells_where_values_come_from),
    WITH_FILES(the_example_loads_and_says_the_defaults),
    WITH_FILES(a_full_disk_is_an_error),
    WITH_FILES(only_loopback_is_listened_on),
    WITH_FILES(texts_are_checked),
    WITH_FILES(a_value_has_a_length),
    WITH_FILES(directories_follow_the_user),
    WITH_FILES(mails_need_a_sender),
    WITH_FILES(memory_can_run_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
