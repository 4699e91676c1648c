// Watches directory trees for changes (inotify), debounced.
//
// Beside every directory of a tree it watches the parent of each component of the root's path, also through symbolic
// links: a release directory that is switched by a link shows nothing inside the tree itself.
//
// Thread rule: loop thread only. Scanning happens on the blocking pool.
#ifndef BQ_IO_WATCH_H
#define BQ_IO_WATCH_H

#include <stddef.h>

#include "base/error.h"
#include "event/loop.h"
#include "event/pool.h"

typedef struct bq_watch bq_watch;

typedef struct bq_watch_options {
  const char *const *roots; // directories; copied. One that doesn't exist yet is noticed when it appears
  size_t root_count;
  int64_t quiet_ms;         // `changed` is called after this long without a further change …
  int64_t longest_ms;       // … but at most this long after the first one
  void (*changed)(void *arg);
  void *arg;
} bq_watch_options;

// Changes made after this returns are noticed. Scans the trees once on the calling thread.
int bq_watch_new(bq_watch **out, bq_loop *loop, bq_pool *blocking, const bq_watch_options *options,
                 bq_error *err) BQ_MUSTCHECK;

// `changed` is not called any more. May be called with a scan under way: memory is freed when that ends.
void bq_watch_free(bq_watch *watch);

#endif
