// The stock of states that builds are lent. A build's state is made once, with the libraries, `require "buildq"` and what
// `prepare` puts there; then its memory is copied, and copied back when the build has ended: the next one gets it as it
// was, byte for byte, for a twentieth of what a new one costs. Nothing can leak from one build to another.
//
// Thread rule: loop thread.
#ifndef BQ_LUA_STOCK_H
#define BQ_LUA_STOCK_H

#include "lua/modules.h"

typedef struct bq_stock bq_stock;

enum {
  BQ_STOCK_MAX = 256,       // states that have a copy, lent or waiting; a build beyond them gets a state of its own
  BQ_STOCK_LOOK_MS = 5000   // after so long without use half of what waits is freed
};

typedef struct bq_stock_options {
  bq_loop *loop;                // borrowed, as all here
  const bq_lua_module *modules; // of bq_script_vm_new
  bq_services *services;
  lua_CFunction prepare;        // called without arguments in each new state; its memory counts as the state's own
  int64_t look_ms;              // 0: BQ_STOCK_LOOK_MS
} bq_stock_options;

int bq_stock_new(bq_stock **out, const bq_stock_options *options, bq_error *err) BQ_MUSTCHECK;
// Every vm was given back before. NULL is fine.
void bq_stock_free(bq_stock *stock);

// A vm as bq_script_vm_new makes it, whose owner is the caller until bq_stock_give.
int bq_stock_take(bq_vm **out, bq_stock *stock, const bq_vm_options *options, bq_generation *generation,
                  bq_error *err) BQ_MUSTCHECK;
// In place of bq_vm_free. NULL is fine.
void bq_stock_give(bq_stock *stock, bq_vm *vm);

typedef struct bq_stock_counts {
  size_t waiting;
  size_t images; // lent or waiting
} bq_stock_counts;
void bq_stock_get_counts(const bq_stock *stock, bq_stock_counts *out);

// The scripts or the configuration have changed: nothing of what was made so far is lent again. From now on states of
// `generation` are kept, which is retained until the next call; NULL, as at first: none are.
void bq_stock_renew(bq_stock *stock, bq_generation *generation);

#endif
