// Webhooks against a server on loopback: what is sent and signed, where it may go, and what each answer means.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/memory.h"
#include "io/http_server.h"
#include "io/webhook.h"
#include "support.h"

// The example of Standard Webhooks 1.0 ("Verifying webhooks"): secret, id and body; the time is this test's own.
#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

typedef struct rig {
  bq_loop *loop;
  bq_pool *pool;
  bq_http_server *server;
  bq_webhook *webhook;
  bq_config *config;
  char *directory;       // SecretsDirectory
  char request[4000];    // the last one, as "METHOD path?query" and the headers asked for
  int requests;
  int ends;              // how often `done` was called
  bq_transport_result result;
  char reply[2000];
} rig;

static void on_body(void *arg, bq_http_exchange *x, const char *body, size_t length) {
  rig *r = arg;
  const char *names[] = {"Content-Type", "Authorization", "User-Agent", "webhook-id", "webhook-timestamp", "webhook-signature",
                         "X-Empty", "Expect"};
  int at = snprintf(r->request, sizeof r->request, "%s %s?%s %.*s", bq_http_method(x), bq_http_path(x), bq_http_query(x),
                    (int)length, body);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const char *value = bq_http_get_header(x, names[i]);
    if (value == NULL) continue;
    at += snprintf(r->request + at, sizeof r->request - (size_t)at, "\n%s: %s", names[i], value);
  }
  r->requests++;
  int status = 0;
  const char *path = bq_http_path(x);
  if (sscanf(path, "/status/%d", &status) == 1) {
    const bq_http_header headers[] = {{"Retry-After", status == 418 ? "Fri, 31 Dec 2100 23:59:59 GMT" : "77"},
                                      {"Location", "/elsewhere?secret=1"}};
    // The path comes back, as servers do that complain about it.
    char *text = bq_format("no\r\nsuch\x01 thing: %s?%s %s", path, bq_http_query(x), SECRET);
    bq_http_respond(x, status, headers, 2, text, strlen(text));
    bq_free(text);
  } else if (strcmp(path, "/large") == 0) {
    static char large[BQ_WEBHOOK_MAX_ANSWER + 5000];
    memset(large, 'x', sizeof large);
    bq_http_respond(x, 200, NULL, 0, large, sizeof large);
  } else if (strcmp(path, "/hold") != 0) {
    bq_http_respond(x, 200, NULL, 0, "ok", 2);
  }
}

static void on_request(void *arg, bq_http_exchange *x) {
  bq_http_read_body(x, on_body, arg);
}

static void on_done(void *arg, const bq_transport_result *result) {
  rig *r = arg;
  r->ends++;
  r->result = *result;
  (void)snprintf(r->reply, sizeof r->reply, "%s", result->reply);
}

// A configuration of the section Notifications given as JSON, in a directory of this rig.
static void configure(rig *r, const char *section) {
  bq_error err;
  bq_config_faults *faults = NULL;
  char *path = bq_format("%s/settings.json", r->directory);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fprintf(file, "{\"BuildQueue\": {\"StateDirectory\": \"/st\", \"SecretsDirectory\": \"%s\"}, \"Notifications\": {%s}}",
          r->directory, section);
  assert_int_equal(fclose(file), 0);
  bq_config_free(r->config);
  const char *const none[] = {NULL};
  assert_int_equal(bq_config_load(&r->config, &(bq_config_source){.path = path, .environment = none}, &faults, &err), 0);
  bq_config_faults_free(faults);
  bq_free(path);
  bq_webhook_free(r->webhook);
  assert_int_equal(bq_webhook_new(&r->webhook, r->loop, r->pool, r->config, 4, &err), 0);
}

static int setup(void **state) {
  rig *r = bq_alloc(sizeof *r);
  bq_error err;
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = "127.0.0.1:0";
  const bq_http_handler handler = {.on_request = on_request, .arg = r};
  assert_int_equal(bq_loop_new(&r->loop, &err), 0);
  assert_int_equal(bq_pool_new(&r->pool, r->loop, "block", 1, 10, &err), 0);
  assert_int_equal(bq_http_server_new(&r->server, r->loop, &options, &handler, &err), 0);
  r->directory = support_make_directory();
  configure(r, "\"AllowedNetworks\": [\"127.0.0.1\"], \"TimeoutSeconds\": 1");
  *state = r;
  return 0;
}

static int teardown(void **state) {
  rig *r = *state;
  bq_webhook_free(r->webhook);
  bq_pool_free(r->pool);
  bq_http_server_free(r->server);
  bq_loop_free(r->loop);
  bq_config_free(r->config);
  support_remove_directory(r->directory);
  bq_free(r);
  return 0;
}

