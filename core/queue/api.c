#include "queue/api.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "lua/errors.h"
#include "queue/api_request.h"
#include "queue/api_stream.h"

struct bq_api {
  bq_api_options options;
  char *address; // owned; as bound
  bq_api_stats stats;
  bq_api_requests requests;
};

// One request in a handler. Lives until the handler has ended, even when the peer is gone.
typedef struct call {
  bq_api *api;
  bq_http_exchange *x;   // NULL once the peer is gone or the response was handed over
  bq_handlers *handlers; // retained
  bq_fiber *fiber;       // the handler's, while it runs
  int started;           // the handler runs: its end finishes the call
  bq_api_request request;
  bq_api_response response;
  bq_api_stream stream;  // of a response that a producer writes
  int streaming;         // that response has begun
} call;

int bq_api_new(bq_api **out, const bq_api_options *options, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the API");
  (*out)->options = *options;
  return 0;
}

void bq_api_free(bq_api *api) {
  if (api == NULL) return;
  bq_free(api->address);
  bq_free(api);
}

void bq_api_set_config(bq_api *api, const bq_config *config) {
  api->options.config = config;
}

void bq_api_set_address(bq_api *api, const char *address) {
  bq_free(api->address);
  api->address = bq_strdup(address);
}

void bq_api_get_stats(const bq_api *api, bq_api_stats *out) {
  *out = api->stats;
}

static const char *reason_of(int status) {
  switch (status) {
  case 400: return "Bad Request";
  case 403: return "Forbidden";
  case 404: return "Not Found";
  case 405: return "Method Not Allowed";
  case 409: return "Conflict";
  case 413: return "Content Too Large";
  case 415: return "Unsupported Media Type";
  case 416: return "Range Not Satisfiable";
  case 422: return "Unprocessable Content";
  case 502: return "Bad Gateway";
  case 503: return "Service Unavailable";
  default: return "Internal Server Error";
  }
}

void bq_api_problem(bq_http_exchange *x, int status, const char *detail, const char *request_id,
                    const bq_http_header *more, size_t more_count) {
  if (request_id == NULL) request_id = bq_http_request_id(x);
  json_t *body = json_pack("{s:s, s:s, s:i, s:s*, s:s*}", "type", "about:blank", "title", reason_of(status), "status",
                           status, "detail", detail, "requestId", request_id);
  char *text = body != NULL ? bq_json_dumps(body, JSON_COMPACT) : NULL;
  json_decref(body);
  bq_http_header headers[8] = {{"Content-Type", "application/problem+json"}};
  size_t count = 1;
  headers[count++] = (bq_http_header){"X-Request-Id", request_id};
  if (status == 503) headers[count++] = (bq_http_header){"Retry-After", "2"};
  for (size_t i = 0; i < more_count && count < sizeof headers / sizeof headers[0]; i++) headers[count++] = more[i];
  const char *sent = text != NULL ? text : "{}";
  bq_http_respond(x, status, headers, count, sent, strlen(sent));
  bq_free(text);
}

// Before the handler ----------------------------------------------------------------------------------------------

// The port of "host:port" or "[::1]:port", with its colon; "" when there is none.
static const char *port_of(const char *address) {
  const char *colon = strrchr(address, ':');
  const char *bracket = strrchr(address, ']');
  return colon != NULL && (bracket == NULL || colon > bracket) ? colon : "";
}

static int same_host(const char *host, const char *name, const char *port) {
  size_t length = strlen(name);
  if (strncasecmp(host, name, length) != 0) return 0;
  const char *rest = host + length;
  // AllowedHosts names hosts; a port behind one is the port of whatever stands before this server.
  return *rest == '\0' || strcmp(rest, port) == 0 || (*rest == ':' && strspn(rest + 1, "0123456789") == strlen(rest + 1));
}

// DNS rebinding gives a stranger's page this server's address under another name: only known names are served.
static int host_is_known(const bq_api *api, const char *host) {
  if (api->address == NULL) return 0;
  if (strcasecmp(host, api->address) == 0) return 1;
  const char *port = port_of(api->address);
  size_t name_length = strlen(api->address) - strlen(port);
  // The default port may be left out by a client.
  if (strcmp(port, ":80") == 0 && strlen(host) == name_length && strncasecmp(host, api->address, name_length) == 0) {
    return 1;
  }
  char local[32];
  (void)snprintf(local, sizeof local, "localhost%s", port);
  if (strcasecmp(host, local) == 0) return 1;
  for (char *const *name = api->options.config->allowed_hosts; name != NULL && *name != NULL; name++) {
    if (same_host(host, *name, port)) return 1;
  }
  return 0;
}

static int origin_is_own(const char *origin, const char *host) {
  const char *rest = strstr(origin, "://");
  return rest != NULL && strcasecmp(rest + 3, host) == 0;
}

static int is_type(const char *type, const char *wanted) {
  size_t length = strlen(wanted);
  if (type == NULL || strncasecmp(type, wanted, length) != 0) return 0;
  return type[length] == '\0' || type[length] == ';' || type[length] == ' ';
}

static int is_write(const char *method) {
  return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
}

