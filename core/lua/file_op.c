#include "lua/file_op.h"

#include <string.h>

#include "base/memory.h"
#include "io/tree.h"
#include "lua/errors.h"
#include "lua/modules.h"

static bq_file_op *of_task(bq_task *task) {
  return (bq_file_op *)(void *)((char *)task - offsetof(bq_file_op, task));
}

static void run(bq_task *task) {
  bq_file_op *f = of_task(task);
  if (atomic_load(&f->stop)) (void)bq_fail(&f->error, BQ_ECANCELED, "canceled");
  else f->work(f);
}

static void done(bq_task *task) {
  bq_op_complete(&of_task(task)->op);
}

static void start(bq_op *op) {
  bq_file_op *f = (bq_file_op *)op;
  f->task = (bq_task){.work = run, .done = done};
  if (f->error.code != 0 || bq_pool_submit(f->pool, &f->task, &f->error) < 0) bq_op_complete(op);
}

static void cancel(bq_op *op) {
  atomic_store(&((bq_file_op *)op)->stop, 1); // the task can't be taken back; what it does ends soon
}

static int push(bq_op *op, lua_State *L) {
  bq_file_op *f = (bq_file_op *)op;
  if (f->error.code == 0 && bq_buf_check(&f->bytes, &f->error) == 0) return f->push != NULL ? f->push(f, L) : 0;
  bq_lua_push_error(L, &f->error);
  return -1;
}

static void release(bq_op *op) {
  bq_file_op *f = (bq_file_op *)op;
  if (f->release != NULL) f->release(f);
  bq_free(f->root);
  bq_free(f->path);
  bq_free(f->other);
  bq_free(f->text);
  bq_buf_free(&f->bytes);
  bq_free(f);
}

void *bq_file_op_new(lua_State *L, const char *module, size_t size, void (*work)(bq_file_op *f),
                     int (*push_results)(bq_file_op *f, lua_State *L)) {
  const bq_services *services = bq_script_services(L);
  const char *root = services->workspace != NULL ? services->workspace(L) : NULL;
  if (root == NULL) (void)bq_lua_raise(L, BQ_EINVAL, "%s is for pipelines: there is no workspace here", module);
  bq_file_op *f = bq_alloc(size);
  if (f == NULL) (void)bq_lua_raise(L, BQ_ENOMEM, "out of memory for a call of %s", module);
  f->op = (bq_op){.start = start, .cancel = cancel, .push = push, .release = release};
  f->pool = services->blocking;
  f->work = work;
  f->push = push_results;
  f->root = bq_strdup(root);
  if (f->root == NULL) (void)bq_fail(&f->error, BQ_ENOMEM, "out of memory for a call of %s", module);
  return f;
}

// Drops "." and empty parts, so that "out/" and "./out" are "out"; what is left over of "." is ".".
static void tidy(char *path) {
  char *to = path;
  for (const char *at = path; *at != '\0';) {
    size_t length = strcspn(at, "/");
    int counts = length > 0 && !(length == 1 && *at == '.');
    if (counts && to != path) *to++ = '/';
    if (counts) memmove(to, at, length);
    if (counts) to += length;
    at += length;
    while (*at == '/') at++;
  }
  *to = '\0';
  if (to == path) memcpy(path, ".", 2); // there was at least one byte, and a NUL
}

void bq_file_op_set_path(bq_file_op *f, char **out, const char *path, size_t length) {
  if (f->error.code != 0) return;
  size_t root_length = strlen(f->root);
  if (memchr(path, '\0', length) != NULL) {
    (void)bq_fail(&f->error, BQ_EINVAL, "the path \"%s\" has a NUL in it", path);
    return;
  }
  if (*path == '/') {
    if (strncmp(path, f->root, root_length) != 0 || (path[root_length] != '/' && path[root_length] != '\0')) {
      (void)bq_fail(&f->error, BQ_EINVAL, "the path \"%s\" is not in the workspace", path);
      return;
    }
    path += root_length;
    while (*path == '/') path++;
    if (*path == '\0') path = ".";
  }
  if (bq_tree_check(path, &f->error) < 0) return;
  *out = bq_strdup(path);
  if (*out != NULL) tidy(*out);
  else (void)bq_fail(&f->error, BQ_ENOMEM, "out of memory for a path");
}

int bq_file_op_yield(lua_State *L, bq_file_op *f) {
  return bq_op_yield(L, &f->op);
}
