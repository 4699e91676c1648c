#include "cli/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/text.h"
#include "io/curl.h"

enum { TIMEOUT_S = 30, MAX_ANSWER = 64 * 1024 * 1024 };

struct bq_client {
  CURL *easy; // owned
  char *url;  // owned; without a slash at its end
  char *direct; // owned; the hosts that no proxy of the environment is asked for
  int quiet;  // says nothing when there is no answer
};

// What comes back: collected when it is a problem or no stream, else handed on.
typedef struct transfer {
  CURL *easy;
  bq_buf body;
  int (*take)(void *arg, const char *bytes, size_t length);
  void *arg;
  int ended; // take has had enough
} transfer;

static char *server_of_config(const bq_common *common) {
  bq_config *config = NULL;
  bq_config_faults *faults = NULL;
  bq_error err;
  const bq_config_source source = {.path = common->config};
  char *url = NULL;
  if (bq_config_load(&config, &source, &faults, &err) == 0) url = bq_format("http://%s", config->listen);
  else (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_config_faults_free(faults);
  bq_config_free(config);
  return url;
}

// This machine, and what the environment says: setting the option hides that from curl.
static char *direct_hosts(void) {
  const char *more = getenv("no_proxy");
  if (more == NULL) more = getenv("NO_PROXY");
  if (more == NULL || more[0] == '\0') return bq_strdup("127.0.0.0/8,localhost,::1");
  return strcmp(more, "*") == 0 ? bq_strdup(more) : bq_format("127.0.0.0/8,localhost,::1,%s", more);
}

bq_client *bq_client_new(const bq_common *common) {
  const char *given = common->server != NULL ? common->server : getenv("BUILDQ_SERVER");
  char *url = given != NULL && given[0] != '\0' ? bq_strdup(given) : server_of_config(common);
  if (url == NULL) return NULL;
  size_t length = strlen(url);
  while (length > 0 && url[length - 1] == '/') url[--length] = '\0';
  bq_client *client = bq_alloc(sizeof *client);
  CURL *easy = curl_easy_init();
  char *direct = direct_hosts();
  if (client == NULL || easy == NULL || direct == NULL) {
    (void)fputs("buildq: out of memory\n", stderr);
    exit(BQ_EXIT_FAILURE);
  }
  *client = (bq_client){.easy = easy, .url = url, .direct = direct};
  return client;
}

void bq_client_free(bq_client *client) {
  if (client == NULL) return;
  curl_easy_cleanup(client->easy);
  bq_free(client->direct);
  bq_free(client->url);
  bq_free(client);
}

void bq_client_quiet(bq_client *client, int quiet) {
  client->quiet = quiet;
}

const char *bq_client_url(const bq_client *client) {
  return client->url;
}

char *bq_client_escape(const char *text) {
  bq_buf out = {0};
  for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
    if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", *c) != NULL) {
      bq_buf_addc(&out, (char)*c);
    } else {
      bq_buf_addf(&out, "%%%02X", *c);
    }
  }
  return bq_buf_take(&out);
}

static size_t on_bytes(char *bytes, size_t size, size_t count, void *arg) {
  transfer *t = arg;
  long status = 0;
  (void)curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  if (t->take != NULL && status < 300) {
    t->ended = !t->take(t->arg, bytes, size * count);
    return t->ended ? 0 : size * count;
  }
  if (t->body.length + size * count > MAX_ANSWER) return 0;
  bq_buf_add(&t->body, bytes, size * count);
  return size * count;
}

static int exit_code_of(long status) {
  switch (status) {
  case 404: return BQ_EXIT_NOT_FOUND;
  case 409: return BQ_EXIT_CONFLICT;
  case 503: return BQ_EXIT_UNREACHABLE;
  default: return BQ_EXIT_FAILURE;
  }
}

// An application/problem+json body (RFC 9457) as lines for people.
static void print_problem(long status, const char *body, size_t length) {
  json_t *problem = NULL;
  bq_error err;
  if (body == NULL || bq_json_parse(body, length, BQ_JSON_STRICT, &problem, &err) < 0) problem = NULL;
  const char *title = json_string_value(json_object_get(problem, "title"));
  const char *detail = json_string_value(json_object_get(problem, "detail"));
  (void)fprintf(stderr, "buildq: %ld ", status);
  bq_text_print(stderr, title != NULL ? title : "");
  (void)fputs(detail != NULL ? ": " : "", stderr);
  bq_text_print(stderr, detail != NULL ? detail : "");
  (void)fputc('\n', stderr);
  size_t index;
  json_t *fault;
  json_array_foreach(json_object_get(problem, "errors"), index, fault) {
    const char *path = json_string_value(json_object_get(fault, "path"));
    const char *message = json_string_value(json_object_get(fault, "message"));
    (void)fputs("  ", stderr);
    bq_text_print(stderr, path != NULL ? path : "?");
    (void)fputs(": ", stderr);
    bq_text_print(stderr, message != NULL ? message : "?");
    (void)fputc('\n', stderr);
  }
  json_decref(problem);
}

