#include "io/webhook.h"

#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/network.h"
#include "base/utf8.h"
#include "base/version.h"
#include "io/curl.h"
#include "io/hash.h"
#include "io/webhook_request.h"

enum { CONNECT_LIMIT_MS = 10000, LABEL_DIGITS = 8 };

// One call: its secrets are read (blocking pool) → it is on its way (libcurl) → its end is told.
typedef struct call {
  bq_task task;
  bq_webhook *webhook;        // borrowed; NULL: freed while the pool had the task, its end has been told
  bq_webhook_request request;
  bq_transport_done done;
  void *arg;
  CURL *easy;                 // owned; NULL while secrets are read
  bq_buf answer;              // the beginning of the answer's body
  size_t answered;            // bytes of it that have come
  char refused[160];          // the address that was refused, and why; "" when none was
  int tried;                  // addresses that were not refused
  char curl_error[CURL_ERROR_SIZE];
  bq_error error;             // of the secrets
  struct call *next;
  struct call *previous;
} call;

struct bq_webhook {
  bq_curl *curl;           // owned
  bq_pool *blocking;       // borrowed
  const bq_config *config; // borrowed
  call *first;             // all calls that have not ended
};

// The end -----------------------------------------------------------------------------------------------------------

static void unlink_call(call *c) {
  if (c->previous != NULL) c->previous->next = c->next;
  else c->webhook->first = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  c->webhook = NULL;
}

static void free_call(call *c) {
  if (c->easy != NULL) curl_easy_cleanup(c->easy);
  bq_webhook_request_clear(&c->request);
  bq_buf_free(&c->answer);
  bq_free(c);
}

// The answer's body as part of one line: blanks for control characters and runs of them, cut, valid.
static void add_line(bq_buf *out, const char *text) {
  bq_buf line = {0};
  bq_buf_adds(&line, "");
  for (const char *c = text; *c != '\0' && line.length < BQ_WEBHOOK_MAX_REPLY; c++) {
    int is_blank = (unsigned char)*c <= ' ' || *c == 0x7f;
    if (!is_blank) bq_buf_addc(&line, *c);
    else if (line.length > 0 && line.data[line.length - 1] != ' ') bq_buf_addc(&line, ' ');
  }
  if (line.data != NULL) {
    bq_utf8_clean(line.data);
    bq_buf_adds(out, line.data);
  }
  bq_buf_free(&line);
}

static bq_transport_outcome outcome_of(long status) {
  if (status >= 200 && status <= 299) return BQ_TRANSPORT_SENT;
  if (status == 410) return BQ_TRANSPORT_GONE;
  if (status == 408 || status == 425 || status == 429 || status >= 500) return BQ_TRANSPORT_RETRY;
  return BQ_TRANSPORT_DEAD;
}

static void describe_answer(const call *c, long status, bq_buf *reply) {
  bq_buf_addf(reply, "%s answered %ld", c->request.host, status);
  if (status >= 300 && status <= 399) {
    bq_buf_adds(reply, ", a redirect, which is not followed: give the URL that it leads to");
    return;
  }
  if (c->answer.length == 0) return;
  bq_buf masked = {0};
  bq_mask_text(c->request.mask, c->answer.data, c->answer.length, &masked);
  bq_buf_adds(reply, ": ");
  add_line(reply, masked.data != NULL ? masked.data : "");
  bq_buf_free(&masked);
}

static void describe_failure(const call *c, CURLcode code, bq_buf *reply) {
  const char *text = c->curl_error[0] != '\0' ? c->curl_error : curl_easy_strerror(code);
  bq_buf masked = {0};
  bq_mask_text(c->request.mask, text, strlen(text), &masked);
  bq_buf_addf(reply, "%s: ", c->request.host);
  add_line(reply, masked.data != NULL ? masked.data : "");
  bq_buf_free(&masked);
}

