// SIGHUP: configuration and scripts are read again. The configuration on a thread, since a secret's command may take its
// time; what can't change on a running server is named in the log.
#include <stddef.h>

#include "base/log.h"
#include "base/memory.h"
#include "queue/server_internal.h"
#include "queue/server_modules.h"

static void log_change(void *arg, const bq_config_change *change) {
  (void)arg;
  bq_log(change->now ? BQ_INFO : BQ_WARN, change->now ? "option changed" : "option changed: it needs a restart",
         "option", change->name, "from", change->before, "to", change->after, NULL);
}

static void read_config_work(bq_task *task) {
  bq_server *server = (bq_server *)((char *)task - offsetof(bq_server, config_task));
  bq_config_faults *faults = NULL;
  bq_error err;
  if (bq_config_load(&server->new_config, server->options->source, &faults, &err) < 0) {
    server->new_config = NULL;
    bq_log_error("the changed configuration is not used", &err);
  }
  if (faults != NULL) bq_config_faults_log(faults);
  bq_config_faults_free(faults);
}

static void keep_old_config(bq_server *server, bq_config *old) {
  bq_config **grown = bq_realloc(server->old_configs, (server->old_config_count + 1) * sizeof *grown);
  if (grown == NULL) return; // it stays allocated: a slice may read it
  server->old_configs = grown;
  server->old_configs[server->old_config_count++] = old;
}

static void read_config_done(bq_task *task) {
  bq_server *server = (bq_server *)((char *)task - offsetof(bq_server, config_task));
  bq_config *newer = server->new_config;
  bq_error err;
  server->new_config = NULL;
  server->reading_config = 0;
  if (newer != NULL) {
    int notifications = server->config->enable_notifications;
    if (bq_config_diff(server->config, newer, log_change, NULL, &err) < 0) bq_log_error("comparing options failed", &err);
    bq_config_apply(server->config, newer);
    keep_old_config(server, newer);
    server->sandbox = bq_server_sandbox(server->config); // commands that run have taken a copy
    // Its truth is in SQL, where writers of plain SQL follow it too. Another server's is left alone unless ours changed.
    if (notifications != server->config->enable_notifications && bq_server_set_notifications(server, &err) < 0) {
      bq_log_error("EnableNotifications could not be told to the database", &err);
    }
    bq_log_setup((bq_log_level)server->config->log_level, (bq_log_format)server->config->log_format);
    if (bq_hidden_update(&server->hidden, server->config, server->conninfo, &err) < 0) {
      bq_log_error("new secrets are not masked in logs", &err);
    }
    server->env.hidden = server->hidden;
    // The states of builds and of routes have a copy of the options in them (`buildq.config`).
    bq_stock_renew(server->env.stock, bq_script_host_current(server->host));
    bq_script_host_spoiled(server->host, bq_script_host_handlers(server->host));
    bq_runner_wake(server->runner);
    bq_sender_wake(server->sender);
  }
  bq_script_host_reload(server->host);
}

void bq_server_on_reload(int number, short what, void *arg) {
  (void)number;
  (void)what;
  bq_server *server = arg;
  bq_error err;
  if (server->reading_config || server->stopping || !server->ready) return;
  bq_log(BQ_INFO, "reading the configuration and the scripts again", NULL);
  server->config_task = (bq_task){.work = read_config_work, .done = read_config_done};
  if (bq_pool_submit(server->blocking, &server->config_task, &err) < 0) bq_log_error("reloading failed", &err);
  else server->reading_config = 1;
}
