// Looks after the thread that runs a slice: every few milliseconds of its CPU time a signal asks the script's hook to
// look at the clock. So a script runs without a hook, at Lua's full speed, until somebody wants something of it: a
// count hook that is always there makes Lua ask at every instruction, and doubles the time of a loop.
//
// The timer is the thread's own, made at its first slice and gone with the thread.
#ifndef BQ_LUA_WATCHDOG_H
#define BQ_LUA_WATCHDOG_H

#include "lua/fiber.h"

// The slice's thread: `vm` begins to run here. 0: it is not watched (no timer could be had; ThreadSanitizer, which puts
// off signals), and a count hook must stay. *outer is what was watched before, for bq_watchdog_end.
int bq_watchdog_begin(bq_vm *vm, bq_vm **outer);
void bq_watchdog_end(bq_vm *outer);

#endif
