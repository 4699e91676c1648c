// The request, as handlers see it.
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "io/http_internal.h"

static void terminate(char *text, bq_http_slice slice) {
  text[slice.at + slice.length] = '\0';
}

// One allocation holds the exchange, its fields, the head's text and the decoded path.
bq_http_exchange *bq_http_exchange_new(bq_http_connection *c, const char *bytes, size_t length) {
  const bq_http_parser *p = &c->parser;
  size_t fields_size = p->head.field_count * sizeof p->fields[0];
  bq_http_exchange *x = bq_alloc(sizeof *x + fields_size + length + 1 + p->head.path.length + 2);
  if (x == NULL) return NULL;
  x->connection = c;
  x->references = 1;
  x->head = p->head;
  x->fields = (bq_http_field *)(void *)(x + 1);
  memcpy(x->fields, p->fields, fields_size);
  x->text = (char *)(x->fields + p->head.field_count);
  memcpy(x->text, bytes, length);
  x->path = x->text + length + 1;
  if (bq_http_decode_path(bytes + p->head.path.at, p->head.path.length, x->path) < 0) x->path[0] = '\0';
  // Behind each of these stands a space, a colon, a line's end or the path: nothing that is still wanted.
  terminate(x->text, p->head.method);
  if (p->head.query.length > 0) terminate(x->text, p->head.query);
  for (size_t i = 0; i < p->head.field_count; i++) {
    terminate(x->text, p->fields[i].name);
    terminate(x->text, p->fields[i].value);
  }
  x->is_head = strcmp(bq_http_method(x), "HEAD") == 0;
  x->body_pending = x->head.chunked || x->head.content_length > 0;
  x->keep_alive = x->head.keep_alive;
  return x;
}

void bq_http_exchange_release(bq_http_exchange *x) {
  if (--x->references > 0) return;
  bq_buf_free(&x->body);
  bq_free(x);
}

void bq_http_exchange_abandon(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  c->exchange = NULL;
  if (x == NULL) return;
  if (x->on_close != NULL) x->on_close(x->context);
  bq_http_exchange_release(x);
}

const bq_http_exchange *bq_http_retain_request(bq_http_exchange *x) {
  x->references++;
  return x;
}

void bq_http_release_request(const bq_http_exchange *x) {
  if (x != NULL) bq_http_exchange_release((bq_http_exchange *)(uintptr_t)x);
}

const char *bq_http_method(const bq_http_exchange *x) {
  return x->text + x->head.method.at;
}

const char *bq_http_path(const bq_http_exchange *x) {
  return x->path;
}

const char *bq_http_query(const bq_http_exchange *x) {
  return x->head.query.length > 0 ? x->text + x->head.query.at : "";
}

size_t bq_http_header_count(const bq_http_exchange *x) {
  return x->head.field_count;
}

bq_http_header bq_http_header_at(const bq_http_exchange *x, size_t index) {
  return (bq_http_header){x->text + x->fields[index].name.at, x->text + x->fields[index].value.at};
}

const char *bq_http_get_header(const bq_http_exchange *x, const char *name) {
  size_t length = strlen(name);
  for (size_t i = 0; i < x->head.field_count; i++) {
    if (x->fields[i].name.length != length) continue;
    if (strcasecmp(x->text + x->fields[i].name.at, name) == 0) return x->text + x->fields[i].value.at;
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

// The first piece of the input that lies in one place. Its length is 0 when there is none.
static const char *first_piece(struct evbuffer *input, size_t *length) {
  *length = evbuffer_get_contiguous_space(input);
  return *length > 0 ? (const char *)evbuffer_pullup(input, (ev_ssize_t)*length) : "";
}

// Returns 1 at the body's end, 0 when more must come.
static int take_sized(bq_http_connection *c) {
  bq_buf *body = &c->exchange->body;
  size_t wanted = (size_t)c->exchange->head.content_length;
  size_t length;
  const char *bytes;
  while (body->length < wanted && !body->failed && (bytes = first_piece(c->input, &length), length > 0)) {
    if (length > wanted - body->length) length = wanted - body->length;
    bq_buf_add(body, bytes, length);
    (void)evbuffer_drain(c->input, length);
  }
  return body->length == wanted;
}

// Returns 1 at the body's end, 0 when more must come, or a negative status.
static int take_chunked(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  size_t length;
  const char *bytes;
  int status = 0;
  while (status == 0 && !x->body.failed && (bytes = first_piece(c->input, &length), length > 0)) {
    size_t at = 0;
    while (status == 0 && at < length) {
      size_t consumed;
      const char *data;
      size_t data_length;
      status = bq_http_dechunk(&x->dechunk, c->server->limits.max_body, bytes + at, length - at, &consumed, &data,
                               &data_length);
      at += consumed;
      bq_buf_add(&x->body, data, data_length);
    }
    (void)evbuffer_drain(c->input, at);
  }
  return status;
}

static void hand_body(bq_http_exchange *x) {
  x->body_pending = 0;
  bq_http_enter(x->connection, BQ_HTTP_HANDLING);
  x->on_body(x->on_body_arg, x, x->body.data != NULL ? x->body.data : "", x->body.length);
}

void bq_http_take_body(bq_http_connection *c) {
  bq_http_exchange *x = c->exchange;
  int status = x->head.chunked ? take_chunked(c) : take_sized(c);
  if (x->body.failed) status = -503;
  if (status < 0) bq_http_refuse(c, -status);
  else if (status > 0) hand_body(x);
}

void bq_http_read_body(bq_http_exchange *x, void (*done)(void *arg, bq_http_exchange *x, const char *body,
                                                         size_t length), void *arg) {
  bq_http_connection *c = x->connection;
  x->on_body = done;
  x->on_body_arg = arg;
  if (!x->body_pending) {
    hand_body(x);
    return;
  }
  bq_http_enter(c, BQ_HTTP_BODY);
  if (c->state != BQ_HTTP_BODY) return; // broken: on_close follows
  static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
  if (x->head.expect_continue && evbuffer_get_length(c->input) == 0) bq_http_add(c, go_on, sizeof go_on - 1);
  if (c->advancing) bq_http_take_body(c); // the caller of the handler sees to the rest
  else bq_http_advance(c);
}