static void secret_file(const rig *r, const char *name, const char *text) {
  char *path = bq_format("%s/%s", r->directory, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
  bq_free(path);
}

static int has_ended(void *arg) {
  return ((rig *)arg)->ends == 1;
}

// Sends a table given as JSON, in which AT stands for the server's address. Returns bq_webhook_send's result; when that
// is 0 the call has ended.
static int post(rig *r, const char *json, bq_error *err) {
  bq_buf text = {0};
  for (const char *c = json; *c != '\0'; c++) {
    if (strncmp(c, "AT/", 3) != 0) {
      bq_buf_addc(&text, *c);
      continue;
    }
    bq_buf_adds(&text, bq_http_server_address(r->server));
    c++;
  }
  json_t *http = json_loads(text.data, 0, NULL);
  if (http == NULL) fail_msg("no JSON: %s", text.data);
  r->ends = 0;
  r->request[0] = '\0';
  int result = bq_webhook_send(r->webhook, http, on_done, r, err);
  json_decref(http);
  bq_buf_free(&text);
  if (result == 0) {
    assert_int_equal(r->ends, 0); // never inside of the call
    assert_true(support_run_until(r->loop, has_ended, r, 20000));
  }
  return result;
}

static void expect(rig *r, const char *json, bq_transport_outcome outcome, int code, const char *reply) {
  bq_error err;
  if (post(r, json, &err) != 0) fail_msg("%s: %s", json, err.message);
  if (r->result.outcome != outcome || r->result.code != code || strstr(r->reply, reply) == NULL) {
    fail_msg("%s: outcome %d, code %d, %s", json, (int)r->result.outcome, r->result.code, r->reply);
  }
}

static void refuse(rig *r, const char *json, const char *message) {
  bq_error err;
  assert_int_equal(post(r, json, &err), BQ_EINVAL);
  if (strstr(err.message, message) == NULL) fail_msg("%s: %s", json, err.message);
}

static void sends_what_the_script_says(void **state) {
  rig *r = *state;
  expect(r, "{\"url\": \"http://AT/hook?a=b\", \"body\": \"{\\\"a\\\": \\\"\\u00e9\\\"}\"}", BQ_TRANSPORT_SENT, 200, " answered 200: ok");
  assert_string_equal(r->request, "POST /hook?a=b {\"a\": \"\xc3\xa9\"}\nContent-Type: application/json\nUser-Agent: buildq/0.1.0");
  secret_file(r, "token", "t0psecret\n");
  expect(r, "{\"url\": \"http://AT/\", \"body\": \"\", \"contentType\": \"text/plain\", \"headers\": {\"X-Empty\": \"\", "
            "\"Authorization\": {\"secret\": \"token\", \"before\": \"Bearer \"}}}", BQ_TRANSPORT_SENT, 200, "ok");
  assert_string_equal(r->request, "POST /? \nContent-Type: text/plain\nAuthorization: Bearer t0psecret\n"
                                  "User-Agent: buildq/0.1.0\nX-Empty: ");
}

static void signs_with_each_secret(void **state) {
  rig *r = *state;
  char id[64];
  long long time = 0;
  char first[64];
  char second[64];
  const char *message = "{\"url\": \"http://AT/\", \"body\": \"{\\\"test\\\": 2432232314}\", "
                        "\"sign\": {\"id\": \"msg_p5jXN8AQM9LWM0D4loKWxJek\", \"secrets\": [\"WebhookSecrets\"]}}";
  configure(r, "\"AllowedNetworks\": [\"127.0.0.0/8\"], \"WebhookSecrets\": [\"" SECRET "\", "
               "\"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\"]");
  expect(r, message, BQ_TRANSPORT_SENT, 200, "ok");
  const char *headers = strstr(r->request, "webhook-id: ");
  assert_non_null(headers);
  assert_int_equal(sscanf(headers, "webhook-id: %63s webhook-timestamp: %lld webhook-signature: v1,%63s v1,%63s", id, &time, first,
                          second), 4);
  assert_string_equal(id, "msg_p5jXN8AQM9LWM0D4loKWxJek");
  assert_in_range(time, 1700000000, 99999999999);
  assert_int_equal(strlen(first), 44);
  assert_string_not_equal(first, second);
  // Without any there is nothing to sign with, and what a receiver can't tell from anybody's is not sent.
  configure(r, "\"AllowedNetworks\": [\"127.0.0.0/8\"]");
  expect(r, message, BQ_TRANSPORT_RETRY, 0, "Notifications.WebhookSecrets is not given");
  secret_file(r, "own", "nothing of the kind");
  expect(r, "{\"url\": \"http://AT/\", \"body\": \"\", \"sign\": {\"id\": \"a\", \"secrets\": [\"own\"]}}", BQ_TRANSPORT_RETRY, 0,
         "must be whsec_");
}

static void status_decides(void **state) {
  rig *r = *state;
  static const struct {
    int status;
    bq_transport_outcome outcome;
  } rows[] = {{201, BQ_TRANSPORT_SENT},  {204, BQ_TRANSPORT_SENT},  {301, BQ_TRANSPORT_DEAD},  {307, BQ_TRANSPORT_DEAD},
              {400, BQ_TRANSPORT_DEAD},  {401, BQ_TRANSPORT_DEAD},  {404, BQ_TRANSPORT_DEAD},  {408, BQ_TRANSPORT_RETRY},
              {410, BQ_TRANSPORT_GONE},  {425, BQ_TRANSPORT_RETRY}, {429, BQ_TRANSPORT_RETRY}, {500, BQ_TRANSPORT_RETRY},
              {503, BQ_TRANSPORT_RETRY}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char message[200];
    char reply[40];
    (void)snprintf(message, sizeof message, "{\"url\": \"http://AT/status/%d\", \"body\": \"x\"}", rows[i].status);
    (void)snprintf(reply, sizeof reply, "answered %d", rows[i].status);
    r->requests = 0;
    expect(r, message, rows[i].outcome, rows[i].status, reply);
    assert_int_equal(r->requests, 1); // a redirect is not followed
    assert_int_equal(r->result.retry_after_s, rows[i].outcome == BQ_TRANSPORT_RETRY ? 77 : 0);
  }
  expect(r, "{\"url\": \"http://AT/large\", \"body\": \"x\"}", BQ_TRANSPORT_SENT, 200, "xxxx");
  assert_true(strlen(r->reply) < BQ_WEBHOOK_MAX_REPLY + 100);
  expect(r, "{\"url\": \"http://AT/hold\", \"body\": \"x\"}", BQ_TRANSPORT_RETRY, 0, "timed out");
}

static void tells_no_secret(void **state) {
  rig *r = *state;
  char *section = bq_format("\"SlackWebhookUrl\": \"http://%s/status/400?T0K3N\", \"WebhookSecrets\": [\"" SECRET "\"], "
                            "\"AllowedNetworks\": [\"127.0.0.1\"]", bq_http_server_address(r->server));
  configure(r, section);
  bq_free(section);
  expect(r, "{\"url\": {\"secret\": \"SlackWebhookUrl\"}, \"body\": \"x\", "
            "\"sign\": {\"id\": \"a\", \"secrets\": [\"WebhookSecrets\"]}}",
         BQ_TRANSPORT_DEAD, 400, "answered 400: no such thing: *** ***");
  assert_null(strstr(r->reply, "T0K3N"));
  assert_null(strstr(r->reply, SECRET));
  secret_file(r, "url", "nowhere:T0K3N");
  expect(r, "{\"url\": {\"secret\": \"url\"}, \"body\": \"x\"}", BQ_TRANSPORT_RETRY, 0, "no https or http URL");
  assert_null(strstr(r->reply, "T0K3N"));
  expect(r, "{\"url\": {\"secret\": \"none\"}, \"body\": \"x\"}", BQ_TRANSPORT_RETRY, 0, "no secret none");
}

static void goes_where_it_may(void **state) {
  rig *r = *state;
  static const char *const special[] = {"127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "0.0.0.0",
                                        "localhost", "0x7f.1", "2130706433", "[fd00::1]", "[fe80::1]", "192.168.1.1",
                                        "[64:ff9b::7f00:1]"};
  configure(r, "\"TimeoutSeconds\": 5");
  for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
    char message[200];
    const char *port = strrchr(bq_http_server_address(r->server), ':');
    (void)snprintf(message, sizeof message, "{\"url\": \"http://%s%s/\", \"body\": \"x\"}", special[i], port);
    expect(r, message, BQ_TRANSPORT_DEAD, 0, "Notifications.AllowedNetworks can allow it");
  }
  assert_int_equal(r->requests, 0);
  assert_non_null(strstr(r->reply, "64:ff9b::7f00:1 is a loopback address"));
  configure(r, "\"AllowedNetworks\": [\"10.0.0.0/8\"]");
  expect(r, "{\"url\": \"http://AT/\", \"body\": \"x\"}", BQ_TRANSPORT_DEAD, 0, "127.0.0.1 is a loopback address");
  assert_int_equal(r->requests, 0);
  // What the environment says of proxies would hide the address.
  configure(r, "\"AllowedNetworks\": [\"127.0.0.1\"]");
  assert_int_equal(setenv("http_proxy", "http://127.0.0.1:1", 1), 0);
  expect(r, "{\"url\": \"http://AT/\", \"body\": \"x\"}", BQ_TRANSPORT_SENT, 200, "ok");
  assert_int_equal(unsetenv("http_proxy"), 0);
}

