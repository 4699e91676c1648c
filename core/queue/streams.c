#include "queue/streams.h"

#include "base/memory.h"

struct bq_streams {
  bq_server *server; // borrowed
  bq_event_hub *hub; // owned
  bq_log_waits *waits; // owned
  bq_passes *passes; // owned
};

int bq_streams_new(bq_streams **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_streams *streams = bq_alloc(sizeof *streams);
  if (streams == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for streams");
  streams->server = server;
  int result = bq_event_hub_new(&streams->hub, server, err);
  if (result == 0) result = bq_log_waits_new(&streams->waits, server->loop, server->store, err);
  if (result == 0) result = bq_passes_new(&streams->passes, server->loop, server->store, &server->url, err);
  if (result < 0) bq_streams_free(streams);
  else *out = streams;
  return result;
}

void bq_streams_free(bq_streams *streams) {
  if (streams == NULL) return;
  bq_event_hub_free(streams->hub);
  bq_log_waits_free(streams->waits);
  bq_passes_free(streams->passes);
  bq_free(streams);
}

void bq_streams_changed(bq_streams *streams, const char *build_id) {
  bq_event_hub_changed(streams->hub, build_id);
  bq_log_waits_changed(streams->waits);
}

void bq_streams_send(void *arg, bq_http_exchange *x, const bq_api_response *response, const bq_http_header *headers,
                     size_t header_count) {
  bq_streams *streams = arg;
  bq_server *server = streams->server;
  switch (response->kind) {
  case BQ_RESPONSE_FILE: bq_file_stream_send(server, streams->passes, x, response, headers, header_count); break;
  case BQ_RESPONSE_LOG:
    bq_log_stream_send(server, streams->passes, streams->waits, x, response, headers, header_count);
    break;
  case BQ_RESPONSE_EVENTS: bq_event_hub_send(streams->hub, x, response, headers, header_count); break;
  case BQ_RESPONSE_BODY:
  case BQ_RESPONSE_STREAM: break; // the API sends these itself
  }
}