// Answers and returns 0 when the request may not pass.
static int has_known_host(const bq_api *api, bq_http_exchange *x, const char *request_id) {
  const char *host = bq_http_get_header(x, "Host");
  if (host != NULL && host_is_known(api, host)) return 1;
  bq_api_problem(x, 403, "the Host header names neither the listen address nor one of BuildQueue.AllowedHosts",
                 request_id, NULL, 0);
  return 0;
}

// Likewise. A form comes from wherever a mail is read: what it may do is in its token, so that another page in the same
// browser, without one, gains nothing. All others come from here, and with a type that no page sends without asking.
static int may_pass(bq_http_exchange *x, int takes_form, const char *request_id) {
  const char *type = bq_http_get_header(x, "Content-Type");
  const char *origin = bq_http_get_header(x, "Origin");
  if (takes_form) {
    int is_form = is_type(type, "application/x-www-form-urlencoded") || is_type(type, "multipart/form-data");
    if (!is_write(bq_http_method(x)) || is_form) return 1;
    bq_api_problem(x, 415, "this path takes application/x-www-form-urlencoded or multipart/form-data", request_id, NULL,
                   0);
    return 0;
  }
  if (origin != NULL && !origin_is_own(origin, bq_http_get_header(x, "Host"))) {
    bq_api_problem(x, 403, "requests from another origin are refused", request_id, NULL, 0);
    return 0;
  }
  if (is_write(bq_http_method(x)) && !is_type(type, "application/json")) {
    bq_api_problem(x, 415, "a request that changes something has Content-Type: application/json", request_id, NULL, 0);
    return 0;
  }
  return 1;
}

// After the handler -----------------------------------------------------------------------------------------------

// Requests that change something, and those that failed, are worth a line; the others when somebody looks closely.
static void log_request(const call *c, int status) {
  char text[16];
  const char *method = bq_http_method(c->x);
  int quiet = status < 500 && (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0);
  if (!bq_log_enabled(quiet ? BQ_DEBUG : BQ_INFO)) return;
  (void)snprintf(text, sizeof text, "%d", status);
  bq_log(quiet ? BQ_DEBUG : BQ_INFO, "request", "request", c->request.id, "method", method, "path",
         bq_http_path(c->x), "status", text, NULL);
}

static void finish_call(call *c) {
  c->api->stats.active--;
  bq_api_request_end(&c->request);
  bq_handlers_release(c->handlers);
  bq_api_response_free(&c->response);
  bq_free(c);
}

static void log_failure(const call *c, const char *message) {
  bq_log(BQ_ERROR, "a route failed", "request", c->request.id, "method", bq_http_method(c->x), "path",
         bq_http_path(c->x), "error", message, NULL);
}

static void fail_call(call *c, const char *message) {
  c->api->stats.failed++;
  if (c->x == NULL) return;
  log_failure(c, message);
  bq_http_set_context(c->x, NULL, NULL);
  bq_api_problem(c->x, 500, "the server failed to answer; its log says why under this request id", c->request.id, NULL,
                 0);
}

// Returns the count. The strings are the call's.
static size_t collect_headers(const call *c, bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 1]) {
  size_t count = 0;
  headers[count++] = (bq_http_header){"X-Request-Id", c->request.id};
  const char *text = c->response.headers.data;
  for (size_t i = 0; i < c->response.header_count; i++) {
    const char *name = text;
    const char *value = name + strlen(name) + 1;
    headers[count++] = (bq_http_header){name, value};
    text = value + strlen(value) + 1;
  }
  return count;
}

static void send_response(call *c) {
  const bq_api_response *response = &c->response;
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 1];
  size_t count = collect_headers(c, headers);
  bq_http_exchange *x = c->x;
  log_request(c, response->kind == BQ_RESPONSE_BODY ? response->status : 200);
  bq_http_set_context(x, NULL, NULL);
  if (response->kind == BQ_RESPONSE_BODY) {
    bq_http_respond(x, response->status, headers, count, response->body.data, response->body.length);
  } else {
    const bq_api_streams *streams = &c->api->options.streams;
    streams->send(streams->arg, x, response, headers, count);
  }
}

// The head has gone out: a failure can only cut the body short.
static void end_stream(call *c, bq_end end, lua_State *L) {
  char line[BQ_LINE_SIZE] = "";
  if (end != BQ_END_RETURNED) bq_lua_error_line(L, -1, bq_fiber_where(c->fiber), line, sizeof line);
  bq_api_stream_close(L, &c->stream);
  if (c->x != NULL) {
    if (end != BQ_END_RETURNED) {
      c->api->stats.failed++;
      log_failure(c, line);
    }
    bq_http_set_context(c->x, NULL, NULL);
    if (end == BQ_END_RETURNED) bq_http_stream_end(c->x);
    else bq_http_stream_abort(c->x);
  }
  if (end == BQ_END_KILLED) c->api->options.spoiled(c->api->options.arg, c->handlers);
}

