// The policies of one generation: which file provides which hook, loaded into a vm of their own and ready to be asked.
//
// scripts/policies/active.lua names the file of each hook: {priority = "fair", …}. A hook that isn't named there has no
// script: whoever asks then applies the built-in rule (queue/decide.h).
// A hook is a pure function of its arguments, so that it can be rehearsed: no clock, no chance, nothing to wait for.
// Thread rule: one thread, that of the loop where there is one.
#ifndef BQ_LUA_POLICIES_H
#define BQ_LUA_POLICIES_H

#include <jansson.h>

#include "lua/modules.h"

typedef enum bq_hook {
  BQ_HOOK_PRIORITY,  // (build, facts) → where a build stands among the pending ones
  BQ_HOOK_CHOOSE,    // (candidates) → their order
  BQ_HOOK_RETRY,     // (failure) → whether and when it is tried again
  BQ_HOOK_ADMISSION, // (build, facts) → whether it is accepted
  BQ_HOOK_SCHEDULE,  // () → what is enqueued when
  BQ_HOOK_ESTIMATE,  // (build, history) → how long it takes and what it costs
  BQ_HOOK_COUNT
} bq_hook;

enum { BQ_POLICY_CALL_US = 20 * 1000, BQ_POLICY_MEMORY_BYTES = 32 * 1024 * 1024 };

typedef struct bq_policies bq_policies;

typedef struct bq_policies_options {
  bq_loop *loop;
  bq_services *services;             // borrowed; what a module in scripts/lib may have been given, NULL is fine
  size_t memory_bytes;               // of the whole vm; BQ_POLICY_MEMORY_BYTES
  int64_t call_us;                   // CPU time of one call; BQ_POLICY_CALL_US
  const char *files[BQ_HOOK_COUNT];  // instead of what active.lua names; NULL: as it says. Copied
  const char *first;                 // the file whose hooks, all of them, go before all else; NULL: none. Copied
} bq_policies_options;

// Loads what is active in `generation` (retained). All faults are in `err`, one a line (BQ_ESCRIPT).
int bq_policies_new(bq_policies **out, const bq_policies_options *options, bq_generation *generation,
                    bq_error *err) BQ_MUSTCHECK;
void bq_policies_free(bq_policies *policies); // NULL is fine

const char *bq_hook_name(bq_hook hook);           // "priority"
const char *bq_policies_file(const bq_policies *policies, bq_hook hook); // "fair"; NULL: the built-in rule

// Whether the hook's file asks for the fact ("customer", …) in its table `facts`. NULL policies: 0.
int bq_policies_wants(const bq_policies *policies, bq_hook hook, const char *fact);

// Names what decides for the hook: a hash of its file and of the modules that policies have loaded, "" for the built-in
// rule, which "strict" is for priority. Equal on servers with the same scripts. NULL policies: "".
enum { BQ_FINGERPRINT_SIZE = 17 };
const char *bq_policies_fingerprint(const bq_policies *policies, bq_hook hook);

// Calls the hook now, on this thread, for at most call_us of its time. *out is the caller's: what it returned, as JSON
// (null for nil). Arguments are borrowed. BQ_ENOTFOUND when no script provides it, BQ_ESCRIPT when it failed or
// overran: then the policies are loaded anew before the next call.
int bq_policies_call(bq_policies *policies, bq_hook which, const json_t *const *args, size_t count, json_t **out,
                     bq_error *err) BQ_MUSTCHECK;

#endif
