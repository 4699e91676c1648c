#include "base/config.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/config_internal.h"
#include "base/memory.h"

struct bq_config_details {
  char **origins; // owned; one a row of the table, "default" or a source
};

static void *field_of(const bq_config *config, const bq_config_option *option) {
  return (char *)(uintptr_t)config + option->offset;
}

static void free_list(char **items) {
  for (char **item = items; item != NULL && *item != NULL; item++) bq_free(*item);
  bq_free(items);
}

void bq_config_free(bq_config *config) {
  if (config == NULL) return;
  for (size_t i = 0; i < bq_config_option_count; i++) {
    void *field = field_of(config, &bq_config_options[i]);
    switch (bq_config_options[i].kind) {
    case BQ_OPTION_BOOL:
    case BQ_OPTION_INTEGER:
    case BQ_OPTION_WORD: break;
    case BQ_OPTION_SECRET:
      if (*(char **)field != NULL) explicit_bzero(*(char **)field, strlen(*(char **)field));
      bq_free(*(char **)field);
      break;
    case BQ_OPTION_STRING:
    case BQ_OPTION_OBJECT:
    case BQ_OPTION_PATH: bq_free(*(char **)field); break;
    case BQ_OPTION_SECRETS:
      for (char **item = *(char ***)field; item != NULL && *item != NULL; item++) explicit_bzero(*item, strlen(*item));
      free_list(*(char ***)field);
      break;
    case BQ_OPTION_LIST: free_list(*(char ***)field); break;
    }
  }
  for (size_t i = 0; config->details != NULL && config->details->origins != NULL && i < bq_config_option_count; i++) {
    bq_free(config->details->origins[i]);
  }
  if (config->details != NULL) bq_free(config->details->origins);
  bq_free(config->details);
  bq_free(config);
}

// A configuration whose strings and lists are all there and empty.
static bq_config *config_new(void) {
  bq_config *config = bq_alloc(sizeof *config);
  if (config == NULL) return NULL;
  bool whole = true;
  for (size_t i = 0; i < bq_config_option_count; i++) {
    void *field = field_of(config, &bq_config_options[i]);
    switch (bq_config_options[i].kind) {
    case BQ_OPTION_BOOL:
    case BQ_OPTION_INTEGER:
    case BQ_OPTION_WORD: break;
    case BQ_OPTION_SECRET:
    case BQ_OPTION_STRING:
    case BQ_OPTION_OBJECT:
    case BQ_OPTION_PATH: whole = (*(char **)field = bq_strdup("")) != NULL && whole; break;
    case BQ_OPTION_LIST:
    case BQ_OPTION_SECRETS:
      *(char ***)field = bq_alloc_array(BQ_CONFIG_MAX_ITEMS + 1, sizeof(char *));
      whole = *(char ***)field != NULL && whole;
      break;
    }
  }
  config->details = bq_alloc(sizeof *config->details);
  if (config->details != NULL) config->details->origins = bq_alloc_array(bq_config_option_count, sizeof(char *));
  if (!whole || config->details == NULL || config->details->origins == NULL) {
    bq_config_free(config);
    return NULL;
  }
  return config;
}

static int keep_origins(bq_config *config, const char *const *origins) {
  for (size_t i = 0; i < bq_config_option_count; i++) {
    config->details->origins[i] = bq_strdup(origins[i]);
    if (config->details->origins[i] == NULL) return 0;
  }
  return 1;
}

// The error for a list with faults in it: the first of them and how many there are.
static int fail_with(const bq_config_faults *faults, bq_error *err) {
  for (size_t i = 0; i < faults->count; i++) {
    if (faults->items[i].warning) continue;
    char *text = bq_config_fault_text(&faults->items[i]);
    if (text == NULL) break;
    if (faults->errors == 1) (void)bq_fail(err, BQ_EINVAL, "the configuration has a fault: %s", text);
    else (void)bq_fail(err, BQ_EINVAL, "the configuration has %zu faults; the first: %s", faults->errors, text);
    bq_free(text);
    return BQ_EINVAL;
  }
  return bq_fail(err, BQ_EINVAL, "the configuration has %zu faults", faults->errors);
}

