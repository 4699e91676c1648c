// The inside of the HTTP server, shared by http_server.c (listening), http_connection.c (a connection's states),
// http_exchange.c (what handlers ask of a request) and http_response.c (writing). Nobody else includes this.
#ifndef BQ_IO_HTTP_INTERNAL_H
#define BQ_IO_HTTP_INTERNAL_H

#include <event2/buffer.h>
#include <event2/bufferevent.h>

#include "base/buf.h"
#include "io/http_parser.h"
#include "io/http_server.h"

// A connection's states and its moves:
//   HEAD → HANDLING (a head is complete) → BODY (the handler asked for it) → HANDLING → HEAD (answered, keep-alive)
//   HANDLING → STREAMING (bq_http_stream_begin) → HEAD or FLUSHING
//   any → FLUSHING (the last bytes are queued) → LINGERING (FIN sent; what still comes is dropped) → freed
typedef enum bq_http_state {
  BQ_HTTP_HEAD,
  BQ_HTTP_BODY,
  BQ_HTTP_HANDLING,
  BQ_HTTP_STREAMING,
  BQ_HTTP_FLUSHING,
  BQ_HTTP_LINGERING
} bq_http_state;

typedef struct bq_http_connection bq_http_connection;

struct bq_http_exchange {
  bq_http_connection *connection; // the owner
  bq_http_head head;              // offsets into bytes
  char *bytes;                    // owned; the head, with a NUL behind each name and value
  char *path;                     // owned; decoded
  int is_head;                    // the method is HEAD: no body is sent
  int has_body;                   // one was announced
  int body_read;                  // and read to its end, or collected now
  int keep_alive;                 // the connection goes on after the response
  int chunked_response;           // of a stream: framed in chunks; else its end is the connection's
  bq_buf body;                    // of a chunked or slow body
  bq_dechunk dechunk;
  void (*on_body)(void *arg, bq_http_exchange *x, const char *body, size_t length);
  void *on_body_arg;
  void *context;                  // the handler's
  void (*on_close)(void *context);
  void (*on_drain)(void *context);
};

struct bq_http_connection {
  bq_http_server *server;
  struct bufferevent *bev;        // owned
  bq_timer *deadline;             // owned; of the present state
  bq_http_state state;
  bq_http_exchange *exchange;     // owned; NULL in HEAD and after a response
  int processing;                 // bq_http_process is on the stack: don't enter it again
  int head_started;               // the first byte of a head has come: its deadline runs
  int peer_closed;                // the peer has ended its side
  int broken;                     // the socket failed: nothing can be sent
  size_t dropped;                 // bytes read while lingering
  char peer[64];                  // its address, without the port
  bq_http_connection *next;       // the server's list
  bq_http_connection *previous;
};

struct bq_http_server {
  bq_loop *loop;
  bq_http_options options;
  bq_http_handler handler;
  struct evconnlistener *listener; // owned; NULL once it stopped accepting
  bq_timer *resume;                // owned; accepts again after a failure
  char address[80];                // as bound
  bq_http_connection *first;
  bq_http_stats stats;
  int stopping;                    // connections end after their response
  int64_t date_second;             // of date
  char date[40];                   // the Date header's value
};

// http_connection.c
int bq_http_connection_new(bq_http_server *server, int fd, const char *peer, bq_error *err) BQ_MUSTCHECK;
void bq_http_connection_free(bq_http_connection *c); // on_close is called when an exchange is open
void bq_http_process(bq_http_connection *c);         // goes on with what is in the input
void bq_http_finish_exchange(bq_http_connection *c); // the response is queued whole
void bq_http_refuse(bq_http_connection *c, int status); // answers a broken request and ends the connection
const char *bq_http_date(bq_http_server *server);

// http_response.c
const char *bq_http_reason(int status);

#endif
