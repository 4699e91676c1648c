// The part of the module `queue` that pipelines have too: manifests and the names of pipelines.
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/tree.h"
#include "lua/errors.h"
#include "queue/server_internal.h"

enum { MAX_MANIFEST_BYTES = 1024 * 1024 };

static bq_server *server_of(lua_State *L) {
  return bq_script_services(L)->product;
}

int bq_queue_push_failure(lua_State *L, const char *code, const char *message) {
  lua_pushnil(L);
  lua_createtable(L, 0, 2);
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  return 2;
}

typedef struct manifest_op {
  bq_op op;
  bq_task task;
  bq_server *server;
  char *path;     // owned; relative to ManifestDirectory
  char *text;     // owned; NUL behind length
  size_t length;
  bq_error error; // code 0: read
} manifest_op;

static void manifest_work(bq_task *task) {
  manifest_op *m = (manifest_op *)((char *)task - offsetof(manifest_op, task));
  const char *root = m->server->config->manifest_directory;
  int fd;
  if (bq_tree_open(root, m->path, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_INNER_LINKS, &fd, &m->error) < 0) return;
  m->error.code = 0;
  struct stat info;
  if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
    (void)bq_fail(&m->error, BQ_EINVAL, "%s is no file", m->path);
    (void)close(fd);
    return;
  }
  m->text = bq_alloc(MAX_MANIFEST_BYTES + 2);
  while (m->text != NULL && m->length <= MAX_MANIFEST_BYTES) {
    ssize_t got = read(fd, m->text + m->length, MAX_MANIFEST_BYTES + 1 - m->length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) (void)bq_fail_errno(&m->error, errno, "can't read the manifest %s", m->path);
    if (got <= 0) break;
    m->length += (size_t)got;
  }
  if (m->text == NULL) (void)bq_fail(&m->error, BQ_ENOMEM, "out of memory for the manifest %s", m->path);
  else if (m->length > MAX_MANIFEST_BYTES) {
    (void)bq_fail(&m->error, BQ_ELIMIT, "the manifest %s is larger than %d bytes", m->path, MAX_MANIFEST_BYTES);
  }
  (void)close(fd);
}

static void manifest_done(bq_task *task) {
  bq_op_complete(&((manifest_op *)((char *)task - offsetof(manifest_op, task)))->op);
}

static void manifest_start(bq_op *op) {
  manifest_op *m = (manifest_op *)op;
  m->task = (bq_task){.work = manifest_work, .done = manifest_done};
  if (bq_pool_submit(m->server->blocking, &m->task, &m->error) < 0) bq_op_complete(op);
}

static int manifest_push(bq_op *op, lua_State *L) {
  manifest_op *m = (manifest_op *)op;
  switch (m->error.code) {
  case 0: lua_pushlstring(L, m->text, m->length); return 1;
  case BQ_EINVAL:
  case BQ_ENOTFOUND:
  case BQ_ELIMIT: return bq_queue_push_failure(L, bq_err_name(m->error.code), m->error.message);
  default: bq_lua_push_error(L, &m->error); return -1;
  }
}

static void manifest_release(bq_op *op) {
  manifest_op *m = (manifest_op *)op;
  bq_free(m->path);
  bq_free(m->text);
  bq_free(m);
}

static int queue_read_manifest(lua_State *L) {
  bq_server *server = server_of(L);
  size_t length;
  const char *path = luaL_checklstring(L, 1, &length);
  const char *root = server->config->manifest_directory;
  size_t root_length = strlen(root);
  if (strlen(path) != length) return bq_queue_push_failure(L, "invalid", "A path has no NUL.");
  if (strncmp(path, root, root_length) == 0 && path[root_length] == '/') path += root_length + 1;
  manifest_op *m = bq_alloc(sizeof *m);
  if (m == NULL) return luaL_error(L, "out of memory");
  m->op = (bq_op){.start = manifest_start, .push = manifest_push, .release = manifest_release};
  m->server = server;
  m->path = bq_strdup(path);
  if (m->path == NULL) {
    manifest_release(&m->op);
    return luaL_error(L, "out of memory");
  }
  return bq_op_yield(L, &m->op);
}

// From the vm's own generation, so that it needs no look at what the loop may be changing.
static int queue_pipelines(lua_State *L) {
  static const char prefix[] = "scripts/pipelines/";
  const bq_sources *sources = bq_generation_sources(bq_script_generation(L));
  lua_Integer count = 0;
  lua_newtable(L);
  for (size_t i = 0; i < bq_sources_count(sources); i++) {
    const char *path = bq_sources_at(sources, i)->path;
    if (strncmp(path, prefix, sizeof prefix - 1) != 0) continue;
    const char *name = path + sizeof prefix - 1;
    lua_pushlstring(L, name, strlen(name) - strlen(".lua"));
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

// The directories are those of PATH in lib_exec.c. A look at a directory entry, no read: it may happen on the loop.
static int queue_has_program(lua_State *L) {
  static const char *const directories[] = {"/usr/local/bin", "/usr/bin", "/bin"};
  const char *name = luaL_checkstring(L, 1);
  int found = 0;
  luaL_argcheck(L, *name != '\0' && strchr(name, '/') == NULL, 1, "a name without a slash");
  for (size_t i = 0; i < sizeof directories / sizeof directories[0] && !found; i++) {
    lua_pushfstring(L, "%s/%s", directories[i], name);
    found = access(lua_tostring(L, -1), X_OK) == 0;
  }
  lua_pushboolean(L, found);
  return 1;
}

void bq_intake_add(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"read_manifest", queue_read_manifest}, {"pipelines", queue_pipelines}, {"has_program", queue_has_program},
      {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}

int bq_intake_open(lua_State *L) {
  lua_newtable(L);
  bq_intake_add(L);
  return 1;
}
