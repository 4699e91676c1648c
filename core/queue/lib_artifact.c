// build:artifact and build:import: files between the workspace and the rest of the server's directories.
#include <lauxlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/hash.h"
#include "io/tree.h"
#include "lua/arguments.h"
#include "lua/errors.h"
#include "lua/libs.h"
#include "queue/attempt_internal.h"

// artifact --------------------------------------------------------------------------------------------------------

typedef struct artifact_op {
  bq_op op;
  bq_task task;
  bq_attempt *attempt; // borrowed
  char *from;          // owned; below the workspace
  char *name;          // owned
  char *kind;          // owned
  int64_t size;        // bytes copied
  char sha256[BQ_HASH_TEXT_SIZE];
  bq_error error;      // code 0: copied
} artifact_op;

static void artifact_copy(bq_task *task) {
  artifact_op *copy = (artifact_op *)((char *)task - offsetof(artifact_op, task));
  bq_error *err = &copy->error;
  uint64_t size = 0;
  if (bq_tree_copy_file(copy->attempt->workspace, copy->from, copy->attempt->partial, copy->name, &size, err) < 0) return;
  copy->size = (int64_t)size;
  char *path = bq_format("%s/%s", copy->attempt->partial, copy->name);
  if (path == NULL) (void)bq_fail(err, BQ_ENOMEM, "out of memory for the artifact %s", copy->name);
  else if (bq_hash_file(path, copy->sha256, err) == 0) err->code = 0;
  bq_free(path);
}

static void artifact_copied(bq_task *task) {
  artifact_op *copy = (artifact_op *)((char *)task - offsetof(artifact_op, task));
  bq_op_complete(&copy->op);
}

static void artifact_start(bq_op *op) {
  artifact_op *copy = (artifact_op *)op;
  copy->task = (bq_task){.work = artifact_copy, .done = artifact_copied};
  if (bq_pool_submit(copy->attempt->env->blocking, &copy->task, &copy->error) < 0) bq_op_complete(op);
}

static int artifact_push(bq_op *op, lua_State *L) {
  artifact_op *copy = (artifact_op *)op;
  if (copy->error.code != 0) {
    bq_lua_push_error(L, &copy->error);
    return -1;
  }
  json_t *entry = json_pack("{s:s, s:s, s:I, s:s}", "name", copy->name, "kind", copy->kind, "size",
                            (json_int_t)copy->size, "sha256", copy->sha256);
  if (entry == NULL || json_array_append_new(copy->attempt->artifacts, entry) < 0) {
    (void)bq_fail(&copy->error, BQ_ENOMEM, "out of memory for an artifact");
    bq_lua_push_error(L, &copy->error);
    return -1;
  }
  bq_lua_push_json(L, entry);
  return 1;
}

static void artifact_release(bq_op *op) {
  artifact_op *copy = (artifact_op *)op;
  bq_free(copy->from);
  bq_free(copy->name);
  bq_free(copy->kind);
  bq_free(copy);
}

static int is_file_name(const char *name) {
  size_t length = strlen(name);
  if (length == 0 || length > 200 || name[0] == '.' || name[0] == '-') return 0;
  return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") == length;
}

static int check_artifact(lua_State *L, const bq_attempt *attempt, const char *name) {
  if (!is_file_name(name)) {
    return luaL_error(L, "build:artifact: the name %s isn't one of letters, digits and . _ + - (200 at most, "
                         "beginning with a letter or a digit)", name);
  }
  size_t index;
  json_t *artifact;
  json_array_foreach(attempt->artifacts, index, artifact) {
    const char *there = json_string_value(json_object_get(artifact, "name"));
    if (there != NULL && strcmp(there, name) == 0) return luaL_error(L, "build:artifact: %s is there already", name);
  }
  if (json_array_size(attempt->artifacts) >= BQ_ATTEMPT_MAX_ARTIFACTS) {
    return luaL_error(L, "build:artifact: more than %d artifacts", BQ_ATTEMPT_MAX_ARTIFACTS);
  }
  return 0;
}

