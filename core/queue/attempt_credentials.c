// The credentials that a build may use: read before its first line, and known to its mask from then on.
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/secret.h"
#include "queue/attempt_internal.h"

static int is_for(const json_t *entry, const char *customer) {
  size_t index;
  json_t *allowed;
  json_array_foreach(json_object_get(entry, "customers"), index, allowed) {
    const char *text = json_string_value(allowed);
    if (text != NULL && (strcmp(text, "*") == 0 || strcmp(text, customer) == 0)) return 1;
  }
  return 0;
}

// One that can't be read is missing when the build asks for it; others go on without it.
static int read_one(bq_attempt *attempt, const char *name, const json_t *entry, bq_error *err) {
  char *value = NULL;
  bq_error problem = {0};
  const bq_secret_source source = {0};
  int result = bq_secret_resolve(json_string_value(json_object_get(entry, "value")), &source, &value, &problem);
  if (result < 0) {
    bq_log(BQ_WARN, "a credential can't be read", "build", attempt->id, "credential", name, "error", problem.message, NULL);
    return result == BQ_ENOMEM ? bq_fail(err, BQ_ENOMEM, "out of memory for a credential") : 0;
  }
  const char *username = json_string_value(json_object_get(entry, "username"));
  json_t *kept = json_pack("{s:s, s:s, s:O}", "username", username != NULL ? username : "token", "value", value, "hosts",
                           json_object_get(entry, "hosts"));
  // What can't be masked must not be handed out.
  result = bq_mask_set_add(attempt->secrets, value, strlen(value), err);
  if (result < 0) json_decref(kept);
  else if (kept == NULL || json_object_set_new(attempt->credentials, name, kept) < 0) {
    result = bq_fail(err, BQ_EINVAL, "the value is no UTF-8 text");
  }
  explicit_bzero(value, strlen(value));
  bq_free(value);
  return result < 0 ? bq_fail_in(err, "the credential %s", name) : 0;
}

int bq_attempt_read_credentials(bq_attempt *attempt, bq_error *err) {
  const char *text = attempt->env->config->credentials;
  const char *customer = json_string_value(json_object_get(attempt->row, "customerId"));
  json_t *all = NULL;
  int result = bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &all, err);
  if (result < 0) return result;
  const char *name;
  json_t *entry;
  json_object_foreach(all, name, entry) {
    if (result == 0 && customer != NULL && is_for(entry, customer)) result = read_one(attempt, name, entry, err);
  }
  json_decref(all);
  return result;
}
