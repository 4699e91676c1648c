#include "queue/sweep.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "io/tree.h"

enum { BATCH = 1000 }; // builds, or attempts, that the database is asked about at once

typedef enum sweep_root { LOGS, OUTPUT, WORKSPACES } sweep_root;

// What a sweep looks through, in this order: below each root lies a directory for each build, in it one for each
// attempt.
static const struct pass {
  sweep_root root;
  int of_attempts;       // attempts are asked about, not whole builds
  const char *statement; // answers what may go, relative to the root
} passes[] = {
    {LOGS, 0, "unknown_builds"},       {OUTPUT, 0, "unknown_builds"},       {OUTPUT, 1, "dead_outputs"},
    {WORKSPACES, 0, "unknown_builds"}, {WORKSPACES, 1, "dead_workspaces"},
};
enum { PASSES = sizeof passes / sizeof passes[0], ID_LENGTH = 36 };

struct bq_sweep {
  bq_server *server; // borrowed
  bq_task task;      // reads directories, or removes
  size_t pass;       // index into passes; PASSES: none is under way
  char *path;        // owned; of the pass' root
  DIR *dir;          // owned; where the pass is in it; NULL before it began
  int at_end;        // all of it was read
  bq_buf ids;        // "{id,id,…" found; then, each with a NUL behind it, what may go
  bq_buf numbers;    // "{1,2,…": their attempts
  int count;         // of both
  int stopped;
};

static void next_batch(bq_sweep *sweep);

int bq_sweep_new(bq_sweep **out, bq_server *server, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the janitor");
  (*out)->server = server;
  (*out)->pass = PASSES;
  return 0;
}

static void end_pass(bq_sweep *sweep) {
  if (sweep->dir != NULL) (void)closedir(sweep->dir);
  sweep->dir = NULL;
  sweep->at_end = 0;
  bq_free(sweep->path);
  sweep->path = NULL;
}

void bq_sweep_free(bq_sweep *sweep) {
  if (sweep == NULL) return;
  end_pass(sweep);
  bq_buf_free(&sweep->ids);
  bq_buf_free(&sweep->numbers);
  bq_free(sweep);
}

void bq_sweep_stop(bq_sweep *sweep) {
  sweep->stopped = 1;
}

int bq_sweep_busy(const bq_sweep *sweep) {
  return sweep->pass < PASSES;
}

// Removing -----------------------------------------------------------------------------------------------------------

static void remove_path(const bq_sweep *sweep, const char *path) {
  bq_error err;
  if (bq_tree_remove(sweep->path, path, &err) < 0 && err.code != BQ_ENOTFOUND) {
    bq_log(BQ_WARN, "files that no build needs could not be removed", "path", path, "error", err.message, NULL);
  }
}

// An attempt's directory and what it was before it was whole. The last attempt takes the build's directory along; who
// makes one for an attempt makes that one again.
static void remove_attempt(const bq_sweep *sweep, const char *path) {
  char build[ID_LENGTH + 1];
  char partial[ID_LENGTH + 40];
  bq_error err;
  int fd = -1;
  (void)snprintf(build, sizeof build, "%s", path);
  (void)snprintf(partial, sizeof partial, "%s/.%s.partial", build, path + ID_LENGTH + 1);
  remove_path(sweep, path);
  remove_path(sweep, partial);
  if (bq_tree_open(sweep->path, ".", O_RDONLY, 0, BQ_TREE_NO_LINKS, &fd, &err) < 0) return;
  (void)unlinkat(fd, build, AT_REMOVEDIR);
  close(fd);
}

static void remove_work(bq_task *task) {
  bq_sweep *sweep = (bq_sweep *)((char *)task - offsetof(bq_sweep, task));
  for (const char *path = sweep->ids.data; path < sweep->ids.data + sweep->ids.length; path += strlen(path) + 1) {
    if (passes[sweep->pass].of_attempts) remove_attempt(sweep, path);
    else remove_path(sweep, path);
  }
}

static void remove_done(bq_task *task) {
  next_batch((bq_sweep *)((char *)task - offsetof(bq_sweep, task)));
}

static void on_answer(void *arg, const bq_pg_result *result) {
  bq_sweep *sweep = arg;
  bq_error err;
  int count = result->error == NULL ? PQntuples(result->rows) : 0;
  bq_buf_clear(&sweep->ids);
  for (int i = 0; i < count; i++) {
    const char *path = PQgetvalue(result->rows, i, 0);
    char id[ID_LENGTH + 1];
    (void)snprintf(id, sizeof id, "%s", path);
    // Of a build that runs here nothing is taken, whatever the database thinks of it: the attempt cleans up itself.
    if (bq_runner_find(sweep->server->runner, id) == NULL) bq_buf_add(&sweep->ids, path, strlen(path) + 1);
  }
  sweep->task = (bq_task){.work = remove_work, .done = remove_done};
  if (sweep->ids.length == 0 || sweep->ids.failed || sweep->stopped ||
      bq_pool_submit(sweep->server->blocking, &sweep->task, &err) < 0) {
    next_batch(sweep);
  }
}