// Tells the end; the call is free for free_call.
static void tell(call *c, bq_transport_outcome outcome, long status, curl_off_t retry_after_s, const char *reply) {
  if (retry_after_s > BQ_WEBHOOK_MAX_RETRY_AFTER_S) retry_after_s = BQ_WEBHOOK_MAX_RETRY_AFTER_S;
  const bq_transport_result result = {
      .outcome = outcome, .code = (int)status, .reply = reply, .retry_after_s = (int64_t)retry_after_s};
  unlink_call(c);
  c->done(c->arg, &result);
}

static void on_transfer_done(void *arg, CURL *easy, CURLcode code) {
  call *c = arg;
  long status = 0;
  curl_off_t retry_after_s = 0;
  bq_transport_outcome outcome;
  bq_buf reply = {0};
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  (void)curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_after_s);
  if (status >= 200) {
    outcome = outcome_of(status);
    describe_answer(c, status, &reply);
  } else if (code == CURLE_ABORTED_BY_CALLBACK) {
    outcome = BQ_TRANSPORT_RETRY;
    status = 0;
    bq_buf_adds(&reply, "the server stops");
  } else if (c->refused[0] != '\0' && c->tried == 0 && code == CURLE_COULDNT_CONNECT) {
    outcome = BQ_TRANSPORT_DEAD;
    status = 0;
    bq_buf_addf(&reply, "%s: %s; Notifications.AllowedNetworks can allow it", c->request.host, c->refused);
  } else {
    outcome = BQ_TRANSPORT_RETRY;
    status = 0;
    describe_failure(c, code, &reply);
  }
  tell(c, outcome, status, outcome == BQ_TRANSPORT_RETRY ? retry_after_s : 0, reply.data != NULL ? reply.data : "");
  bq_buf_free(&reply);
  free_call(c);
}

// The transfer ------------------------------------------------------------------------------------------------------

static int is_allowed(const call *c, const struct sockaddr *address) {
  bq_network network;
  for (char *const *item = c->webhook->config->allowed_networks; *item != NULL; item++) {
    if (bq_network_parse(&network, *item) == 0 && bq_network_holds(&network, address)) return 1;
  }
  return 0;
}

// libcurl is about to connect to that address.
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address) {
  call *c = arg;
  const char *what = bq_network_special(&address->addr);
  if (purpose != CURLSOCKTYPE_IPCXN) return CURL_SOCKET_BAD;
  if (what != NULL && !is_allowed(c, &address->addr)) {
    char text[BQ_ADDRESS_TEXT_SIZE];
    bq_network_address_text(&address->addr, text);
    (void)snprintf(c->refused, sizeof c->refused, "%s is %s", text, what);
    return CURL_SOCKET_BAD;
  }
  c->tried++;
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
  call *c = arg;
  size_t length = size * count;
  if (c->answered + length > BQ_WEBHOOK_MAX_ANSWER) return 0; // the status is known, and no more is wanted
  c->answered += length;
  bq_buf_add(&c->answer, bytes, length);
  return c->answer.failed ? 0 : length;
}

