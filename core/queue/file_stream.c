// An artifact of a committed attempt, by sendfile, or from the node that has it.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/tree.h"
#include "queue/header_list.h"
#include "queue/streams.h"

// Opening is file work: it happens on the blocking pool, and the peer may be gone when it is done.
typedef struct file_request {
  bq_task task;
  bq_passes *passes;   // borrowed
  bq_http_exchange *x; // NULL once the peer is gone
  char *build;         // owned; its id
  int64_t attempt;
  char *name;          // owned; of the artifact
  char *root;          // owned; OutputDirectory
  char *path;          // owned; below it
  char *etag;          // owned or NULL; without quotes
  bq_header_list headers; // of the answer; owned
  int fd;              // owned until it is handed on; -1: not open
  struct stat info;
  bq_error error;      // with a code: it may be there, and can't be opened
} file_request;

static void free_request(file_request *request) {
  if (request->fd >= 0) (void)close(request->fd);
  bq_free(request->build);
  bq_free(request->name);
  bq_free(request->root);
  bq_free(request->path);
  bq_free(request->etag);
  bq_header_list_free(&request->headers);
  bq_free(request);
}

static void open_work(bq_task *task) {
  file_request *request = (file_request *)task;
  bq_error *err = &request->error;
  int result = bq_tree_open(request->root, request->path, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_NO_LINKS, &request->fd, err);
  if (result < 0) request->fd = -1;
  if (result == 0 && fstat(request->fd, &request->info) < 0) {
    result = bq_fail_errno(err, errno, "can't read %s", request->path);
  }
  if (result != BQ_EIO && result != BQ_ENOMEM) err->code = 0;
  if (result == 0 && S_ISREG(request->info.st_mode)) return;
  if (request->fd >= 0) (void)close(request->fd);
  request->fd = -1;
}

static void answer_missing(file_request *request, int status, const char *why) {
  if (request->x != NULL) {
    bq_http_set_context(request->x, NULL, NULL);
    bq_api_problem(request->x, status, why, NULL, NULL, 0);
  }
  free_request(request);
}

static void on_place(void *arg, const char *url, const char *log, const bq_error *err) {
  (void)log; // artifacts have files
  file_request *request = arg;
  if (err != NULL) {
    answer_missing(request, 503, "the database can't be reached now to find out which node has the file; try again");
  } else if (url == NULL) {
    answer_missing(request, 404, "the file is not on this server any more");
  } else if (request->x == NULL) {
    free_request(request);
  } else {
    bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 2];
    const bq_pass_request pass = {.url = url,
                                  .build = request->build,
                                  .attempt = request->attempt,
                                  .name = request->name,
                                  .etag = request->etag,
                                  .headers = headers,
                                  .header_count =
                                      bq_header_list_get(&request->headers, headers, BQ_RESPONSE_MAX_HEADERS + 2)};
    bq_pass_send(request->passes, request->x, &pass);
    free_request(request);
  }
}

// It is not here: it may be where the attempt ran.
static void look_elsewhere(file_request *request) {
  bq_error err;
  if (bq_http_get_header(request->x, BQ_PASSED_HEADER) != NULL) {
    answer_missing(request, 404, "the file is not on this server any more");
  } else if (bq_place_find(request->passes, request->build, request->attempt, on_place, request, &err) < 0) {
    answer_missing(request, 503, err.message);
  }
}

// The file is open.
static void answer(file_request *request) {
  bq_http_exchange *x = request->x;
  bq_http_set_context(x, NULL, NULL);
  bq_http_header headers[BQ_RESPONSE_MAX_HEADERS + 2];
  size_t count = bq_header_list_get(&request->headers, headers, BQ_RESPONSE_MAX_HEADERS + 2);
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
  if (request->x != NULL && request->error.code != 0) {
    bq_log_error("an artifact can't be opened", &request->error);
    answer_missing(request, 503, "the file can't be opened now; try again");
    return;
  }
  if (request->x != NULL && request->fd < 0) {
    look_elsewhere(request);
    return;
  }
  if (request->x != NULL) answer(request);
  free_request(request);
}

static void on_close(void *context) {
  ((file_request *)context)->x = NULL;
}

void bq_file_stream_send(bq_server *server, bq_passes *passes, bq_http_exchange *x, const bq_api_response *response,
                         const bq_http_header *headers, size_t header_count) {
  file_request *request = bq_alloc(sizeof *request);
  bq_error err;
  if (request == NULL) {
    bq_api_problem(x, 503, "out of memory", NULL, NULL, 0);
    return;
  }
  request->fd = -1;
  request->x = x;
  request->passes = passes;
  request->attempt = response->attempt;
  request->build = bq_strdup(response->build);
  request->name = bq_strdup(response->name != NULL ? response->name : "");
  request->root = bq_strdup(server->config->output_directory);
  request->path = bq_format("%s/attempt-%lld/%s", response->build, (long long)response->attempt,
                            request->name != NULL ? request->name : "");
  request->etag = bq_strdup(response->etag);
  bq_header_list_add(&request->headers, headers, header_count);
  request->task = (bq_task){.work = open_work, .done = open_done};
  int whole = request->build != NULL && request->name != NULL && request->root != NULL && request->path != NULL &&
              (response->etag == NULL || request->etag != NULL) && !request->headers.text.failed;
  if (!whole || bq_pool_submit(server->blocking, &request->task, &err) < 0) {
    free_request(request);
    bq_api_problem(x, 503, whole ? "the server is too busy to open files" : "out of memory", NULL, NULL, 0);
    return;
  }
  bq_http_set_context(x, request, on_close);
}
