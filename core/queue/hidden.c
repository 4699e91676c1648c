#include "queue/hidden.h"

#include <libpq-fe.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"

extern char **environ;

int bq_hidden_is_name(const char *name, size_t length) {
  static const char *const words[] = {"TOKEN", "PASSWORD", "SECRET", "KEY"};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    size_t end = strlen(words[i]);
    if (length < end || strncasecmp(name + length - end, words[i], end) != 0) continue;
    if (length == end || name[length - end - 1] == '_') return 1;
  }
  return 0;
}

// What is too short to be masked can't be told from ordinary words.
static void add(void *arg, const char *secret) {
  bq_error err;
  size_t length = strlen(secret);
  if (length < BQ_MASK_MIN_BYTES) return;
  if (bq_mask_set_add(arg, secret, length, &err) < 0) bq_log_error("a secret can't be masked in the logs of builds", &err);
}

static void add_database_password(bq_mask_set *set, const char *conninfo) {
  PQconninfoOption *options = conninfo != NULL ? PQconninfoParse(conninfo, NULL) : NULL;
  for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++) {
    if (o->val != NULL && strcmp(o->keyword, "password") == 0) add(set, o->val);
  }
  PQconninfoFree(options);
}

int bq_hidden_update(bq_mask_set **set, const bq_config *config, const char *conninfo, bq_error *err) {
  bq_mask_set *next = NULL;
  int result = bq_mask_set_new(&next, *set, err);
  if (result < 0) return result;
  bq_config_each_secret(config, add, next);
  add_database_password(next, conninfo);
  for (char **variable = environ; *variable != NULL; variable++) {
    const char *value = strchr(*variable, '=');
    if (value != NULL && bq_hidden_is_name(*variable, (size_t)(value - *variable))) add(next, value + 1);
  }
  if (bq_mask_set_count(next) > 0 || *set == NULL) *set = next;
  else bq_mask_set_free(next);
  return 0;
}

void bq_hidden_free(bq_mask_set *set) {
  while (set != NULL) {
    bq_mask_set *base = (bq_mask_set *)(uintptr_t)bq_mask_set_base(set);
    bq_mask_set_free(set);
    set = base;
  }
}
