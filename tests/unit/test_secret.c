// Secrets kept elsewhere: files, variables, commands, systemd's credentials.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/secret.h"

static char directory[64];
static char path[128];

static void write_file(const char *name, const char *bytes, size_t length) {
  (void)snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, length, file), length);
  assert_int_equal(fclose(file), 0);
}

static void gives(const char *reference, const char *const *environment, const char *expected) {
  bq_secret_source source = {.environment = environment};
  bq_error err = {0};
  char *value = NULL;
  if (bq_secret_resolve(reference, &source, &value, &err) < 0) fail_msg("%s: %s", reference, err.message);
  assert_string_equal(value, expected);
  bq_free(value);
}

static const char *refuses(const char *reference, const char *const *environment, int limit_ms, int code) {
  static bq_error err;
  bq_secret_source source = {.environment = environment, .command_limit_ms = limit_ms};
  char *value = NULL;
  err = (bq_error){0};
  assert_int_equal(bq_secret_resolve(reference, &source, &value, &err), code);
  assert_null(value);
  return err.message;
}

static const char *at(const char *prefix, const char *name) {
  static char reference[200];
  (void)snprintf(reference, sizeof reference, "%s%s/%s", prefix, directory, name);
  return reference;
}

static void plain_text_is_itself(void **state) {
  (void)state;
  gives("hunter2", NULL, "hunter2");
  gives("", NULL, "");
  gives("FILE:/x", NULL, "FILE:/x");
  assert_true(bq_secret_is_reference("file:x") && bq_secret_is_reference("env:x") && bq_secret_is_reference("command:x"));
  assert_false(bq_secret_is_reference("http:x"));
}

static void reads_files(void **state) {
  (void)state;
  write_file("one", "s3cret\n", 7);
  gives(at("file:", "one"), NULL, "s3cret");
  write_file("windows", "s3cret\r\n", 8);
  gives(at("file:", "windows"), NULL, "s3cret");
  write_file("two", "a\n\n", 3);
  gives(at("file:", "two"), NULL, "a\n");
  write_file("nul", "a\0b", 3);
  assert_non_null(strstr(refuses(at("file:", "nul"), NULL, 0, BQ_EINVAL), "NUL"));
  write_file("empty", "\n", 1);
  assert_non_null(strstr(refuses(at("file:", "empty"), NULL, 0, BQ_EINVAL), "empty"));
  assert_non_null(strstr(refuses(at("file:", "none"), NULL, 0, BQ_ENOTFOUND), "none does not exist"));
  refuses(at("file:", ""), NULL, 0, BQ_EINVAL); // a directory
  (void)snprintf(path, sizeof path, "%s/fifo", directory);
  assert_int_equal(mkfifo(path, 0600), 0);
  refuses(at("file:", "fifo"), NULL, 0, BQ_EINVAL); // would wait for ever
  char *big = bq_alloc(BQ_SECRET_MAX_BYTES + 1);
  memset(big, 'x', BQ_SECRET_MAX_BYTES + 1);
  write_file("big", big, BQ_SECRET_MAX_BYTES + 1);
  refuses(at("file:", "big"), NULL, 0, BQ_ELIMIT);
  bq_free(big);
}

static void reads_variables(void **state) {
  (void)state;
  const char *const environment[] = {"A=1", "TOKEN=abc=d", "TOKENS=x", "EMPTY=", NULL};
  gives("env:TOKEN", environment, "abc=d");
  refuses("env:TOKE", environment, 0, BQ_ENOTFOUND);
  refuses("env:EMPTY", environment, 0, BQ_EINVAL);
  assert_int_equal(setenv("BQ_TEST_SECRET", "real", 1), 0);
  gives("env:BQ_TEST_SECRET", NULL, "real");
}

static void runs_commands(void **state) {
  (void)state;
  gives("command:printf  a%sb c", NULL, "acb");
  gives("command:echo $HOME ; \"x\"", NULL, "$HOME ; \"x\""); // no shell
  const char *const environment[] = {"ONLY=this", NULL};
  gives("command:env", environment, "ONLY=this");
}

static void commands_have_no_input(void **state) {
  (void)state;
  // Even when the server's own input has something to say.
  int fds[2];
  int kept = dup(STDIN_FILENO);
  assert_int_equal(pipe(fds), 0);
  assert_int_equal(write(fds[1], "typed", 5), 5);
  assert_int_equal(close(fds[1]), 0);
  assert_int_equal(dup2(fds[0], STDIN_FILENO), STDIN_FILENO);
  assert_non_null(strstr(refuses("command:cat", NULL, 0, BQ_EINVAL), "empty"));
  if (kept >= 0) {
    assert_int_equal(dup2(kept, STDIN_FILENO), STDIN_FILENO);
    (void)close(kept);
  }
  (void)close(fds[0]);
}

