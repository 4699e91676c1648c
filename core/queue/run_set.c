#include "queue/run_set.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "queue/run.h"

enum { MAX_DEPTH = 16 };

static const struct {
  const char *name;
  const char *key; // in the row
} fields[] = {{"tier", "tier"},
              {"architecture", "architecture"},
              {"cloud", "cloudProvider"},
              {"configuration", "configurationName"},
              {"customer.id", "customerId"},
              {"customer.name", "customerName"},
              {"customer.email", "customerEmail"}};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static json_t *read_value(const char *text) {
  json_t *value = NULL;
  bq_error err;
  if (bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &value, &err) == 0) return value;
  return json_string(text);
}

// Puts `value` (consumed) at "a.b.c" in `object`, making the objects on the way.
static int put(json_t *object, char *path, json_t *value, bq_error *err) {
  int depth = 0;
  for (char *dot = strchr(path, '.'); dot != NULL; dot = strchr(path, '.')) {
    *dot = '\0';
    json_t *inner = json_object_get(object, path);
    if (!json_is_object(inner)) {
      inner = json_object();
      (void)json_object_set_new(object, path, inner);
    }
    if (++depth > MAX_DEPTH || inner == NULL) {
      json_decref(value);
      return bq_fail(err, BQ_ELIMIT, "--set: a path has at most %d parts", MAX_DEPTH);
    }
    object = inner;
    path = dot + 1;
  }
  if (*path != '\0' && value != NULL && json_object_set_new(object, path, value) == 0) return 0;
  return bq_fail(err, BQ_EINVAL, "--set: a name has a part between its dots, and its value is UTF-8");
}

static int put_path(json_t *object, const char *path, const char *value, bq_error *err) {
  char *copy = bq_strdup(path);
  if (copy == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for --set");
  int result = put(object, copy, read_value(value), err);
  bq_free(copy);
  return result;
}

static int set(json_t *row, json_t *manifest, const char *name, const char *value, bq_error *err) {
  for (size_t i = 0; i < FIELDS; i++) {
    if (strcmp(fields[i].name, name) != 0) continue;
    if (json_object_set_new(row, fields[i].key, json_string(value)) == 0) return 0;
    return bq_fail(err, BQ_EINVAL, "--set %s: the value is no UTF-8", name);
  }
  if (strncmp(name, "metadata.", 9) == 0) {
    return put_path(json_object_get(row, "metadata"), name + 9, value, err);
  }
  if (strncmp(name, "manifest.", 9) == 0 && json_is_object(manifest)) {
    int result = put_path(manifest, name + 9, value, err);
    if (result == 0 && json_object_set(row, "manifest", manifest) < 0) {
      result = bq_fail(err, BQ_ENOMEM, "out of memory for --set");
    }
    if (result == 0) (void)json_object_set_new(row, "manifestUnchecked", json_true());
    return result;
  }
  return bq_fail(err, BQ_EINVAL, "--set %s: there is no such name: " BQ_RUN_SET_NAMES, name);
}

int bq_run_set(json_t *row, json_t *manifest, const char *assignment, bq_error *err) {
  const char *equals = strchr(assignment, '=');
  if (equals == NULL || equals == assignment) {
    return bq_fail(err, BQ_EINVAL, "--set %s: expected NAME=VALUE", assignment);
  }
  char *name = bq_strndup(assignment, (size_t)(equals - assignment));
  if (name == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for --set");
  int result = set(row, manifest, name, equals + 1, err);
  bq_free(name);
  return result;
}
