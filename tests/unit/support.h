// What several unit tests share: temporary directories, giving up root, running the loop until something is true.
#ifndef BQ_TESTS_SUPPORT_H
#define BQ_TESTS_SUPPORT_H

#include <stdint.h>

#include "event/loop.h"

// A new directory below /tmp, mode 0700; the caller's (support_remove_directory). Ends the test on failure.
char *support_make_directory(void);
void support_remove_directory(char *path); // with all that is in it; frees the path

// As root: becomes the user `nobody` for good, in directory /. As any other user: nothing. Ends the process on failure.
void support_drop_root(void);

// Runs the loop until `is_true(arg)` or until `limit_ms` have passed. Returns what is_true said last.
int support_run_until(bq_loop *loop, int (*is_true)(void *arg), void *arg, int64_t limit_ms);

// The same for things that no loop reports: asks every 2 ms.
int support_wait_until(int (*is_true)(void *arg), void *arg, int64_t limit_ms);

#endif
