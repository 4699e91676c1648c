#include "queue/trial.h"

#include <event2/event.h>
#include <signal.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/http_server.h"
#include "queue/server_modules.h"
#include "queue/small_server.h"
#include "queue/trial_internal.h"

enum { HANDLER_SLICE_US = 1000 * 1000 };

// Hanging on to a server ----------------------------------------------------------------------------------------------

static int attach(bq_trial *trial, bq_server *server, bq_error *err) {
  trial->server = server;
  server->services.stand_in = &trial->stand_in;
  int result = bq_timer_new(&trial->pump, server->loop, bq_trial_look, trial, err);
  if (result < 0) return result;
  trial->readable = event_new(bq_loop_base(server->loop), trial->options->in, EV_READ | EV_PERSIST,
                              bq_trial_on_readable, trial);
  if (trial->readable == NULL || event_add(trial->readable, NULL) < 0) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for the spec's lines");
  }
  return 0;
}

static void detach(bq_trial *trial) {
  bq_trial_desk_free(trial);
  bq_timer_free(trial->pump);
  if (trial->readable != NULL) event_free(trial->readable);
  trial->pump = NULL;
  trial->readable = NULL;
}

// The small server
// ------------------------------------------------------------------------------------------------------

static bq_handlers *handlers(void *arg) {
  return bq_script_host_handlers(((bq_server *)arg)->host);
}

static void spoiled(void *arg, bq_handlers *old) {
  bq_script_host_spoiled(((bq_server *)arg)->host, old);
}

static void refuse_stream(void *arg, bq_http_exchange *x, const bq_api_response *response,
                          const bq_http_header *headers, size_t header_count) {
  (void)arg;
  (void)response;
  (void)headers;
  (void)header_count;
  bq_api_problem(x, 503, "files, logs and events need a database: call database() in the spec", NULL, NULL, 0);
}

static void on_loaded(void *arg, int swapped, const bq_error *error) {
  (void)arg;
  (void)swapped;
  (void)error; // the spec that asks for a reload is told
}

static int open_http(bq_server *server, bq_error *err) {
  const bq_api_options api = {.loop = server->loop,
                              .config = server->config,
                              .handlers = handlers,
                              .spoiled = spoiled,
                              .arg = server,
                              .streams = {.send = refuse_stream, .arg = server}};
  int result = bq_api_new(&server->api, &api, err);
  if (result < 0) return result;
  bq_http_options options;
  bq_http_options_default(&options);
  options.listen = server->config->listen;
  options.max_body = (size_t)server->config->max_body_kilobytes * 1024;
  const bq_http_handler handler = {.on_request = bq_api_on_request, .arg = server->api};
  result = bq_http_server_new(&server->http, server->loop, &options, &handler, err);
  if (result < 0) return result;
  bq_api_set_address(server->api, bq_http_server_address(server->http));
  server->url = bq_format("http://%s", bq_http_server_address(server->http));
  server->env.server_url = server->url;
  return server->url != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
}

static void greet(bq_trial *trial) {
  bq_trial_write(trial, json_pack("{s:s, s:s, s:s, s:s}", "hello", trial->server->url, "scripts",
                                  trial->server->config->script_directory, "manifests",
                                  trial->server->config->manifest_directory, "directory", trial->options->directory));
}

static int run_small(bq_trial *trial, bq_error *err) {
  bq_server server = {.lock_fd = -1, .free_megabytes = -1};
  const bq_small_options options = {.config = trial->config,
                                    .share = trial->share,
                                    .handler_modules = bq_route_modules,
                                    .handler_slice_us = HANDLER_SLICE_US,
                                    .loaded = on_loaded};
  int result = bq_small_server_open(&server, &options, err);
  if (result == 0) result = open_http(&server, err);
  if (result == 0) result = attach(trial, &server, err);
  if (result == 0) {
    greet(trial);
    result = bq_loop_run(server.loop, err);
  }
  // Builds that still run end with the process, which is about to end.
  if (bq_trial_builds_run(trial)) return result;
  detach(trial);
  bq_trial_free_builds(trial);
  bq_http_server_free(server.http);
  bq_api_free(server.api);
  bq_small_server_close(&server);
  bq_free(server.url);
  return result;
}

// The whole server
// --------------------------------------------------------------------------------------------------------

static void on_opened(void *arg, struct bq_server *server) {
  bq_trial *trial = arg;
  bq_error err;
  trial->whole = 1;
  trial->want_database = 0;
  if (attach(trial, server, &err) < 0) {
    bq_log_error("the spec can't be heard", &err);
    (void)raise(SIGTERM);
    return;
  }
  bq_trial_wait_for(trial, BQ_TRIAL_DATABASE);
}

static void on_closing(void *arg) {
  bq_trial *trial = arg;
  detach(trial);
  if (!bq_trial_builds_run(trial)) bq_trial_free_builds(trial);
}

static int run_whole(bq_trial *trial, bq_error *err) {
  const bq_serve_options options = {.share = trial->share,
                                    .migrate = 1,
                                    .opened = on_opened,
                                    .closing = on_closing,
                                    .arg = trial};
  bq_config *config = trial->config;
  trial->config = NULL;
  int result = bq_serve(config, &options, err);
  return result < 0 ? result : 0;
}

int bq_trial_run(bq_config *config, const bq_trial_options *options, bq_error *err) {
  bq_trial *trial = bq_alloc(sizeof *trial);
  if (trial == NULL) {
    bq_config_free(config);
    return bq_fail(err, BQ_ENOMEM, "out of memory for the runtime");
  }
  trial->options = options;
  trial->config = config;
  bq_trial_init_stand_in(trial);
  (void)signal(SIGPIPE, SIG_IGN);
  // Both servers run as the same user, and can touch the same files.
  int result = bq_server_become_user(config, options->share, &trial->share, err);
  if (result == 0) result = run_small(trial, err);
  if (result == 0 && trial->want_database) result = run_whole(trial, err);
  if (result < 0 && trial->call != 0) bq_trial_refuse(trial, err);
  bq_config_free(trial->config);
  bq_buf_free(&trial->input);
  bq_free(trial->share);
  bq_free(trial);
  return result;
}
