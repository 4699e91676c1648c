// The server's generations: loading, storing before first use, what follows a change.
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "queue/server_internal.h"
#include "queue/server_metrics.h"
#include "queue/server_modules.h"

enum {
  HANDLER_SLICE_US = 50000, // of one route between two waits
  LOGGED_BYTES = 400,       // of a change's paths in the log; then they are counted
  STORE_AGAIN_MS = 1000,    // when scripts could not be sent to the database
  WATCH_QUIET_MS = 60,      // without a further change before files are read
  WATCH_LONGEST_MS = 2000   // from the first change: a checkout of many files is one change, not several mixtures
};

// A generation on its way into the database.
typedef struct storing {
  bq_server *server;         // borrowed
  bq_generation *generation; // retained
} storing;

static void trim_work(bq_task *task) {
  (void)task;
  bq_memory_trim();
}

static void trim_done(bq_task *task) {
  ((bq_server *)((char *)task - offsetof(bq_server, trim_task)))->trimming = 0;
}

// Reading, compiling, checking and storing scripts has used megabytes that nobody needs until the next change.
static void trim_memory(bq_server *server) {
  bq_error err;
  // Threads that want memory wait for it meanwhile: not beside builds.
  if (server->trimming || bq_runner_count(server->runner) > 0) return;
  server->trim_task = (bq_task){.work = trim_work, .done = trim_done};
  server->trimming = bq_pool_submit(server->blocking, &server->trim_task, &err) == 0; // a full pool has other worries
}

static void on_generation_stored(void *arg, const bq_pg_result *result) {
  storing *s = arg;
  bq_server *server = s->server;
  const bq_generation *current = bq_script_host_current(server->host);
  if (result->error != NULL) {
    bq_log_error("the scripts could not be stored: builds go on with the ones before", result->error);
  }
  // An answer that came late, behind that of a newer generation, changes nothing.
  if (result->error == NULL && (server->stored == NULL || server->stored != current)) {
    bq_generation_release(server->stored);
    server->stored = bq_generation_retain(s->generation);
  }
  server->storing--;
  trim_memory(server);
  bq_runner_wake(server->runner);
  bq_generation_release(s->generation);
  bq_free(s);
}

// The files as JSON, to be freed by the caller; NULL when memory is out.
static char *list_files(const bq_sources *sources) {
  json_t *files = json_array();
  int failed = files == NULL;
  for (size_t i = 0; i < bq_sources_count(sources) && !failed; i++) {
    const bq_source *source = bq_sources_at(sources, i);
    // What is no UTF-8 can't be kept as text: such a template is given back empty, and its hash tells.
    size_t length = bq_utf8_is(source->text, source->length) ? source->length : 0;
    json_t *content = json_stringn(source->text, length);
    failed = json_array_append_new(files, json_pack("{s:s, s:s, s:o}", "path", source->path, "hash", source->hash,
                                                    "content", content)) < 0;
  }
  char *text = !failed ? bq_json_dumps(files, JSON_COMPACT) : NULL;
  json_decref(files);
  return text;
}

static void store_generation(void *arg) {
  bq_server *server = arg;
  bq_generation *current = bq_script_host_current(server->host);
  char *text = list_files(bq_generation_sources(current));
  bq_error err;
  const char *params[] = {bq_generation_hash(current), text};
  storing *s = bq_alloc(sizeof *s);
  if (s != NULL) *s = (storing){.server = server, .generation = bq_generation_retain(current)};
  if (text == NULL || s == NULL ||
      bq_store_write(server->store, "store_generation", 2, params, on_generation_stored, s, &err) < 0) {
    bq_log(BQ_ERROR, "the scripts could not be stored (trying again): builds go on with the ones before", NULL);
    bq_timer_set(server->store_timer, STORE_AGAIN_MS);
    bq_generation_release(s != NULL ? s->generation : NULL);
    bq_free(s);
  } else {
    server->storing++;
  }
  bq_free(text);
}

bq_generation *bq_server_generation(void *arg) {
  return ((bq_server *)arg)->stored;
}

int bq_server_is_pinned(void *arg, const char *pipeline) {
  bq_server *server = arg;
  const json_t *info = json_object_get(bq_script_host_pipelines(server->host), pipeline);
  return json_is_true(json_object_get(info, "pin"));
}

const json_t *bq_server_needs(void *arg, const char *pipeline) {
  const bq_server *server = arg;
  return json_object_get(json_object_get(bq_script_host_pipelines(server->host), pipeline), "secrets");
}

static const char *const difference_words[] = {[BQ_ADDED] = "added", [BQ_CHANGED] = "changed", [BQ_REMOVED] = "removed"};

static void note_difference(void *arg, bq_difference difference, const char *path) {
  (void)json_array_append_new(json_object_get(arg, difference_words[difference]), json_string(path));
}

// Keeps what the current generation is the change of.
static void note_change(bq_server *server, bq_generation *current) {
  json_t *change = json_pack("{s:s, s:[], s:[], s:[]}", "previous", bq_generation_hash(server->announced), "added",
                             "changed", "removed");
  bq_sources_compare(bq_generation_sources(server->announced), bq_generation_sources(current), note_difference, change);
  json_decref(server->change);
  server->change = change;
  server->change_us = bq_clock_mono_us();
}

