#include "queue/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/curl.h"
#include "queue/api.h"
#include "queue/api_response.h"
#include "queue/header_list.h"

enum {
  MAX_PASSES = 200,      // at a time; 503 beyond
  CONNECT_S = 5,
  HEAD_MS = 10000,       // from the start to the node's head
  STALL_S = 60,          // of a file: without a byte, while we would take one
  MORE_HEADERS = 4       // that the node adds to ours
};

// ASKED → SENDING (a head came that is passed on) → done
//       → REFUSED (another one came) → done
typedef enum pass_state { PASS_ASKED, PASS_SENDING, PASS_REFUSED } pass_state;

typedef struct pass {
  bq_passes *passes;
  bq_http_exchange *x;       // NULL once the peer is gone
  pass_state state;
  CURL *easy;                // owned
  struct curl_slist *asked;  // owned; the request's headers
  bq_header_list headers;    // owned; of the answer
  char *url;                 // owned; the node's
  char *etag;                // owned or NULL; quoted
  char attempt[24];
  int is_log;
  int begun;                 // the head had gone out before
  int full;                  // the peer is slow: the transfer rests
  bq_timer *timer;           // owned; HEAD_MS
  int late;                  // it ran out
} pass;

struct bq_passes {
  bq_loop *loop;
  bq_store *store;       // borrowed
  bq_curl *curl;         // owned
  char *const *own_url;  // borrowed
  unsigned count;        // under way
};

typedef struct place {
  bq_passes *passes;
  bq_place_done done;
  void *arg;
} place;

