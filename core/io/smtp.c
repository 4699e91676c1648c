#include "io/smtp.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/secret.h"
#include "base/utf8.h"
#include "io/curl.h"
#include "io/mime.h"

enum { MAX_REPLY = 1000, MAX_WAITING = 1000, MAX_URL = 400, MAX_ENVELOPE = 300 };

// A handle of libcurl with the connection that it keeps. With one mail, or idle.
typedef struct line {
  CURL *easy;  // owned
  int fd;      // of the connection; -1: none
  struct line *next;
} line;

// One mail on its way. The loop's until it is submitted, then its thread's, then the loop's again.
typedef struct mail {
  bq_task task; // first
  bq_smtp *smtp;
  line *line;                 // lent
  struct curl_slist *to;      // owned
  char *from;                 // owned; with angle brackets, as `to`
  bq_smtp_account account;    // strings are owned
  bq_content content;
  char *bytes;                // owned; made on the thread
  size_t length;
  size_t taken;               // by libcurl
  int withdrawn;              // it may not go any more
  char reply[MAX_REPLY];      // the last one's text; several lines are one
  int reply_ended;            // the next line begins another
  char failure[CURL_ERROR_SIZE];
  bq_transport_outcome outcome;
  int code;                   // of the reply; 0: none decided
  bq_transport_done done;
  void *arg;
} mail;

struct bq_smtp {
  bq_pool *pool;              // owned
  bq_timer *timer;            // owned; closes what is idle
  line *idle;                 // the loop's
  bq_task closing;            // closes …
  line *closed;               // … these, while `is_closing`
  int is_closing;
  atomic_int ended;           // whatever waits gives up
  pthread_mutex_t lock;       // of the rest
  char *source;               // owned; where `token` is from
  char *token;                // owned; NULL: none yet
  int64_t token_us;           // bq_clock_mono_us when it was fetched
};

// Lines ---------------------------------------------------------------------------------------------------------------

static void free_line(line *l) {
  if (l == NULL) return;
  if (l->easy != NULL) curl_easy_cleanup(l->easy); // says QUIT
  bq_free(l);
}

static line *take_line(bq_smtp *smtp) {
  line *l = smtp->idle;
  if (l != NULL) {
    smtp->idle = l->next;
    return l;
  }
  l = bq_alloc(sizeof *l);
  if (l == NULL) return NULL;
  l->fd = -1;
  l->easy = curl_easy_init();
  if (l->easy != NULL) return l;
  free_line(l);
  return NULL;
}

static void give_line(bq_smtp *smtp, line *l) {
  l->next = smtp->idle;
  smtp->idle = l;
}

static void close_work(bq_task *task) {
  bq_smtp *smtp = (bq_smtp *)((char *)task - offsetof(bq_smtp, closing));
  while (smtp->closed != NULL) {
    line *l = smtp->closed;
    smtp->closed = l->next;
    if (atomic_load(&smtp->ended) && l->fd >= 0) (void)shutdown(l->fd, SHUT_RD);
    free_line(l);
  }
}

static void close_done(bq_task *task) {
  bq_smtp *smtp = (bq_smtp *)((char *)task - offsetof(bq_smtp, closing));
  smtp->is_closing = 0;
}

static void on_idle(void *arg) {
  bq_smtp *smtp = arg;
  bq_error err;
  if (smtp->idle == NULL || smtp->is_closing) return;
  smtp->closing = (bq_task){.work = close_work, .done = close_done};
  smtp->closed = smtp->idle;
  if (bq_pool_submit(smtp->pool, &smtp->closing, &err) < 0) return; // the next mail's end tries again
  smtp->idle = NULL;
  smtp->is_closing = 1;
}

int bq_smtp_new(bq_smtp **out, bq_loop *loop, unsigned threads, bq_error *err) {
  *out = NULL;
  bq_smtp *smtp = bq_alloc(sizeof *smtp);
  if (smtp == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for mails");
  atomic_init(&smtp->ended, 0);
  (void)pthread_mutex_init(&smtp->lock, NULL);
  int result = bq_timer_new(&smtp->timer, loop, on_idle, smtp, err);
  if (result == 0) result = bq_pool_new(&smtp->pool, loop, "mail", threads, MAX_WAITING, err);
  if (result < 0) bq_smtp_free(smtp);
  else *out = smtp;
  return result;
}

void bq_smtp_free(bq_smtp *smtp) {
  if (smtp == NULL) return;
  atomic_store(&smtp->ended, 1);
  if (smtp->pool != NULL) bq_pool_free(smtp->pool);
  while (smtp->idle != NULL) {
    line *l = smtp->idle;
    smtp->idle = l->next;
    if (l->fd >= 0) (void)shutdown(l->fd, SHUT_RD); // QUIT goes out, and nobody waits for an answer
    free_line(l);
  }
  bq_timer_free(smtp->timer);
  (void)pthread_mutex_destroy(&smtp->lock);
  bq_free(smtp->source);
  bq_free(smtp->token);
  bq_free(smtp);
}

// What libcurl asks for (the mail's thread) -------------------------------------------------------------------------

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address) {
  (void)purpose;
  line *l = arg;
  l->fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  return l->fd >= 0 ? l->fd : CURL_SOCKET_BAD;
}