static void commands_can_fail(void **state) {
  (void)state;
  write_file("leak", "#!/bin/sh\necho hunter2\necho hunter2 >&2\nexit 3\n", 46);
  assert_int_equal(chmod(path, 0700), 0);
  const char *message = refuses(at("command:", "leak"), NULL, 0, BQ_EIO);
  assert_non_null(strstr(message, "status 3"));
  assert_null(strstr(message, "hunter2"));
  refuses("command:/no/such/program", NULL, 0, BQ_EIO);
  refuses("command:", NULL, 0, BQ_EINVAL);
  refuses("command:   ", NULL, 0, BQ_EINVAL);
  refuses("command:head -c 70000 /dev/zero", NULL, 0, BQ_ELIMIT);
  refuses("command:yes", NULL, 0, BQ_ELIMIT);
  write_file("killed", "#!/bin/sh\necho x\nkill -9 $$\n", 28);
  assert_int_equal(chmod(path, 0700), 0);
  assert_non_null(strstr(refuses(at("command:", "killed"), NULL, 0, BQ_EIO), "signal 9"));
}

// The child and its own child are gone when the call returns, whatever they hold open.
static void commands_end_in_time(void **state) {
  (void)state;
  assert_int_equal(BQ_SECRET_COMMAND_LIMIT_MS, 10000);
  char script[300];
  int length = snprintf(script, sizeof script, "#!/bin/sh\nsleep 600 &\necho $! > %s/pid\nwait\n", directory);
  write_file("slow", script, (size_t)length);
  assert_int_equal(chmod(path, 0700), 0);
  int64_t before = bq_clock_mono_us();
  refuses(at("command:", "slow"), NULL, 300, BQ_ETIMEOUT);
  assert_true(bq_clock_mono_us() - before < 5000000);
  (void)snprintf(path, sizeof path, "%s/pid", directory);
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  int pid = 0;
  assert_int_equal(fscanf(file, "%d", &pid), 1);
  (void)fclose(file);
  // Killed with its group; init may still have to collect it.
  char about[64] = "";
  for (;;) {
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = fopen(path, "r");
    if (file == NULL) break;
    int got = fscanf(file, "%*d (%*[^)]) %1s", about);
    (void)fclose(file);
    if (got == 1 && about[0] == 'Z') break;
    assert_true(bq_clock_mono_us() - before < 20000000);
  }
  // Closing the output is not an end.
  write_file("mute", "#!/bin/sh\necho x\nexec >&-\nexec sleep 600\n", 41);
  assert_int_equal(chmod(path, 0700), 0);
  refuses(at("command:", "mute"), NULL, 300, BQ_ETIMEOUT);
}

static void looks_into_credentials(void **state) {
  (void)state;
  char variable[128];
  (void)snprintf(variable, sizeof variable, "CREDENTIALS_DIRECTORY=%s", directory);
  const char *const environment[] = {variable, NULL};
  const char *const nothing[] = {NULL};
  bq_secret_source source = {.environment = environment};
  bq_error err = {0};
  char *value = NULL;
  write_file("SmtpPassword", "from systemd\n", 13);
  assert_int_equal(bq_secret_from_credentials("SmtpPassword", &source, &value, &err), 0);
  assert_string_equal(value, "from systemd");
  bq_free(value);
  assert_int_equal(bq_secret_from_credentials("ConnectionString", &source, &value, &err), 0);
  assert_null(value);
  assert_int_equal(bq_secret_from_credentials("../x", &source, &value, &err), BQ_EINVAL);
  write_file("Empty", "", 0);
  assert_int_equal(bq_secret_from_credentials("Empty", &source, &value, &err), BQ_EINVAL);
  source.environment = nothing;
  assert_int_equal(bq_secret_from_credentials("SmtpPassword", &source, &value, &err), 0);
  assert_null(value);
}

static int make_directory(void **state) {
  (void)state;
  strcpy(directory, "/tmp/bq-secret-XXXXXX");
  return mkdtemp(directory) != NULL ? 0 : -1;
}

static int remove_directory(void **state) {
  (void)state;
  static const char *const names[] = {"one", "windows", "two", "nul", "empty", "fifo", "big", "leak", "killed", "slow",
                                      "pid", "mute", "SmtpPassword", "Empty"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    (void)snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    (void)unlink(path);
  }
  return rmdir(directory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(plain_text_is_itself),   cmocka_unit_test(reads_files),       cmocka_unit_test(reads_variables),
    cmocka_unit_test(runs_commands),          cmocka_unit_test(commands_have_no_input),
    cmocka_unit_test(commands_can_fail),
    cmocka_unit_test(commands_end_in_time),   cmocka_unit_test(looks_into_credentials),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
