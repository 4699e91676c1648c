// Responses that last: files, logs and events, written by C without a handler or a generation.
//
// Thread rule: loop thread only. Each stream belongs to its exchange: when the peer goes away it ends.
#ifndef BQ_QUEUE_STREAMS_H
#define BQ_QUEUE_STREAMS_H

#include "io/http_server.h"
#include "queue/log_wait.h"
#include "queue/pass.h"
#include "queue/server_internal.h"

// What is on another node comes from there (queue/pass.h).
void bq_file_stream_send(bq_server *server, bq_passes *passes, bq_http_exchange *x, const bq_api_response *response,
                         const bq_http_header *headers, size_t header_count);
void bq_log_stream_send(bq_server *server, bq_passes *passes, bq_log_waits *waits, bq_http_exchange *x,
                        const bq_api_response *response, const bq_http_header *headers, size_t header_count);

// The event streams of one server: what has changed is looked up once for all of them.
typedef struct bq_event_hub bq_event_hub;
int bq_event_hub_new(bq_event_hub **out, bq_server *server, bq_error *err) BQ_MUSTCHECK;
void bq_event_hub_free(bq_event_hub *hub); // after the HTTP server: no stream is left
void bq_event_hub_send(bq_event_hub *hub, bq_http_exchange *x, const bq_api_response *response,
                       const bq_http_header *headers, size_t header_count);
void bq_event_hub_changed(bq_event_hub *hub, const char *build_id); // NULL: anything may have

#endif
