// Everything periodic that nobody waits for: free disk space, retention, old history, files that no build owns.
//
// One timer; each kind of work has its own period. Files are looked at on the blocking pool, rows in small batches.
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "io/tree.h"
#include "queue/server_internal.h"

enum {
  TICK_MS = 5000,          // between two looks at the disk
  SWEEP_TICKS = 12,        // between two sweeps: a minute
  HOUR_TICKS = 720,        // between two looks for rows that nothing needs any more
  RETENTION_BATCH = 200,   // builds of one statement
  PURGE_BATCH = 5000,      // rows of history or keys of one statement
  MAX_LISTED = 20000       // directories looked at in one sweep
};

// What a sweep looks through: below each root lies one directory for each build.
typedef enum sweep_root { SWEEP_LOGS, SWEEP_OUTPUT, SWEEP_WORKSPACES, SWEEP_ROOTS } sweep_root;

struct bq_janitor {
  bq_server *server;   // borrowed
  bq_timer *timer;     // owned
  unsigned ticks;
  bq_task disk_task;   // statvfs
  int64_t free_megabytes;
  int looking_at_disk;
  bq_task sweep_task;  // lists, then removes
  sweep_root root;     // that the sweep is at
  char *root_path;     // owned
  bq_buf ids;          // "{id,id,…": directories found; then what may go
  int sweeping;
  int retaining;       // a retention batch is under way
  int stopped;
};

static void on_tick(void *arg);

