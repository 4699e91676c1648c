// A directory with settings files and an environment, for the tests of the configuration.
#ifndef BQ_TESTS_CONFIG_FIXTURE_H
#define BQ_TESTS_CONFIG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/config.h"
#include "base/memory.h"

static char directory[64];
static char main_file[128];   // appsettings.json there
static char system_file[128]; // what stands for /etc/buildq/appsettings.json
static const char *variables[32]; // the environment, NULL-terminated

static bq_config *config;
static bq_config_faults *faults;
static bq_error problem;

static void write_text(const char *name, const char *text) {
  char path[160];
  (void)snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static void variable(const char *entry) {
  size_t count = 0;
  while (variables[count] != NULL) count++;
  assert_true(count + 1 < sizeof variables / sizeof variables[0]);
  variables[count] = entry;
}

static void forget(void) {
  bq_config_free(config);
  bq_config_faults_free(faults);
  config = NULL;
  faults = NULL;
}

static int load_from(const char *path) {
  bq_config_source source = {path, main_file, system_file, variables};
  forget();
  problem = (bq_error){0};
  return bq_config_load(&config, &source, &faults, &problem);
}

static const char *all_faults(void) {
  static char text[8192];
  text[0] = '\0';
  for (size_t i = 0; faults != NULL && i < faults->count; i++) {
    char *line = bq_config_fault_text(&faults->items[i]);
    (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%s %s\n", faults->items[i].warning ? "W" : "E", line);
    bq_free(line);
  }
  return text;
}

// Loads what must be right; `settings` NULL keeps the files as they are.
static void load(const char *settings) {
  if (settings != NULL) write_text("appsettings.json", settings);
  if (load_from(NULL) < 0) fail_msg("%s\n%s", settings != NULL ? settings : "", all_faults());
  assert_non_null(config);
}

// Loads what must be refused, and checks that all `parts` are in the faults' text (NULL ends them).
static void refuse(const char *settings, ...) {
  if (settings != NULL) write_text("appsettings.json", settings);
  assert_int_equal(load_from(NULL), BQ_EINVAL);
  assert_null(config);
  assert_true(faults->errors > 0);
  va_list parts;
  va_start(parts, settings);
  for (const char *part = va_arg(parts, const char *); part != NULL; part = va_arg(parts, const char *)) {
    if (strstr(all_faults(), part) == NULL) fail_msg("\"%s\" is not in\n%s", part, all_faults());
  }
  va_end(parts);
}

static int setup(void **state) {
  (void)state;
  strcpy(directory, "/tmp/bq-config-XXXXXX");
  if (mkdtemp(directory) == NULL) return -1;
  (void)snprintf(main_file, sizeof main_file, "%s/appsettings.json", directory);
  (void)snprintf(system_file, sizeof system_file, "%s/system.json", directory);
  memset(variables, 0, sizeof variables);
  variable("HOME=/home/somebody");
  return 0;
}

static int teardown(void **state) {
  (void)state;
  static const char *const names[] = {"appsettings.json", "system.json", "appsettings.Production.json",
                                      "appsettings.Staging.json", "other.json", "other.Production.json", "password",
                                      "ConnectionString", "SmtpPassword", "output"};
  forget();
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    (void)unlink(path);
  }
  return rmdir(directory);
}

#endif