static void on_call_end(void *arg, bq_end end, lua_State *L) {
  call *c = arg;
  c->api->stats.handled++;
  if (c->streaming) {
    end_stream(c, end, L);
    finish_call(c);
    return;
  }
  char line[BQ_LINE_SIZE];
  if (end == BQ_END_KILLED) {
    bq_lua_error_line(L, -1, bq_fiber_where(c->fiber), line, sizeof line);
    fail_call(c, line);
    c->api->options.spoiled(c->api->options.arg, c->handlers);
  } else if (end == BQ_END_ERROR) {
    int code = bq_lua_error_code(L, -1);
    if ((code == BQ_EUNAVAIL || code == BQ_EUNKNOWN) && c->x != NULL) {
      bq_http_set_context(c->x, NULL, NULL);
      bq_api_problem(c->x, 503, "the database can't be reached now; try again", c->request.id, NULL, 0);
    } else {
      bq_lua_error_line(L, -1, bq_fiber_where(c->fiber), line, sizeof line);
      fail_call(c, line);
    }
  } else if (c->x != NULL) {
    send_response(c);
  }
  finish_call(c);
}

// The fiber's function, called with the call as a light userdata: everything that can raise happens in here, under the
// vm's budgets.
static void on_stream_drain(void *context) {
  bq_api_stream_wake(&((call *)context)->stream);
}

static int producer_done(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 0;
}

static int read_result(lua_State *L, int status, lua_KContext context) {
  (void)status;
  call *c = (call *)context;
  int result = lua_gettop(L);
  bq_api_response_read(L, result, c->request.id, &c->response);
  if (c->response.kind != BQ_RESPONSE_STREAM || c->x == NULL) return 0;
  (void)lua_rawgeti(L, result, 3);
  bq_api_stream_push(L, &c->stream);
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 1];
  size_t count = collect_headers(c, headers);
  c->streaming = 1;
  c->stream.x = c->x;
  bq_http_stream_begin(c->x, c->response.status, headers, count);
  bq_http_stream_on_drain(c->x, on_stream_drain);
  lua_callk(L, 1, 0, context, producer_done);
  return 0;
}

static int run_route(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  if (c->x == NULL) return 0; // the peer went away before its turn
  bq_api_request_push(L, &c->api->requests, &c->request); // stays here: the handler may drop its own
  int request = lua_gettop(L);
  bq_handlers_push(c->handlers, L, c->request.match.handler);
  lua_pushvalue(L, request);
  lua_callk(L, 1, 1, (lua_KContext)c, read_result);
  return read_result(L, LUA_OK, (lua_KContext)c);
}

static void on_peer_gone(void *context) {
  call *c = context;
  c->x = NULL;
  c->stream.x = NULL;
  bq_api_stream_wake(&c->stream);
  if (!c->started) finish_call(c);
}

static void run_call(void *arg, bq_http_exchange *x, const char *body, size_t length) {
  (void)x;
  call *c = arg;
  bq_error err;
  c->started = 1;
  c->request.body = length > 0 ? bq_strndup(body, length) : NULL;
  c->request.body_length = length;
  if (c->request.body != NULL || length == 0) {
    lua_State *L = bq_vm_state(bq_handlers_vm(c->handlers));
    lua_pushcfunction(L, run_route);
    lua_pushlightuserdata(L, c);
    if (bq_fiber_start(&c->fiber, bq_handlers_vm(c->handlers), L, 1, on_call_end, c, &err) == 0) return;
  } else {
    (void)bq_fail(&err, BQ_ENOMEM, "out of memory for a request");
  }
  fail_call(c, err.message);
  finish_call(c);
}

void bq_api_on_request(void *arg, bq_http_exchange *x) {
  bq_api *api = arg;
  bq_handlers *handlers = api->options.handlers(api->options.arg);
  call *c = bq_alloc(sizeof *c);
  if (c == NULL || handlers == NULL) {
    bq_free(c);
    const char *why = handlers == NULL ? "the server has no routes yet" : "out of memory for a request";
    bq_api_problem(x, 503, why, NULL, NULL, 0);
    return;
  }
  c->api = api;
  c->x = x;
  c->request.http = bq_http_retain_request(x);
  c->handlers = bq_handlers_retain(handlers);
  api->stats.active++;
  const char *id = bq_http_request_id(x);
  memcpy(c->request.id, id, strlen(id) + 1);
  if (has_known_host(api, x, c->request.id)) {
    bq_route_outcome outcome =
        bq_router_match(bq_handlers_router(handlers), bq_http_method(x), bq_http_path(x), &c->request.match);
    int takes_form = outcome == BQ_ROUTE_FOUND && bq_handlers_takes_form(handlers, c->request.match.handler);
    const bq_http_header allow = {"Allow", c->request.match.allow};
    if (outcome == BQ_ROUTE_NO_PATH) {
      bq_api_problem(x, 404, "there is nothing at this path", c->request.id, NULL, 0);
    } else if (outcome == BQ_ROUTE_NO_METHOD) {
      bq_api_problem(x, 405, "this path has no such method; the Allow header names those it has", c->request.id,
                     &allow, 1);
    } else if (may_pass(x, takes_form, c->request.id)) {
      bq_http_set_context(x, c, on_peer_gone);
      bq_http_read_body(x, run_call, c);
      return;
    }
  }
  finish_call(c);
}
