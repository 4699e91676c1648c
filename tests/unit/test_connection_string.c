// Connection strings: libpq itself (PQconninfoParse) is the judge of what comes out.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <libpq-fe.h>

#include "base/connection_string.h"
#include "base/log.h"
#include "base/memory.h"

static char *translated(const char *text, char **notes) {
  char *out = NULL;
  char *noted = NULL;
  bq_error err = {0};
  bq_secret_source secrets = {0};
  if (bq_connection_string_translate(text, &secrets, &out, &noted, &err) < 0) fail_msg("%s: %s", text, err.message);
  if (notes != NULL) *notes = noted;
  else bq_free(noted);
  return out;
}

// `expected` is "keyword=value" separated by |, all that libpq finds set, in libpq's order.
static void means(const char *text, const char *expected) {
  char *libpq = translated(text, NULL);
  char *problem = NULL;
  PQconninfoOption *options = PQconninfoParse(libpq, &problem);
  if (options == NULL) fail_msg("libpq refuses %s: %s", libpq, problem);
  char *rest = strdup(expected);
  size_t pairs = 0;
  char *save = NULL;
  for (char *pair = strtok_r(rest, "|", &save); pair != NULL; pair = strtok_r(NULL, "|", &save)) {
    char *equals = strchr(pair, '=');
    *equals = '\0';
    const char *value = NULL;
    for (PQconninfoOption *option = options; option->keyword != NULL; option++) {
      if (strcmp(option->keyword, pair) == 0) value = option->val;
    }
    if (value == NULL || strcmp(value, equals + 1) != 0) {
      fail_msg("%s\n became %s\n where %s is %s, not %s", text, libpq, pair, value != NULL ? value : "(unset)", equals + 1);
    }
    pairs++;
  }
  for (PQconninfoOption *option = options; option->keyword != NULL; option++) {
    if (option->val != NULL) pairs--;
  }
  if (pairs != 0) fail_msg("%s became %s, which sets other things than %s", text, libpq, expected);
  free(rest);
  PQconninfoFree(options);
  bq_free(libpq);
}

static const char *refused(const char *text, int code) {
  static bq_error err;
  char *out = NULL;
  char *notes = NULL;
  bq_secret_source secrets = {0};
  err = (bq_error){0};
  if (bq_connection_string_translate(text, &secrets, &out, &notes, &err) != code) fail_msg("%s is not refused", text);
  assert_null(out);
  assert_null(notes);
  return err.message;
}

static void net_form(void **state) {
  (void)state;
  means("Host=db.example;Port=5433;Database=builds;Username=app;Password=s3cret;SSL Mode=Require;Timeout=15;",
        "host=db.example|port=5433|dbname=builds|user=app|password=s3cret|sslmode=require|connect_timeout=15");
  means("server=h;DATABASE=d;User Id=u;pwd=p", "host=h|dbname=d|user=u|password=p");
  means("Server=h;DB=d;UID=u;PSW=p", "host=h|dbname=d|user=u|password=p");
  means("host=h;user name=u", "host=h|user=u");
  means("Host = h ; Database = my db ; ", "host=h|dbname=my db");
  means(";;Host=h;;", "host=h");
  means("Host=db", "host=db");
  means("host=db;", "host=db");
  means("host=h;port=5", "host=h|port=5");
  means("host=h; port=5", "host=h|port=5");
  means("host=h ;port =5", "host=h|port=5");
  means("password='x;port=1';host=h", "password=x;port=1|host=h");
  means("Host=a;Host=b;Server=c", "host=c");
  means("Host=h;Password=", "host=h");
  means("Host=/run/postgresql;Username=u", "host=/run/postgresql|user=u");
  means("Application Name=buildq;Target Session Attributes=ReadWrite;Channel Binding=Require;Host=h",
        "application_name=buildq|target_session_attrs=read-write|channel_binding=require|host=h");
  means("Host=h;Tcp Keepalive=true;Tcp Keepalive Time=60", "host=h|keepalives=1|keepalives_idle=60");
  means("Host=h;Root Certificate=/c/root.crt;SSL Certificate=/c/c.crt;SslKey=/c/k",
        "host=h|sslrootcert=/c/root.crt|sslcert=/c/c.crt|sslkey=/c/k");
}

