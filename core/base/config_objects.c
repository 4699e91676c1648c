// Options that are JSON objects: what may stand in them.
#include <ctype.h>
#include <stdint.h>
#include <string.h>

#include "base/config_internal.h"
#include "base/json.h"

enum { MAX_ENTRIES = 64, MAX_NAME = 64, MAX_TEXTS = 100 };

static int is_name(const char *text) {
  size_t length = strlen(text);
  if (length == 0 || length > MAX_NAME || text[0] == '.' || text[0] == '-') return 0;
  for (const char *c = text; *c != '\0'; c++) {
    if (!isalnum((unsigned char)*c) && strchr("._-", *c) == NULL) return 0;
  }
  return 1;
}

// A list of one or more texts, none of them empty.
static int is_text_list(const json_t *list) {
  size_t count = json_array_size(list);
  if (!json_is_array(list) || count == 0 || count > MAX_TEXTS) return 0;
  for (size_t i = 0; i < count; i++) {
    const char *text = json_string_value(json_array_get(list, i));
    if (text == NULL || *text == '\0') return 0;
  }
  return 1;
}

static const char *check_credential(const char *name, const json_t *entry) {
  static const char form[] = "must be entries such as \"git\": {\"value\": \"file:/etc/buildq/git\", \"hosts\": "
                             "[\"git.example.org\"], \"customers\": [\"*\"]}";
  const char *value = json_string_value(json_object_get(entry, "value"));
  const json_t *username = json_object_get(entry, "username");
  if (!is_name(name)) return "must have names of letters, digits and . _ -, 64 at most";
  if (!json_is_object(entry) || value == NULL) return form;
  if (strncmp(value, "file:", 5) != 0 && strncmp(value, "env:", 4) != 0) {
    return "must hold file:PATH or env:NAME as value, never a secret itself";
  }
  if (!is_text_list(json_object_get(entry, "hosts"))) return "must name in each entry's hosts where it may be used";
  if (!is_text_list(json_object_get(entry, "customers"))) {
    return "must name in each entry's customers for whom it may be used, [\"*\"] for all";
  }
  if (username != NULL && !json_is_string(username)) return form;
  const char *key;
  json_t *member;
  json_object_foreach((json_t *)(uintptr_t)entry, key, member) {
    if (strcmp(key, "value") != 0 && strcmp(key, "username") != 0 && strcmp(key, "hosts") != 0 &&
        strcmp(key, "customers") != 0) {
      return "must hold value, username, hosts and customers in each entry, nothing else";
    }
  }
  return NULL;
}

static const char *check_base_image(const char *name, const json_t *entry) {
  const char *text = json_string_value(entry);
  if (*name == '\0' || text == NULL) return "must be architectures with a text each";
  if (*text != '/' && (strncmp(text, "docker://", 9) != 0 || text[9] == '\0')) {
    return "must be absolute paths of OCI layouts, or references as in docker://registry.example.org/base:12";
  }
  return strpbrk(text, " \t\r\n") == NULL ? NULL : "must not hold blanks";
}

static const char *check_object(const char *text, const char *(*check)(const char *name, const json_t *entry)) {
  json_t *object = NULL;
  bq_error problem;
  if (bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &object, &problem) < 0) return "must be a JSON object";
  const char *right = json_is_object(object) ? NULL : "must be a JSON object";
  if (right == NULL && json_object_size(object) > MAX_ENTRIES) right = "must have 64 entries at most";
  const char *name;
  json_t *entry;
  if (right == NULL) {
    json_object_foreach(object, name, entry) {
      if (right == NULL) right = check(name, entry);
    }
  }
  json_decref(object);
  return right;
}

const char *bq_config_check_credentials(const char *text) {
  return check_object(text, check_credential);
}

const char *bq_config_check_base_images(const char *text) {
  return check_object(text, check_base_image);
}
