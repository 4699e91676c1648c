// Everything periodic that nobody waits for: free disk space, retention, old history, files that no build owns (sweep.h),
// what keeps PostgreSQL from cleaning up (horizon.h).
//
// One timer; each kind of work has its own period. Rows go in small batches.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "queue/horizon.h"
#include "queue/mail_files.h"
#include "queue/server_internal.h"
#include "queue/shared_files.h"
#include "queue/sweep.h"

enum {
  TICK_MS = 5000,          // between two looks at the disk
  SWEEP_TICKS = 12,        // between two sweeps: a minute
  HOUR_TICKS = 720,        // between two looks for rows that nothing needs any more
  RETENTION_BATCH = 200,   // builds of one statement
  PURGE_BATCH = 5000,      // rows of history or keys of one statement
  PURGES = 16              // kinds of rows, at most
};

// Old rows of one kind.
typedef struct purge {
  bq_janitor *janitor;
  const char *statement;
  int days;             // its first parameter; 0: it has none
  int busy;             // a batch is under way
} purge;

struct bq_janitor {
  bq_server *server;   // borrowed
  bq_timer *timer;     // owned
  unsigned ticks;
  bq_task disk_task;   // statvfs
  int64_t free_megabytes;
  int looking_at_disk;
  bq_sweep *sweep;     // owned; files that belong to nothing
  bq_horizon *horizon; // owned; what keeps PostgreSQL from cleaning up
  int homeless_kinds;  // kinds of builds that no server can take, when last asked
  unsigned homeless_tick; // when the log was told
  int retaining;       // a retention batch is under way
  bq_task old_files_task;  // old files of mails
  int cleaning_old_files;
  int stopped;
  purge purges[PURGES];
};

static void on_tick(void *arg);

