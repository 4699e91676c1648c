#include "io/smtp.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/secret.h"
#include "base/utf8.h"
#include "io/curl.h"
#include "io/mime.h"

enum { MAX_REPLY = 1000 };

// One mail: waits for a token, or is under way in libcurl.
typedef struct mail {
  bq_smtp *smtp;
  CURL *easy;                 // owned
  struct curl_slist *to;      // owned
  char *bytes;                // owned
  size_t length;
  size_t taken;               // by libcurl
  char *token_source;         // owned; "" for none
  char reply[MAX_REPLY];      // the last one's text; several lines are one
  int reply_ended;            // the next line begins another
  char failure[CURL_ERROR_SIZE];
  bq_transport_done done;
  void *arg;
  struct mail *next;          // while it waits for a token
} mail;

struct bq_smtp {
  bq_loop *loop;              // borrowed
  bq_pool *blocking;          // borrowed
  bq_curl *curl;              // owned
  mail *waiting;              // for the token that is being fetched
  bq_task task;               // fetches it
  int fetching;
  char *source;               // owned; where `token` is from
  char *token;                // owned; NULL: none yet
  char *fetched;              // owned; the task's result, NULL when `token_error` says why
  bq_error token_error;
  int64_t token_us;           // bq_clock_mono_us when it was fetched
  int sockets[BQ_SMTP_MAX_CONNECTIONS]; // open; -1 is none
};

int bq_smtp_new(bq_smtp **out, bq_loop *loop, bq_pool *blocking, bq_error *err) {
  *out = NULL;
  bq_smtp *smtp = bq_alloc(sizeof *smtp);
  if (smtp == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for mails");
  smtp->loop = loop;
  smtp->blocking = blocking;
  for (size_t i = 0; i < BQ_SMTP_MAX_CONNECTIONS; i++) smtp->sockets[i] = -1;
  int result = bq_curl_new(&smtp->curl, loop, BQ_SMTP_MAX_CONNECTIONS, err);
  if (result < 0) bq_free(smtp);
  else *out = smtp;
  return result;
}

static void free_mail(mail *m) {
  if (m->easy != NULL) curl_easy_cleanup(m->easy);
  curl_slist_free_all(m->to);
  bq_free(m->bytes);
  bq_free(m->token_source);
  bq_free(m);
}

static void end_mail(mail *m, bq_transport_outcome outcome, int code, const char *reply) {
  const bq_transport_result result = {.outcome = outcome, .code = code, .reply = reply};
  m->done(m->arg, &result);
  free_mail(m);
}

void bq_smtp_free(bq_smtp *smtp) {
  if (smtp == NULL) return;
  // libcurl says QUIT to each server and waits for the answer, up to two minutes: not any more.
  for (size_t i = 0; i < BQ_SMTP_MAX_CONNECTIONS; i++) {
    if (smtp->sockets[i] >= 0) (void)shutdown(smtp->sockets[i], SHUT_RDWR);
  }
  while (smtp->waiting != NULL) {
    mail *m = smtp->waiting;
    smtp->waiting = m->next;
    end_mail(m, BQ_TRANSPORT_RETRY, 0, "the server ended");
  }
  bq_curl_free(smtp->curl);
  bq_free(smtp->source);
  bq_free(smtp->token);
  bq_free(smtp);
}

// The transfer -------------------------------------------------------------------------------------------------------

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address) {
  (void)purpose;
  bq_smtp *smtp = arg;
  int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  for (size_t i = 0; fd >= 0 && i < BQ_SMTP_MAX_CONNECTIONS; i++) {
    if (smtp->sockets[i] >= 0) continue;
    smtp->sockets[i] = fd;
    break;
  }
  return fd >= 0 ? fd : CURL_SOCKET_BAD;
}

