#include "queue/attempt_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "io/tree.h"

enum { FLUSH_BYTES = 256 * 1024 }; // gathered at most before they are written

// MEMORY → HEAD → TAIL → (each rotation) TAIL; any → BROKEN when the disk refuses. move() and bq_attempt_log_keep are the
// only functions that change it.
typedef enum log_state { MEMORY, HEAD, TAIL, BROKEN } log_state;

typedef struct line_ring {
  bq_buf lines[BQ_LOG_LAST_LINES]; // without data where there was no line yet
  size_t next;                     // index of the oldest, which is replaced next
} line_ring;

struct bq_attempt_follower {
  bq_attempt_log *log; // NULL: unfollowed while followers were being told
  bq_attempt_told told;
  void *arg;
  bq_attempt_follower *next;
};

struct bq_attempt_log {
  char *path;                 // owned
  char *tail_path;            // owned; PATH.tail
  char *old_path;             // owned; PATH.tail.old
  const bq_mask_set *secrets; // borrowed
  log_state state;
  int fd;               // of the head or the present tail; -1 in memory and when broken
  uint64_t head_max;    // bytes
  uint64_t tail_max;    // bytes of one tail file, without its first line
  uint64_t file_bytes;  // written to fd, without a tail's first line
  uint64_t size;        // written in all
  int hurried;          // nothing stays in memory
  int lost;             // a line had no room: the server's log has been told
  void (*began)(void *arg); // the first line is in memory; NULL: was called, or nobody asked
  void *began_arg;
  bq_buf batch;         // whole lines that wait to be written to fd; in memory: all
  int64_t when_ms;      // since 1970, whose text is `when`
  char when[BQ_CLOCK_TEXT_SIZE]; // "" at first
  line_ring last;
  bq_attempt_follower *followers;
  int telling;          // followers are being told: none is freed meanwhile
  unsigned sources;     // open ones
};

struct bq_attempt_source {
  bq_attempt_log *log; // borrowed
  bq_mask masks[2];    // of stream 1 and 2
  bq_buf partial[2];   // a line whose end has not come, masked
  int64_t since_us[2]; // when its first byte came (bq_clock_wall_us)
  int continued[2];    // 1: an earlier piece of that line is stored already
  line_ring last;
};

static const char *const stream_words[] = {"out", "err"};

// --- the last lines -------------------------------------------------------------------------------------------------

// At most `length`, and not inside a character.
static size_t cut_length(const char *text, size_t length) {
  size_t cut = length;
  for (int back = 0; back < 3 && cut > 0 && ((unsigned char)text[cut] & 0xc0) == 0x80; back++) cut--;
  return cut > 0 && ((unsigned char)text[cut] & 0xc0) != 0x80 ? cut : length;
}

static void remember(line_ring *ring, const char *text, size_t length) {
  if (length > BQ_LOG_LAST_LINE_BYTES) length = cut_length(text, BQ_LOG_LAST_LINE_BYTES);
  bq_buf *line = &ring->lines[ring->next];
  bq_buf_clear(line);
  bq_buf_add(line, text, length);
  if (line->failed) bq_buf_free(line); // the line is in the file; only the excerpt misses it
  ring->next = (ring->next + 1) % BQ_LOG_LAST_LINES;
}

static void recall(const line_ring *ring, size_t count, bq_buf *out) {
  if (count > BQ_LOG_LAST_LINES) count = BQ_LOG_LAST_LINES;
  for (size_t i = BQ_LOG_LAST_LINES - count; i < BQ_LOG_LAST_LINES; i++) {
    const bq_buf *line = &ring->lines[(ring->next + i) % BQ_LOG_LAST_LINES];
    if (line->data == NULL) continue;
    bq_buf_add(out, line->data, line->length);
    bq_buf_addc(out, '\n');
  }
}

static void forget(line_ring *ring) {
  for (size_t i = 0; i < BQ_LOG_LAST_LINES; i++) bq_buf_free(&ring->lines[i]);
  memset(ring, 0, sizeof *ring);
}

// --- files ----------------------------------------------------------------------------------------------------------

static int write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t n = write(fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    bytes += n;
    length -= (size_t)n;
  }
  return 0;
}

