// Responses from files: conditions, ranges, sendfile.
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "io/http_internal.h"
#include "io/http_range.h"

enum { MAX_HEADERS = 64 };

// What describes the file (Content-Type, Content-Disposition, …) does not describe an error's body.
static size_t without_content(const bq_http_header *headers, size_t count, bq_http_header *out) {
  size_t kept = 0;
  for (size_t i = 0; i < count && kept < MAX_HEADERS; i++) {
    if (strncasecmp(headers[i].name, "Content-", 8) != 0) out[kept++] = headers[i];
  }
  return kept;
}

static const char *given_id(const bq_http_header *headers, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (strcasecmp(headers[i].name, "X-Request-Id") == 0) return headers[i].value;
  }
  return NULL;
}

static void refuse_range(bq_http_exchange *x, off_t size, const bq_http_header *headers, size_t header_count) {
  bq_http_header kept[MAX_HEADERS];
  size_t count = without_content(headers, header_count, kept);
  const char *given = given_id(kept, count);
  const char *id = given != NULL ? given : bq_http_request_id(x);
  char range[48];
  char detail[100];
  bq_http_problem problem;
  (void)snprintf(range, sizeof range, "bytes */%lld", (long long)size);
  (void)snprintf(detail, sizeof detail, "the file has %lld bytes, and none in that range", (long long)size);
  bq_http_problem_write(&problem, id, 416, detail);
  const bq_http_header own[] = {{"Content-Type", "application/problem+json"}, {"Content-Range", range},
                                {"X-Request-Id", id}};
  (void)bq_http_add_response(x, 416, (bq_http_headers){kept, count}, (bq_http_headers){own, given != NULL ? 2 : 3},
                             (int64_t)problem.length, problem.text);
}

// Queues head and file. Takes ownership of `fd`.
static void send_part(bq_http_exchange *x, int fd, int status, int64_t first, int64_t length,
                      bq_http_headers headers, bq_http_headers own) {
  bq_http_connection *c = x->connection;
  struct evbuffer_file_segment *segment = NULL;
  if (length > 0 && !x->is_head) segment = evbuffer_file_segment_new(fd, first, length, EVBUF_FS_CLOSE_ON_FREE);
  if (segment == NULL) (void)close(fd);
  if (segment == NULL && length > 0 && !x->is_head) {
    bq_http_starve(c); // a head without its body must not go out
    return;
  }
  int has_body = bq_http_add_response(x, status, headers, own, length, NULL);
  if (segment == NULL) return;
  if (has_body && evbuffer_add_file_segment(c->output, segment, 0, length) < 0) {
    bq_http_starve(c); // a call that fails takes our reference with it (libevent 2.1)
    return;
  }
  evbuffer_file_segment_free(segment); // the output has a reference of its own
}

void bq_http_respond_file(bq_http_exchange *x, int fd, off_t size, const char *etag, const bq_http_header *headers,
                          size_t header_count) {
  bq_http_headers given = {headers, header_count};
  bq_http_header own[3] = {{"ETag", etag}, {"Accept-Ranges", "bytes"}};
  char range[80];
  int64_t first = 0;
  int64_t last = size - 1;
  bq_range_kind kind = BQ_RANGE_ALL;
  // Ranges are for GET alone (RFC 9110, section 14.2).
  if (strcmp(bq_http_method(x), "GET") == 0 && bq_http_if_range(bq_http_get_header(x, "If-Range"), etag)) {
    kind = bq_http_range(bq_http_get_header(x, "Range"), size, &first, &last);
  }
  if (bq_http_none_match(bq_http_get_header(x, "If-None-Match"), etag)) {
    (void)close(fd);
    (void)bq_http_add_response(x, 304, given, (bq_http_headers){own, 2}, 0, NULL);
  } else if (kind == BQ_RANGE_UNSATISFIABLE) {
    (void)close(fd);
    refuse_range(x, size, headers, header_count);
  } else if (kind == BQ_RANGE_PART) {
    (void)snprintf(range, sizeof range, "bytes %lld-%lld/%lld", (long long)first, (long long)last, (long long)size);
    own[2] = (bq_http_header){"Content-Range", range};
    send_part(x, fd, 206, first, last - first + 1, given, (bq_http_headers){own, 3});
  } else {
    send_part(x, fd, 200, 0, size, given, (bq_http_headers){own, 2});
  }
  bq_http_finish_exchange(x->connection);
}
