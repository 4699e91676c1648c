// build:shared: directories that the builds of this server share, below StateDirectory/shared.
#include <ctype.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "io/tree.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "queue/attempt_internal.h"

enum { LEVELS = 2, MAX_NAME = 200 };

typedef struct shared_op {
  bq_op op;
  bq_task task;
  bq_attempt *attempt; // borrowed
  char *path;          // owned; absolute
  bq_error error;      // code 0: it is there
} shared_op;

static void shared_work(bq_task *task) {
  shared_op *shared = (shared_op *)((char *)task - offsetof(shared_op, task));
  if (bq_tree_make_path(shared->path, &shared->error) < 0) return;
  (void)utimensat(AT_FDCWD, shared->path, NULL, 0); // when it was last asked for
  shared->error.code = 0;
}

static void shared_done(bq_task *task) {
  bq_op_complete(&((shared_op *)((char *)task - offsetof(shared_op, task)))->op);
}

static void shared_start(bq_op *op) {
  shared_op *shared = (shared_op *)op;
  shared->task = (bq_task){.work = shared_work, .done = shared_done};
  if (bq_pool_submit(shared->attempt->env->blocking, &shared->task, &shared->error) < 0) bq_op_complete(op);
}

static int shared_push(bq_op *op, lua_State *L) {
  shared_op *shared = (shared_op *)op;
  if (shared->error.code != 0) {
    bq_lua_push_error(L, &shared->error);
    return -1;
  }
  lua_pushstring(L, shared->path);
  return 1;
}

static void shared_release(bq_op *op) {
  shared_op *shared = (shared_op *)op;
  bq_free(shared->path);
  bq_free(shared);
}

// Two levels exactly: the janitor looks at each of those, and no build may write where another one's directory begins.
int bq_is_shared_name(const char *name) {
  size_t length = strlen(name);
  int levels = 1;
  if (length == 0 || length > MAX_NAME) return 0;
  for (size_t i = 0; i < length; i++) {
    int first = i == 0 || name[i - 1] == '/';
    if (name[i] == '/') levels++;
    if (!isalnum((unsigned char)name[i]) && (first || strchr("._-/", name[i]) == NULL)) return 0;
  }
  return name[length - 1] != '/' && levels == LEVELS;
}

int bq_build_shared(lua_State *L) {
  bq_args_self(L, "shared");
  bq_attempt *attempt = bq_attempt_of(L);
  const char *name = bq_args_string(L, 2, "build:shared", "the name", NULL);
  if (!bq_is_shared_name(name)) {
    return bq_lua_raise(L, BQ_EINVAL, "build:shared: the name %s isn't two words of letters, digits and . _ - with a "
                        "slash between, each beginning with a letter or a digit", name);
  }
  shared_op *shared = bq_alloc(sizeof *shared);
  if (shared == NULL) return luaL_error(L, "out of memory");
  shared->op = (bq_op){.start = shared_start, .push = shared_push, .release = shared_release};
  shared->attempt = attempt;
  shared->path = bq_format("%s/shared/%s", attempt->env->config->state_directory, name);
  if (shared->path == NULL) {
    shared_release(&shared->op);
    return luaL_error(L, "out of memory");
  }
  return bq_op_yield(L, &shared->op);
}