static int close_socket(void *arg, curl_socket_t fd) {
  bq_smtp *smtp = arg;
  for (size_t i = 0; i < BQ_SMTP_MAX_CONNECTIONS; i++) {
    if (smtp->sockets[i] == fd) smtp->sockets[i] = -1;
  }
  return close(fd);
}

static size_t give_bytes(char *out, size_t size, size_t count, void *arg) {
  mail *m = arg;
  size_t room = size * count;
  size_t part = m->length - m->taken < room ? m->length - m->taken : room;
  memcpy(out, m->bytes + m->taken, part);
  m->taken += part;
  return part;
}

// The server's replies come line by line: "250-first", "250 last" (RFC 5321, section 4.2.1). The last one is kept.
static size_t on_reply(char *line, size_t size, size_t count, void *arg) {
  mail *m = arg;
  size_t length = size * count;
  size_t text = length < 4 ? length : 4;
  if (m->reply_ended) m->reply[0] = '\0';
  m->reply_ended = length < 4 || line[3] != '-';
  size_t end = length;
  while (end > text && (line[end - 1] == '\r' || line[end - 1] == '\n')) end--;
  size_t used = strlen(m->reply);
  (void)snprintf(m->reply + used, sizeof m->reply - used, "%s%.*s", used > 0 ? " " : "", (int)(end - text),
                 line + text);
  return length;
}

static int is_about_login(long code) {
  return code == 530 || code == 534 || code == 535 || code == 538; // RFC 4954, section 6
}

// libcurl's own code tells only where it stopped: 550 and 451 both give CURLE_SEND_ERROR.
static bq_transport_outcome outcome_of(const mail *m, CURLcode result, long code) {
  if (result == CURLE_OK) return BQ_TRANSPORT_SENT;
  int about_mail = result == CURLE_SEND_ERROR || (result == CURLE_WEIRD_SERVER_REPLY && m->taken > 0);
  return about_mail && code >= 500 && code < 600 && !is_about_login(code) ? BQ_TRANSPORT_DEAD : BQ_TRANSPORT_RETRY;
}

// Whether the transfer ended because of what the server has replied.
static int was_refused(CURLcode result, long code) {
  return code >= 400 &&
         (result == CURLE_SEND_ERROR || result == CURLE_WEIRD_SERVER_REPLY || result == CURLE_LOGIN_DENIED ||
          result == CURLE_REMOTE_ACCESS_DENIED || result == CURLE_USE_SSL_FAILED);
}

static void on_done(void *arg, CURL *easy, CURLcode result) {
  mail *m = arg;
  long code = 0;
  (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &code);
  bq_utf8_clean(m->reply);
  bq_utf8_clean(m->failure);
  if (result == CURLE_LOGIN_DENIED) { // another token may be better
    bq_free(m->smtp->token);
    m->smtp->token = NULL;
  }
  if (result == CURLE_OK || was_refused(result, code)) {
    end_mail(m, outcome_of(m, result, code), (int)code, m->reply);
  } else {
    end_mail(m, BQ_TRANSPORT_RETRY, 0, m->failure[0] != '\0' ? m->failure : curl_easy_strerror(result));
  }
}

static void set_account(CURL *easy, const bq_smtp_account *account) {
  char url[400];
  const char *colons = strchr(account->server, ':'); // an IPv6 address
  (void)snprintf(url, sizeof url, "%s://%s%s%s:%d", account->tls && account->port == 465 ? "smtps" : "smtp",
                 colons != NULL ? "[" : "", account->server, colons != NULL ? "]" : "", account->port);
  (void)curl_easy_setopt(easy, CURLOPT_URL, url);
  (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
  (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  (void)curl_easy_setopt(easy, CURLOPT_USE_SSL, (long)(account->tls ? CURLUSESSL_ALL : CURLUSESSL_NONE));
  (void)curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)account->timeout_s * 1000);
  (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)account->timeout_s * 1000);
  (void)curl_easy_setopt(easy, CURLOPT_SERVER_RESPONSE_TIMEOUT, (long)account->timeout_s);
  (void)curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)BQ_SMTP_IDLE_S);
  if (account->ca_file[0] != '\0') (void)curl_easy_setopt(easy, CURLOPT_CAINFO, account->ca_file);
  if (account->username[0] == '\0') return;
  (void)curl_easy_setopt(easy, CURLOPT_USERNAME, account->username);
  if (account->token[0] == '\0') (void)curl_easy_setopt(easy, CURLOPT_PASSWORD, account->password);
}

