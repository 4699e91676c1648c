// The inside of the HTTP server, shared by http_server.c (listening), http_connection.c (a connection's states),
// http_exchange.c (the request, as handlers see it), http_response.c and http_file.c (the answer), http_problem.c (the
// codec's own errors). Nobody else includes this.
#ifndef BQ_IO_HTTP_INTERNAL_H
#define BQ_IO_HTTP_INTERNAL_H

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>

#include "base/buf.h"
#include "base/uuid.h"
#include "io/http_parser.h"
#include "io/http_server.h"

// A connection's states. All moves go through bq_http_enter, which also sets the state's deadline:
//   IDLE → HEAD (part of a head is there) → HANDLING (it is whole) → BODY (the handler asked for it) → HANDLING
//   IDLE → HANDLING (a head came in one piece)
//   HANDLING → STREAMING (bq_http_stream_begin)
//   HANDLING, STREAMING → IDLE (answered, keep-alive) or FLUSHING (answered, the connection ends)
//   IDLE, HEAD, BODY → FLUSHING (idle for too long; refused)
//   FLUSHING → LINGERING (all bytes are out)
//   any → BROKEN
typedef enum bq_http_state {
  BQ_HTTP_IDLE,      // no byte of a request yet. Deadline: idle_timeout_ms
  BQ_HTTP_HEAD,      // head_deadline_ms
  BQ_HTTP_HANDLING,  // the handler's time: no deadline
  BQ_HTTP_BODY,      // body_deadline_ms
  BQ_HTTP_STREAMING, // no deadline but the bufferevent's write timeout; after HEAD it ends at once
  BQ_HTTP_FLUSHING,  // the last bytes are queued: the write timeout
  BQ_HTTP_LINGERING, // FIN is sent, what still comes is dropped: BQ_HTTP_LINGER_MS
  BQ_HTTP_BROKEN     // the socket or the memory failed: freed when the present call from the loop ends, or on the next
} bq_http_state;

enum {
  BQ_HTTP_LINGER_MS = 2000,
  BQ_HTTP_LINGER_BYTES = 1024 * 1024,    // dropped at most while lingering
  BQ_HTTP_INPUT_BYTES = 64 * 1024,       // read ahead of the parser at most, if a head is not longer
  BQ_HTTP_READ_BYTES = 16 * 1024,        // read at a time
  BQ_HTTP_SEND_BYTES = 2 * 1024,         // a response up to here is sent straight from the stack
  BQ_HTTP_PIPELINE_BYTES = 256 * 1024,   // queued responses at which no further request is begun
  BQ_HTTP_WRITE_BYTES = 256 * 1024,      // written to one peer in one turn of the loop
  BQ_HTTP_RANDOM_BYTES = 128 * BQ_UUID_RANDOM
};

typedef struct bq_http_connection bq_http_connection;

struct bq_http_exchange {
  bq_http_connection *connection; // the first owner
  unsigned references;            // of it, and of those who called bq_http_retain_request
  bq_http_head head;              // offsets into text
  bq_http_field *fields;          // head.field_count; in this allocation
  char *text;                     // the head, with a NUL behind method, query, names and values; in this allocation
  char *path;                     // decoded; in this allocation
  int is_head;                    // the method is HEAD: no body is sent
  int body_pending;               // a body was announced and is not read to its end
  int keep_alive;                 // the connection goes on after the response
  int chunked_response;           // of a stream: framed in chunks; else its end is the connection's, or …
  int sized_response;             // … its length was announced
  int64_t left;                   // bytes of that which are still to be written
  int waiting;                    // the handler was told to wait for on_drain
  char request_id[BQ_HTTP_REQUEST_ID_BYTES + 1]; // "" until somebody asked for it
  bq_buf body;                    // as far as it has come
  bq_dechunk dechunk;
  void (*on_body)(void *arg, bq_http_exchange *x, const char *body, size_t length);
  void *on_body_arg;
  void *context;                  // the handler's
  void (*on_close)(void *context);
  void (*on_drain)(void *context);
};

