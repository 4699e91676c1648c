// A set of names: the statements that one session has prepared. Some dozens: searched from the front, by hash.
#ifndef BQ_IO_PG_NAMES_H
#define BQ_IO_PG_NAMES_H

#include <stddef.h>
#include <stdint.h>

typedef struct bq_pg_name {
  uint32_t hash; // FNV-1a
  char *name;    // owned
} bq_pg_name;

// Zeroed is empty.
typedef struct bq_pg_names {
  bq_pg_name *items; // owned
  size_t count;
  size_t capacity;
} bq_pg_names;

int bq_pg_names_has(const bq_pg_names *names, const char *name);
int bq_pg_names_add(bq_pg_names *names, const char *name); // copies; -1 without memory
void bq_pg_names_clear(bq_pg_names *names);                // back to the zeroed state

#endif