static int start(mail *m, bq_error *err) {
  if (m->token_source[0] != '\0') (void)curl_easy_setopt(m->easy, CURLOPT_XOAUTH2_BEARER, m->smtp->token);
  return bq_curl_start(m->smtp->curl, m->easy, on_done, m, err);
}

// The token ----------------------------------------------------------------------------------------------------------

static void fetch_work(bq_task *task) {
  bq_smtp *smtp = (bq_smtp *)((char *)task - offsetof(bq_smtp, task));
  const bq_secret_source source = {0};
  smtp->token_error.code = 0;
  if (bq_secret_resolve(smtp->source, &source, &smtp->fetched, &smtp->token_error) < 0) smtp->fetched = NULL;
}

static void fetch_done(bq_task *task) {
  bq_smtp *smtp = (bq_smtp *)((char *)task - offsetof(bq_smtp, task));
  mail *m = smtp->waiting;
  smtp->waiting = NULL;
  smtp->fetching = 0;
  bq_free(smtp->token);
  smtp->token = smtp->fetched;
  smtp->fetched = NULL;
  smtp->token_us = bq_clock_mono_us();
  if (smtp->token != NULL) (void)bq_log_hide(smtp->token);
  while (m != NULL) {
    mail *next = m->next;
    bq_error err = smtp->token_error;
    if (smtp->token != NULL && strcmp(smtp->source, m->token_source) == 0) err.code = start(m, &err);
    else if (err.code == 0) (void)bq_fail(&err, BQ_EUNAVAIL, "the token's source has changed");
    if (err.code != 0) end_mail(m, BQ_TRANSPORT_RETRY, 0, err.message);
    m = next;
  }
}

static int has_token(const bq_smtp *smtp, const char *source) {
  return smtp->token != NULL && !smtp->fetching && strcmp(smtp->source, source) == 0 &&
         bq_clock_mono_us() - smtp->token_us < (int64_t)BQ_SMTP_TOKEN_S * 1000000;
}

