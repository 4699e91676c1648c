// The HTTP/1.1 server: bufferevents below, the codec of io/http_parser.h between, exchanges above.
//
// Thread rule: loop thread only. An exchange is one request and its response; the server owns it. It lives until
// the response is ended or the peer is gone, whichever is later for the handler: after `on_close` was called, or
// after bq_http_respond/bq_http_stream_end/bq_http_stream_abort, it must not be touched again. `on_close` may come from inside
// bq_http_read_body (the body is refused), and from no other call of the handler's.
//
// The process must ignore SIGPIPE: a peer may close its socket between two writes.
#ifndef BQ_IO_HTTP_SERVER_H
#define BQ_IO_HTTP_SERVER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "event/loop.h"

typedef struct bq_http_server bq_http_server;
typedef struct bq_http_exchange bq_http_exchange;

typedef struct bq_http_header {
  const char *name;
  const char *value;
} bq_http_header;

typedef struct bq_http_options {
  const char *listen;           // "127.0.0.1:8080" or "[::1]:8080"; port 0 picks a free one
  size_t max_line;              // request line, bytes (414 beyond)
  size_t max_header_bytes;      // all headers (431 beyond)
  unsigned max_headers;         // (431 beyond)
  size_t max_body;              // bytes (413 beyond)
  unsigned max_connections;     // in all; beyond it a new one gets 503 and is closed
  unsigned max_per_peer;        // connections per address
  int64_t head_deadline_ms;     // from the first byte of a request to the end of its head (408)
  int64_t body_deadline_ms;     // from the end of the head to the end of the body (408)
  int64_t idle_timeout_ms;      // keep-alive without a request
  int64_t write_timeout_ms;     // without the peer taking a byte of a response
  size_t stream_high_water;     // bytes queued on one stream before bq_http_stream_write says to wait
} bq_http_options;

typedef struct bq_http_handler {
  // The head is parsed and valid. The handler answers now or later, or asks for the body first.
  void (*on_request)(void *arg, bq_http_exchange *x);
  void *arg;
} bq_http_handler;

// Sensible figures for every field but `listen`.
void bq_http_options_default(bq_http_options *options);

int bq_http_server_new(bq_http_server **out, bq_loop *loop, const bq_http_options *options,
                       const bq_http_handler *handler, bq_error *err) BQ_MUSTCHECK;
const char *bq_http_server_address(const bq_http_server *server); // "127.0.0.1:34567", the port really bound
void bq_http_server_stop_accepting(bq_http_server *server);       // closes idle connections, lets exchanges end
// Ends all; on_close is called for each open exchange. Not from inside a callback of this server. NULL is fine.
void bq_http_server_free(bq_http_server *server);

typedef struct bq_http_stats {
  unsigned connections;  // open now
  uint64_t accepted;     // since start
  uint64_t requests;     // since start
  uint64_t refused;      // connections over a limit
  uint64_t bad_requests; // answered 4xx by the codec itself
} bq_http_stats;
void bq_http_server_get_stats(const bq_http_server *server, bq_http_stats *out);

// The request. Strings are borrowed, valid as long as the exchange.
const char *bq_http_method(const bq_http_exchange *x);
const char *bq_http_path(const bq_http_exchange *x);  // percent-decoded, "/builds/x"; never has NUL or ".." segments
const char *bq_http_query(const bq_http_exchange *x); // raw, without "?"; "" when absent
const char *bq_http_get_header(const bq_http_exchange *x, const char *name); // any case; NULL when absent
size_t bq_http_header_count(const bq_http_exchange *x);
bq_http_header bq_http_header_at(const bq_http_exchange *x, size_t index);
// Keeps what the functions above read until bq_http_release_request, also past the exchange's end. NULL is fine there.
const bq_http_exchange *bq_http_retain_request(bq_http_exchange *x);
void bq_http_release_request(const bq_http_exchange *x);
const char *bq_http_peer(const bq_http_exchange *x); // the peer's address as text
// X-Request-Id where it is well formed (letters, digits, "._:-", 128 at most), else one that is made at the first call.
enum { BQ_HTTP_REQUEST_ID_BYTES = 128 };
const char *bq_http_request_id(bq_http_exchange *x);

// What the handler hangs on the exchange; `on_close` is called once if the peer goes away (or the server ends) before
// the response is complete, and never after it is complete.
void bq_http_set_context(bq_http_exchange *x, void *context, void (*on_close)(void *context));
void *bq_http_context(const bq_http_exchange *x);

// Collects the body, then calls `done` with it (length 0 when there is none). Over max_body the server answers 413
// itself and calls on_close. Sends 100-continue when it was asked for.
void bq_http_read_body(bq_http_exchange *x, void (*done)(void *arg, bq_http_exchange *x, const char *body,
                                                         size_t length), void *arg);

// The whole response. Content-Length, Transfer-Encoding, Date and Connection are the server's, and left out when given;
// HEAD, 204 and 304 send no body. Bytes are copied. A header with a line break makes the answer a 500 without any of
// them.
void bq_http_respond(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count,
                     const void *body, size_t length);

// A file (sendfile). Takes ownership of `fd`. Handles Range, If-Range, If-None-Match against `etag` (quoted, strong)
// and answers 200, 206, 304 or 416 accordingly (RFC 9110 sections 13 and 14).
void bq_http_respond_file(bq_http_exchange *x, int fd, off_t size, const char *etag, const bq_http_header *headers,
                          size_t header_count);

// A response of unknown length (chunked; to HTTP/1.0 until close). The head goes out at once. A peer that ends its side
// in the middle of a stream is taken for gone (on_close). After HEAD there is nothing to stream: unless it was ended by
// then, on_close is called on the next turn of the loop.
void bq_http_stream_begin(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count);
// The same with a body of `length` bytes (Content-Length). What is written beyond is dropped; a stream that is ended
// before is aborted.
void bq_http_stream_begin_sized(bq_http_exchange *x, int status, const bq_http_header *headers, size_t header_count,
                                int64_t length);
// Queues bytes; none is nothing. Returns 1 when the high-water mark is reached: write no more until `on_drain`, which
// is called once for each such 1, when half of the mark or less is left.
int bq_http_stream_write(bq_http_exchange *x, const void *bytes, size_t length);
void bq_http_stream_on_drain(bq_http_exchange *x, void (*on_drain)(void *context)); // context of bq_http_set_context
void bq_http_stream_end(bq_http_exchange *x);
// Ends a stream that is not whole, so that the peer sees it (RFC 9112, section 8): what is queued is still sent, then the
// connection ends without the last chunk; to HTTP/1.0, where an end is an end, it is reset.
void bq_http_stream_abort(bq_http_exchange *x);

#endif
