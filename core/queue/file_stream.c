// An artifact of a committed attempt, by sendfile.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/tree.h"
#include "queue/streams.h"

// Opening is file work: it happens on the blocking pool, and the peer may be gone when it is done.
typedef struct file_request {
  bq_task task;
  bq_http_exchange *x; // NULL once the peer is gone
  char *root;          // owned; OutputDirectory
  char *path;          // owned; below it
  char *etag;          // owned or NULL; without quotes
  bq_buf headers;      // pairs of NUL-terminated strings
  size_t header_count;
  int fd;              // owned until it is handed on; -1: not open
  struct stat info;
} file_request;

static void free_request(file_request *request) {
  if (request->fd >= 0) (void)close(request->fd);
  bq_free(request->root);
  bq_free(request->path);
  bq_free(request->etag);
  bq_buf_free(&request->headers);
  bq_free(request);
}

static void open_work(bq_task *task) {
  file_request *request = (file_request *)task;
  bq_error err;
  if (bq_tree_open(request->root, request->path, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_NO_LINKS, &request->fd, &err) < 0) {
    request->fd = -1;
    return;
  }
  if (fstat(request->fd, &request->info) == 0 && S_ISREG(request->info.st_mode)) return;
  (void)close(request->fd);
  request->fd = -1;
}

static void answer(file_request *request) {
  bq_http_exchange *x = request->x;
  bq_http_set_context(x, NULL, NULL);
  if (request->fd < 0) {
    bq_api_problem(x, 404, "the file is not on this server any more", NULL, NULL, 0);
    return;
  }
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 2];
  size_t count = 0;
  const char *text = request->headers.data;
  for (size_t i = 0; i < request->header_count; i++) {
    const char *value = text + strlen(text) + 1;
    headers[count++] = (bq_http_header){text, value};
    text = value + strlen(value) + 1;
  }
  char etag[200];
  // The route gives the SHA-256; else size and time tell two files of one name apart.
  if (request->etag != NULL) (void)snprintf(etag, sizeof etag, "\"%.190s\"", request->etag);
  else {
    (void)snprintf(etag, sizeof etag, "\"%llx-%llx\"", (unsigned long long)request->info.st_size,
                   (unsigned long long)request->info.st_mtime);
  }
  int fd = request->fd;
  request->fd = -1;
  bq_http_respond_file(x, fd, request->info.st_size, etag, headers, count);
}

static void open_done(bq_task *task) {
  file_request *request = (file_request *)task;
  if (request->x != NULL) answer(request);
  free_request(request);
}

static void on_close(void *context) {
  ((file_request *)context)->x = NULL;
}

void bq_file_stream_send(bq_server *server, bq_http_exchange *x, const bq_api_response *response,
                         const bq_http_header *headers, size_t header_count) {
  file_request *request = bq_alloc(sizeof *request);
  bq_error err;
  if (request == NULL) {
    bq_api_problem(x, 503, "out of memory", NULL, NULL, 0);
    return;
  }
  request->fd = -1;
  request->x = x;
  request->root = bq_strdup(server->config->output_directory);
  request->path = bq_format("%s/attempt-%lld/%s", response->build, (long long)response->attempt,
                            response->name != NULL ? response->name : "");
  request->etag = bq_strdup(response->etag);
  for (size_t i = 0; i < header_count; i++) {
    bq_buf_add(&request->headers, headers[i].name, strlen(headers[i].name) + 1);
    bq_buf_add(&request->headers, headers[i].value, strlen(headers[i].value) + 1);
    request->header_count++;
  }
  request->task = (bq_task){.work = open_work, .done = open_done};
  if (request->root == NULL || request->path == NULL || request->headers.failed ||
      bq_pool_submit(server->blocking, &request->task, &err) < 0) {
    free_request(request);
    bq_api_problem(x, 503, "the server is too busy to open files", NULL, NULL, 0);
    return;
  }
  bq_http_set_context(x, request, on_close);
}