static int wait_for_token(mail *m, bq_error *err) {
  bq_smtp *smtp = m->smtp;
  if (!smtp->fetching) {
    char *source = bq_strdup(m->token_source);
    if (source == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a token");
    bq_free(smtp->source);
    smtp->source = source;
    smtp->task = (bq_task){.work = fetch_work, .done = fetch_done};
    int result = bq_pool_submit(smtp->blocking, &smtp->task, err);
    if (result < 0) return result;
    smtp->fetching = 1;
  }
  m->next = smtp->waiting;
  smtp->waiting = m;
  return 0;
}

int bq_smtp_send(bq_smtp *smtp, const bq_smtp_account *account, const char *from, const char *to, char *bytes,
                 size_t length, bq_transport_done done, void *arg, bq_error *err) {
  if (!bq_mime_is_address(to)) return bq_fail(err, BQ_EINVAL, "\"%.200s\" is no mail address", to);
  if (!bq_mime_is_address(from)) {
    return bq_fail(err, BQ_EUNAVAIL, "Email.FromAddress (\"%.200s\") is no mail address", from);
  }
  char envelope[300];
  int result = 0;
  mail *m = bq_alloc(sizeof *m);
  if (m == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  m->smtp = smtp;
  m->done = done;
  m->arg = arg;
  m->easy = curl_easy_init();
  m->length = length;
  m->token_source = bq_strdup(account->username[0] != '\0' ? account->token : "");
  (void)snprintf(envelope, sizeof envelope, "<%s>", to);
  m->to = curl_slist_append(NULL, envelope);
  if (m->easy == NULL || m->to == NULL || m->token_source == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
    goto cleanup;
  }
  set_account(m->easy, account);
  (void)snprintf(envelope, sizeof envelope, "<%s>", from);
  (void)curl_easy_setopt(m->easy, CURLOPT_MAIL_FROM, envelope);
  (void)curl_easy_setopt(m->easy, CURLOPT_MAIL_RCPT, m->to);
  (void)curl_easy_setopt(m->easy, CURLOPT_UPLOAD, 1L);
  (void)curl_easy_setopt(m->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)length);
  (void)curl_easy_setopt(m->easy, CURLOPT_READFUNCTION, give_bytes);
  (void)curl_easy_setopt(m->easy, CURLOPT_READDATA, m);
  (void)curl_easy_setopt(m->easy, CURLOPT_HEADERFUNCTION, on_reply);
  (void)curl_easy_setopt(m->easy, CURLOPT_HEADERDATA, m);
  (void)curl_easy_setopt(m->easy, CURLOPT_ERRORBUFFER, m->failure);
  (void)curl_easy_setopt(m->easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  (void)curl_easy_setopt(m->easy, CURLOPT_OPENSOCKETDATA, smtp);
  (void)curl_easy_setopt(m->easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  (void)curl_easy_setopt(m->easy, CURLOPT_CLOSESOCKETDATA, smtp);
  m->bytes = bytes; // start() may not take them while it can fail
  if (m->token_source[0] != '\0' && !has_token(smtp, m->token_source)) result = wait_for_token(m, err);
  else result = start(m, err);
  if (result == 0) return 0;
  m->bytes = NULL;
cleanup:
  free_mail(m);
  return result;
}

// The check ----------------------------------------------------------------------------------------------------------

int bq_smtp_check(const bq_smtp_account *account, bq_error *err) {
  mail m = {0};
  char *token = NULL;
  int result = 0;
  const bq_secret_source source = {0};
  if (account->username[0] != '\0' && account->token[0] != '\0') {
    result = bq_secret_resolve(account->token, &source, &token, err);
    if (result < 0) return bq_fail_in(err, "the OAuth 2 token");
  }
  m.easy = curl_easy_init();
  if (m.easy == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a mail server");
    goto cleanup;
  }
  set_account(m.easy, account);
  if (token != NULL) (void)curl_easy_setopt(m.easy, CURLOPT_XOAUTH2_BEARER, token);
  (void)curl_easy_setopt(m.easy, CURLOPT_CUSTOMREQUEST, "NOOP"); // behind the login; what it shows goes nowhere
  (void)curl_easy_setopt(m.easy, CURLOPT_HEADERFUNCTION, on_reply);
  (void)curl_easy_setopt(m.easy, CURLOPT_HEADERDATA, &m);
  (void)curl_easy_setopt(m.easy, CURLOPT_WRITEFUNCTION, on_reply);
  (void)curl_easy_setopt(m.easy, CURLOPT_WRITEDATA, &m);
  (void)curl_easy_setopt(m.easy, CURLOPT_ERRORBUFFER, m.failure);
  CURLcode code = curl_easy_perform(m.easy);
  if (code != CURLE_OK) {
    long reply = 0;
    (void)curl_easy_getinfo(m.easy, CURLINFO_RESPONSE_CODE, &reply);
    if (was_refused(code, reply)) result = bq_fail(err, BQ_EUNAVAIL, "%ld %s", reply, m.reply);
    else result = bq_fail(err, BQ_EUNAVAIL, "%s", m.failure[0] != '\0' ? m.failure : curl_easy_strerror(code));
    bq_utf8_clean(err->message);
  }
cleanup:
  if (m.easy != NULL) curl_easy_cleanup(m.easy);
  bq_free(token);
  return result;
}