int bq_janitor_new(bq_janitor **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_janitor *janitor = bq_alloc(sizeof *janitor);
  if (janitor == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the janitor");
  janitor->server = server;
  int result = bq_timer_new(&janitor->timer, server->loop, on_tick, janitor, err);
  if (result < 0) {
    bq_free(janitor);
    return result;
  }
  bq_timer_set(janitor->timer, 0);
  *out = janitor;
  return 0;
}

void bq_janitor_free(bq_janitor *janitor) {
  if (janitor == NULL) return;
  bq_timer_free(janitor->timer);
  bq_buf_free(&janitor->ids);
  bq_free(janitor->root_path);
  bq_free(janitor);
}

void bq_janitor_stop(bq_janitor *janitor) {
  janitor->stopped = 1;
  bq_timer_clear(janitor->timer);
}

int bq_janitor_busy(const bq_janitor *janitor) {
  return janitor->looking_at_disk || janitor->sweeping || janitor->retaining;
}

// Disk ------------------------------------------------------------------------------------------------------------

static int64_t free_in(const char *path) {
  struct statvfs info;
  if (statvfs(path, &info) < 0) return 0;
  return (int64_t)(info.f_bavail * (info.f_frsize / 1024) / 1024);
}

static void disk_work(bq_task *task) {
  bq_janitor *janitor = (bq_janitor *)((char *)task - offsetof(bq_janitor, disk_task));
  int64_t work = free_in(janitor->server->config->workspace_directory);
  int64_t output = free_in(janitor->server->config->output_directory);
  janitor->free_megabytes = work < output ? work : output;
}

static void disk_done(bq_task *task) {
  bq_janitor *janitor = (bq_janitor *)((char *)task - offsetof(bq_janitor, disk_task));
  bq_server *server = janitor->server;
  int reserve = server->config->disk_reserve_megabytes;
  int was_short = server->free_megabytes >= 0 && server->free_megabytes < reserve;
  int is_short = janitor->free_megabytes < reserve;
  janitor->looking_at_disk = 0;
  server->free_megabytes = janitor->free_megabytes;
  if (is_short && !was_short) bq_log(BQ_WARN, "the disk is nearly full: no build starts", NULL);
  if (!is_short && was_short) bq_log(BQ_INFO, "the disk has room again", NULL);
  if (!is_short && was_short && !janitor->stopped) bq_runner_wake(server->runner);
}

static void look_at_disk(bq_janitor *janitor) {
  bq_error err;
  if (janitor->looking_at_disk) return;
  janitor->disk_task = (bq_task){.work = disk_work, .done = disk_done};
  janitor->looking_at_disk = bq_pool_submit(janitor->server->blocking, &janitor->disk_task, &err) == 0;
}

// Files without a build ---------------------------------------------------------------------------------------------

static void next_root(bq_janitor *janitor);

static void remove_work(bq_task *task) {
  bq_janitor *janitor = (bq_janitor *)((char *)task - offsetof(bq_janitor, sweep_task));
  for (const char *id = janitor->ids.data; id != NULL && *id != '\0'; id += strlen(id) + 1) {
    bq_error err;
    if (bq_tree_remove(janitor->root_path, id, &err) < 0) {
      bq_log(BQ_WARN, "files of a removed build could not be removed", "build", id, "error", err.message, NULL);
    }
  }
}

static void remove_done(bq_task *task) {
  next_root((bq_janitor *)((char *)task - offsetof(bq_janitor, sweep_task)));
}

static void on_unknown(void *arg, const bq_pg_result *result) {
  bq_janitor *janitor = arg;
  bq_buf_clear(&janitor->ids);
  bq_error err;
  int count = result->error == NULL ? PQntuples(result->rows) : 0;
  for (int i = 0; i < count; i++) {
    const char *id = PQgetvalue(result->rows, i, 0);
    if (bq_runner_find(janitor->server->runner, id) != NULL) continue;
    bq_buf_add(&janitor->ids, id, strlen(id) + 1);
  }
  janitor->sweep_task = (bq_task){.work = remove_work, .done = remove_done};
  if (janitor->ids.length == 0 || janitor->ids.failed || janitor->stopped ||
      bq_pool_submit(janitor->server->blocking, &janitor->sweep_task, &err) < 0) {
    next_root(janitor);
  }
}

static void list_work(bq_task *task) {
  bq_janitor *janitor = (bq_janitor *)((char *)task - offsetof(bq_janitor, sweep_task));
  bq_buf_clear(&janitor->ids);
  DIR *dir = opendir(janitor->root_path);
  if (dir == NULL) return;
  struct dirent *entry;
  for (int count = 0; count < MAX_LISTED && (entry = readdir(dir)) != NULL;) {
    if (!bq_uuid_is(entry->d_name)) continue;
    bq_buf_addf(&janitor->ids, "%s%s", count++ > 0 ? "," : "{", entry->d_name);
  }
  (void)closedir(dir);
}

static void list_done(bq_task *task) {
  bq_janitor *janitor = (bq_janitor *)((char *)task - offsetof(bq_janitor, sweep_task));
  if (janitor->ids.length == 0 || janitor->stopped) {
    next_root(janitor);
    return;
  }
  bq_buf_addc(&janitor->ids, '}');
  // A workspace is a leftover as soon as nobody builds there; unless they are kept, until retention takes the build.
  int settled = janitor->root == SWEEP_WORKSPACES && janitor->server->config->cleanup_workspace_after_build;
  const char *params[] = {janitor->ids.data};
  bq_error err;
  if (janitor->ids.failed || bq_store_query(janitor->server->store, settled ? "settled_builds" : "unknown_builds", 1,
                                            params, on_unknown, janitor, &err) < 0) {
    next_root(janitor);
  }
}

static void begin_root(bq_janitor *janitor) {
  const bq_config *config = janitor->server->config;
  bq_error err;
  bq_free(janitor->root_path);
  switch (janitor->root) {
  case SWEEP_LOGS: janitor->root_path = bq_format("%s/logs", config->state_directory); break;
  case SWEEP_OUTPUT: janitor->root_path = bq_strdup(config->output_directory); break;
  case SWEEP_WORKSPACES:
  case SWEEP_ROOTS: janitor->root_path = bq_strdup(config->workspace_directory); break;
  }
  janitor->sweep_task = (bq_task){.work = list_work, .done = list_done};
  if (janitor->root_path == NULL ||
      bq_pool_submit(janitor->server->blocking, &janitor->sweep_task, &err) < 0) {
    janitor->sweeping = 0;
  }
}

static void next_root(bq_janitor *janitor) {
  janitor->root++;
  if (janitor->root == SWEEP_ROOTS || janitor->stopped) janitor->sweeping = 0;
  else begin_root(janitor);
}

static void sweep(bq_janitor *janitor) {
  if (janitor->sweeping) return;
  janitor->sweeping = 1;
  janitor->root = SWEEP_LOGS;
  begin_root(janitor);
}

// Rows --------------------------------------------------------------------------------------------------------------

static void on_purged(void *arg, const bq_pg_result *result) {
  (void)arg;
  if (result->error != NULL && result->error->code == BQ_EDATABASE) bq_log_error("old rows stay", result->error);
}

static void purge(bq_janitor *janitor, const char *statement, int days) {
  char days_text[16];
  char batch[16];
  bq_error err;
  (void)snprintf(days_text, sizeof days_text, "%d", days);
  (void)snprintf(batch, sizeof batch, "%d", PURGE_BATCH);
  const char *params[] = {days_text, batch};
  int with_days = days > 0;
  if (bq_store_query(janitor->server->store, statement, with_days ? 2 : 1, with_days ? params : params + 1, on_purged,
                     NULL, &err) < 0) {
    bq_log_error("old rows stay", &err);
  }
}

static void retain(bq_janitor *janitor);

static void on_retained(void *arg, const bq_pg_result *result) {
  bq_janitor *janitor = arg;
  janitor->retaining = 0;
  if (result->error != NULL) return; // the next sweep tries again
  int count = PQntuples(result->rows);
  char text[16];
  (void)snprintf(text, sizeof text, "%d", count);
  if (count > 0) bq_log(BQ_INFO, "removed builds that ended long ago", "builds", text, NULL);
  if (count == RETENTION_BATCH && !janitor->stopped) retain(janitor); // their files go with the next sweep
}

static void retain(bq_janitor *janitor) {
  char days[16];
  char batch[16];
  bq_error err;
  if (janitor->retaining) return;
  (void)snprintf(days, sizeof days, "%d", janitor->server->config->completed_build_retention_days);
  (void)snprintf(batch, sizeof batch, "%d", RETENTION_BATCH);
  const char *params[] = {days, batch};
  janitor->retaining =
      bq_store_query(janitor->server->store, "retention", 2, params, on_retained, janitor, &err) == 0;
}

static void purge_what_nothing_needs(bq_janitor *janitor) {
  const bq_config *config = janitor->server->config;
  purge(janitor, "purge_manifests", 0);
  purge(janitor, "purge_generations", config->history_retention_days);
  purge(janitor, "purge_statistics", config->history_retention_days);
  purge(janitor, "purge_sources", 0);
  // A build's files are found by its node: nodes stay longer than builds.
  purge(janitor, "purge_nodes", config->completed_build_retention_days + config->history_retention_days);
}

static void on_tick(void *arg) {
  bq_janitor *janitor = arg;
  look_at_disk(janitor);
  if (janitor->ticks++ % SWEEP_TICKS == 0) {
    retain(janitor);
    purge(janitor, "purge_history", janitor->server->config->history_retention_days);
    purge(janitor, "purge_schedule_runs", janitor->server->config->history_retention_days);
    purge(janitor, "purge_keys", 0);
    if (janitor->ticks % HOUR_TICKS == 1) purge_what_nothing_needs(janitor);
    sweep(janitor);
  }
  bq_timer_set(janitor->timer, TICK_MS);
}
