// Where in an attempt's log a reader is, counted from what it has been sent: a log's offsets count what was written, and
// a line that marks a gap (queue/attempt_log.h) stands for bytes that are gone.
#ifndef BQ_CLI_LOG_POSITION_H
#define BQ_CLI_LOG_POSITION_H

#include <stddef.h>
#include <stdint.h>

typedef struct bq_log_position {
  uint64_t offset;     // to go on from
  int inside;          // in the middle of a line
  char mark[160];      // the part of a mark that has come
  size_t mark_length;
} bq_log_position;

// A zeroed position is the beginning of a log. Takes in the next bytes of the answer.
void bq_log_position_feed(bq_log_position *position, const char *bytes, size_t length);

// The connection was lost: a mark that did not come whole will be sent again.
void bq_log_position_cut(bq_log_position *position);

#endif