static int close_socket(void *arg, curl_socket_t fd) {
  line *l = arg;
  if (l->fd == fd) l->fd = -1;
  return close(fd);
}

static int on_progress(void *arg, curl_off_t down, curl_off_t down_now, curl_off_t up, curl_off_t up_now) {
  (void)down, (void)down_now, (void)up, (void)up_now;
  return atomic_load(&((mail *)arg)->smtp->ended); // not 0: give up
}

static int may_go(mail *m) {
  m->withdrawn = m->content.may_go != NULL && !m->content.may_go(m->content.arg);
  return !m->withdrawn;
}

// The server has said that it takes the mail now. What ends in the middle is none.
static size_t give_bytes(char *out, size_t size, size_t count, void *arg) {
  mail *m = arg;
  if (m->taken == 0 && !may_go(m)) return CURL_READFUNC_ABORT;
  size_t room = size * count;
  size_t part = m->length - m->taken < room ? m->length - m->taken : room;
  memcpy(out, m->bytes + m->taken, part);
  m->taken += part;
  return part;
}

// The server's replies come line by line: "250-first", "250 last" (RFC 5321, section 4.2.1). The last one is kept, but
// for the goodbye that follows a refusal.
static size_t on_reply(char *text, size_t size, size_t count, void *arg) {
  mail *m = arg;
  size_t length = size * count;
  size_t begin = length < 4 ? length : 4;
  size_t end = length;
  if (length >= 3 && memcmp(text, "221", 3) == 0) return length;
  if (m->reply_ended) m->reply[0] = '\0';
  m->reply_ended = length < 4 || text[3] != '-';
  while (end > begin && (text[end - 1] == '\r' || text[end - 1] == '\n')) end--;
  size_t used = strlen(m->reply);
  (void)snprintf(m->reply + used, sizeof m->reply - used, "%s%.*s", used > 0 ? " " : "", (int)(end - begin),
                 text + begin);
  return length;
}

// What a transfer's end means ---------------------------------------------------------------------------------------

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

static void withdraw(mail *m) {
  m->outcome = BQ_TRANSPORT_BACK;
  (void)snprintf(m->reply, sizeof m->reply, "not sent: it may not go any more");
}

static void conclude(mail *m, CURLcode result) {
  long code = 0;
  if (m->withdrawn) {
    withdraw(m);
    return;
  }
  (void)curl_easy_getinfo(m->line->easy, CURLINFO_RESPONSE_CODE, &code);
  m->outcome = outcome_of(m, result, code);
  if (result == CURLE_OK || was_refused(result, code)) {
    m->code = (int)code;
  } else if (m->failure[0] != '\0') {
    (void)snprintf(m->reply, sizeof m->reply, "%s", m->failure);
  } else {
    (void)snprintf(m->reply, sizeof m->reply, "%s", curl_easy_strerror(result));
  }
  bq_utf8_clean(m->reply);
}

