// What `require "buildq"` holds, for each kind of script.
#ifndef BQ_QUEUE_SERVER_MODULES_H
#define BQ_QUEUE_SERVER_MODULES_H

#include "lua/modules.h"

extern const bq_lua_module bq_build_modules[]; // pipelines
extern const bq_lua_module bq_route_modules[]; // routes
extern const bq_lua_module bq_check_modules[]; // the self-check, which loads all kinds

#endif