int bq_config_load(bq_config **out, const bq_config_source *source, bq_config_faults **faults, bq_error *err) {
  static const bq_config_source standard = {0};
  int code = 0;
  bq_config *config = config_new();
  bq_config_input input = {.source = source != NULL ? source : &standard};
  const char **origins = bq_alloc_array(bq_config_option_count, sizeof *origins);
  input.environment = input.source->environment != NULL ? input.source->environment : (const char *const *)environ;
  input.slots = bq_alloc_array(bq_config_option_count, sizeof *input.slots);
  input.faults = bq_alloc(sizeof *input.faults);
  *out = NULL;
  *faults = NULL;
  if (config == NULL || origins == NULL || input.slots == NULL || input.faults == NULL) {
    code = bq_fail(err, BQ_ENOMEM, "out of memory for the configuration");
    goto cleanup;
  }
  code = bq_config_read_sources(&input, err);
  if (code < 0) goto cleanup;
  bq_config_check(&input, config, origins);
  if (input.no_memory || !keep_origins(config, origins)) {
    code = bq_fail(err, BQ_ENOMEM, "out of memory for the configuration");
    goto cleanup;
  }
  if (input.faults->errors > 0) code = fail_with(input.faults, err);
  *faults = input.faults;
  input.faults = NULL;
  if (code < 0) goto cleanup;
  *out = config;
  config = NULL;
cleanup:
  bq_config_input_clear(&input);
  bq_config_faults_free(input.faults);
  bq_config_free(config);
  bq_free(origins);
  return code;
}

const char *bq_config_origin(const bq_config *config, size_t index) {
  return config->details->origins[index];
}

static bool same_list(char *const *a, char *const *b) {
  for (; *a != NULL && *b != NULL; a++, b++) {
    if (strcmp(*a, *b) != 0) return false;
  }
  return *a == *b;
}

static bool same_value(const bq_config_option *option, const void *a, const void *b) {
  switch (option->kind) {
  case BQ_OPTION_BOOL: return *(const bool *)a == *(const bool *)b;
  case BQ_OPTION_INTEGER:
  case BQ_OPTION_WORD: return *(const int *)a == *(const int *)b;
  case BQ_OPTION_STRING:
  case BQ_OPTION_OBJECT:
  case BQ_OPTION_PATH:
  case BQ_OPTION_SECRET: return strcmp(*(char *const *)a, *(char *const *)b) == 0;
  case BQ_OPTION_LIST:
  case BQ_OPTION_SECRETS: return same_list(*(char **const *)a, *(char **const *)b);
  }
  return true;
}

int bq_config_diff(const bq_config *before, const bq_config *after,
                   void (*changed)(void *arg, const bq_config_change *change), void *arg, bq_error *err) {
  int code = 0;
  bq_buf old_text = {0};
  bq_buf new_text = {0};
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    if (same_value(option, field_of(before, option), field_of(after, option))) continue;
    char name[128];
    (void)snprintf(name, sizeof name, "%s.%s", option->section, option->name);
    bq_buf_clear(&old_text);
    bq_buf_clear(&new_text);
    bq_config_value_text(before, option, &old_text);
    bq_config_value_text(after, option, &new_text);
    code = old_text.failed ? bq_buf_check(&old_text, err) : bq_buf_check(&new_text, err);
    if (code < 0) goto cleanup;
    bq_config_change change = {.name = name, .before = old_text.data, .after = new_text.data, .now = option->reload};
    changed(arg, &change);
  }
cleanup:
  bq_buf_free(&old_text);
  bq_buf_free(&new_text);
  return code;
}

static void swap_bytes(void *a, void *b, size_t size) {
  unsigned char kept[sizeof(char *)];
  memcpy(kept, a, size);
  memcpy(a, b, size);
  memcpy(b, kept, size);
}

void bq_config_apply(bq_config *running, bq_config *newer) {
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    if (!option->reload) continue;
    size_t size = sizeof(char *);
    if (option->kind == BQ_OPTION_BOOL) size = sizeof(bool);
    if (option->kind == BQ_OPTION_INTEGER || option->kind == BQ_OPTION_WORD) size = sizeof(int);
    swap_bytes(field_of(running, option), field_of(newer, option), size);
    swap_bytes(&running->details->origins[i], &newer->details->origins[i], sizeof(char *));
  }
}

void bq_config_each_secret(const bq_config *config, void (*each)(void *arg, const char *secret), void *arg) {
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    const char *at = (const char *)config + option->offset;
    if (option->kind == BQ_OPTION_SECRET) {
      const char *secret = *(char *const *)(const void *)at;
      if (secret != NULL && *secret != '\0') each(arg, secret);
    } else if (option->kind == BQ_OPTION_SECRETS) {
      for (char *const *item = *(char **const *)(const void *)at; item != NULL && *item != NULL; item++) each(arg, *item);
    }
  }
}
