// The HTTP/1.1 codec (RFC 9112): pure functions over bytes, without sockets and without state shared with them.
//
// Strict where the RFC says MUST: whatever two parsers could read differently is refused, because behind a proxy a
// difference is a smuggled request. Results are offsets into the caller's buffer; nothing is copied.
#ifndef BQ_IO_HTTP_PARSER_H
#define BQ_IO_HTTP_PARSER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
  BQ_HTTP_MAX_HEADERS = 100,          // room in bq_http_head
  BQ_HTTP_MAX_EXTENSION_BYTES = 1024, // of one chunk's extensions
  BQ_HTTP_MAX_TRAILER_BYTES = 8192    // behind the last chunk
};

typedef struct bq_http_slice {
  size_t at;     // offset from the head's first byte
  size_t length; // bytes
} bq_http_slice;

typedef struct bq_http_limits {
  size_t max_line;         // bytes of the request line: 414 beyond
  size_t max_header_bytes; // bytes of all header lines: 431 beyond
  unsigned max_headers;    // 431 beyond; at most BQ_HTTP_MAX_HEADERS
  size_t max_body;         // bytes: 413 beyond
} bq_http_limits;

typedef struct bq_http_head {
  bq_http_slice method;
  bq_http_slice path;        // still percent-encoded
  bq_http_slice query;       // behind "?", not decoded; length 0 when absent
  bq_http_slice host;        // the Host header's value; an absolute target's authority must be the same
  int minor;                 // 0 or 1: HTTP/1.x
  size_t header_count;
  bq_http_slice names[BQ_HTTP_MAX_HEADERS];
  bq_http_slice values[BQ_HTTP_MAX_HEADERS]; // without white space around them
  int64_t content_length;    // -1: none given
  int chunked;
  int keep_alive;            // what the request asks for (section 9.3)
  int expect_continue;
} bq_http_head;

// Reads one request head. Returns its length in bytes (> 0), 0 when more bytes are needed, or a negative HTTP status:
// -400, -413, -414, -417, -431, -501, -505. The answer for a prefix never depends on how the bytes were cut.
int64_t bq_http_parse_head(const char *bytes, size_t length, const bq_http_limits *limits, bq_http_head *out);

// Percent-decodes a path into `out` (at least length + 1 bytes). BQ_EINVAL for a broken escape, a NUL or control
// character, bytes that are no UTF-8, a backslash or a "." or ".." segment (also when they were escaped).
int bq_http_decode_path(const char *path, size_t length, char *out);

typedef enum bq_dechunk_state {
  BQ_DECHUNK_SIZE,
  BQ_DECHUNK_EXTENSION,
  BQ_DECHUNK_QUOTED, // inside a quoted extension value
  BQ_DECHUNK_SIZE_LF,
  BQ_DECHUNK_DATA,
  BQ_DECHUNK_DATA_CR,
  BQ_DECHUNK_DATA_LF,
  BQ_DECHUNK_TRAILER,
  BQ_DECHUNK_TRAILER_LF,
  BQ_DECHUNK_DONE
} bq_dechunk_state;

// A chunked body being read (section 7.1). Zeroed is a valid start.
typedef struct bq_dechunk {
  bq_dechunk_state state;
  uint64_t left;         // bytes of the present chunk not read yet
  unsigned digits;       // of the size line so far
  size_t extension;      // bytes of extensions of this chunk
  size_t trailer;        // bytes of trailers so far
  size_t trailer_line;   // bytes of the present trailer line
  int escaped;           // inside QUOTED, behind a backslash
  int last;              // the size was 0
} bq_dechunk;

// Reads some of `bytes`: `*consumed` says how many, `*data` and `*data_length` the piece of body in them (may be empty).
// Returns 1 at the end of the body, 0 when there is more to come, -400 or -431. To be called again with what is left.
int bq_http_dechunk(bq_dechunk *d, const char *bytes, size_t length, size_t *consumed, const char **data,
                    size_t *data_length);

#endif
