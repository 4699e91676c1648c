// Child processes of builds: started in a sandbox, watched over the loop, ended as a whole tree.
//
// Thread rule: loop thread only (--die-with-parent follows the thread that forked).
#ifndef BQ_IO_PROCESS_H
#define BQ_IO_PROCESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "event/loop.h"

typedef enum bq_sandbox_kind {
  BQ_SANDBOX_BWRAP, // own mount, pid and ipc namespaces
  BQ_SANDBOX_NONE   // a process group and, where it can be had, a cgroup
} bq_sandbox_kind;

typedef struct bq_sandbox {
  bq_sandbox_kind kind;
  const char *bwrap_path;             // "/usr/bin/bwrap"
  const char *const *read_only_paths; // extra paths to show read-only (SDKs, caches), NULL-terminated; may be NULL
  const char *const *writable_paths;  // extra paths to show writable, NULL-terminated; may be NULL
  int network;                        // 1: the host's network is visible (git clone, package restore)
} bq_sandbox;

typedef struct bq_process_limits { // setrlimit; 0 leaves a limit as it is
  uint64_t address_space_bytes;
  uint64_t file_size_bytes;
  uint64_t open_files;
  uint64_t processes;
} bq_process_limits;

typedef struct bq_process_spec {
  const char *const *argv;     // NULL-terminated; argv[0] is looked up in the child's PATH
  const char *const *env;      // "NAME=value", NULL-terminated: the whole environment of the child (and PWD); a name
                               // with other characters than A-Z, a-z, 0-9 and _ is BQ_EINVAL
  const char *cwd;             // inside the workspace
  const char *workspace;       // the one writable directory besides /tmp
  const char *input;           // bytes for standard input, or NULL for /dev/null
  size_t input_length;
  bq_sandbox sandbox;
  bq_process_limits limits;
  int64_t grace_ms;            // from SIGTERM to SIGKILL
} bq_process_spec;

typedef struct bq_process bq_process;

typedef struct bq_process_exit {
  int code;            // exit code, or -1 when ended by a signal
  int signal;          // the signal that ended it, or 0. A sandbox tells it as a shell does, 128 + signal: there a
                       // command's own code 130 to 159 is taken for the signal it stands for, 128 and 129 are not
  int64_t duration_us;
  int64_t max_rss_kb;  // of the largest process of the tree
  int64_t cpu_us;      // user + system, of the tree
} bq_process_exit;

typedef struct bq_process_events {
  // Output as it comes; `stream` is 1 or 2. Not called again until it returns: reading pauses meanwhile.
  void (*on_output)(void *arg, int stream, const char *bytes, size_t length);
  // Once: the command has ended, both pipes are read to their end (or were closed 1 s after the end of a command
  // whose descendants held them), nothing of its tree runs any more. The process object is freed afterwards.
  void (*on_exit)(void *arg, const bq_process_exit *exit);
  void *arg;
} bq_process_events;

// Starts the command. Everything in `spec` is copied; `input` is held in memory, so bound it. Fails with a sentence naming argv[0] when it can't be started
// (an unknown program is an exit code 127 with a line on stream 2, as in a shell, when the sandbox finds it out).
int bq_process_start(bq_process **out, bq_loop *loop, const bq_process_spec *spec, const bq_process_events *events,
                     bq_error *err) BQ_MUSTCHECK;

// SIGTERM to the command, SIGKILL to the whole sandbox after the grace time. on_exit is still called. Idempotent.
void bq_process_stop(bq_process *process);
// SIGKILL at once.
void bq_process_kill(bq_process *process);

// Tries the sandbox once, at start and in `buildq check`: runs `true` in it, blocking at most 5 s.
int bq_sandbox_probe(const bq_sandbox *sandbox, bq_error *err) BQ_MUSTCHECK;

#endif
