#include "queue/server_modules.h"

#include "lua/lib_archive.h"
#include "lua/lib_db.h"
#include "lua/lib_fs.h"
#include "lua/lib_http.h"
#include "lua/lib_server.h"
#include "lua/libs.h"
#include "queue/api_response.h"
#include "queue/attempt.h"
#include "queue/server_internal.h"

static int open_sleep(lua_State *L) {
  lua_pushcfunction(L, bq_lua_sleep);
  return 1;
}

static int open_sha256(lua_State *L) {
  lua_pushcfunction(L, bq_lua_sha256);
  return 1;
}

#define COMMON_MODULES                                                                                                 \
  {"json", bq_lua_open_json}, {"sleep", open_sleep}, {"sha256", open_sha256}, {"uuid", bq_lua_open_uuid},              \
      {"clock", bq_lua_open_clock}, {"log", bq_lua_open_log}, {"db", bq_lua_open_db}, {"http", bq_lua_open_http},      \
  {                                                                                                                    \
    "config", bq_config_open                                                                                           \
  }

const bq_lua_module bq_build_modules[] = {
    COMMON_MODULES, {"fs", bq_lua_open_fs}, {"archive", bq_lua_open_archive}, {"queue", bq_intake_open},
    {"templates", bq_lua_open_templates}, {NULL, NULL}};

const bq_lua_module bq_route_modules[] = {
    COMMON_MODULES, {"queue", bq_queue_open}, {"schedule", bq_schedule_open},
    {"generations", bq_generations_open}, {"response", bq_api_open_response},
    {"templates", bq_lua_open_templates}, {"notifications", bq_notifications_open}, {NULL, NULL}};

const bq_lua_module bq_check_modules[] = {COMMON_MODULES,
                                          {"fs", bq_lua_open_fs},
                                          {"archive", bq_lua_open_archive},
                                          {"queue", bq_queue_open},
                                          {"schedule", bq_schedule_open},
                                          {"generations", bq_generations_open},
                                          {"response", bq_api_open_response},
                                          {"templates", bq_lua_open_templates},
                                          {"notifications", bq_notifications_open},
                                          {NULL, NULL}};

const char *bq_server_workspace(lua_State *L) {
  return bq_vm_owner(bq_vm_of(L)) != NULL ? bq_attempt_workspace(bq_attempt_with_dirs(L)) : NULL;
}

const char *bq_server_build_id(lua_State *L) {
  const bq_attempt *attempt = bq_vm_owner(bq_vm_of(L));
  return attempt != NULL ? bq_attempt_id(attempt) : NULL;
}

bq_sandbox bq_server_sandbox(const bq_config *config) {
  return (bq_sandbox){.kind = config->sandbox == BQ_CONFIG_SANDBOX_NONE ? BQ_SANDBOX_NONE : BQ_SANDBOX_BWRAP,
                      .bwrap_path = "/usr/bin/bwrap",
                      .read_only_paths = (const char *const *)(void *)config->sandbox_read_only_paths,
                      .network = config->sandbox_network};
}
