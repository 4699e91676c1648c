// What scripts reach with `require`: the module "buildq", made of rows, and scripts/lib.
#ifndef BQ_LUA_MODULES_H
#define BQ_LUA_MODULES_H

#include <lua.h>

#include "base/error.h"
#include "io/curl.h"
#include "io/pg.h"
#include "lua/fiber.h"
#include "lua/generation.h"
#include "lua/stand_in.h"

// What the bindings work with. Borrowed by every vm; outlives them.
typedef struct bq_services {
  bq_loop *loop;
  bq_pool *blocking;
  bq_pg *db;     // the scripts' own connections; NULL: there is no database (buildq run)
  bq_curl *http;
  // The directory that fs and archive are confined to, of the vm that L runs in; NULL where there is none.
  const char *(*workspace)(lua_State *L);
  // The build's id of the vm that L runs in, for log lines; NULL in routes.
  const char *(*build_id)(lua_State *L);
  void *product; // what the queue's bindings find
  bq_stand_in *stand_in; // `buildq test`: what answers in the world's place; NULL: the world itself
} bq_services;

// One field of `require "buildq"`.
typedef struct bq_lua_module {
  const char *name;    // "json", "sleep", …; NULL ends a list
  lua_CFunction open;  // called without arguments; returns the field's value (a table or a function)
} bq_lua_module;

// Makes a vm whose scripts are those of `generation` (retained as long as the state lives) in one fresh environment.
// `modules` and `services` are borrowed and outlive the vm. Its memory is bounded from here on.
int bq_script_vm_new(bq_vm **out, const bq_vm_options *options, bq_generation *generation,
                     const bq_lua_module *modules, bq_services *services, bq_error *err) BQ_MUSTCHECK;

// What bq_script_vm_new was given; from a binding.
bq_services *bq_script_services(lua_State *L);
bq_generation *bq_script_generation(lua_State *L);

// Whether the script "scripts/…" is a team's own, from an overlay. Any state; never raises.
int bq_script_is_own(lua_State *L, const char *path);

// Pushes a C function `load(path)`: it runs the script "scripts/…" in the vm's environment and returns its value;
// raises when it is missing or fails. To be used as an argument of a fiber's bootstrap.
void bq_script_push_loader(lua_State *L);

// Pushes the table of modules that were required so far, by name.
void bq_script_push_loaded(lua_State *L);

// Pushes the environment that the vm's scripts share.
void bq_script_push_env(lua_State *L);

#endif
