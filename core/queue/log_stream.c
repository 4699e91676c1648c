// An attempt's log over HTTP: what is there, and with follow what comes; from another node when the attempt ran there.
//
//   READING (a piece is being read on the blocking pool) → read again, WAITING for more, or the end
//   FULL: the peer is slow; reading goes on when it has taken what is queued
//   SOON: the build was claimed a moment ago and its log is not there yet
//   PENDING: it has had no attempt; its first one is waited for
//   LOOKING: it is not here; which node has it is asked
//
// A log that has no file is in memory while its attempt runs here, and in the database afterwards.
// The answer's head goes out when it is known that the log is here, or waited for.
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "queue/attempt_log.h"
#include "queue/header_list.h"
#include "queue/streams.h"

enum { PIECE_BYTES = 64 * 1024, SOON_MS = 50, SOON_TRIES = 40 };

typedef enum log_state { LOG_READING, LOG_WAITING, LOG_FULL, LOG_SOON, LOG_PENDING, LOG_LOOKING } log_state;

typedef struct log_stream {
  bq_task task;
  bq_server *server;
  bq_passes *passes;             // borrowed
  bq_http_exchange *x;           // NULL once the peer is gone
  log_state state;
  char *build;                   // owned; its id
  int64_t attempt;
  bq_header_list headers;        // of the answer; owned
  int begun;                     // its head has gone out
  int looked;                    // that the log is not on another node is known
  int follows;                   // the peer wants to follow
  int wanted;                    // … and there was nothing to follow yet
  int tries;                     // looks for a log that was not there
  bq_timer *timer;               // owned; of SOON
  bq_log_wait *wait;             // of PENDING
  char *path;                    // owned
  uint64_t offset;               // of what was written, to go on from
  uint64_t next;                 // after the piece being read
  char *piece;                   // owned; PIECE_BYTES
  size_t length;                 // bytes in it
  bq_error error;                // of the read; code 0: none
  bq_attempt_follower *follower; // NULL: the log is complete, or nobody follows
  int more;                      // the follower was told of more during READING or FULL
} log_stream;

static void read_piece(log_stream *stream);

static void free_stream(log_stream *stream) {
  if (stream->follower != NULL) bq_attempt_log_unfollow(stream->follower);
  bq_log_wait_end(stream->wait);
  bq_timer_free(stream->timer);
  bq_header_list_free(&stream->headers);
  bq_free(stream->build);
  bq_free(stream->path);
  bq_free(stream->piece);
  bq_free(stream);
}

static void on_close(void *context) {
  log_stream *stream = context;
  stream->x = NULL;
  // Else when the read, or the look, is done.
  if (stream->state != LOG_READING && stream->state != LOG_LOOKING) free_stream(stream);
}

static void begin_answer(log_stream *stream);

static void end_stream(log_stream *stream) {
  begin_answer(stream);
  bq_http_exchange *x = stream->x;
  bq_http_set_context(x, NULL, NULL);
  free_stream(stream);
  bq_http_stream_end(x);
}

// It is not whole: the peer sees that, and may come back with its offset.
static void break_stream(log_stream *stream) {
  bq_http_exchange *x = stream->x;
  bq_log_error("a log stream breaks off", &stream->error);
  int begun = stream->begun;
  bq_http_set_context(x, NULL, NULL);
  free_stream(stream);
  if (begun) bq_http_stream_abort(x);
  else bq_api_problem(x, 503, "the log can't be read now; try again", NULL, NULL, 0);
}

static void on_told(void *arg, uint64_t size, int ended);

// Returns 1 when there may be something to follow soon: the row says "building" before the attempt has made its log.
static int follow(log_stream *stream) {
  if (!stream->wanted) return 0;
  bq_attempt *attempt = bq_runner_find(stream->server->runner, stream->build);
  if (attempt == NULL || bq_attempt_number(attempt) != stream->attempt) {
    return stream->error.code == BQ_ENOTFOUND && stream->tries++ < SOON_TRIES;
  }
  bq_attempt_log *log = bq_attempt_get_log(attempt);
  if (log == NULL) return 1;
  bq_error err;
  stream->wanted = 0;
  if (bq_attempt_log_follow(&stream->follower, log, on_told, stream, &err) < 0) stream->follower = NULL;
  stream->more = 1; // what was written since the last look
  return 0;
}

