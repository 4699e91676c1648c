#include "lua/lib_http.h"

#include <ctype.h>
#include <lauxlib.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"
#include "lua/modules.h"
#include "lua/arguments.h"
#include "lua/errors.h"

enum {
  MAX_BODY_BYTES = 8 * 1024 * 1024,      // sent
  ANSWER_BYTES = 1024 * 1024,            // received, unless max_bytes says otherwise
  MAX_ANSWER_BYTES = 64 * 1024 * 1024,
  MAX_ANSWER_HEADER_BYTES = 256 * 1024,
  MAX_HEADERS = 100,
  TIMEOUT_S = 30,
  MAX_TIMEOUT_S = 600
};

typedef struct http_op {
  bq_op op;
  bq_curl *curl;             // borrowed
  CURL *easy;                // owned
  struct curl_slist *headers; // owned
  char *body;                // owned or NULL
  bq_buf answer;             // the answer's body
  size_t max_bytes;          // of it
  int over;                  // max_bytes was reached
  bq_buf answer_headers;     // "name: value\n" lines, names in lower case, of the last response
  CURLcode code;
  char curl_error[CURL_ERROR_SIZE];
  bq_error error;            // it could not be started
  bq_stand_in *stand_in;     // borrowed; of `buildq test`, else NULL
  bq_ask ask;                // to it …
  int asked;                 // … which has not answered yet
  json_t *request;           // owned; what it is asked, NULL without a stand-in
  long pretended;            // the status it answered with; 0: none
} http_op;

static size_t on_body(char *bytes, size_t size, size_t count, void *arg) {
  http_op *http = arg;
  size_t length = size * count;
  if (http->answer.length + length > http->max_bytes) {
    http->over = 1;
    return 0; // libcurl ends the transfer
  }
  bq_buf_add(&http->answer, bytes, length);
  return http->answer.failed ? 0 : length;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *arg) {
  http_op *http = arg;
  size_t length = size * count;
  if (length >= 5 && memcmp(bytes, "HTTP/", 5) == 0) bq_buf_clear(&http->answer_headers); // after a 100 or a proxy's
  const char *colon = memchr(bytes, ':', length);
  if (colon == NULL || http->answer_headers.length + length > MAX_ANSWER_HEADER_BYTES) return length;
  for (const char *c = bytes; c < colon; c++) bq_buf_addc(&http->answer_headers, (char)tolower((unsigned char)*c));
  while (length > 0 && (bytes[length - 1] == '\r' || bytes[length - 1] == '\n')) length--;
  bq_buf_add(&http->answer_headers, colon, (size_t)(bytes + length - colon));
  bq_buf_addc(&http->answer_headers, '\n');
  return size * count;
}