// "changed scripts/routes/a.lua, added scripts/lib/b.lua", as much as fits into the log.
static void describe_change(const json_t *change, bq_buf *text) {
  size_t left = 0;
  for (size_t d = 0; d < sizeof difference_words / sizeof difference_words[0]; d++) {
    size_t index;
    json_t *path;
    json_array_foreach(json_object_get(change, difference_words[d]), index, path) {
      if (text->length > LOGGED_BYTES) left++;
      else bq_buf_addf(text, "%s%s %s", text->length > 0 ? ", " : "", difference_words[d], json_string_value(path));
    }
  }
  if (left > 0) bq_buf_addf(text, " and %zu more", left);
}

static void announce(bq_server *server) {
  bq_generation *current = bq_script_host_current(server->host);
  bq_buf text = {0};
  if (server->announced != NULL) note_change(server, current);
  describe_change(server->change, &text);
  bq_log(BQ_INFO, "scripts are active", "generation", bq_generation_hash(current), text.length > 0 ? "change" : NULL,
         text.data, NULL);
  bq_buf_free(&text);
  bq_generation_release(server->announced);
  server->announced = bq_generation_retain(current);
}

static void on_scripts_loaded(void *arg, int swapped, const bq_error *error) {
  bq_server *server = arg;
  if (swapped) {
    server->decider.policies = bq_script_host_policies(server->host);
    bq_stock_renew(server->env.stock, bq_script_host_current(server->host));
    announce(server);
  }
  if (server->activation != NULL) bq_activation_loaded(server->activation, error);
  bq_generations_loaded(server, error);
  if (error != NULL) {
    bq_log(BQ_ERROR, server->ready ? "the changed scripts are not used" : "the scripts can't be used", "error",
           error->message, NULL);
    if (!server->ready) {
      server->error = *error;
      bq_server_stop_now(server, error->code);
    }
    return;
  }
  if (!swapped) return;
  if (!server->ready) bq_server_become_ready(server);
  bq_timer_clear(server->store_timer);
  store_generation(server);
  bq_scheduler_wake(server->scheduler);
  bq_sender_wake(server->sender);
  if (server->placer != NULL) bq_placer_wake(server->placer);
}

static void on_files_changed(void *arg) {
  bq_script_host_reload(((bq_server *)arg)->host);
}

bq_handlers *bq_server_handlers(void *arg) {
  return bq_script_host_handlers(((bq_server *)arg)->host);
}

void bq_server_spoiled(void *arg, bq_handlers *handlers) {
  bq_script_host_spoiled(((bq_server *)arg)->host, handlers);
}

void bq_server_policy_failed(void *arg, bq_hook hook, const bq_error *err) {
  bq_server *server = arg;
  const char *label = bq_hook_name(hook);
  bq_metrics_add(server->metrics, BQ_M_POLICY_FAILURES, &label, 1);
  // One line a second at most: a broken policy is asked for every build.
  int64_t now_us = bq_clock_mono_us();
  if (server->policy_said_us != 0 && now_us - server->policy_said_us < 1000000) return;
  server->policy_said_us = now_us;
  bq_log(BQ_WARN, "a policy failed: the built-in rule decides", "hook", label, "error", err->message, NULL);
}

int bq_server_open_scripts(bq_server *server, bq_error *err) {
  const bq_config *config = server->config;
  const bq_script_host_options options = {
      .loop = server->loop,
      .compute = server->compute,
      .blocking = server->blocking,
      .directories = {.share = server->share,
                      .scripts = config->script_directory[0] != '\0' ? config->script_directory : NULL,
                      .templates = config->template_directory[0] != '\0' ? config->template_directory : NULL},
      .check_modules = bq_check_modules,
      .handler_modules = bq_route_modules,
      .services = &server->services,
      .generations = server->generations,
      .max_generations = (unsigned)config->max_generations,
      .memory_bytes = (size_t)config->lua_memory_megabytes * 1024 * 1024,
      .handler_slice_us = HANDLER_SLICE_US,
      .loaded = on_scripts_loaded,
      .arg = server};
  int result = bq_script_host_new(&server->host, &options, err);
  if (result == 0) result = bq_timer_new(&server->store_timer, server->loop, store_generation, server, err);
  if (result < 0) return result;
  char *scripts = bq_format("%s/scripts", server->share);
  char *templates = bq_format("%s/templates", server->share);
  const char *roots[4] = {scripts, templates};
  size_t count = 2;
  if (options.directories.scripts != NULL) roots[count++] = options.directories.scripts;
  if (options.directories.templates != NULL) roots[count++] = options.directories.templates;
  const bq_watch_options watch = {.roots = roots,
                                  .root_count = count,
                                  .quiet_ms = WATCH_QUIET_MS,
                                  .longest_ms = WATCH_LONGEST_MS,
                                  .changed = on_files_changed,
                                  .arg = server};
  if (scripts == NULL || templates == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory");
  else result = bq_watch_new(&server->watch, server->loop, server->blocking, &watch, err);
  bq_free(scripts);
  bq_free(templates);
  return result;
}