// Returns the descriptor of a new tail file, or -1 with errno.
static int open_tail(const bq_attempt_log *log) {
  if (log->state == TAIL && rename(log->tail_path, log->old_path) < 0) return -1;
  int fd = open(log->tail_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
  char first[64];
  int length = snprintf(first, sizeof first, "buildq-log-from %015" PRIu64 "\n", log->size);
  if (fd >= 0 && write_all(fd, first, (size_t)length) < 0) {
    int errnum = errno;
    close(fd);
    errno = errnum;
    return -1;
  }
  return fd;
}

static void move(bq_attempt_log *log, log_state to) {
  int fd = to == TAIL ? open_tail(log) : -1;
  if (fd < 0) {
    bq_log(BQ_ERROR, "can't write a build's log, the build goes on without", "path", log->path, "reason",
           strerror(errno), NULL);
    to = BROKEN;
  }
  if (log->fd >= 0) close(log->fd);
  log->fd = fd;
  log->file_bytes = 0;
  log->state = to;
}

// Writes the first `length` bytes of the batch, which end with a line.
static void flush_first(bq_attempt_log *log, size_t length) {
  if (log->state != BROKEN && length > 0) {
    if (write_all(log->fd, log->batch.data, length) == 0) {
      log->file_bytes += length;
      log->size += length;
    } else {
      move(log, BROKEN);
    }
  }
  if (length > 0) bq_buf_consume(&log->batch, length);
}

static void flush(bq_attempt_log *log) {
  if (log->state == MEMORY) log->size = log->batch.length;
  else flush_first(log, log->batch.length);
}

static void tell(bq_attempt_log *log, int ended) {
  log->telling = 1;
  for (bq_attempt_follower *f = log->followers; f != NULL; f = f->next) {
    if (f->log != NULL) f->told(f->arg, log->size, ended);
  }
  log->telling = 0;
  for (bq_attempt_follower **at = &log->followers; *at != NULL;) {
    bq_attempt_follower *f = *at;
    if (f->log != NULL) {
      at = &f->next;
      continue;
    }
    *at = f->next;
    bq_free(f);
  }
}

static void flush_and_tell(bq_attempt_log *log) {
  uint64_t before = log->size;
  flush(log);
  if (log->size != before && !log->telling) tell(log, 0);
}

// --- lines ----------------------------------------------------------------------------------------------------------

static void add_safe(bq_buf *out, const char *text, size_t length) {
  size_t start = 0, i = 0;
  while ((i += bq_utf8_ascii(text + i, length - i)) < length) {
    size_t n = bq_utf8_character(text + i, length - i);
    if (n > 0) {
      i += n;
      continue;
    }
    bq_buf_add(out, text + start, i - start);
    bq_buf_adds(out, "\xef\xbf\xbd"); // U+FFFD
    start = ++i;
  }
  bq_buf_add(out, text + start, length - start);
}

static void tell_first(bq_attempt_log *log) {
  void (*began)(void *arg) = log->began;
  log->began = NULL;
  if (began != NULL) began(log->began_arg);
}

static void tell_lost(bq_attempt_log *log) {
  if (!log->lost) bq_log(BQ_ERROR, "out of memory: a build's log misses lines", "path", log->path, NULL);
  log->lost = 1;
}

// Lines come many in a millisecond, and making the text takes longer than all else that is done to a line.
static void add_time(bq_attempt_log *log, int64_t when_us) {
  if (log->when[0] == '\0' || when_us / 1000 != log->when_ms) {
    bq_clock_format(when_us, log->when);
    log->when_ms = when_us / 1000;
  }
  bq_buf_adds(&log->batch, log->when);
  bq_buf_addc(&log->batch, ' ');
}

// Stores one line (or one piece of a long one), masked already.
static void store(bq_attempt_log *log, line_ring *also, const char *word, int64_t when_us, int continued,
                  const char *text, size_t length) {
  size_t before = log->batch.length;
  add_time(log, when_us);
  bq_buf_adds(&log->batch, word);
  bq_buf_adds(&log->batch, continued ? "+ " : "| ");
  size_t safe_at = log->batch.length;
  add_safe(&log->batch, text, length);
  bq_buf_addc(&log->batch, '\n');
  if (log->batch.failed) { // the line is lost, the ones before it are not
    log->batch.failed = 0;
    log->batch.length = before;
    tell_lost(log);
    return;
  }
  remember(&log->last, log->batch.data + safe_at, log->batch.length - 1 - safe_at);
  if (also != NULL) remember(also, log->batch.data + safe_at, log->batch.length - 1 - safe_at);
  bq_error err;
  // A failure is logged there; the line is kept in memory for the last ones.
  int goes_on = log->hurried || log->batch.length > BQ_LOG_MEMORY_BYTES;
  if (log->state == MEMORY && goes_on) (void)!bq_attempt_log_keep(log, &err);
  if (log->state == MEMORY) {
    tell_first(log);
    return;
  }
  uint64_t most = log->state == HEAD ? log->head_max : log->tail_max;
  if (log->state != BROKEN && log->file_bytes + log->batch.length > most) {
    flush_first(log, before); // those still fit
    if (log->state != BROKEN) move(log, TAIL);
  }
  if (log->batch.length >= FLUSH_BYTES) flush_and_tell(log);
}

static void store_piece(bq_attempt_source *source, int index, const char *text, size_t length, int whole) {
  store(source->log, &source->last, stream_words[index], source->since_us[index], source->continued[index], text,
        length);
  source->continued[index] = !whole;
}

// Takes in masked bytes: whole lines are stored, the rest waits for its end.
static void take(bq_attempt_source *source, int index, const char *text, size_t length, int64_t now_us) {
  bq_buf *partial = &source->partial[index];
  while (length > 0) {
    const char *end = memchr(text, '\n', length);
    size_t n = end == NULL ? length : (size_t)(end - text);
    size_t room = BQ_LOG_LINE_BYTES - partial->length;
    if (partial->length == 0) source->since_us[index] = now_us;
    if (n > room) {
      bq_buf_add(partial, text, room);
      if (!partial->failed) {
        size_t cut = cut_length(partial->data, partial->length - 1);
        store_piece(source, index, partial->data, cut, 0);
        bq_buf_consume(partial, cut);
      }
      text += room;
      length -= room;
    } else if (end == NULL) {
      bq_buf_add(partial, text, n);
      length = 0;
    } else {
      if (partial->length == 0) {
        store_piece(source, index, text, n, 1);
      } else {
        bq_buf_add(partial, text, n);
        store_piece(source, index, partial->data, partial->length, 1);
        bq_buf_clear(partial);
      }
      text += n + 1;
      length -= n + 1;
    }
    if (partial->failed) {
      tell_lost(source->log);
      bq_buf_free(partial);
    }
  }
}

// --- the log --------------------------------------------------------------------------------------------------------

int bq_attempt_log_new(bq_attempt_log **out, const char *path, uint64_t max_bytes, const bq_mask_set *secrets,
                       bq_error *err) {
  *out = NULL;
  if (max_bytes < BQ_LOG_MIN_BYTES) max_bytes = BQ_LOG_MIN_BYTES;
  bq_attempt_log *log = bq_alloc(sizeof *log);
  if (log == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the log %s", path);
  log->path = bq_strdup(path);
  log->tail_path = bq_format("%s.tail", path);
  log->old_path = bq_format("%s.tail.old", path);
  log->secrets = secrets;
  log->head_max = max_bytes / 2;
  log->tail_max = max_bytes / 4 - 32;
  log->fd = -1;
  if (log->path == NULL || log->tail_path == NULL || log->old_path == NULL) {
    bq_attempt_log_close(log);
    return bq_fail(err, BQ_ENOMEM, "out of memory for the log %s", path);
  }
  *out = log;
  return 0;
}

// The janitor, or an earlier attempt's end, may be removing the directory at this moment.
static int make_parent(const char *path, bq_error *err) {
  int result = BQ_ENOTFOUND;
  char *directory = bq_strndup(path, (size_t)(strrchr(path, '/') - path));
  if (directory == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the log %s", path);
  for (int tries = 0; tries < 10 && result == BQ_ENOTFOUND; tries++) result = bq_tree_make_path(directory, err);
  bq_free(directory);
  return result;
}

static int make_head(bq_attempt_log *log, bq_error *err) {
  int result = make_parent(log->path, err);
  if (result < 0) return result;
  log->fd = open(log->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (log->fd >= 0) return 0;
  if (errno == EEXIST) return bq_fail(err, BQ_ECONFLICT, "can't make the log %s: there is one already", log->path);
  return bq_fail_errno(err, errno, "can't make the log %s", log->path);
}

int bq_attempt_log_keep(bq_attempt_log *log, bq_error *err) {
  if (log->state != MEMORY) return 0;
  int result = make_head(log, err);
  log->state = result == 0 ? HEAD : BROKEN;
  log->size = 0;
  if (result < 0) bq_log_error("can't write a build's log, the build goes on without", err);
  flush(log);
  return result;
}

void bq_attempt_log_hurry(bq_attempt_log *log) {
  bq_error err;
  log->hurried = 1;
  if (log->batch.length > 0) (void)!bq_attempt_log_keep(log, &err); // a failure is logged
}

void bq_attempt_log_on_first(bq_attempt_log *log, void (*began)(void *arg), void *arg) {
  log->began = began;
  log->began_arg = arg;
}

const char *bq_attempt_log_text(const bq_attempt_log *log, size_t *length) {
  *length = log->batch.length;
  return log->state != MEMORY ? NULL : log->batch.data != NULL ? log->batch.data : "";
}

void bq_attempt_log_close(bq_attempt_log *log) {
  if (log == NULL) return;
  flush(log);
  tell(log, 1);
  while (log->followers != NULL) {
    bq_attempt_follower *next = log->followers->next;
    bq_free(log->followers);
    log->followers = next;
  }
  if (log->fd >= 0) close(log->fd);
  bq_buf_free(&log->batch);
  forget(&log->last);
  bq_free(log->path);
  bq_free(log->tail_path);
  bq_free(log->old_path);
  bq_free(log);
}

void bq_attempt_log_say(bq_attempt_log *log, const char *text) {
  int64_t now_us = bq_clock_wall_us();
  bq_buf masked = {0};
  bq_mask_text(log->secrets, text, strlen(text), &masked);
  const char *at = masked.data;
  while (at != NULL && !masked.failed) {
    const char *end = strchr(at, '\n');
    size_t n = end == NULL ? strlen(at) : (size_t)(end - at);
    int continued = 0;
    while (n > BQ_LOG_LINE_BYTES) {
      size_t cut = cut_length(at, BQ_LOG_LINE_BYTES);
      store(log, NULL, "sys", now_us, continued, at, cut);
      continued = 1;
      at += cut;
      n -= cut;
    }
    store(log, NULL, "sys", now_us, continued, at, n);
    at = end == NULL || end[1] == '\0' ? NULL : end + 1;
  }
  if (masked.failed) tell_lost(log);
  bq_buf_free(&masked);
  flush_and_tell(log);
}

uint64_t bq_attempt_log_size(const bq_attempt_log *log) {
  return log->size;
}

void bq_attempt_log_last(const bq_attempt_log *log, size_t count, bq_buf *out) {
  recall(&log->last, count, out);
}

// --- sources --------------------------------------------------------------------------------------------------------

int bq_attempt_source_new(bq_attempt_source **out, bq_attempt_log *log, bq_error *err) {
  bq_error ignored; // logged; the command runs without a log
  (void)!bq_attempt_log_keep(log, &ignored);
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a command's output");
  (*out)->log = log;
  (*out)->masks[0].set = (*out)->masks[1].set = log->secrets;
  return 0;
}

void bq_attempt_source_write(bq_attempt_source *source, int stream, const char *bytes, size_t length) {
  int index = stream == 2;
  bq_buf masked = {0};
  bq_mask_feed(&source->masks[index], bytes, length, &masked);
  if (!masked.failed) take(source, index, masked.data, masked.length, bq_clock_wall_us());
  else tell_lost(source->log);
  bq_buf_free(&masked);
  flush_and_tell(source->log);
}

void bq_attempt_source_end(bq_attempt_source *source) {
  for (int i = 0; i < 2; i++) {
    bq_buf masked = {0};
    bq_mask_end(&source->masks[i], &masked);
    if (!masked.failed) take(source, i, masked.data, masked.length, bq_clock_wall_us());
    else tell_lost(source->log);
    bq_buf_free(&masked);
    if (source->partial[i].length > 0) {
      store_piece(source, i, source->partial[i].data, source->partial[i].length, 1);
    }
    bq_buf_free(&source->partial[i]);
  }
  flush_and_tell(source->log);
}

void bq_attempt_source_last(const bq_attempt_source *source, size_t count, bq_buf *out) {
  recall(&source->last, count, out);
}

void bq_attempt_source_free(bq_attempt_source *source) {
  if (source == NULL) return;
  bq_attempt_source_end(source);
  forget(&source->last);
  bq_free(source);
}

// --- followers ------------------------------------------------------------------------------------------------------

int bq_attempt_log_follow(bq_attempt_follower **out, bq_attempt_log *log, bq_attempt_told told, void *arg,
                          bq_error *err) {
  // What a follower has read is still there after a crash.
  bq_attempt_log_hurry(log);
  bq_attempt_follower *f = bq_alloc(sizeof *f);
  *out = f;
  if (f == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to follow the log %s", log->path);
  *f = (bq_attempt_follower){.log = log, .told = told, .arg = arg, .next = log->followers};
  log->followers = f;
  return 0;
}

void bq_attempt_log_unfollow(bq_attempt_follower *follower) {
  if (follower == NULL) return;
  bq_attempt_log *log = follower->log;
  follower->log = NULL;
  if (log->telling) return; // tell() frees it
  for (bq_attempt_follower **at = &log->followers; *at != NULL; at = &(*at)->next) {
    if (*at != follower) continue;
    *at = follower->next;
    bq_free(follower);
    return;
  }
}