static long status_of(const http_op *http) {
  long status = http->pretended;
  if (status == 0) (void)curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

// What a recorded request is answered with later.
static void tell_stand_in(const http_op *http) {
  json_t *headers = json_object();
  for (const char *line = http->answer_headers.data; line != NULL && *line != '\0'; line = strchr(line, '\n') + 1) {
    const char *colon = strchr(line, ':');
    const char *value = colon + 1 + strspn(colon + 1, " ");
    char *name = bq_strndup(line, (size_t)(colon - line));
    if (name != NULL) {
      (void)json_object_set_new(headers, name, json_stringn(value, strcspn(value, "\n")));
    }
    bq_free(name);
  }
  const char *body = http->answer.data != NULL ? http->answer.data : "";
  json_t *result = json_pack("{s:i, s:o, s:o}", "status", (int)status_of(http), "headers", headers, "body",
                             bq_answer_from_bytes(body, http->answer.length));
  http->stand_in->tell(http->stand_in, &http->ask, http->code == CURLE_OK ? result : NULL);
  json_decref(result);
}

static void on_done(void *arg, CURL *easy, CURLcode code) {
  (void)easy;
  http_op *http = arg;
  http->code = code;
  if (http->stand_in != NULL) tell_stand_in(http);
  bq_op_complete(&http->op);
}

static void send_it(http_op *http) {
  if (bq_curl_start(http->curl, http->easy, on_done, http, &http->error) == 0) return;
  if (http->stand_in != NULL) http->stand_in->tell(http->stand_in, &http->ask, NULL);
  bq_op_complete(&http->op);
}

// Takes what the answer says as the peer's.
static void pretend(http_op *http, const json_t *answer) {
  const char *name;
  json_t *value;
  const json_t *body = json_object_get(answer, "body");
  http->pretended = (long)json_integer_value(json_object_get(answer, "status"));
  if (http->pretended == 0) http->pretended = 200;
  json_object_foreach(json_object_get(answer, "headers"), name, value) {
    char *line = bq_format("%s: %s", name, json_string_value(value) != NULL ? json_string_value(value) : "");
    if (line != NULL) (void)on_header(line, 1, strlen(line), http);
    bq_free(line);
  }
  bq_buf bytes = {0};
  bq_answer_bytes(body, &bytes);
  if (bytes.length > 0 && on_body(bytes.data, 1, bytes.length, http) != bytes.length) http->code = CURLE_WRITE_ERROR;
  bq_buf_free(&bytes);
}

static void on_answer(bq_ask *ask, const json_t *answer) {
  http_op *http = (http_op *)((char *)ask - offsetof(http_op, ask));
  http->asked = 0;
  if (bq_answer_is(answer, "real")) {
    send_it(http);
    return;
  }
  if (bq_answer_error(answer, &http->error) == 0) pretend(http, answer);
  bq_op_complete(&http->op);
}

static void http_start(bq_op *op) {
  http_op *http = (http_op *)op;
  if (http->stand_in == NULL) {
    send_it(http);
    return;
  }
  http->asked = 1;
  http->ask = (bq_ask){.answered = on_answer};
  http->stand_in->ask(http->stand_in, &http->ask, "http", http->request);
}

static void http_cancel(bq_op *op) {
  http_op *http = (http_op *)op;
  if (!http->asked) {
    bq_curl_cancel(http->curl, http->easy);
    return;
  }
  http->stand_in->forget(http->stand_in, &http->ask);
  http->code = CURLE_ABORTED_BY_CALLBACK;
  bq_op_complete(op);
}

static void push_headers(lua_State *L, const char *lines) {
  lua_newtable(L);
  while (lines != NULL && *lines != '\0') {
    size_t length = strcspn(lines, "\n");
    const char *colon = memchr(lines, ':', length);
    const char *value = colon + 1;
    while (*value == ' ' || *value == '\t') value++;
    lua_pushlstring(L, lines, (size_t)(colon - lines));
    lua_pushlstring(L, value, (size_t)(lines + length - value));
    lua_pushvalue(L, -2);
    if (lua_rawget(L, -4) == LUA_TSTRING) { // a repeated field: one list (RFC 9110, section 5.2)
      lua_pushliteral(L, ", ");
      lua_rotate(L, -3, 2);
      lua_concat(L, 3);
    } else {
      lua_pop(L, 1);
    }
    lua_rawset(L, -3);
    lines += length + 1;
  }
}

// The word for a libcurl failure in the scripts' vocabulary of errors.
static int code_of(const http_op *http) {
  if (http->over) return BQ_ELIMIT;
  switch (http->code) {
  case CURLE_OPERATION_TIMEDOUT: return BQ_ETIMEOUT;
  case CURLE_ABORTED_BY_CALLBACK: return BQ_ECANCELED;
  case CURLE_URL_MALFORMAT:
  case CURLE_UNSUPPORTED_PROTOCOL: return BQ_EINVAL;
  case CURLE_OUT_OF_MEMORY: return BQ_ENOMEM;
  default: return BQ_EUNAVAIL;
  }
}

static int http_push(bq_op *op, lua_State *L) {
  http_op *http = (http_op *)op;
  if (http->error.code != 0) {
    bq_lua_push_error(L, &http->error);
    return -1;
  }
  if (http->code != CURLE_OK) {
    if (http->over) {
      (void)bq_fail(&http->error, BQ_ELIMIT, "http.request: the answer is larger than %zu bytes (max_bytes)",
                    http->max_bytes);
    } else {
      (void)bq_fail(&http->error, code_of(http), "http.request: %s",
                    http->curl_error[0] != '\0' ? http->curl_error : curl_easy_strerror(http->code));
    }
    bq_lua_push_error(L, &http->error);
    return -1;
  }
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, status_of(http));
  lua_setfield(L, -2, "status");
  push_headers(L, http->answer_headers.data);
  lua_setfield(L, -2, "headers");
  lua_pushlstring(L, http->answer.data != NULL ? http->answer.data : "", http->answer.length);
  lua_setfield(L, -2, "body");
  return 1;
}

static void http_release(bq_op *op) {
  http_op *http = (http_op *)op;
  if (http->easy != NULL) curl_easy_cleanup(http->easy);
  curl_slist_free_all(http->headers);
  json_decref(http->request);
  bq_free(http->body);
  bq_buf_free(&http->answer);
  bq_buf_free(&http->answer_headers);
  bq_free(http);
}

// 0: they are not right, or (with *whole 0) there is no memory for them.
static int add_headers(lua_State *L, int table, http_op *http, int *whole) {
  int count = 0;
  lua_pushnil(L);
  while (lua_next(L, table) != 0) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    const char *value = lua_tostring(L, -1);
    if (name == NULL || value == NULL || strpbrk(name, "\r\n:") != NULL || strpbrk(value, "\r\n") != NULL) return 0;
    char *line = value[0] != '\0' ? bq_format("%s: %s", name, value) : bq_format("%s;", name);
    struct curl_slist *grown = line != NULL ? curl_slist_append(http->headers, line) : NULL;
    bq_free(line);
    *whole = grown != NULL;
    if (grown == NULL || ++count > MAX_HEADERS) return 0;
    http->headers = grown;
    lua_pop(L, 1);
  }
  return 1;
}

