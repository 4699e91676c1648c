// Archives: packing a tree so that the same input gives the same bytes, and unpacking what may be hostile.
//
// Thread rule: any thread; everything blocks for as long as the files are large, so use the blocking pool.
#ifndef BQ_IO_ARCHIVE_H
#define BQ_IO_ARCHIVE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "io/hash.h"

typedef enum bq_archive_format {
  BQ_ARCHIVE_TAR_ZST,
  BQ_ARCHIVE_TAR_GZ,
  BQ_ARCHIVE_TAR, // not compressed
  BQ_ARCHIVE_ZIP
} bq_archive_format;

// By the end of `name` (".tar.zst", ".tar.gz", ".tgz", ".tar", ".zip"). BQ_EINVAL for others.
int bq_archive_format_of(const char *name, bq_archive_format *out, bq_error *err) BQ_MUSTCHECK;

typedef struct bq_archive_pack {
  const char *from_root;    // trusted directory; see io/tree.h
  const char *from;         // directory below it whose contents are packed; "." for the root itself
  const char *to_root;      // trusted directory
  const char *to;           // file below it; its directory is made when missing, an older file is replaced
  bq_archive_format format;
  const char *prefix;       // relative path put before every name, or NULL
  int64_t mtime_s;          // what every entry says, seconds since 1970
  uint64_t max_bytes;       // of the files' contents (BQ_ELIMIT beyond)
  size_t max_entries;       // (BQ_ELIMIT beyond)
  const atomic_int *stop;   // non-zero ends the work early with BQ_ECANCELED; NULL: nobody does
} bq_archive_pack;

typedef struct bq_archive_packed {
  uint64_t size;                  // of the archive, bytes
  uint64_t files;                 // entries that aren't directories
  char sha256[BQ_HASH_TEXT_SIZE]; // of the archive
} bq_archive_packed;

// Names are sorted by their bytes, owners are root (0), modes 0755 for directories and what its owner may execute, else
// 0644. Links are kept as links; a fifo, socket or device is BQ_EINVAL. `to` appears whole and synced, under its name
// only at the end.
int bq_archive_pack_tree(const bq_archive_pack *pack, bq_archive_packed *out, bq_error *err) BQ_MUSTCHECK;

typedef struct bq_archive_unpack {
  const char *from_root;  // trusted directory
  const char *from;       // file below it: tar (plain, gzip, bzip2, xz, zstd) or zip
  const char *to_root;    // trusted directory
  const char *to;         // directory below it, made when missing
  unsigned strip;         // leading directories to drop from every name; entries without more are left out
  uint64_t max_bytes;     // of all contents, unpacked (BQ_ELIMIT beyond)
  size_t max_entries;     // (BQ_ELIMIT beyond)
  const atomic_int *stop; // as above
} bq_archive_unpack;

typedef struct bq_archive_unpacked {
  uint64_t files; // entries that aren't directories
  uint64_t bytes; // of their contents
} bq_archive_unpacked;

// The archive is read twice: the first time everything is checked and nothing is written. Refused (BQ_EINVAL) are
// absolute names, "..", names that go through a link, links that are absolute or lead out of `to` (".." is accepted only
// in front), devices, fifos and sockets, and damaged archives. Owners and set-id bits are not restored, times and
// permissions of files are. Existing files are replaced; directories are 0750.
int bq_archive_unpack_tree(const bq_archive_unpack *unpack, bq_archive_unpacked *out, bq_error *err) BQ_MUSTCHECK;

#endif
