// The bubblewrap command line of one command: what it sees of the machine, and what it doesn't.
//
// Thread rule: any thread.
#ifndef BQ_IO_SANDBOX_H
#define BQ_IO_SANDBOX_H

#include "base/error.h"
#include "io/process.h"

// The descriptors that bwrap itself expects, beside 0, 1 and 2. bwrap closes them before the command runs.
enum {
  BQ_SANDBOX_FD_INFO = 3,   // bwrap writes the pid of the sandbox's first process
  BQ_SANDBOX_FD_BLOCK = 4,  // bwrap waits for a byte before it executes anything
  BQ_SANDBOX_FD_PASSWD = 5, // contents of the sandbox's /etc/passwd
  BQ_SANDBOX_FD_GROUP = 6,  // contents of the sandbox's /etc/group
  BQ_SANDBOX_FD_COUNT = 7
};

// Started as root, the command runs as this user inside (outside, its files belong to root).
enum { BQ_SANDBOX_ROOTS_UID = 1000 };

typedef struct bq_sandbox_command {
  const char *path; // what to execute; borrowed from the spec or constant
  char **argv;      // owned, NULL-terminated
  size_t count;     // strings in argv
  size_t capacity;  // of argv
} bq_sandbox_command;

// Builds the command line for `spec` of either sandbox kind. In both, /bin/sh executes the command: it looks argv[0] up
// in PATH, and says "not found" with code 127 (126: not executable). In bwrap that shell is pid 1 of the sandbox: when
// the command ends it ends, and the kernel ends everything else in there before bwrap sees it.
// BQ_EINVAL: an empty argv, a relative path, a name in env that a shell can't hold.
int bq_sandbox_command_new(bq_sandbox_command *out, const bq_process_spec *spec, bq_error *err) BQ_MUSTCHECK;
void bq_sandbox_command_free(bq_sandbox_command *command); // back to zeroes; also after a failure

// A file in memory with the text of /etc/passwd (group = 0) or /etc/group (group = 1) in the sandbox: root, the build's
// user and nobody. Returns a descriptor, the caller's to close.
int bq_sandbox_accounts(int *fd, int group, bq_error *err) BQ_MUSTCHECK;

// A file in memory that holds `bytes`, at its beginning. Returns a descriptor, the caller's to close.
int bq_sandbox_memory_file(int *out, const char *name, const void *bytes, size_t length, bq_error *err) BQ_MUSTCHECK;

#endif