int bq_build_artifact(lua_State *L) {
  static const char *const options[] = {"name", "kind", NULL};
  bq_args_self(L, "artifact");
  bq_attempt *attempt = bq_attempt_of(L);
  const char *from = bq_args_string(L, 2, "build:artifact", "the path", NULL);
  const char *slash = strrchr(from, '/');
  const char *name = slash != NULL ? slash + 1 : from;
  const char *kind = "file";
  if (bq_args_has_options(L, 3, "build:artifact", options, "build:artifact(\"out/a.zip\", {kind = \"archive\"})")) {
    if (lua_getfield(L, 3, "name") != LUA_TNIL) name = bq_args_string(L, -1, "build:artifact", "name", NULL);
    if (lua_getfield(L, 3, "kind") != LUA_TNIL) kind = bq_args_string(L, -1, "build:artifact", "kind", NULL);
  }
  (void)check_artifact(L, attempt, name);
  if (!is_file_name(kind)) return luaL_error(L, "build:artifact: the kind %s is no word", kind);
  (void)bq_attempt_with_dirs(L);
  artifact_op *copy = bq_alloc(sizeof *copy);
  if (copy == NULL) return luaL_error(L, "out of memory");
  copy->op = (bq_op){.start = artifact_start, .push = artifact_push, .release = artifact_release};
  copy->attempt = attempt;
  copy->from = bq_strdup(from);
  copy->name = bq_strdup(name);
  copy->kind = bq_strdup(kind);
  if (copy->from == NULL || copy->name == NULL || copy->kind == NULL) {
    artifact_release(&copy->op);
    return luaL_error(L, "out of memory");
  }
  return bq_op_yield(L, &copy->op);
}

// import ----------------------------------------------------------------------------------------------------------

typedef struct import_op {
  bq_op op;
  bq_task task;
  bq_attempt *attempt; // borrowed
  char *from;          // owned; below ManifestDirectory
  char *to;            // owned; below the workspace
  int is_directory;    // what it turned out to be
  bq_error error;      // code 0: copied
} import_op;

static void import_work(bq_task *task) {
  import_op *import = (import_op *)((char *)task - offsetof(import_op, task));
  const bq_attempt *attempt = import->attempt;
  if (bq_tree_copy(attempt->env->config->manifest_directory, import->from, attempt->workspace, import->to,
                   &import->is_directory, &import->error) == 0) {
    import->error.code = 0;
  }
}

static void import_done(bq_task *task) {
  bq_op_complete(&((import_op *)((char *)task - offsetof(import_op, task)))->op);
}

static void import_start(bq_op *op) {
  import_op *import = (import_op *)op;
  import->task = (bq_task){.work = import_work, .done = import_done};
  if (bq_pool_submit(import->attempt->env->blocking, &import->task, &import->error) < 0) bq_op_complete(op);
}

static int import_push(bq_op *op, lua_State *L) {
  import_op *import = (import_op *)op;
  if (import->error.code != 0) {
    bq_lua_push_error(L, &import->error);
    return -1;
  }
  lua_pushstring(L, import->is_directory ? "directory" : "file");
  return 1;
}

static void import_release(bq_op *op) {
  import_op *import = (import_op *)op;
  bq_free(import->from);
  bq_free(import->to);
  bq_free(import);
}

int bq_build_import(lua_State *L) {
  bq_args_self(L, "import");
  bq_attempt *attempt = bq_attempt_of(L);
  const char *from = bq_args_string(L, 2, "build:import", "what to import", NULL);
  const char *to = bq_args_string(L, 3, "build:import", "where to put it", NULL);
  // A path may be given whole, as long as it lies below the directory.
  const char *root = attempt->env->config->manifest_directory;
  size_t length = strlen(root);
  if (strncmp(from, root, length) == 0 && from[length] == '/') from += length + 1;
  (void)bq_attempt_with_dirs(L);
  import_op *import = bq_alloc(sizeof *import);
  if (import == NULL) return luaL_error(L, "out of memory");
  import->op = (bq_op){.start = import_start, .push = import_push, .release = import_release};
  import->attempt = attempt;
  import->from = bq_strdup(from);
  import->to = bq_strdup(to);
  if (import->from == NULL || import->to == NULL) {
    import_release(&import->op);
    return luaL_error(L, "out of memory");
  }
  return bq_op_yield(L, &import->op);
}
