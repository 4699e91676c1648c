#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/pg_connection.h"

// What a connection gets when its conninfo leaves it open. A peer that vanishes without closing is noticed within
// a minute: by keepalive when the connection is idle, by tcp_user_timeout when data is unacknowledged.
static const struct {
  const char *keyword;
  const char *value;
} open_settings[] = {
    {"keepalives", "1"},        {"keepalives_idle", "30"},     {"keepalives_interval", "10"}, {"keepalives_count", "3"},
    {"client_encoding", "UTF8"}, {"tcp_user_timeout", "30000"}, {"gssencmode", "disable"},
};
enum { OPEN_SETTING_COUNT = sizeof open_settings / sizeof open_settings[0] };

static int add(bq_pg_target *target, const char *keyword, const char *value) {
  size_t at = target->count++;
  target->keywords[at] = bq_strdup(keyword);
  target->values[at] = bq_strdup(value);
  return target->keywords[at] != NULL && target->values[at] != NULL;
}

static int given(const bq_pg_target *target, const char *keyword) {
  for (size_t i = 0; i < target->count; i++) {
    if (target->keywords[i] != NULL && strcmp(target->keywords[i], keyword) == 0) return 1;
  }
  return 0;
}

int bq_pg_target_init(bq_pg_target *target, const char *conninfo, const char *application_name, const char *role,
                      const char *setup_sql, bq_error *err) {
  int result = 0;
  *target = (bq_pg_target){.connect_limit_ms = BQ_PG_CONNECT_LIMIT_MS, .backoff_most_ms = BQ_PG_BACKOFF_MOST_MS};
  char *why = NULL;
  PQconninfoOption *options = PQconninfoParse(conninfo, &why);
  // libpq's reason quotes the string, and with it perhaps the password: it stays here.
  PQfreemem(why);
  if (options == NULL) {
    return bq_fail(err, BQ_EINVAL, "the database connection string is neither a libpq URI nor keywords and values "
                                   "(host=… dbname=…): check its quotes and option names");
  }
  size_t count = 0;
  for (PQconninfoOption *o = options; o->keyword != NULL; o++) count++;
  count += OPEN_SETTING_COUNT + 2; // application_name and the terminating NULL
  target->keywords = bq_alloc_array(count, sizeof target->keywords[0]);
  target->values = bq_alloc_array(count, sizeof target->values[0]);
  int whole = target->keywords != NULL && target->values != NULL;
  for (PQconninfoOption *o = options; whole && o->keyword != NULL; o++) {
    if (o->val == NULL) continue;
    whole = add(target, o->keyword, o->val);
    long seconds = strcmp(o->keyword, "connect_timeout") == 0 ? strtol(o->val, NULL, 10) : 0;
    if (seconds > 0) target->connect_limit_ms = (seconds < 3600 ? seconds : 3600) * 1000;
  }
  for (size_t i = 0; whole && i < OPEN_SETTING_COUNT; i++) {
    if (!given(target, open_settings[i].keyword)) whole = add(target, open_settings[i].keyword, open_settings[i].value);
  }
  if (whole && application_name != NULL && !given(target, "application_name")) {
    whole = add(target, "application_name", application_name);
  }
  target->role = bq_strdup(role);
  target->setup_sql = bq_strdup(setup_sql);
  if (!whole || target->role == NULL || (setup_sql != NULL && target->setup_sql == NULL)) {
    bq_pg_target_clear(target);
    result = bq_fail(err, BQ_ENOMEM, "out of memory for the database connections");
  }
  PQconninfoFree(options);
  return result;
}

void bq_pg_target_clear(bq_pg_target *target) {
  for (size_t i = 0; i < target->count; i++) {
    bq_free(target->keywords[i]);
    bq_free(target->values[i]);
  }
  bq_free(target->keywords);
  bq_free(target->values);
  bq_free(target->setup_sql);
  bq_free(target->role);
  *target = (bq_pg_target){0};
}
