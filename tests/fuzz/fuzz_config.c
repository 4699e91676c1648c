// Any file and any environment end in a configuration or in faults. Input: the file up to the first 0xff, then variables,
// separated by 0xff. A configuration that loads differs in nothing from itself and can be printed.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/config.h"
#include "base/memory.h"

enum { MAX_VARIABLES = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void no_change(void *arg, const bq_config_change *change) {
  (void)arg;
  (void)change;
  abort();
}

static void load(const char *path, const char *const *variables) {
  bq_config_source source = {.path = path, .environment = variables};
  bq_config *config = NULL;
  bq_config_faults *faults = NULL;
  bq_error err;
  int code = bq_config_load(&config, &source, &faults, &err);
  if ((code == 0) != (config != NULL) || faults == NULL || (code == 0) != (faults->errors == 0)) abort();
  for (size_t i = 0; i < faults->count; i++) bq_free(bq_config_fault_text(&faults->items[i]));
  if (config != NULL) {
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (out == NULL || bq_config_diff(config, config, no_change, NULL, &err) < 0) abort();
    if (bq_config_print(config, out, &err) < 0 || fclose(out) != 0) abort();
    free(text);
  }
  bq_config_free(config);
  bq_config_faults_free(faults);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  // The one thing that must not be tried at random: commands. Without \u there is only one way to write the word.
  if (memmem(data, size, "command:", 8) != NULL || memmem(data, size, "\\u", 2) != NULL) return 0;
  char *text = bq_strndup((const char *)data, size);
  if (text == NULL) return 0;
  const char *variables[MAX_VARIABLES + 1] = {0};
  size_t count = 0;
  size_t file_size = size;
  for (size_t i = 0; i < size; i++) {
    if ((unsigned char)text[i] != 0xff) continue;
    text[i] = '\0';
    if (file_size == size) file_size = i;
    if (count < MAX_VARIABLES) variables[count++] = text + i + 1;
  }
  char path[64];
  int fd = memfd_create("settings", MFD_CLOEXEC);
  if (fd < 0 || write(fd, text, file_size) != (ssize_t)file_size) abort();
  (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  load(path, variables);
  (void)close(fd);
  bq_free(text);
  return 0;
}
