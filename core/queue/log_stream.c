// An attempt's log over HTTP: what is there, and with follow what comes.
//
//   READING (a piece is being read on the blocking pool) → read again, WAITING for more, or the end
//   FULL: the peer is slow; reading goes on when it has taken what is queued
//   SOON: the build was claimed a moment ago and its log is not there yet
//   PENDING: it has had no attempt; its first one is waited for
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "queue/attempt_log.h"
#include "queue/streams.h"

enum { PIECE_BYTES = 64 * 1024, SOON_MS = 50, SOON_TRIES = 40 };

typedef enum log_state { LOG_READING, LOG_WAITING, LOG_FULL, LOG_SOON, LOG_PENDING } log_state;

typedef struct log_stream {
  bq_task task;
  bq_server *server;
  bq_http_exchange *x;           // NULL once the peer is gone
  log_state state;
  char *build;                   // owned; its id
  int64_t attempt;
  int wanted;                    // the peer wants to follow, and there was nothing to follow yet
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
  bq_free(stream->build);
  bq_free(stream->path);
  bq_free(stream->piece);
  bq_free(stream);
}

static void on_close(void *context) {
  log_stream *stream = context;
  stream->x = NULL;
  if (stream->state != LOG_READING) free_stream(stream); // else when the read is done
}

static void end_stream(log_stream *stream) {
  bq_http_exchange *x = stream->x;
  bq_http_set_context(x, NULL, NULL);
  free_stream(stream);
  bq_http_stream_end(x);
}

// It is not whole: the peer sees that, and may come back with its offset.
static void break_stream(log_stream *stream) {
  bq_http_exchange *x = stream->x;
  bq_log_error("a log stream breaks off", &stream->error);
  bq_http_set_context(x, NULL, NULL);
  free_stream(stream);
  bq_http_stream_abort(x);
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

static void read_work(bq_task *task) {
  log_stream *stream = (log_stream *)task;
  stream->error.code = 0;
  if (bq_attempt_log_read(stream->path, stream->offset, stream->piece, PIECE_BYTES, &stream->length, &stream->next,
                          &stream->error) < 0) {
    stream->length = 0;
    stream->next = stream->offset;
  }
}

static void read_done(bq_task *task) {
  log_stream *stream = (log_stream *)task;
  if (stream->x == NULL) {
    stream->state = LOG_WAITING;
    free_stream(stream);
    return;
  }
  if (stream->error.code != 0 && stream->error.code != BQ_ENOTFOUND) {
    stream->state = LOG_WAITING;
    break_stream(stream);
    return;
  }
  stream->offset = stream->next;
  int full = bq_http_stream_write(stream->x, stream->piece, stream->length);
  if (full) stream->state = LOG_FULL;
  else go_on(stream);
}

static void read_piece(log_stream *stream) {
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

void bq_log_stream_send(bq_server *server, bq_log_waits *waits, bq_http_exchange *x, const bq_api_response *response,
                        const bq_http_header *headers, size_t header_count) {
  int pending = response->attempt == 0 && response->follow;
  log_stream *stream = bq_alloc(sizeof *stream);
  bq_error err = {0};
  if (stream != NULL) {
    stream->server = server;
    stream->x = x;
    stream->offset = (uint64_t)response->offset;
    stream->build = bq_strdup(response->build);
    stream->attempt = pending ? 1 : response->attempt;
    stream->wanted = response->follow;
    stream->path = bq_format("%s/logs/%s/attempt-%lld.log", server->config->state_directory, response->build,
                             (long long)stream->attempt);
    stream->piece = bq_alloc(PIECE_BYTES);
  }
  if (stream == NULL || stream->build == NULL || stream->path == NULL || stream->piece == NULL ||
      bq_timer_new(&stream->timer, server->loop, on_soon, stream, &err) < 0) {
    if (stream != NULL) free_stream(stream);
    bq_api_problem(x, 503, "out of memory", NULL, NULL, 0);
    return;
  }
  if (pending && wait_for_first(stream, waits, &err) < 0) {
    free_stream(stream);
    bq_api_problem(x, 503, err.message, NULL, NULL, 0);
    return;
  }
  bq_http_header all[BQ_RESPONSE_MAX_HEADERS + 2];
  size_t count = header_count < BQ_RESPONSE_MAX_HEADERS ? header_count : BQ_RESPONSE_MAX_HEADERS;
  memcpy(all, headers, count * sizeof all[0]);
  if (!response->has_type) all[count++] = (bq_http_header){"Content-Type", "text/plain; charset=utf-8"};
  bq_http_set_context(x, stream, on_close);
  bq_http_stream_begin(x, 200, all, count);
  bq_http_stream_on_drain(x, on_drain);
  if (!pending) read_piece(stream);
}
