// What `require "buildq"` holds, for each kind of script, and what it works with.
#ifndef BQ_QUEUE_SERVER_MODULES_H
#define BQ_QUEUE_SERVER_MODULES_H

#include "base/config.h"
#include "io/process.h"
#include "lua/modules.h"

extern const bq_lua_module bq_build_modules[]; // pipelines
extern const bq_lua_module bq_route_modules[]; // routes
extern const bq_lua_module bq_check_modules[]; // the self-check, which loads all kinds

// bq_services' functions, for a vm whose owner is an attempt or nobody.
const char *bq_server_workspace(lua_State *L);
const char *bq_server_build_id(lua_State *L);

// The sandbox that the configuration asks for; strings are borrowed from it.
bq_sandbox bq_server_sandbox(const bq_config *config);

#endif