static void net_quoting(void **state) {
  (void)state;
  means("Host=h;Password=\"a;b\"", "host=h|password=a;b");
  means("Host=h;Password='a;b'", "host=h|password=a;b");
  means("Host=h;Password=\"a\"\"b\"", "host=h|password=a\"b");
  means("Host=h;Password='a''b'", "host=h|password=a'b");
  means("Host=h;Password=\"it's\"", "host=h|password=it's");
  means("Host=h;Password=' blanks '", "host=h|password= blanks ");
  means("Host=h;Password=\"x\" ;Port=1", "host=h|password=x|port=1");
  means("Host=h;Password=a=b", "host=h|password=a=b");
  means("Host=h;Password=a'b\\c", "host=h|password=a'b\\c");
  means("Host=h;Password=\\", "host=h|password=\\");
  means("Host=h;Password=a b", "host=h|password=a b");
}

static void net_ssl_modes(void **state) {
  (void)state;
  static const char *const modes[][2] = {{"Disable", "disable"}, {"allow", "allow"}, {"Prefer", "prefer"},
                                         {"REQUIRE", "require"}, {"VerifyCA", "verify-ca"}, {"VerifyFull", "verify-full"}};
  for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
    char text[64];
    char expected[64];
    (void)snprintf(text, sizeof text, "Host=h;SslMode=%s", modes[i][0]);
    (void)snprintf(expected, sizeof expected, "host=h|sslmode=%s", modes[i][1]);
    means(text, expected);
  }
  assert_non_null(strstr(refused("Host=h;SSL Mode=Maybe", BQ_EINVAL), "VerifyFull"));
}

static void net_hosts(void **state) {
  (void)state;
  means("Host=a:5433,b:5434", "host=a,b|port=5433,5434");
  means("Host=a:5433,b;Port=6000", "host=a,b|port=5433,6000");
  means("Host=a, b", "host=a,b");
  means("Host=[::1]:5433;Database=d", "host=::1|port=5433|dbname=d");
  means("Host=::1;Database=d", "host=::1|dbname=d");
  refused("Host=a:x;Database=d", BQ_EINVAL);
}

static void net_search_path(void **state) {
  (void)state;
  means("Host=h;Search Path=builds", "host=h|options=-c search_path=builds");
  means("Host=h;Search Path=a, b;Options=-c x=y", "host=h|options=-c x=y -c search_path=a,\\ b");
}

static void net_ignored_keys_are_noted(void **state) {
  (void)state;
  char *notes = NULL;
  char *out = translated("Host=h;Pooling=true;Maximum Pool Size=20;Command Timeout=30;Include Error Detail=true", &notes);
  assert_string_equal(out, "host='h'");
  assert_string_equal(notes, "Pooling, Maximum Pool Size, Command Timeout, Include Error Detail");
  bq_free(out);
  bq_free(notes);
  out = translated("Host=h;Port=1", &notes);
  assert_null(notes);
  bq_free(out);
}

static void net_password_may_be_elsewhere(void **state) {
  (void)state;
  assert_int_equal(setenv("BQ_TEST_PASSWORD", "els;e'where", 1), 0);
  means("Host=h;Password=env:BQ_TEST_PASSWORD", "host=h|password=els;e'where");
  refused("Host=h;Password=env:BQ_TEST_NO_SUCH", BQ_ENOTFOUND);
}

static void broken_ones_are_refused_without_their_text(void **state) {
  (void)state;
  static const char *const texts[] = {
    "Host=h;Password=hun;ter2=x", "Host=h;Password=hun;ter2", "Host=h;Password=\"hunter2", "Host=h;Password=\"hun\"ter2",
    "Host=h;Password=hunter2\"", "hunter2", "ssl=hunter2", "Host=h;=hunter2", "Host=h;Port=ter2;Password=hunter2",
    "Host=h;Timeout=ter2", "Host=h;Port=1234567890", "host=h password='hunter2", "host=h password=hun ter2", "Host=h Password=hunter2",
    "host=h password=hun ter2=x",
    "postgresql://u:hun%zzter2@h/d", "postgresql://u:hunter2@h/d?ter2=x", "postgresql://u:p@h/d?password=hun%00ter2",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    const char *message = refused(texts[i], BQ_EINVAL);
    if (strstr(message, "ter2") != NULL || strstr(message, "hun") != NULL) fail_msg("%s: %s", texts[i], message);
  }
  char *big = bq_alloc(BQ_CONNECTION_STRING_MAX + 10);
  memset(big, 'x', BQ_CONNECTION_STRING_MAX + 1);
  refused(big, BQ_ELIMIT);
  bq_free(big);
}

