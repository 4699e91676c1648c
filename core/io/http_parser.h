// The HTTP/1.1 codec (RFC 9112): pure functions over bytes, without sockets and without state shared with them.
//
// Strict where the RFC says MUST: whatever two parsers could read differently is refused, because behind a proxy a
// difference is a smuggled request. Results are offsets into the caller's buffer; nothing is copied. The result never
// depends on how the bytes were cut into calls.
#ifndef BQ_IO_HTTP_PARSER_H
#define BQ_IO_HTTP_PARSER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
  BQ_HTTP_MAX_HEADERS = 100,               // room in bq_http_parser
  BQ_HTTP_MAX_EXTENSION_BYTES = 16 * 1024, // of all chunk extensions of a body
  BQ_HTTP_MAX_TRAILER_BYTES = 8 * 1024     // behind the last chunk
};

typedef struct bq_http_slice {
  uint32_t at;     // offset from the head's first byte
  uint32_t length; // bytes
} bq_http_slice;

typedef struct bq_http_field {
  bq_http_slice name;
  bq_http_slice value; // without white space around it; may be empty
} bq_http_field;

typedef struct bq_http_limits {
  size_t max_line;         // bytes of the request line: 414 beyond. At most 1 MiB
  size_t max_header_bytes; // bytes of all header lines: 431 beyond. At most 1 MiB
  unsigned max_headers;    // 431 beyond; at most BQ_HTTP_MAX_HEADERS
  size_t max_body;         // bytes: 413 beyond
} bq_http_limits;

typedef struct bq_http_head {
  bq_http_slice method;
  bq_http_slice path;      // still percent-encoded; empty for an absolute target without one
  bq_http_slice query;     // behind "?", not decoded; length 0 when absent
  int minor;               // 0 or 1: HTTP/1.x
  unsigned field_count;
  int64_t content_length;  // bytes; -1: none given
  int chunked;             // the body comes in chunks
  int keep_alive;          // what the request asks for (section 9.3)
  int expect_continue;
} bq_http_head;

// A head being read. Zeroed is a valid start.
typedef struct bq_http_parser {
  bq_http_head head;        // valid once bq_http_parse has returned its length
  size_t line_at;           // the rest is private: where the present line begins
  size_t scanned;           // so many bytes were searched for its end
  size_t headers_at;        // behind the request line; 0 while that is read
  int hosts;                // Host headers seen
  int codings;              // Transfer-Encoding headers seen
  unsigned host_index;      // of the Host header in fields
  bq_http_slice authority;  // of an absolute target; length 0 otherwise
  bq_http_field fields[BQ_HTTP_MAX_HEADERS]; // head.field_count are in use
} bq_http_parser;

void bq_http_parser_reset(bq_http_parser *p);

// Reads one request head. `bytes` is its beginning, each time: at least what the call before was given, unchanged.
// Returns the head's length in bytes (> 0), 0 when more are needed, or a negative HTTP status: -400, -413, -414, -417,
// -431, -501, -505. After that only bq_http_parser_reset is of use.
int64_t bq_http_parse(bq_http_parser *p, const char *bytes, size_t length, const bq_http_limits *limits);

// Percent-decodes a path into `out` (at least length + 2 bytes; an empty path becomes "/"). BQ_EINVAL for a broken
// escape, a NUL or control character, bytes that are no UTF-8, a backslash or a "." or ".." segment (also when they
// were escaped).
int bq_http_decode_path(const char *path, size_t length, char *out) BQ_MUSTCHECK;

typedef enum bq_dechunk_state {
  BQ_DECHUNK_SIZE,
  BQ_DECHUNK_SPACE,     // behind the size: only an extension may follow
  BQ_DECHUNK_EXTENSION,
  BQ_DECHUNK_QUOTED,    // inside a quoted extension value
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
  uint64_t left;       // bytes of the present chunk not read yet
  uint64_t total;      // bytes of all chunks announced so far
  unsigned digits;     // of the size line so far
  size_t extension;    // bytes of extensions so far
  size_t trailer;      // bytes of trailers so far
  size_t trailer_name; // bytes of the present trailer line before its colon
  int trailer_value;   // its colon was seen
  int escaped;         // inside QUOTED, behind a backslash
  int last;            // the size was 0
} bq_dechunk;

// Reads some of `bytes`: `*consumed` says how many, `*data` and `*data_length` the piece of body in them (may be
// empty). Returns 1 at the end of the body, 0 when there is more to come, -400, -413 (more than max_body bytes are announced)
// or -431 (extensions or trailers over their bounds). To be called again with what is left. Trailers are checked and
// dropped.
int bq_http_dechunk(bq_dechunk *d, uint64_t max_body, const char *bytes, size_t length, size_t *consumed,
                    const char **data, size_t *data_length);

// Classes of bytes, for the codec's own files.
enum {
  BQ_HTTP_TOKEN = 1,     // tchar (RFC 9110, section 5.6.2)
  BQ_HTTP_AUTHORITY = 2, // what a Host header may hold
  BQ_HTTP_TARGET = 4,    // visible ASCII without "#"
  BQ_HTTP_VALUE = 8      // field-value: visible, obs-text, space and tab (RFC 9110, section 5.5)
};
extern const unsigned char bq_http_classes[256];
int bq_http_hex(char c); // the digit's value, -1 for any other byte

#endif