int bq_passes_new(bq_passes **out, bq_loop *loop, bq_store *store, char *const *own_url, bq_error *err) {
  *out = NULL;
  bq_passes *passes = bq_alloc(sizeof *passes);
  if (passes == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for passing through");
  *passes = (bq_passes){.loop = loop, .store = store, .own_url = own_url};
  int result = bq_curl_new(&passes->curl, loop, MAX_PASSES, err);
  if (result < 0) bq_free(passes);
  else *out = passes;
  return result;
}

void bq_passes_free(bq_passes *passes) {
  if (passes == NULL) return;
  bq_curl_free(passes->curl);
  bq_free(passes);
}

// Where it is -----------------------------------------------------------------------------------------------------

static void on_place(void *arg, const bq_pg_result *result) {
  place *p = arg;
  const char *url = NULL;
  const char *log = NULL;
  if (result->error == NULL && PQntuples(result->rows) > 0) {
    url = PQgetvalue(result->rows, 0, 0);
    log = PQgetisnull(result->rows, 0, 1) ? NULL : PQgetvalue(result->rows, 0, 1);
  }
  // An earlier life of this server had the same address.
  if (url != NULL && (url[0] == '\0' || strcmp(url, *p->passes->own_url) == 0)) url = NULL;
  p->done(p->arg, url, log, result->error);
  bq_free(p);
}

int bq_place_find(bq_passes *passes, const char *build, int64_t attempt, bq_place_done done, void *arg,
                  bq_error *err) {
  place *p = bq_alloc(sizeof *p);
  if (p == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a request");
  *p = (place){.passes = passes, .done = done, .arg = arg};
  char number[24];
  (void)snprintf(number, sizeof number, "%lld", (long long)attempt);
  const char *params[] = {build, number};
  int result = bq_store_query(passes->store, "attempt_place", 2, params, on_place, p, err);
  if (result < 0) bq_free(p);
  return result;
}

// One pass --------------------------------------------------------------------------------------------------------

static void free_pass(pass *p) {
  p->passes->count--;
  bq_timer_free(p->timer);
  if (p->easy != NULL) curl_easy_cleanup(p->easy);
  curl_slist_free_all(p->asked);
  bq_header_list_free(&p->headers);
  bq_free(p->url);
  bq_free(p->etag);
  bq_free(p);
}

static void on_close(void *context) {
  pass *p = context;
  p->x = NULL;
  bq_curl_cancel(p->passes->curl, p->easy); // on_done follows
}

static void on_drain(void *context) {
  pass *p = context;
  if (!p->full) return;
  p->full = 0;
  (void)curl_easy_pause(p->easy, CURLPAUSE_CONT);
}

static void on_late(void *arg) {
  pass *p = arg;
  if (p->state != PASS_ASKED) return;
  p->late = 1;
  bq_curl_cancel(p->passes->curl, p->easy);
}

static long status_of(const pass *p) {
  long status = 0;
  (void)curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

// A header of the node's answer; NULL when it has none.
static const char *header_of(const pass *p, const char *name) {
  struct curl_header *header = NULL;
  return curl_easy_header(p->easy, name, 0, CURLH_HEADER, -1, &header) == CURLHE_OK ? header->value : NULL;
}

static int same(const char *one, const char *other) {
  return one != NULL && other != NULL && strcmp(one, other) == 0;
}

// Something else may listen at a dead node's address: only what names the right content is passed on.
static int is_wanted(const pass *p) {
  long status = status_of(p);
  if (p->is_log) return status == 200 && same(header_of(p, "X-Build-Attempt"), p->attempt);
  const char *etag = header_of(p, "ETag");
  return (status == 200 || status == 206) && etag != NULL && (p->etag == NULL || strcmp(etag, p->etag) == 0);
}

static size_t gather_headers(const pass *p, bq_http_header out[BQ_RESPONSE_MAX_HEADERS + 1 + MORE_HEADERS]) {
  static const char *const theirs[MORE_HEADERS] = {"ETag", "Accept-Ranges", "Content-Range", "Content-Type"};
  size_t count = bq_header_list_get(&p->headers, out, BQ_RESPONSE_MAX_HEADERS + 1);
  int has_type = 0;
  for (size_t i = 0; i < count; i++) has_type |= strcasecmp(out[i].name, "Content-Type") == 0;
  for (size_t i = 0; i < MORE_HEADERS - (size_t)has_type; i++) {
    const char *value = header_of(p, theirs[i]);
    if (value != NULL) out[count++] = (bq_http_header){theirs[i], value};
  }
  return count;
}

static void begin_answer(pass *p) {
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 1 + MORE_HEADERS];
  curl_off_t length = -1;
  p->state = PASS_SENDING;
  if (p->begun) return;
  size_t count = gather_headers(p, headers);
  (void)curl_easy_getinfo(p->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  int status = (int)status_of(p);
  if (length >= 0) bq_http_stream_begin_sized(p->x, status, headers, count, (int64_t)length);
  else bq_http_stream_begin(p->x, status, headers, count);
  bq_http_stream_on_drain(p->x, on_drain);
}

static size_t on_header(char *line, size_t size, size_t count, void *arg) {
  pass *p = arg;
  int is_end = count == 2 && line[0] == '\r';
  if (!is_end || p->state != PASS_ASKED || p->x == NULL || status_of(p) < 200) return size * count;
  bq_timer_clear(p->timer);
  if (is_wanted(p)) begin_answer(p);
  else p->state = PASS_REFUSED;
  return size * count;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
  pass *p = arg;
  if (p->state != PASS_SENDING || p->x == NULL) return 0; // nothing of it is wanted
  if (p->full) return CURL_WRITEFUNC_PAUSE;
  p->full = bq_http_stream_write(p->x, bytes, size * count);
  return size * count;
}

static void answer_unmodified(const pass *p, bq_http_exchange *x) {
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 1 + MORE_HEADERS];
  size_t count = gather_headers(p, headers);
  bq_http_respond(x, 304, headers, count, NULL, 0);
}

static void answer_range(const pass *p, bq_http_exchange *x) {
  const char *range = header_of(p, "Content-Range");
  const bq_http_header header = {"Content-Range", range};
  bq_api_problem(x, 416, "the file has nothing in that range", NULL, &header, range != NULL);
}

// The node has answered, but with nothing that could be passed on; or it has not.
static void answer_failure(const pass *p, bq_http_exchange *x, CURLcode code) {
  char detail[400];
  long status = p->state == PASS_REFUSED ? status_of(p) : 0;
  if (status == 304 && !p->is_log) {
    answer_unmodified(p, x);
  } else if (status == 416 && !p->is_log) {
    answer_range(p, x);
  } else if (status == 404) {
    bq_api_problem(x, 404, p->is_log ? "the node that ran this attempt has its log no more"
                                     : "the file is not on its node any more", NULL, NULL, 0);
  } else if (status != 0) {
    (void)snprintf(detail, sizeof detail, "the node at %.200s, which ran this attempt, answered %ld and not what was asked for",
                   p->url, status);
    bq_api_problem(x, 502, detail, NULL, NULL, 0);
  } else {
    (void)snprintf(detail, sizeof detail, "the node at %.200s, which ran this attempt and has its files, can't be reached: %s",
                   p->url, p->late ? "no answer in time" : curl_easy_strerror(code));
    bq_api_problem(x, 503, detail, NULL, NULL, 0);
  }
}

static void on_done(void *arg, CURL *easy, CURLcode code) {
  (void)easy;
  pass *p = arg;
  bq_http_exchange *x = p->x;
  if (x != NULL) {
    bq_http_set_context(x, NULL, NULL);
    int whole = p->state == PASS_SENDING && code == CURLE_OK;
    int gone = p->begun && p->state == PASS_REFUSED && status_of(p) == 404; // an empty log, as here
    if (p->state != PASS_SENDING && !p->begun) answer_failure(p, x, code);
    else if (whole || gone) bq_http_stream_end(x);
    else {
      bq_log(BQ_WARN, "what another node sends breaks off", "node", p->url, "error", curl_easy_strerror(code), NULL);
      bq_http_stream_abort(x);
    }
  }
  free_pass(p);
}

// Asking ----------------------------------------------------------------------------------------------------------

static void ask_with(pass *p, const char *name, const char *value) {
  char *line = value != NULL ? bq_format("%s: %s", name, value) : NULL;
  struct curl_slist *grown = line != NULL ? curl_slist_append(p->asked, line) : NULL;
  if (grown != NULL) p->asked = grown; // without memory for one the answer is the whole file
  bq_free(line);
}

static char *target_of(const bq_pass_request *request) {
  if (request->name == NULL) {
    return bq_format("%s/builds/%s/log?attempt=%lld&offset=%llu&follow=%d", request->url, request->build,
                     (long long)request->attempt, (unsigned long long)request->offset, request->follow);
  }
  char *name = curl_easy_escape(NULL, request->name, 0);
  char *target = name != NULL ? bq_format("%s/downloads/%s/%s", request->url, request->build, name) : NULL;
  curl_free(name);
  return target;
}

static int set_up(pass *p, const bq_pass_request *request) {
  CURL *easy = p->easy;
  CURLcode code = CURLE_OK;
  char *target = target_of(request);
  if (target == NULL) return 0;
  if (!p->is_log) {
    static const char *const conditions[] = {"Range", "If-Range", "If-None-Match"};
    for (size_t i = 0; i < 3; i++) ask_with(p, conditions[i], bq_http_get_header(p->x, conditions[i]));
    BQ_CURL_SET(code, easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    BQ_CURL_SET(code, easy, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    if (strcmp(bq_http_method(p->x), "HEAD") == 0) BQ_CURL_SET(code, easy, CURLOPT_NOBODY, 1L);
  }
  ask_with(p, "X-Request-Id", bq_http_request_id(p->x));
  int whole = p->asked != NULL;
  ask_with(p, BQ_PASSED_HEADER, *p->passes->own_url);
  whole = whole && p->asked->next != NULL; // the guard against loops at least
  BQ_CURL_SET(code, easy, CURLOPT_URL, target);
  bq_free(target);
  BQ_CURL_SET(code, easy, CURLOPT_PROTOCOLS_STR, "http");
  BQ_CURL_SET(code, easy, CURLOPT_PROXY, "");
  BQ_CURL_SET(code, easy, CURLOPT_NOSIGNAL, 1L);
  BQ_CURL_SET(code, easy, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
  BQ_CURL_SET(code, easy, CURLOPT_TCP_KEEPALIVE, 1L);
  BQ_CURL_SET(code, easy, CURLOPT_HTTPHEADER, p->asked);
  BQ_CURL_SET(code, easy, CURLOPT_HEADERFUNCTION, on_header);
  BQ_CURL_SET(code, easy, CURLOPT_HEADERDATA, p);
  BQ_CURL_SET(code, easy, CURLOPT_WRITEFUNCTION, on_body);
  BQ_CURL_SET(code, easy, CURLOPT_WRITEDATA, p);
  return whole && code == CURLE_OK;
}

static int new_pass(pass **out, bq_passes *passes, bq_http_exchange *x, const bq_pass_request *request, bq_error *err) {
  *out = NULL;
  if (passes->count >= MAX_PASSES) return bq_fail(err, BQ_ELIMIT, "%d answers are passed through already", MAX_PASSES);
  pass *p = bq_alloc(sizeof *p);
  if (p == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a request");
  *p = (pass){.passes = passes, .x = x, .is_log = request->name == NULL, .begun = request->begun};
  passes->count++;
  bq_header_list_add(&p->headers, request->headers, request->header_count);
  (void)snprintf(p->attempt, sizeof p->attempt, "%lld", (long long)request->attempt);
  p->url = bq_strdup(request->url);
  p->etag = request->etag != NULL ? bq_format("\"%s\"", request->etag) : NULL;
  p->easy = curl_easy_init();
  int result = bq_timer_new(&p->timer, passes->loop, on_late, p, err);
  if (result == 0 && (p->url == NULL || (request->etag != NULL && p->etag == NULL) || p->headers.text.failed ||
                      p->easy == NULL || !set_up(p, request))) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for a request");
  }
  if (result < 0) free_pass(p);
  else *out = p;
  return result;
}

void bq_pass_send(bq_passes *passes, bq_http_exchange *x, const bq_pass_request *request) {
  pass *p;
  bq_error err;
  int result = new_pass(&p, passes, x, request, &err);
  if (result == 0) {
    result = bq_curl_start(passes->curl, p->easy, on_done, p, &err);
    if (result < 0) free_pass(p);
  }
  if (result == 0) {
    bq_http_set_context(x, p, on_close);
    if (request->begun) bq_http_stream_on_drain(x, on_drain);
    bq_timer_set(p->timer, HEAD_MS);
  } else {
    bq_http_set_context(x, NULL, NULL);
    if (request->begun) bq_http_stream_abort(x);
    else bq_api_problem(x, 503, err.message, NULL, NULL, 0);
  }
}
