#include "queue/small_server.h"

#include "base/version.h"
#include "queue/server_modules.h"

enum { THREADS = 2, POOL_QUEUE = 10000, TRANSFERS = 16 };

static int open_loop(bq_server *server, bq_error *err) {
  int result = bq_loop_new(&server->loop, err);
  if (result == 0) result = bq_pool_new(&server->compute, server->loop, "compute", THREADS, POOL_QUEUE, err);
  if (result == 0) result = bq_pool_new(&server->blocking, server->loop, "blocking", THREADS, POOL_QUEUE, err);
  if (result == 0) result = bq_curl_new(&server->curl, server->loop, TRANSFERS, err);
  return result;
}

static void fill(bq_server *server, const bq_small_options *options) {
  server->config = options->config;
  server->services = (bq_services){.loop = server->loop,
                                   .blocking = server->blocking,
                                   .http = server->curl,
                                   .workspace = bq_server_workspace,
                                   .build_id = bq_server_build_id,
                                   .product = server};
  server->sandbox = bq_server_sandbox(options->config);
  server->env = (bq_attempt_env){.loop = server->loop,
                                 .compute = server->compute,
                                 .blocking = server->blocking,
                                 .config = options->config,
                                 .sandbox = &server->sandbox,
                                 .services = &server->services,
                                 .node_id = "local",
                                 .files_at_once = 1,
                                 .server_url = "",
                                 .version = BQ_VERSION,
                                 .stop_after = options->stop_after,
                                 .needs = bq_server_needs,
                                 .arg = server};
}

int bq_small_server_open(bq_server *server, const bq_small_options *options, bq_error *err) {
  int result = open_loop(server, err);
  if (result < 0) return result;
  fill(server, options);
  const bq_stock_options stock = {.loop = server->loop,
                                  .modules = bq_build_modules,
                                  .services = &server->services,
                                  .prepare = bq_attempt_open_state};
  result = bq_stock_new(&server->env.stock, &stock, err);
  if (result < 0) return result;
  const bq_config *config = options->config;
  const bq_script_host_options host = {
      .loop = server->loop,
      .compute = server->compute,
      .blocking = server->blocking,
      .directories = {.share = options->share,
                      .scripts = config->script_directory[0] != '\0' ? config->script_directory : NULL,
                      .templates = config->template_directory[0] != '\0' ? config->template_directory : NULL},
      .check_modules = bq_check_modules,
      .handler_modules = options->handler_modules,
      .services = &server->services,
      .memory_bytes = (size_t)config->lua_memory_megabytes * 1024 * 1024,
      .handler_slice_us = options->handler_slice_us,
      .loaded = options->loaded,
      .arg = options->arg};
  return bq_script_host_new(&server->host, &host, err);
}

void bq_small_server_close(bq_server *server) {
  bq_pool_free(server->compute);
  bq_pool_free(server->blocking);
  bq_script_host_free(server->host);
  bq_stock_free(server->env.stock);
  bq_curl_free(server->curl);
  bq_loop_free(server->loop);
}