// Listing ------------------------------------------------------------------------------------------------------------

// `number` has `length` digits.
static void add(bq_sweep *sweep, const char *id, const char *number, int length) {
  bq_buf_addf(&sweep->ids, "%c%s", sweep->count > 0 ? ',' : '{', id);
  bq_buf_addf(&sweep->numbers, "%c%.*s", sweep->count > 0 ? ',' : '{', length, number);
  sweep->count++;
}

static void add_attempts(bq_sweep *sweep, const char *id) {
  static const char prefix[] = "attempt-";
  bq_error err;
  int fd = -1;
  if (bq_tree_open(sweep->path, id, O_RDONLY | O_DIRECTORY, 0, BQ_TREE_NO_LINKS, &fd, &err) < 0) return;
  DIR *dir = fdopendir(fd);
  if (dir == NULL) {
    close(fd);
    return;
  }
  const struct dirent *entry;
  while ((entry = readdir(dir)) != NULL) {
    const char *name = entry->d_name[0] == '.' ? entry->d_name + 1 : entry->d_name;
    const char *number = name + sizeof prefix - 1;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) continue;
    int length = (int)strspn(number, "0123456789");
    if (length > 0 && length < 10) add(sweep, id, number, length);
  }
  (void)closedir(dir);
}

static void list_work(bq_task *task) {
  bq_sweep *sweep = (bq_sweep *)((char *)task - offsetof(bq_sweep, task));
  const struct dirent *entry = NULL;
  if (sweep->dir == NULL) sweep->dir = opendir(sweep->path);
  while (sweep->dir != NULL && sweep->count < BATCH && (entry = readdir(sweep->dir)) != NULL) {
    if (!bq_uuid_is(entry->d_name)) continue;
    if (passes[sweep->pass].of_attempts) add_attempts(sweep, entry->d_name);
    else add(sweep, entry->d_name, "0", 1);
  }
  sweep->at_end = entry == NULL;
}

static void list_done(bq_task *task) {
  bq_sweep *sweep = (bq_sweep *)((char *)task - offsetof(bq_sweep, task));
  bq_buf_addc(&sweep->ids, '}');
  bq_buf_addc(&sweep->numbers, '}');
  const struct pass *pass = &passes[sweep->pass];
  const char *params[] = {sweep->ids.data, sweep->numbers.data};
  bq_error err;
  if (sweep->count == 0 || sweep->stopped || sweep->ids.failed || sweep->numbers.failed ||
      bq_store_query(sweep->server->store, pass->statement, pass->of_attempts ? 2 : 1, params, on_answer, sweep,
                     &err) < 0) {
    next_batch(sweep);
  }
}

static int open_pass(bq_sweep *sweep) {
  const bq_config *config = sweep->server->config;
  const struct pass *pass = &passes[sweep->pass];
  switch (pass->root) {
  case LOGS: sweep->path = bq_format("%s/logs", config->state_directory); break;
  case OUTPUT: sweep->path = bq_strdup(config->output_directory); break;
  case WORKSPACES:
    // Workspaces that are kept stay as long as their build.
    if (!pass->of_attempts || config->cleanup_workspace_after_build) {
      sweep->path = bq_strdup(config->workspace_directory);
    }
    break;
  }
  return sweep->path != NULL;
}

static void next_batch(bq_sweep *sweep) {
  bq_error err;
  while (sweep->pass < PASSES && (sweep->at_end || sweep->stopped || sweep->path == NULL)) {
    end_pass(sweep);
    sweep->pass = sweep->stopped ? PASSES : sweep->pass + 1;
    if (sweep->pass < PASSES) (void)open_pass(sweep);
  }
  if (sweep->pass == PASSES) return;
  bq_buf_clear(&sweep->ids);
  bq_buf_clear(&sweep->numbers);
  sweep->count = 0;
  sweep->task = (bq_task){.work = list_work, .done = list_done};
  if (bq_pool_submit(sweep->server->blocking, &sweep->task, &err) == 0) return;
  end_pass(sweep);
  sweep->pass = PASSES;
}

void bq_sweep_begin(bq_sweep *sweep) {
  if (bq_sweep_busy(sweep) || sweep->stopped) return;
  sweep->pass = 0;
  (void)open_pass(sweep);
  next_batch(sweep);
}