static int perform(bq_client *client, const char *method, const char *path, const char *body, const char *header,
                   transfer *t) {
  char *url = bq_format("%s%s", client->url, path);
  char curl_error[CURL_ERROR_SIZE] = "";
  struct curl_slist *headers = NULL;
  int code = BQ_EXIT_OK;
  long status = 0;
  if (strcmp(method, "GET") != 0) headers = curl_slist_append(headers, "Content-Type: application/json");
  if (header != NULL) headers = curl_slist_append(headers, header);
  CURL *easy = t->easy = client->easy;
  CURLcode result = CURLE_OK;
  curl_easy_reset(easy);
  BQ_CURL_SET(result, easy, CURLOPT_URL, url);
  BQ_CURL_SET(result, easy, CURLOPT_PROTOCOLS_STR, "http,https");
  BQ_CURL_SET(result, easy, CURLOPT_NOPROXY, client->direct);
  BQ_CURL_SET(result, easy, CURLOPT_NOSIGNAL, 1L);
  BQ_CURL_SET(result, easy, CURLOPT_CONNECTTIMEOUT, (long)TIMEOUT_S);
  BQ_CURL_SET(result, easy, CURLOPT_CUSTOMREQUEST, method);
  BQ_CURL_SET(result, easy, CURLOPT_HTTPHEADER, headers);
  BQ_CURL_SET(result, easy, CURLOPT_ERRORBUFFER, curl_error);
  BQ_CURL_SET(result, easy, CURLOPT_WRITEFUNCTION, on_bytes);
  BQ_CURL_SET(result, easy, CURLOPT_WRITEDATA, t);
  if (t->take == NULL) BQ_CURL_SET(result, easy, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
  else BQ_CURL_SET(result, easy, CURLOPT_TCP_KEEPALIVE, 1L); // or a host that is gone is waited for
  if (body != NULL) BQ_CURL_SET(result, easy, CURLOPT_POSTFIELDS, body);
  if (result == CURLE_OK) result = curl_easy_perform(easy);
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, NULL); // it ends with this function
  if (result != CURLE_OK && !t->ended) {
    if (!client->quiet) {
      (void)fprintf(stderr, "buildq: no answer from %s: %s\n", client->url,
                    curl_error[0] != '\0' ? curl_error : curl_easy_strerror(result));
    }
    code = BQ_EXIT_UNREACHABLE;
  } else if (status >= 300) {
    code = exit_code_of(status);
    if (!client->quiet || code != BQ_EXIT_UNREACHABLE) print_problem(status, t->body.data, t->body.length);
  }
  curl_slist_free_all(headers);
  bq_free(url);
  return code;
}

int bq_client_call(bq_client *client, const char *method, const char *path, json_t *body, const char *header,
                   json_t **answer) {
  transfer t = {0};
  char *text = body != NULL ? bq_json_dumps(body, JSON_COMPACT) : NULL;
  bq_error err;
  *answer = NULL;
  int code = perform(client, method, path, text, header, &t);
  if (code == BQ_EXIT_OK && t.body.length > 0 &&
      bq_json_parse(t.body.data, t.body.length, BQ_JSON_STRICT, answer, &err) < 0) {
    (void)fprintf(stderr, "buildq: the answer of %s can't be read: %s\n", client->url, err.message);
    code = BQ_EXIT_FAILURE;
  }
  bq_free(text);
  bq_buf_free(&t.body);
  return code;
}

void bq_client_header(const bq_client *client, const char *name, char *out, size_t size) {
  struct curl_header *header = NULL;
  out[0] = '\0';
  if (curl_easy_header(client->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK) return;
  (void)snprintf(out, size, "%s", header->value);
}

int bq_client_stream(bq_client *client, const char *path, const char *header,
                     int (*take)(void *arg, const char *bytes, size_t length), void *arg) {
  transfer t = {.take = take, .arg = arg};
  int code = perform(client, "GET", path, NULL, header, &t);
  bq_buf_free(&t.body);
  return code;
}