static CURLcode set_account(CURL *easy, const bq_smtp_account *account) {
  CURLcode code = CURLE_OK;
  char url[MAX_URL];
  const char *colons = strchr(account->server, ':'); // an IPv6 address
  (void)snprintf(url, sizeof url, "%s://%s%s%s:%d", account->tls && account->port == 465 ? "smtps" : "smtp",
                 colons != NULL ? "[" : "", account->server, colons != NULL ? "]" : "", account->port);
  BQ_CURL_SET(code, easy, CURLOPT_URL, url);
  BQ_CURL_SET(code, easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
  BQ_CURL_SET(code, easy, CURLOPT_NOSIGNAL, 1L);
  BQ_CURL_SET(code, easy, CURLOPT_USE_SSL, (long)(account->tls ? CURLUSESSL_ALL : CURLUSESSL_NONE));
  BQ_CURL_SET(code, easy, CURLOPT_TIMEOUT_MS, (long)account->timeout_s * 1000);
  BQ_CURL_SET(code, easy, CURLOPT_CONNECTTIMEOUT_MS, (long)account->timeout_s * 1000);
  BQ_CURL_SET(code, easy, CURLOPT_SERVER_RESPONSE_TIMEOUT, (long)account->timeout_s);
  BQ_CURL_SET(code, easy, CURLOPT_MAXAGE_CONN, (long)BQ_SMTP_IDLE_S);
  BQ_CURL_SET(code, easy, CURLOPT_MAXCONNECTS, 1L);
  if (account->ca_file[0] != '\0') BQ_CURL_SET(code, easy, CURLOPT_CAINFO, account->ca_file);
  if (account->username[0] == '\0') return code;
  BQ_CURL_SET(code, easy, CURLOPT_USERNAME, account->username);
  if (account->token[0] == '\0') BQ_CURL_SET(code, easy, CURLOPT_PASSWORD, account->password);
  return code;
}

static CURLcode set_mail(mail *m) {
  CURL *easy = m->line->easy;
  CURLcode code = CURLE_OK;
  BQ_CURL_SET(code, easy, CURLOPT_MAIL_FROM, m->from);
  BQ_CURL_SET(code, easy, CURLOPT_MAIL_RCPT, m->to);
  BQ_CURL_SET(code, easy, CURLOPT_UPLOAD, 1L);
  BQ_CURL_SET(code, easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)m->length);
  BQ_CURL_SET(code, easy, CURLOPT_READFUNCTION, give_bytes);
  BQ_CURL_SET(code, easy, CURLOPT_READDATA, m);
  BQ_CURL_SET(code, easy, CURLOPT_HEADERFUNCTION, on_reply);
  BQ_CURL_SET(code, easy, CURLOPT_HEADERDATA, m);
  BQ_CURL_SET(code, easy, CURLOPT_ERRORBUFFER, m->failure);
  BQ_CURL_SET(code, easy, CURLOPT_NOPROGRESS, 0L);
  BQ_CURL_SET(code, easy, CURLOPT_XFERINFOFUNCTION, on_progress);
  BQ_CURL_SET(code, easy, CURLOPT_XFERINFODATA, m);
  BQ_CURL_SET(code, easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  BQ_CURL_SET(code, easy, CURLOPT_OPENSOCKETDATA, m->line);
  BQ_CURL_SET(code, easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  BQ_CURL_SET(code, easy, CURLOPT_CLOSESOCKETDATA, m->line);
  return code;
}

// The token -----------------------------------------------------------------------------------------------------------

// Whoever needs one while it is being fetched waits for it.
static int set_token(mail *m, bq_error *err) {
  bq_smtp *smtp = m->smtp;
  const char *place = m->account.token;
  const bq_secret_source source = {0};
  int result = 0;
  (void)pthread_mutex_lock(&smtp->lock);
  int64_t age_us = bq_clock_mono_us() - smtp->token_us;
  int is_good = smtp->token != NULL && strcmp(smtp->source, place) == 0 && age_us < (int64_t)BQ_SMTP_TOKEN_S * 1000000;
  if (!is_good) {
    bq_free(smtp->token);
    bq_free(smtp->source);
    smtp->token = NULL;
    smtp->source = bq_strdup(place);
    if (smtp->source == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for a token");
    if (result == 0) result = bq_secret_resolve(place, &source, &smtp->token, err);
    if (result < 0) smtp->token = NULL;
    else (void)bq_log_hide(smtp->token);
    smtp->token_us = bq_clock_mono_us();
  }
  if (result == 0 && curl_easy_setopt(m->line->easy, CURLOPT_XOAUTH2_BEARER, smtp->token) != CURLE_OK) { // copied
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a token");
  }
  (void)pthread_mutex_unlock(&smtp->lock);
  return result;
}

static void forget_token(bq_smtp *smtp) {
  (void)pthread_mutex_lock(&smtp->lock);
  bq_free(smtp->token);
  smtp->token = NULL;
  (void)pthread_mutex_unlock(&smtp->lock);
}

// One mail ------------------------------------------------------------------------------------------------------------

static void send_work(bq_task *task) {
  mail *m = (mail *)task;
  bq_error err;
  m->outcome = BQ_TRANSPORT_RETRY;
  if (atomic_load(&m->smtp->ended)) {
    (void)snprintf(m->reply, sizeof m->reply, "the server ended");
    return;
  }
  if (!may_go(m)) {
    withdraw(m);
    return;
  }
  if (m->content.make(m->content.arg, &m->bytes, &m->length, &err) < 0) {
    if (err.code == BQ_EINVAL) m->outcome = BQ_TRANSPORT_DEAD;
    (void)snprintf(m->reply, sizeof m->reply, "%s", err.message);
    return;
  }
  curl_easy_reset(m->line->easy); // the connection stays
  CURLcode result = set_account(m->line->easy, &m->account);
  if (result == CURLE_OK) result = set_mail(m);
  if (m->account.username[0] != '\0' && m->account.token[0] != '\0' && set_token(m, &err) < 0) {
    (void)snprintf(m->reply, sizeof m->reply, "the OAuth 2 token: %.900s", err.message);
    return;
  }
  if (result == CURLE_OK) result = curl_easy_perform(m->line->easy);
  if (result == CURLE_LOGIN_DENIED) forget_token(m->smtp); // another one may be better
  conclude(m, result);
}

static void free_mail(mail *m) {
  const char *const strings[] = {m->account.server, m->account.ca_file, m->account.username, m->account.password,
                                 m->account.token};
  for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) bq_free((char *)(uintptr_t)strings[i]);
  curl_slist_free_all(m->to);
  bq_free(m->from);
  bq_free(m->bytes);
  bq_free(m);
}

static void send_done(bq_task *task) {
  mail *m = (mail *)task;
  bq_smtp *smtp = m->smtp;
  give_line(smtp, m->line);
  bq_timer_set(smtp->timer, (int64_t)BQ_SMTP_IDLE_S * 1000);
  const bq_transport_result result = {.outcome = m->outcome, .code = m->code, .reply = m->reply};
  m->done(m->arg, &result);
  free_mail(m);
}

static int copy_account(bq_smtp_account *to, const bq_smtp_account *from) {
  *to = *from;
  to->server = bq_strdup(from->server);
  to->ca_file = bq_strdup(from->ca_file);
  to->username = bq_strdup(from->username);
  to->password = bq_strdup(from->password);
  to->token = bq_strdup(from->token);
  return to->server != NULL && to->ca_file != NULL && to->username != NULL && to->password != NULL &&
         to->token != NULL;
}

int bq_smtp_send(bq_smtp *smtp, const bq_smtp_account *account, const char *from, const char *to,
                 const bq_content *content, bq_transport_done done, void *arg, bq_error *err) {
  if (!bq_mime_is_address(to)) return bq_fail(err, BQ_EINVAL, "\"%.200s\" is no mail address", to);
  if (!bq_mime_is_address(from)) {
    return bq_fail(err, BQ_EUNAVAIL, "Email.FromAddress (\"%.200s\") is no mail address", from);
  }
  char envelope[MAX_ENVELOPE];
  mail *m = bq_alloc(sizeof *m);
  if (m == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  m->task = (bq_task){.work = send_work, .done = send_done};
  m->smtp = smtp;
  m->done = done;
  m->arg = arg;
  m->content = *content;
  m->from = bq_format("<%s>", from);
  (void)snprintf(envelope, sizeof envelope, "<%s>", to);
  m->to = curl_slist_append(NULL, envelope);
  m->line = take_line(smtp);
  int result = 0;
  if (!copy_account(&m->account, account) || m->from == NULL || m->to == NULL || m->line == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  }
  if (result == 0) result = bq_pool_submit(smtp->pool, &m->task, err);
  if (result == 0) return 0;
  if (m->line != NULL) give_line(smtp, m->line);
  free_mail(m);
  return result;
}

// The check -----------------------------------------------------------------------------------------------------------

int bq_smtp_check(const bq_smtp_account *account, bq_error *err) {
  mail m = {0};
  char *token = NULL;
  int result = 0;
  const bq_secret_source source = {0};
  if (account->username[0] != '\0' && account->token[0] != '\0') {
    result = bq_secret_resolve(account->token, &source, &token, err);
    if (result < 0) return bq_fail_in(err, "the OAuth 2 token");
  }
  CURL *easy = curl_easy_init();
  if (easy == NULL) {
    bq_free(token);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a mail server");
  }
  set_account(easy, account);
  if (token != NULL) (void)curl_easy_setopt(easy, CURLOPT_XOAUTH2_BEARER, token);
  (void)curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "NOOP"); // behind the login; what it shows goes nowhere
  (void)curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_reply);
  (void)curl_easy_setopt(easy, CURLOPT_HEADERDATA, &m);
  (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_reply);
  (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, &m);
  (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, m.failure);
  CURLcode code = curl_easy_perform(easy);
  if (code != CURLE_OK) {
    long reply = 0;
    (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &reply);
    if (was_refused(code, reply)) result = bq_fail(err, BQ_EUNAVAIL, "%ld %s", reply, m.reply);
    else result = bq_fail(err, BQ_EUNAVAIL, "%s", m.failure[0] != '\0' ? m.failure : curl_easy_strerror(code));
    bq_utf8_clean(err->message);
  }
  curl_easy_cleanup(easy);
  bq_free(token);
  return result;
}