static void go_on(log_stream *stream) {
  int soon = stream->length == 0 && !stream->more && follow(stream);
  if (stream->length > 0 || stream->more) {
    stream->more = 0;
    read_piece(stream);
  } else if (stream->follower != NULL) {
    stream->state = LOG_WAITING;
  } else if (soon) {
    stream->state = LOG_SOON;
    bq_timer_set(stream->timer, SOON_MS);
  } else {
    end_stream(stream);
  }
}

static void on_soon(void *arg) {
  read_piece(arg);
}

static void on_drain(void *context) {
  log_stream *stream = context;
  if (stream->state == LOG_FULL) go_on(stream);
}

static void begin_answer(log_stream *stream) {
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 2];
  if (stream->begun) return;
  stream->begun = 1;
  size_t count = bq_header_list_get(&stream->headers, headers, BQ_RESPONSE_MAX_HEADERS + 2);
  bq_http_stream_begin(stream->x, 200, headers, count);
  bq_http_stream_on_drain(stream->x, on_drain);
}

// The exchange goes over to the pass.
static void pass_on(log_stream *stream, const char *url) {
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 2];
  bq_http_exchange *x = stream->x;
  const bq_pass_request pass = {.url = url,
                                .build = stream->build,
                                .attempt = stream->attempt,
                                .offset = stream->offset,
                                .follow = stream->follows,
                                .begun = stream->begun,
                                .headers = headers,
                                .header_count =
                                    bq_header_list_get(&stream->headers, headers, BQ_RESPONSE_MAX_HEADERS + 2)};
  bq_pass_send(stream->passes, x, &pass);
  free_stream(stream);
}

// All that is left of a log without a file.
static void send_rest(log_stream *stream, const char *log) {
  size_t length = strlen(log);
  begin_answer(stream);
  if (stream->offset < length) {
    (void)bq_http_stream_write(stream->x, log + stream->offset, length - (size_t)stream->offset);
  }
  end_stream(stream);
}

static void on_place(void *arg, const char *url, const char *log, const bq_error *err) {
  log_stream *stream = arg;
  stream->state = LOG_WAITING;
  if (stream->x == NULL) {
    free_stream(stream);
  } else if (err != NULL) {
    stream->error = *err;
    break_stream(stream);
  } else if (log != NULL) {
    send_rest(stream, log);
  } else if (url != NULL && bq_http_get_header(stream->x, BQ_PASSED_HEADER) == NULL) {
    pass_on(stream, url);
  } else {
    stream->looked = 1;
    begin_answer(stream);
    go_on(stream);
  }
}

// Whether the log may be elsewhere: there is none here, and the attempt does not run here. After HEAD there is nothing to
// pass on.
static int may_be_elsewhere(const log_stream *stream) {
  if (stream->looked || stream->error.code != BQ_ENOTFOUND || strcmp(bq_http_method(stream->x), "HEAD") == 0) return 0;
  bq_attempt *attempt = bq_runner_find(stream->server->runner, stream->build);
  return attempt == NULL || bq_attempt_number(attempt) != stream->attempt;
}

static void look_elsewhere(log_stream *stream) {
  stream->state = LOG_LOOKING;
  if (bq_place_find(stream->passes, stream->build, stream->attempt, on_place, stream, &stream->error) == 0) return;
  stream->state = LOG_WAITING;
  break_stream(stream);
}

static void read_work(bq_task *task) {
  log_stream *stream = (log_stream *)task;
  stream->error.code = 0;
  if (bq_attempt_log_read(stream->path, stream->offset, stream->piece, PIECE_BYTES, &stream->length, &stream->next,
                          &stream->error) < 0) {
    stream->length = 0;
    stream->next = stream->offset;
  }
}

static void take_piece(log_stream *stream) {
  if (stream->error.code != 0 && stream->error.code != BQ_ENOTFOUND) {
    break_stream(stream);
    return;
  }
  if (may_be_elsewhere(stream)) {
    look_elsewhere(stream);
    return;
  }
  begin_answer(stream);
  stream->offset = stream->next;
  int full = bq_http_stream_write(stream->x, stream->piece, stream->length);
  if (full) stream->state = LOG_FULL;
  else go_on(stream);
}

static void read_done(bq_task *task) {
  log_stream *stream = (log_stream *)task;
  stream->state = LOG_WAITING;
  if (stream->x == NULL) free_stream(stream);
  else take_piece(stream);
}