static void tries_again_what_cannot_be_reached(void **state) {
  rig *r = *state;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); // a port that is taken, and not listened to
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
  char message[200];
  (void)snprintf(message, sizeof message, "{\"url\": \"http://127.0.0.1:%u/\", \"body\": \"x\"}", (unsigned)ntohs(address.sin_port));
  expect(r, message, BQ_TRANSPORT_RETRY, 0, "127.0.0.1:");
  (void)close(fd);
  expect(r, "{\"url\": \"http://nobody.invalid/\", \"body\": \"x\"}", BQ_TRANSPORT_RETRY, 0, "nobody.invalid: ");
}

static void refuses_what_is_no_message(void **state) {
  rig *r = *state;
  refuse(r, "[]", "must be a table");
  refuse(r, "{\"body\": \"x\"}", "url must be a text or {secret = NAME}");
  refuse(r, "{\"url\": 5, \"body\": \"x\"}", "url must be a text");
  refuse(r, "{\"url\": \"ftp://a.example/\", \"body\": \"x\"}", "no https or http URL");
  refuse(r, "{\"url\": \"file:///etc/passwd\", \"body\": \"x\"}", "no https or http URL");
  refuse(r, "{\"url\": {\"secret\": \"../x\"}, \"body\": \"x\"}", "a secret's name");
  refuse(r, "{\"url\": {\"secret\": \".x\"}, \"body\": \"x\"}", "a secret's name");
  refuse(r, "{\"url\": \"http://AT/\"}", "body must be a text");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"contentType\": \"a\\nb\"}", "contentType must be");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"headers\": {\"A\": \"b\\r\\nC: d\"}}", "in one line");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"headers\": {\"A: b\\r\\nC\": \"d\"}}", "no name of a header");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"headers\": {\"host\": \"d\"}}", "no name of a header");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"headers\": {\"A\": {\"secret\": \"x\", \"before\": \"a\\nb\"}}}", "in one line");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"sign\": {\"id\": \"a.b\", \"secrets\": [\"x\"]}}", "sign.id must be");
  refuse(r, "{\"url\": \"http://AT/\", \"body\": \"x\", \"sign\": {\"id\": \"a\", \"secrets\": []}}", "sign.secrets must be");
  assert_int_equal(r->requests, 0);
}

