// The standard library as scripts get it: bounded, locked, and nothing that could get past the scheduler.
//
// What is there and what isn't: README.md of this room. The library tables are read-only for scripts; a state can be
// lent from build to build with nothing of the one seen by the other.
//
// Thread rule: whoever may touch the state.
#ifndef BQ_LUA_STDLIB_H
#define BQ_LUA_STDLIB_H

#include <lua.h>
#include <stddef.h>

#include "lua/fiber.h"

// Fills the state of a new vm (bq_vm_new does it). May raise for want of memory.
void bq_stdlib_open(lua_State *L);

// Gives math.random other numbers than any state has had. No memory is needed for it.
void bq_stdlib_reseed(lua_State *L);

// Pushes a fresh globals table for one build or one generation's handlers: it inherits the library; _G is itself.
// May raise for want of memory.
void bq_vm_new_env(lua_State *L);

// `require` of environments made afterwards; there is none before.
void bq_vm_set_require(bq_vm *vm, lua_CFunction require);

// What `print` does with its line (without a line break), on the slice's thread; NULL: nothing. `owner` is the vm's.
typedef void (*bq_vm_print)(void *owner, const char *text, size_t length);
void bq_vm_set_print(bq_vm *vm, bq_vm_print print);

// Replaces the table on the top of the stack by a read-only view of it, whose name appears in errors: for the tables of
// modules that are kept in a lent state. May raise for want of memory.
void bq_lua_lock(lua_State *L, const char *name);

// 1 when the value is such a view.
int bq_lua_is_locked(lua_State *L, int index);

#endif
