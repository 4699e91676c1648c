#include "io/curl.h"

#include <event2/event.h>

#include "base/memory.h"

enum { AGAIN_MS = 100 };

// One transfer. On the first list while libcurl has it, on the second while its end is posted.
typedef struct transfer {
  bq_post post;
  bq_curl *curl;
  CURL *easy; // borrowed
  bq_curl_done done;
  void *arg;
  CURLcode code;
  int starved; // there was no memory to watch its socket
  struct transfer *next;
  struct transfer *previous;
} transfer;

struct bq_curl {
  bq_loop *loop;    // borrowed
  CURLM *multi;     // owned
  bq_timer *timer;  // owned; libcurl's own timeouts
  transfer *first;  // transfers under way
  transfer *ended;  // their end is about to be reported
};

static void link_to(transfer **list, transfer *t) {
  t->previous = NULL;
  t->next = *list;
  if (t->next != NULL) t->next->previous = t;
  *list = t;
}

static void unlink_from(transfer **list, transfer *t) {
  if (t->previous != NULL) t->previous->next = t->next;
  else *list = t->next;
  if (t->next != NULL) t->next->previous = t->previous;
}

static void finish(transfer *t, CURLcode code) {
  bq_curl *curl = t->curl;
  (void)curl_multi_remove_handle(curl->multi, t->easy);
  unlink_from(&curl->first, t);
  link_to(&curl->ended, t);
  t->code = code;
  bq_loop_post(curl->loop, &t->post);
}

static void report(bq_post *post) {
  transfer *t = (transfer *)post;
  unlink_from(&t->curl->ended, t);
  t->done(t->arg, t->easy, t->code);
  bq_free(t);
}

static void collect(bq_curl *curl) {
  int left;
  for (CURLMsg *message = curl_multi_info_read(curl->multi, &left); message != NULL;
       message = curl_multi_info_read(curl->multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    transfer *t = NULL;
    CURLcode code = message->data.result; // the message dies with the handle's removal
    (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
    finish(t, code);
  }
}

// Ends the transfers that nothing would wake. Not where that was found out: libcurl is at work there.
static void end_starved(bq_curl *curl) {
  for (transfer *t = curl->first, *next; t != NULL; t = next) {
    next = t->next;
    if (t->starved) finish(t, CURLE_OUT_OF_MEMORY);
  }
}

static void on_socket_ready(evutil_socket_t fd, short what, void *arg) {
  bq_curl *curl = arg;
  int running;
  int flags = ((what & EV_READ) != 0 ? CURL_CSELECT_IN : 0) | ((what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0);
  (void)curl_multi_socket_action(curl->multi, fd, flags, &running);
  collect(curl);
  end_starved(curl);
}

static void on_timeout(void *arg) {
  bq_curl *curl = arg;
  int running;
  // What libcurl could not do now it would never do: it sets its timer only once.
  if (curl_multi_socket_action(curl->multi, CURL_SOCKET_TIMEOUT, 0, &running) != CURLM_OK) {
    bq_timer_set(curl->timer, AGAIN_MS);
  }
  collect(curl);
  end_starved(curl);
}

// libcurl says what it waits for on a socket. `socket_data` is our event for it. Never answers -1: that would be the end
// of all transfers, now and later.
static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_data) {
  bq_curl *curl = user;
  struct event *event = socket_data;
  if (event != NULL) event_free(event);
  event = NULL;
  if (what != CURL_POLL_REMOVE) {
    short wanted = (short)(((what & CURL_POLL_IN) != 0 ? EV_READ : 0) | ((what & CURL_POLL_OUT) != 0 ? EV_WRITE : 0));
    event = event_new(bq_loop_base(curl->loop), fd, (short)(wanted | EV_PERSIST), on_socket_ready, curl);
    if (event == NULL || event_add(event, NULL) < 0) {
      transfer *t = NULL;
      if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&t) == CURLE_OK && t != NULL) t->starved = 1;
      if (event != NULL) event_free(event);
      event = NULL; // and the earlier one is gone
    }
  }
  (void)curl_multi_assign(curl->multi, fd, event); // can't fail for a socket that libcurl has just named
  return 0;
}

static int watch_timer(CURLM *multi, long timeout_ms, void *user) {
  (void)multi;
  bq_curl *curl = user;
  if (timeout_ms < 0) bq_timer_clear(curl->timer);
  else bq_timer_set(curl->timer, timeout_ms);
  return 0;
}

int bq_curl_new(bq_curl **out, bq_loop *loop, unsigned max_transfers, bq_error *err) {
  *out = NULL;
  bq_curl *curl = bq_alloc(sizeof *curl);
  if (curl == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for outgoing requests");
  curl->loop = loop;
  int result = bq_timer_new(&curl->timer, loop, on_timeout, curl, err);
  if (result == 0) {
    curl->multi = curl_multi_init();
    if (curl->multi == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for outgoing requests");
  }
  if (result < 0) {
    bq_curl_free(curl);
    return result;
  }
  CURLM *multi = curl->multi;
  if (curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket) != CURLM_OK ||
      curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, curl) != CURLM_OK ||
      curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, watch_timer) != CURLM_OK ||
      curl_multi_setopt(multi, CURLMOPT_TIMERDATA, curl) != CURLM_OK ||
      curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)max_transfers) != CURLM_OK) {
    bq_curl_free(curl);
    return bq_fail(err, BQ_EIO, "libcurl can't be set up for outgoing requests");
  }
  *out = curl;
  return 0;
}

void bq_curl_free(bq_curl *curl) {
  if (curl == NULL) return;
  while (curl->first != NULL) {
    transfer *t = curl->first;
    curl->first = t->next;
    (void)curl_multi_remove_handle(curl->multi, t->easy);
    t->done(t->arg, t->easy, CURLE_ABORTED_BY_CALLBACK);
    bq_free(t);
  }
  while (curl->ended != NULL) {
    transfer *t = curl->ended;
    curl->ended = t->next;
    t->done(t->arg, t->easy, t->code);
    bq_free(t);
  }
  if (curl->multi != NULL) (void)curl_multi_cleanup(curl->multi);
  bq_timer_free(curl->timer);
  bq_free(curl);
}

int bq_curl_start(bq_curl *curl, CURL *easy, bq_curl_done done, void *arg, bq_error *err) {
  transfer *t = bq_alloc(sizeof *t);
  if (t == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for an outgoing request");
  *t = (transfer){.post.run = report, .curl = curl, .easy = easy, .done = done, .arg = arg};
  if (curl_easy_setopt(easy, CURLOPT_PRIVATE, t) != CURLE_OK || curl_multi_add_handle(curl->multi, easy) != CURLM_OK) {
    bq_free(t);
    return bq_fail(err, BQ_EIO, "libcurl refused an outgoing request");
  }
  link_to(&curl->first, t);
  return 0;
}

void bq_curl_cancel(bq_curl *curl, CURL *easy) {
  for (transfer *t = curl->first; t != NULL; t = t->next) {
    if (t->easy != easy) continue;
    finish(t, CURLE_ABORTED_BY_CALLBACK);
    return;
  }
}
