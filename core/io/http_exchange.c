// What a handler can ask of a request.
#include <string.h>
#include <strings.h>

#include "io/http_internal.h"

const char *bq_http_method(const bq_http_exchange *x) {
  return x->bytes + x->head.method.at;
}

const char *bq_http_path(const bq_http_exchange *x) {
  return x->path;
}

const char *bq_http_query(const bq_http_exchange *x) {
  return x->head.query.length > 0 ? x->bytes + x->head.query.at : "";
}

size_t bq_http_header_count(const bq_http_exchange *x) {
  return x->head.header_count;
}

bq_http_header bq_http_header_at(const bq_http_exchange *x, size_t index) {
  return (bq_http_header){x->bytes + x->head.names[index].at, x->bytes + x->head.values[index].at};
}

const char *bq_http_get_header(const bq_http_exchange *x, const char *name) {
  for (size_t i = 0; i < x->head.header_count; i++) {
    if (strcasecmp(x->bytes + x->head.names[i].at, name) == 0) return x->bytes + x->head.values[i].at;
  }
  return NULL;
}

const char *bq_http_peer(const bq_http_exchange *x) {
  return x->connection->peer;
}

void bq_http_set_context(bq_http_exchange *x, void *context, void (*on_close)(void *context)) {
  x->context = context;
  x->on_close = on_close;
}

void *bq_http_context(const bq_http_exchange *x) {
  return x->context;
}