// Sets up everything that can't fail for reasons of the arguments.
static CURLcode set_options(http_op *http, const char *url, const char *method, size_t body_length, double timeout_s) {
  CURL *easy = http->easy;
  CURLcode code = CURLE_OK;
  BQ_CURL_SET(code, easy, CURLOPT_URL, url);
  BQ_CURL_SET(code, easy, CURLOPT_PROTOCOLS_STR, "http,https");
  BQ_CURL_SET(code, easy, CURLOPT_NOSIGNAL, 1L);
  BQ_CURL_SET(code, easy, CURLOPT_TIMEOUT_MS, (long)(timeout_s * 1000));
  BQ_CURL_SET(code, easy, CURLOPT_HTTPHEADER, http->headers);
  BQ_CURL_SET(code, easy, CURLOPT_ERRORBUFFER, http->curl_error);
  BQ_CURL_SET(code, easy, CURLOPT_WRITEFUNCTION, on_body);
  BQ_CURL_SET(code, easy, CURLOPT_WRITEDATA, http);
  BQ_CURL_SET(code, easy, CURLOPT_HEADERFUNCTION, on_header);
  BQ_CURL_SET(code, easy, CURLOPT_HEADERDATA, http);
  if (http->body != NULL) {
    BQ_CURL_SET(code, easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_length);
    BQ_CURL_SET(code, easy, CURLOPT_POSTFIELDS, http->body);
  }
  if (strcmp(method, "HEAD") == 0) BQ_CURL_SET(code, easy, CURLOPT_NOBODY, 1L);
  else BQ_CURL_SET(code, easy, CURLOPT_CUSTOMREQUEST, method);
  return code;
}

static void describe(http_op *http, const char *url, const char *method, const char *body, size_t length) {
  json_t *headers = json_array();
  for (const struct curl_slist *header = http->headers; header != NULL; header = header->next) {
    (void)json_array_append_new(headers, json_string(header->data));
  }
  http->request = json_pack("{s:s, s:s, s:o, s:o*}", "url", url, "method", method, "headers", headers, "body",
                            body != NULL ? bq_answer_from_bytes(body, length) : NULL);
}

static int http_request(lua_State *L) {
  static const char *const options[] = {"url", "method", "headers", "body", "timeout", "max_bytes", NULL};
  bq_args_options(L, 1, "http.request", options, "http.request {url = \"https://example.org\"}");
  lua_settop(L, 1);
  size_t body_length = 0;
  lua_getfield(L, 1, "url");
  const char *url = bq_args_string(L, 2, "http.request", "url", NULL);
  lua_getfield(L, 1, "method");
  const char *method = luaL_optstring(L, 3, "GET");
  lua_getfield(L, 1, "body");
  const char *body = luaL_optlstring(L, 4, NULL, &body_length);
  lua_getfield(L, 1, "timeout");
  double timeout_s = luaL_optnumber(L, 5, TIMEOUT_S);
  lua_getfield(L, 1, "max_bytes");
  lua_Integer max_bytes = luaL_optinteger(L, 6, ANSWER_BYTES);
  lua_getfield(L, 1, "headers");
  if (!(timeout_s > 0 && timeout_s <= MAX_TIMEOUT_S)) return luaL_error(L, "http.request: timeout is at most 600 s");
  if (max_bytes < 0 || max_bytes > MAX_ANSWER_BYTES) return luaL_error(L, "http.request: max_bytes is at most 64 MiB");
  if (body_length > MAX_BODY_BYTES) return luaL_error(L, "http.request: body is at most 8 MiB");
  if (strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != strlen(method)) {
    return luaL_error(L, "http.request: method is a word in capitals");
  }
  http_op *http = bq_alloc(sizeof *http);
  if (http == NULL) return luaL_error(L, "out of memory");
  http->op = (bq_op){.start = http_start, .cancel = http_cancel, .push = http_push, .release = http_release};
  http->curl = bq_script_services(L)->http;
  http->max_bytes = (size_t)max_bytes;
  http->easy = curl_easy_init();
  if (body != NULL) http->body = bq_strndup(body, body_length);
  int whole = http->easy != NULL && (body == NULL || http->body != NULL);
  int fits = !whole || !lua_istable(L, 7) || add_headers(L, 7, http, &whole);
  if (!whole) {
    http_release(&http->op);
    return bq_lua_raise(L, BQ_ENOMEM, "out of memory for http.request");
  }
  if (!fits) {
    http_release(&http->op);
    return luaL_error(L, "http.request: headers are at most 100 pairs of strings without line breaks");
  }
  if (set_options(http, url, method, body_length, timeout_s) != CURLE_OK) {
    http_release(&http->op);
    return bq_lua_raise(L, BQ_ENOMEM, "out of memory for http.request");
  }
  http->stand_in = bq_script_services(L)->stand_in;
  if (http->stand_in != NULL) describe(http, url, method, body, body_length);
  return bq_op_yield(L, &http->op);
}

int bq_lua_open_http(lua_State *L) {
  static const luaL_Reg functions[] = {{"request", http_request}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
