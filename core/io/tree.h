// Directory trees that builds write to: opened, made, listed and removed without ever leaving their root.
//
// A `root` is a directory the server trusts the path of. A `relative` path came from a script, a manifest, an archive or
// a request: it is checked, and no link in it leads out of the root.
//
// Thread rule: any thread; everything blocks, so use the blocking pool.
#ifndef BQ_IO_TREE_H
#define BQ_IO_TREE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

// Whether `relative` may be used below a root: not empty, not absolute, no "..", no longer than PATH_MAX. "." is the
// root itself. BQ_EINVAL says what is wrong.
int bq_tree_check(const char *relative, bq_error *err) BQ_MUSTCHECK;

typedef enum bq_tree_links {
  BQ_TREE_NO_LINKS,    // a link anywhere below the root is refused
  BQ_TREE_INNER_LINKS  // links are followed as long as they stay inside
} bq_tree_links;

// Opens `relative` below `root` (openat2). `flags` and `mode` as for open; O_CLOEXEC is added. On a kernel that has no
// openat2, INNER_LINKS refuses links too. `*fd` is the caller's. BQ_ENOTFOUND; BQ_ECONFLICT: O_EXCL and it exists;
// BQ_EINVAL: it leads out.
int bq_tree_open(const char *root, const char *relative, int flags, mode_t mode, bq_tree_links links, int *fd,
                 bq_error *err) BQ_MUSTCHECK;
// What bq_tree_open does without openat2: step by step, refusing every link. For its test.
int bq_tree_open_by_steps(const char *root, const char *relative, int flags, mode_t mode, int *fd,
                          bq_error *err) BQ_MUSTCHECK;

// Opens the directory that `relative` is in, made when missing (0750), and points `*name` at the last part of
// `relative`. BQ_EINVAL when there is no such part (".").
int bq_tree_open_parent(const char *root, const char *relative, int make, const char **name, int *fd,
                        bq_error *err) BQ_MUSTCHECK;

// Makes a directory and its missing parents, 0750 whatever the umask. Existing ones are left as they are.
int bq_tree_make(const char *root, const char *relative, bq_error *err) BQ_MUSTCHECK;
// The same for a configured path: links are fine. BQ_ENOTFOUND when somebody removes a parent meanwhile: try again.
int bq_tree_make_path(const char *path, bq_error *err) BQ_MUSTCHECK;

// Removes a file, a link (not what it points to) or a directory with all in it, also read-only directories and any
// depth. Stays on the root's file system. Nothing there is fine. Goes on after a failure and reports the first.
int bq_tree_remove(const char *root, const char *relative, bq_error *err) BQ_MUSTCHECK;

// Copies a file's bytes (permissions 0640, or 0750 when its owner may execute it) from below one root to below another.
// The target's directory is made when missing; an older file is BQ_ECONFLICT. `*size` is what was copied.
int bq_tree_copy_file(const char *from_root, const char *from, const char *to_root, const char *to, uint64_t *size,
                      bq_error *err) BQ_MUSTCHECK;

// A file, or a directory with all in it. Links inside are copied as links (they can't lead anywhere from inside a
// sandbox); fifos, sockets and devices are left out. At most BQ_TREE_MAX_COPY entries (BQ_ELIMIT).
enum { BQ_TREE_MAX_COPY = 1000 * 1000 };
int bq_tree_copy(const char *from_root, const char *from, const char *to_root, const char *to, int *is_directory,
                 bq_error *err) BQ_MUSTCHECK;

// Bytes in files and number of entries below `path`; links and other file systems are not followed.
int bq_tree_size(const char *path, uint64_t *bytes, uint64_t *entries, bq_error *err) BQ_MUSTCHECK;

typedef struct bq_tree_entry {
  char *path;       // relative to the listed directory, "/" between parts; owned by the listing
  mode_t mode;      // type and permissions; links are not followed
  uint64_t size;    // bytes
  int64_t mtime_us; // since 1970
  dev_t dev;        // file system and …
  ino_t ino;        // … number in it
} bq_tree_entry;

typedef struct bq_tree_listing {
  bq_tree_entry *entries; // owned; sorted by the bytes of their paths
  size_t count;
} bq_tree_listing;

// Everything below root/relative, parents before their contents. BQ_ELIMIT beyond `max_entries`.
int bq_tree_list(bq_tree_listing *out, const char *root, const char *relative, size_t max_entries,
                 bq_error *err) BQ_MUSTCHECK;
void bq_tree_listing_free(bq_tree_listing *listing);

#endif
