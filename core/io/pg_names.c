#include "io/pg_names.h"

#include <string.h>

#include "base/memory.h"

static uint32_t hash_name(const char *name) {
  uint32_t hash = 2166136261u;
  for (; *name != '\0'; name++) hash = (hash ^ (unsigned char)*name) * 16777619u;
  return hash;
}

int bq_pg_names_has(const bq_pg_names *names, const char *name) {
  uint32_t hash = hash_name(name);
  for (size_t i = 0; i < names->count; i++) {
    if (names->items[i].hash == hash && strcmp(names->items[i].name, name) == 0) return 1;
  }
  return 0;
}

int bq_pg_names_add(bq_pg_names *names, const char *name) {
  if (names->count == names->capacity) {
    size_t capacity = names->capacity > 0 ? 2 * names->capacity : 32;
    bq_pg_name *grown = bq_realloc(names->items, capacity * sizeof *grown);
    if (grown == NULL) return -1;
    names->items = grown;
    names->capacity = capacity;
  }
  char *copy = bq_strdup(name);
  if (copy == NULL) return -1;
  names->items[names->count++] = (bq_pg_name){.hash = hash_name(name), .name = copy};
  return 0;
}

void bq_pg_names_clear(bq_pg_names *names) {
  for (size_t i = 0; i < names->count; i++) bq_free(names->items[i].name);
  bq_free(names->items);
  *names = (bq_pg_names){0};
}