static void ends_with_the_server(void **state) {
  rig *r = *state;
  bq_error err;
  json_t *http = json_pack("{s:o, s:s}", "url", json_sprintf("http://%s/hold", bq_http_server_address(r->server)), "body", "x");
  assert_int_equal(bq_webhook_send(r->webhook, http, on_done, r, &err), 0); // with the pool
  bq_webhook_free(r->webhook);
  assert_int_equal(r->ends, 1);
  assert_int_equal(r->result.outcome, BQ_TRANSPORT_RETRY);
  assert_int_equal(bq_webhook_new(&r->webhook, r->loop, r->pool, r->config, 4, &err), 0);
  json_decref(http);
}

static void urls_are_told_apart(void **state) {
  (void)state;
  char one[BQ_WEBHOOK_LABEL_SIZE];
  char two[BQ_WEBHOOK_LABEL_SIZE];
  bq_webhook_label("https://hooks.slack.example/services/T0/B0/xyz", one);
  bq_webhook_label("https://hooks.slack.example/services/T0/B0/xyy", two);
  assert_int_equal(strncmp(one, "hooks.slack.example #", 21), 0);
  assert_int_equal(strlen(one), 29);
  assert_string_not_equal(one, two);
  bq_webhook_label("http://user:pass1234@[::1]:8080/x", one);
  assert_int_equal(strncmp(one, "[::1]:8080 #", 12), 0);
  bq_webhook_label("", one);
  assert_string_equal(one, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(sends_what_the_script_says, setup, teardown),
      cmocka_unit_test_setup_teardown(signs_with_each_secret, setup, teardown),
      cmocka_unit_test_setup_teardown(status_decides, setup, teardown),
      cmocka_unit_test_setup_teardown(tells_no_secret, setup, teardown),
      cmocka_unit_test_setup_teardown(goes_where_it_may, setup, teardown),
      cmocka_unit_test_setup_teardown(tries_again_what_cannot_be_reached, setup, teardown),
      cmocka_unit_test_setup_teardown(refuses_what_is_no_message, setup, teardown),
      cmocka_unit_test_setup_teardown(ends_with_the_server, setup, teardown),
      cmocka_unit_test(urls_are_told_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