static void libpq_forms_pass(void **state) {
  (void)state;
  static const char *const texts[] = {
    "postgresql://u:p%40ss@h:5433/d?sslmode=require&connect_timeout=3", "postgres://", "postgresql:///d?host=/run/x",
    "host=h port=5433 dbname=d user=u password='it\\'s'", "host = h", "dbname=d", "password=a;b host=h", "",
    "host='h' password='a;port=5;'",
    "service=builds", "postgresql://h/d?ssl=true",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    char *out = translated(texts[i], NULL);
    assert_string_equal(out, texts[i]);
    bq_free(out);
  }
}

static void shows(const char *text, const char *expected) {
  char *libpq = translated(text, NULL);
  char *out = NULL;
  bq_error err = {0};
  assert_int_equal(bq_connection_string_printable(libpq, &out, &err), 0);
  assert_string_equal(out, expected);
  bq_free(out);
  bq_free(libpq);
}

static void printable_has_no_password(void **state) {
  (void)state;
  shows("Host=h;Password=\"s'e;cret\";Username=u", "host='h' password=*** user='u'");
  shows("host=h password='se cret' sslpassword=x user=u", "host='h' password=*** sslpassword=*** user='u'");
  shows("postgresql://u:secret@h:1/d", "postgresql://u:***@h:1/d");
  shows("postgresql://u:se/cr@et@h/d", "postgresql://u:***@h/d");
  shows("postgresql://h/d?user=u&password=secret&sslmode=require", "postgresql://h/d?user=u&password=***&sslmode=require");
  shows("postgresql://h/d?%70assword=p@ss", "postgresql://h/d?%70assword=***");
  shows("postgresql://h:5432/d", "postgresql://h:5432/d");
}

// Everything that `fn` makes the log hide is gone from a line that quotes it.
static void hidden(const char *text, const char *logged, const char *part) {
  char *libpq = translated(text, NULL);
  bq_error err = {0};
  assert_int_equal(bq_connection_string_hide(libpq, &err), 0);
  bq_free(libpq);
  int fds[2];
  assert_int_equal(pipe(fds), 0);
  bq_log_setup_fd(fds[1]);
  bq_log(BQ_ERROR, "test", "text", logged, NULL);
  bq_log_setup_fd(STDERR_FILENO);
  char line[1000];
  ssize_t length = read(fds[0], line, sizeof line - 1);
  assert_true(length > 0);
  line[length] = '\0';
  if (strstr(line, part) != NULL) fail_msg("%s shows in %s", part, line);
  close(fds[0]);
  close(fds[1]);
}

static void passwords_are_hidden_from_the_log(void **state) {
  (void)state;
  hidden("Host=h;Password=net-password-1", "net-password-1", "net-password-1");
  hidden("host=h password=plain-word-2", "plain-word-2", "plain-word-2");
  hidden("host=h password='quoted-word-3' user=u", "quoted-word-3", "quoted-word-3");
  hidden("postgresql://u:uri-word-4@h/d", "uri-word-4", "uri-word-4");
  hidden("postgresql://u:uri%2dword%2d5@h/d", "uri-word-5", "uri-word-5");
  hidden("postgresql://u:uri%2dword%2d6@h/d", "uri%2dword%2d6", "uri%2dword%2d6");
  hidden("postgresql://h/d?password=query-word-7", "query-word-7", "query-word-7");
  hidden("Host=h;SSL Password=key-word-8", "key-word-8", "key-word-8");
  // The log escapes quotes and backslashes: what it writes is hidden, too.
  hidden("Host=h;Password=\"qu\"\"ote-\\word-9\"", "qu\"ote-\\word-9", "ote-");
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(net_form),
    cmocka_unit_test(net_quoting),
    cmocka_unit_test(net_ssl_modes),
    cmocka_unit_test(net_hosts),
    cmocka_unit_test(net_search_path),
    cmocka_unit_test(net_ignored_keys_are_noted),
    cmocka_unit_test(net_password_may_be_elsewhere),
    cmocka_unit_test(broken_ones_are_refused_without_their_text),
    cmocka_unit_test(libpq_forms_pass),
    cmocka_unit_test(printable_has_no_password),
    cmocka_unit_test(passwords_are_hidden_from_the_log),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
