// The log of one attempt: what its commands wrote and what the server says about it, line by line, in files.
//
// A line is `2026-11-23T21:36:17.123Z out| text`: the time its first byte came, and out or err for the two streams of
// a command, sys for the server's own words and build:log. A line over 16 KB is stored in pieces; the second and later
// ones say `out+` instead of `out|`. Secrets are masked. Control characters stay; NUL and what is not UTF-8 become
// U+FFFD.
//
// Files. PATH holds the head, up to half of the log's limit. What comes later goes to PATH.tail, which becomes
// PATH.tail.old (replacing that) whenever it has a quarter of the limit, so that head and tail together never take more
// than the limit. A tail file begins with a line of 32 bytes, `buildq-log-from 000000000012345\n`: the offset of its
// first byte in all that was ever written. Head and tails begin and end at line ends. Offsets count what was written,
// also what is gone; a reader is told of the gap by a line of its own.
//
// A log begins in memory. It becomes a file when it has more than BQ_LOG_MEMORY_BYTES, when a command's output is to come,
// when somebody follows it, or when it is asked to (bq_attempt_log_keep, bq_attempt_log_hurry): only the few lines of a
// build that is over at once are never worth a file.
//
// Writing is plain write(2) on the loop's thread, one call for each piece of output: a regular file takes it into the
// page cache in microseconds. No fsync: a log lost with the machine is lost with its attempt. When the disk refuses,
// the log says so once to the server's log and goes on without the file; the build is not harmed.
//
// Thread rule: loop thread, except bq_attempt_log_read and bq_attempt_log_end (any thread, best on the blocking pool).
#ifndef BQ_QUEUE_ATTEMPT_LOG_H
#define BQ_QUEUE_ATTEMPT_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "io/mask.h"

enum {
  BQ_LOG_MIN_BYTES = 256 * 1024,     // a smaller limit is raised to this
  BQ_LOG_LINE_BYTES = 16 * 1024,     // of one stored piece of a line, before U+FFFD makes it longer
  BQ_LOG_LAST_LINES = 50,            // kept in memory
  BQ_LOG_LAST_LINE_BYTES = 1000,     // of each of them; longer ones are cut
  BQ_LOG_MEMORY_BYTES = 4 * 1024,    // of a log without a file
  BQ_LOG_READ_BYTES = 128            // a reader's buffer has at least this
};

typedef struct bq_attempt_log bq_attempt_log;

// Begins a log in memory; PATH is where its file will be, if there will be one. `secrets` is borrowed and outlives the
// log; NULL: none.
int bq_attempt_log_new(bq_attempt_log **out, const char *path, uint64_t max_bytes, const bq_mask_set *secrets,
                       bq_error *err) BQ_MUSTCHECK;

// Makes the file now (0640) and what directories it needs, unless it is there. An existing one is BQ_ECONFLICT: attempts
// never share a log. After a failure the log goes on without a file. On the thread that owns the log at the time.
int bq_attempt_log_keep(bq_attempt_log *log, bq_error *err) BQ_MUSTCHECK;

// From now on no line stays in memory: makes the file when there is one already, else with the first.
void bq_attempt_log_hurry(bq_attempt_log *log);

// Calls `began` once, on the loop, when the first line is kept in memory.
void bq_attempt_log_on_first(bq_attempt_log *log, void (*began)(void *arg), void *arg);

// What was written so far, while it is in memory only; NULL when there is a file, or the disk has refused it. Borrowed
// until the next write.
const char *bq_attempt_log_text(const bq_attempt_log *log, size_t *length);

// Tells the followers that this is the end, and frees the log. Its sources must be freed before.
void bq_attempt_log_close(bq_attempt_log *log);

// The server's own words, one line or several ("sys").
void bq_attempt_log_say(bq_attempt_log *log, const char *text);

uint64_t bq_attempt_log_size(const bq_attempt_log *log); // bytes written so far: the offset of the next one

// Appends the last lines (at most `count`, at most BQ_LOG_LAST_LINES), each with a line end, without time and stream.
void bq_attempt_log_last(const bq_attempt_log *log, size_t count, bq_buf *out);

// One command's output. Commands side by side each have their own, so that their lines don't mix.
typedef struct bq_attempt_source bq_attempt_source;
int bq_attempt_source_new(bq_attempt_source **out, bq_attempt_log *log, bq_error *err) BQ_MUSTCHECK;
void bq_attempt_source_write(bq_attempt_source *source, int stream, const char *bytes, size_t length); // stream 1 or 2
void bq_attempt_source_end(bq_attempt_source *source); // stores what has no line end yet; then ask for the last lines
void bq_attempt_source_last(const bq_attempt_source *source, size_t count, bq_buf *out); // as bq_attempt_log_last
void bq_attempt_source_free(bq_attempt_source *source);                                  // ends it first

// Followers read the file by themselves, at their own speed; they are only told that there is more. `told` must not
// write to the log. It may unfollow itself and others. After ended = 1 the follower is gone.
typedef struct bq_attempt_follower bq_attempt_follower;
typedef void (*bq_attempt_told)(void *arg, uint64_t size, int ended);
int bq_attempt_log_follow(bq_attempt_follower **out, bq_attempt_log *log, bq_attempt_told told, void *arg,
                          bq_error *err) BQ_MUSTCHECK;
void bq_attempt_log_unfollow(bq_attempt_follower *follower);

// Reads from `offset`, of a finished log or one that is being written. `*length` is 0 at the (present) end. `*next` is
// the offset to go on from: not always offset + *length, because where bytes are gone the reader gets one line
// `… 12345 bytes left out, it goes on at offset 23456 …` instead, and `*next` is behind the gap.
// `size` is at least BQ_LOG_READ_BYTES. BQ_ENOTFOUND: there is no such log.
int bq_attempt_log_read(const char *path, uint64_t offset, char *buffer, size_t size, size_t *length, uint64_t *next,
                        bq_error *err) BQ_MUSTCHECK;

// The offset of the end: what was written in all.
int bq_attempt_log_end(const char *path, uint64_t *end, bq_error *err) BQ_MUSTCHECK;

// Removes the log's files. Missing ones are fine.
int bq_attempt_log_remove(const char *path, bq_error *err) BQ_MUSTCHECK;

#endif