int bq_janitor_new(bq_janitor **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_janitor *janitor = bq_alloc(sizeof *janitor);
  if (janitor == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the janitor");
  janitor->server = server;
  const bq_horizon_options options = {.store = server->store, .metrics = server->metrics, .config = &server->config,
                                      .hidden = &server->hidden};
  int result = bq_sweep_new(&janitor->sweep, server, err);
  if (result == 0) result = bq_horizon_new(&janitor->horizon, &options, err);
  if (result == 0) result = bq_timer_new(&janitor->timer, server->loop, on_tick, janitor, err);
  if (result < 0) {
    bq_janitor_free(janitor);
    return result;
  }
  bq_timer_set(janitor->timer, 0);
  *out = janitor;
  return 0;
}

void bq_janitor_free(bq_janitor *janitor) {
  if (janitor == NULL) return;
  bq_timer_free(janitor->timer);
  bq_sweep_free(janitor->sweep);
  bq_horizon_free(janitor->horizon);
  bq_free(janitor);
}

void bq_janitor_stop(bq_janitor *janitor) {
  janitor->stopped = 1;
  bq_sweep_stop(janitor->sweep);
  bq_timer_clear(janitor->timer);
}

int bq_janitor_busy(const bq_janitor *janitor) {
  return janitor->looking_at_disk || bq_sweep_busy(janitor->sweep) || janitor->retaining ||
         janitor->cleaning_old_files;
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

// Rows --------------------------------------------------------------------------------------------------------------

static void purge_batch(purge *p);

// A full batch is followed by the next: what comes in a minute may be more than one.
static void on_purged(void *arg, const bq_pg_result *result) {
  purge *p = arg;
  p->busy = 0;
  if (result->error != NULL) {
    if (result->error->code == BQ_EDATABASE) bq_log_error("old rows stay", result->error);
  } else if (strtol(PQcmdTuples(result->rows), NULL, 10) == PURGE_BATCH && !p->janitor->stopped) {
    purge_batch(p);
  }
}

static void purge_batch(purge *p) {
  char days_text[16];
  char batch[16];
  bq_error err;
  (void)snprintf(days_text, sizeof days_text, "%d", p->days);
  (void)snprintf(batch, sizeof batch, "%d", PURGE_BATCH);
  const char *params[] = {days_text, batch};
  int with_days = p->days > 0;
  p->busy = bq_store_query(p->janitor->server->store, p->statement, with_days ? 2 : 1, with_days ? params : params + 1,
                           on_purged, p, &err) == 0;
  if (!p->busy) bq_log_error("old rows stay", &err);
}

// `statement` is a literal: each has a place of its own.
static void begin_purge(bq_janitor *janitor, const char *statement, int days) {
  purge *p = janitor->purges;
  while (p->statement != NULL && strcmp(p->statement, statement) != 0) p++;
  if (p->busy) return;
  *p = (purge){.janitor = janitor, .statement = statement, .days = days};
  purge_batch(p);
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

static void old_files_work(bq_task *task) {
  const bq_janitor *janitor = (bq_janitor *)((char *)task - offsetof(bq_janitor, old_files_task));
  const bq_config *config = janitor->server->config;
  bq_mail_files_clean(config->state_directory, config->completed_build_retention_days);
  // No build runs longer than that: what is in use was asked for since.
  bq_shared_files_clean(config->state_directory, (int64_t)config->completed_build_retention_days * 24 * 3600 +
                                                     (int64_t)config->build_timeout_minutes * 60);
}

static void old_files_done(bq_task *task) {
  ((bq_janitor *)((char *)task - offsetof(bq_janitor, old_files_task)))->cleaning_old_files = 0;
}

static void clean_old_files(bq_janitor *janitor) {
  bq_error err;
  if (janitor->cleaning_old_files) return;
  janitor->old_files_task = (bq_task){.work = old_files_work, .done = old_files_done};
  janitor->cleaning_old_files = bq_pool_submit(janitor->server->blocking, &janitor->old_files_task, &err) == 0;
}

static void purge_what_nothing_needs(bq_janitor *janitor) {
  const bq_config *config = janitor->server->config;
  begin_purge(janitor, "purge_manifests", 0);
  begin_purge(janitor, "purge_generations", config->history_retention_days);
  begin_purge(janitor, "purge_statistics", config->history_retention_days);
  begin_purge(janitor, "purge_sources", 0);
  // A build's files are found by its node: nodes stay longer than builds.
  begin_purge(janitor, "purge_nodes", config->completed_build_retention_days + config->history_retention_days);
}

// Builds that no server can take: somebody should know, at once and each minute as long as it is so.
static void on_homeless(void *arg, const bq_pg_result *result) {
  bq_janitor *janitor = arg;
  if (result->error != NULL) return;
  int kinds = PQntuples(result->rows);
  int is_news = kinds != janitor->homeless_kinds || janitor->ticks - janitor->homeless_tick >= SWEEP_TICKS;
  janitor->homeless_kinds = kinds;
  if (!is_news) return;
  janitor->homeless_tick = janitor->ticks;
  for (int row = 0; row < kinds; row++) {
    bq_log(BQ_WARN, "builds wait for a server that can take them", "needs", PQgetvalue(result->rows, row, 0), "missing",
           PQgetvalue(result->rows, row, 1), "builds", PQgetvalue(result->rows, row, 2), "oldest",
           PQgetvalue(result->rows, row, 3), NULL);
  }
}

static void look_for_homeless(bq_janitor *janitor) {
  bq_error err;
  if (bq_store_query(janitor->server->store, "homeless_builds", 0, NULL, on_homeless, janitor, &err) < 0) {
    bq_log_error("whether builds wait for a server could not be asked", &err);
  }
}

static void on_tick(void *arg) {
  bq_janitor *janitor = arg;
  look_at_disk(janitor);
  look_for_homeless(janitor);
  bq_horizon_look(janitor->horizon);
  if (janitor->ticks++ % SWEEP_TICKS == 0) {
    retain(janitor);
    begin_purge(janitor, "purge_history", janitor->server->config->history_retention_days);
    begin_purge(janitor, "purge_schedule_runs", janitor->server->config->history_retention_days);
    begin_purge(janitor, "purge_deliveries", janitor->server->config->history_retention_days);
    begin_purge(janitor, "purge_keys", 0);
    clean_old_files(janitor);
    if (janitor->ticks % HOUR_TICKS == 1) purge_what_nothing_needs(janitor);
    bq_sweep_begin(janitor->sweep);
  }
  bq_timer_set(janitor->timer, TICK_MS);
}