struct bq_http_connection {
  bq_http_server *server;
  struct bufferevent *bev;        // owned; it writes
  int fd;                         // bev's
  struct event *readable;         // owned; bytes are read by ourselves, most requests straight from the stack
  int reading;                    // that event is set
  struct evbuffer *input;         // owned; what was read and is not dealt with
  struct evbuffer *output;        // bev's
  bq_http_state state;
  bq_http_exchange *exchange;     // owned; from HANDLING to the response's end
  bq_timer *timer;                // owned
  int64_t due_us;                 // monotonic: when the present state has lasted too long; INT64_MAX: never
  int64_t timer_us;               // when the timer runs, not later than due_us; INT64_MAX: it is not set
  int advancing;                  // bq_http_advance is on the stack: it sees to what is left to do
  int writing;                    // the bufferevent waits for the socket to take more
  int peer_closed;                // the peer has ended its side
  size_t dropped;                 // bytes while lingering
  char peer[64];                  // its address, without the port
  bq_http_connection *next;       // the server's list
  bq_http_connection *previous;
  bq_http_parser parser;          // of the next head
};

struct bq_http_server {
  bq_loop *loop;
  bq_http_options options;
  bq_http_limits limits;           // the parser's part of options
  size_t window;                   // bytes after which a head is whole or too long
  size_t read_ahead;               // bytes of input at which no more is read
  bq_http_handler handler;
  struct evconnlistener *listener; // owned; NULL once it stopped accepting
  bq_timer *resume;                // owned; accepts again after descriptors ran out
  char address[80];                // as bound
  bq_http_connection *first;
  bq_http_stats stats;
  int stopping;                    // connections end after their response
  int64_t date_second;             // of date, since 1970
  char date[32];                   // the Date header's value
  unsigned char random[BQ_HTTP_RANDOM_BYTES]; // for request ids: a system call for each would cost as much as a route
  size_t random_left;              // bytes of it that were not used yet
};

// http_connection.c
int bq_http_connection_new(bq_http_server *server, int fd, const char *peer, bq_error *err) BQ_MUSTCHECK;
void bq_http_connection_free(bq_http_connection *c);  // on_close is called when an exchange is open
void bq_http_enter(bq_http_connection *c, bq_http_state state);
void bq_http_starve(bq_http_connection *c);           // no memory for an answer: BROKEN, and the log says so
void bq_http_start_writing(bq_http_connection *c);    // the bufferevent writes from here, turn by turn
void bq_http_advance(bq_http_connection *c);          // does all that can be done now; may free the connection
void bq_http_finish_exchange(bq_http_connection *c);  // the response is queued whole; may free the connection

// http_exchange.c
bq_http_exchange *bq_http_exchange_new(bq_http_connection *c, const char *bytes, size_t length); // NULL: no memory
void bq_http_exchange_release(bq_http_exchange *x);
void bq_http_exchange_abandon(bq_http_connection *c); // ends it unanswered: on_close is called
void bq_http_take_body(bq_http_connection *c);        // in BODY: reads on

// http_response.c
typedef struct bq_http_headers {
  const bq_http_header *items;
  size_t count;
} bq_http_headers;

enum { BQ_HTTP_UNKNOWN_LENGTH = -1 };
// Queues a head and, for small ones, the body behind it. Both lists of headers are sent. `length` is the body's; with
// `body` NULL the caller sends that many bytes itself. Returns whether a body is to follow or has been queued.
int bq_http_add_response(bq_http_exchange *x, int status, bq_http_headers headers, bq_http_headers own, int64_t length,
                         const void *body);
void bq_http_add(bq_http_connection *c, const void *bytes, size_t length); // BROKEN when memory is out
const char *bq_http_reason(int status);

// http_problem.c
typedef struct bq_http_problem {
  char text[512 + BQ_HTTP_REQUEST_ID_BYTES];
  size_t length; // 0: it did not fit
} bq_http_problem;
// `detail` has nothing in it that JSON would escape.
void bq_http_problem_write(bq_http_problem *out, const char *request_id, int status, const char *detail);
void bq_http_refuse(bq_http_connection *c, int status); // answers a broken request; the connection ends behind it
// Writes the whole answer to a connection over a limit; returns its length, 0 when it does not fit.
size_t bq_http_too_many(bq_http_server *server, const char *why, char *out, size_t size); // `why` NULL: the limits

#endif