static CURLcode set_options(call *c) {
  CURL *easy = c->easy;
  CURLcode code = CURLE_OK;
  long limit_ms = c->webhook->config->notifications_timeout_seconds * 1000L;
  BQ_CURL_SET(code, easy, CURLOPT_URL, c->request.url);
  BQ_CURL_SET(code, easy, CURLOPT_PROTOCOLS_STR, "http,https");
  BQ_CURL_SET(code, easy, CURLOPT_FOLLOWLOCATION, 0L);
  BQ_CURL_SET(code, easy, CURLOPT_PROXY, ""); // none of the environment: its address would be looked at instead
  BQ_CURL_SET(code, easy, CURLOPT_NOSIGNAL, 1L);
  BQ_CURL_SET(code, easy, CURLOPT_TIMEOUT_MS, limit_ms);
  BQ_CURL_SET(code, easy, CURLOPT_CONNECTTIMEOUT_MS, limit_ms < CONNECT_LIMIT_MS ? limit_ms : CONNECT_LIMIT_MS);
  // Besides the system's, which libcurl finds in its directory of certificates.
  const char *trusted = c->webhook->config->trusted_certificates;
  if (*trusted != '\0') BQ_CURL_SET(code, easy, CURLOPT_CAINFO, trusted);
  BQ_CURL_SET(code, easy, CURLOPT_USERAGENT, "buildq/" BQ_VERSION);
  BQ_CURL_SET(code, easy, CURLOPT_HTTPHEADER, c->request.headers);
  BQ_CURL_SET(code, easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->request.body_length);
  BQ_CURL_SET(code, easy, CURLOPT_POSTFIELDS, c->request.body);
  BQ_CURL_SET(code, easy, CURLOPT_ERRORBUFFER, c->curl_error);
  BQ_CURL_SET(code, easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  BQ_CURL_SET(code, easy, CURLOPT_OPENSOCKETDATA, c);
  BQ_CURL_SET(code, easy, CURLOPT_WRITEFUNCTION, on_body);
  BQ_CURL_SET(code, easy, CURLOPT_WRITEDATA, c);
  return code;
}

static int start(call *c) {
  int result = c->error.code; // of the secrets
  if (result == 0) result = bq_webhook_request_finish(&c->request, bq_clock_wall_us() / 1000000, &c->error);
  if (result < 0) return result;
  c->easy = curl_easy_init();
  if (c->easy == NULL) return bq_fail(&c->error, BQ_ENOMEM, "out of memory for a message");
  if (set_options(c) != CURLE_OK) return bq_fail(&c->error, BQ_ENOMEM, "out of memory for a message");
  return bq_curl_start(c->webhook->curl, c->easy, on_transfer_done, c, &c->error);
}

static void read_secrets(bq_task *task) {
  call *c = (call *)task;
  if (bq_webhook_request_read(&c->request, &c->error) == 0) c->error.code = 0;
}

static void on_secrets_read(bq_task *task) {
  call *c = (call *)task;
  if (c->webhook != NULL) {
    if (start(c) == 0) return;
    tell(c, BQ_TRANSPORT_RETRY, 0, 0, c->error.message);
  }
  free_call(c);
}

// The module --------------------------------------------------------------------------------------------------------

int bq_webhook_send(bq_webhook *webhook, const json_t *http, bq_transport_done done, void *arg, bq_error *err) {
  call *c = bq_alloc(sizeof *c);
  if (c == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a message");
  *c = (call){.task = {.work = read_secrets, .done = on_secrets_read}, .done = done, .arg = arg};
  int result = bq_webhook_request_new(&c->request, webhook->config, http, err);
  if (result == 0) result = bq_pool_submit(webhook->blocking, &c->task, err);
  if (result < 0) {
    free_call(c);
    return result;
  }
  c->webhook = webhook;
  c->next = webhook->first;
  if (c->next != NULL) c->next->previous = c;
  webhook->first = c;
  return 0;
}

int bq_webhook_new(bq_webhook **out, bq_loop *loop, bq_pool *blocking, const bq_config *config, unsigned max_transfers,
                   bq_error *err) {
  *out = NULL;
  bq_webhook *webhook = bq_alloc(sizeof *webhook);
  if (webhook == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for webhooks");
  *webhook = (bq_webhook){.blocking = blocking, .config = config};
  int result = bq_curl_new(&webhook->curl, loop, max_transfers, err);
  if (result < 0) bq_free(webhook);
  else *out = webhook;
  return result;
}

void bq_webhook_free(bq_webhook *webhook) {
  if (webhook == NULL) return;
  bq_curl_free(webhook->curl); // ends the transfers
  // What is left is with the pool, which frees it.
  while (webhook->first != NULL) tell(webhook->first, BQ_TRANSPORT_RETRY, 0, 0, "the server stops");
  bq_free(webhook);
}

void bq_webhook_label(const char *url, char label[BQ_WEBHOOK_LABEL_SIZE]) {
  char hash[BQ_HASH_TEXT_SIZE];
  char *host = bq_webhook_host(url);
  label[0] = '\0';
  if (host != NULL && bq_hash_bytes(url, strlen(url), hash, NULL) == 0) {
    (void)snprintf(label, BQ_WEBHOOK_LABEL_SIZE, "%.100s #%.*s", host, LABEL_DIGITS, hash);
  }
  bq_free(host);
}
