// Between the program and what may fail: the linker's --wrap sends each call of our own objects to the functions of
// calls.c, which ask here whether this one fails. What to fail is read from a file that run.lua shares with the process
// (BUILDQ_TORTURE names it), and what was called is counted there.
#ifndef BQ_TORTURE_INJECT_H
#define BQ_TORTURE_INJECT_H

// In the order of CLASSES in control.lua.
typedef enum torture_class {
  TORTURE_MEMORY, // bq_alloc and its kin
  TORTURE_LUA,    // what Lua asks its allocator for
  TORTURE_JSON,   // jansson's allocations
  TORTURE_EVENT,  // libevent's
  TORTURE_FILE,   // names, directories, descriptors
  TORTURE_READ,
  TORTURE_WRITE,
  TORTURE_FSYNC,
  TORTURE_SPAWN, // processes, threads, pipes, timers
  TORTURE_LIBPQ,
  TORTURE_LIBCURL,
  TORTURE_CRYPTO,
  TORTURE_CLASSES
} torture_class;

// Counts a call of `name` and says whether it fails. Any thread; also a child that borrows our memory until its exec.
int torture_strikes(torture_class class, const char *name);

// The same for calls that come by the thousand: their place is `name` alone, whoever calls.
int torture_strikes_often(torture_class class, const char *name);

// Raised around what is counted under another name already.
extern _Thread_local int torture_busy;

#endif