// Takes the next piece out of a log in memory. 0: there is none.
static int read_memory(log_stream *stream) {
  size_t length;
  bq_attempt *attempt = bq_runner_find(stream->server->runner, stream->build);
  if (attempt == NULL || bq_attempt_number(attempt) != stream->attempt) return 0;
  bq_attempt_log *log = bq_attempt_get_log(attempt);
  const char *text = log != NULL ? bq_attempt_log_text(log, &length) : NULL;
  if (text == NULL) return 0;
  size_t left = stream->offset < length ? length - (size_t)stream->offset : 0;
  stream->error.code = 0;
  stream->length = left < PIECE_BYTES ? left : PIECE_BYTES;
  memcpy(stream->piece, text + (length - left), stream->length);
  stream->next = stream->offset + stream->length;
  return 1;
}

static void read_piece(log_stream *stream) {
  stream->state = LOG_WAITING;
  if (read_memory(stream)) {
    take_piece(stream);
    return;
  }
  stream->state = LOG_READING;
  stream->task = (bq_task){.work = read_work, .done = read_done};
  if (bq_pool_submit(stream->server->blocking, &stream->task, &stream->error) == 0) return;
  stream->state = LOG_WAITING;
  break_stream(stream); // overload
}

static void on_told(void *arg, uint64_t size, int ended) {
  (void)size;
  log_stream *stream = arg;
  stream->more = 1;
  if (ended) stream->follower = NULL;
  if (stream->state == LOG_WAITING && stream->x != NULL) go_on(stream);
}

static void on_begun(void *arg, int begun) {
  log_stream *stream = arg;
  stream->wait = NULL;
  stream->state = LOG_WAITING;
  if (begun) read_piece(stream);
  else end_stream(stream);
}

// Attempt 0: the peer follows a build that waits. Its first attempt is number 1.
static int wait_for_first(log_stream *stream, bq_log_waits *waits, bq_error *err) {
  int result = bq_log_wait_begin(&stream->wait, waits, stream->build, on_begun, stream, err);
  stream->state = LOG_PENDING;
  return result;
}

static int fill(log_stream *stream, const bq_api_response *response, const bq_http_header *headers,
                size_t header_count) {
  const bq_http_header type = {"Content-Type", "text/plain; charset=utf-8"};
  size_t count = header_count < BQ_RESPONSE_MAX_HEADERS ? header_count : BQ_RESPONSE_MAX_HEADERS;
  stream->offset = (uint64_t)response->offset;
  stream->attempt = response->attempt > 0 || !response->follow ? response->attempt : 1;
  stream->follows = stream->wanted = response->follow;
  stream->build = bq_strdup(response->build);
  stream->path = bq_format("%s/logs/%s/attempt-%lld.log", stream->server->config->state_directory, response->build,
                           (long long)stream->attempt);
  stream->piece = bq_alloc(PIECE_BYTES);
  bq_header_list_add(&stream->headers, headers, count);
  if (!response->has_type) bq_header_list_add(&stream->headers, &type, 1);
  return stream->build != NULL && stream->path != NULL && stream->piece != NULL && !stream->headers.text.failed;
}

void bq_log_stream_send(bq_server *server, bq_passes *passes, bq_log_waits *waits, bq_http_exchange *x,
                        const bq_api_response *response, const bq_http_header *headers, size_t header_count) {
  int pending = response->attempt == 0 && response->follow;
  log_stream *stream = bq_alloc(sizeof *stream);
  bq_error err = {0};
  int result = stream != NULL ? 0 : bq_fail(&err, BQ_ENOMEM, "out of memory");
  if (result == 0) {
    stream->server = server;
    stream->passes = passes;
    stream->x = x;
    if (!fill(stream, response, headers, header_count)) result = bq_fail(&err, BQ_ENOMEM, "out of memory");
  }
  if (result == 0) result = bq_timer_new(&stream->timer, server->loop, on_soon, stream, &err);
  if (result == 0 && pending) result = wait_for_first(stream, waits, &err);
  if (result < 0) {
    if (stream != NULL) free_stream(stream);
    bq_api_problem(x, 503, err.message, NULL, NULL, 0);
    return;
  }
  bq_http_set_context(x, stream, on_close);
  if (pending) begin_answer(stream);
  else read_piece(stream);
}
