#include "cli/settings.h"

#include "base/memory.h"

bq_config *bq_settings_load(const bq_config_source *source) {
  bq_config *config = NULL;
  bq_config_faults *faults = NULL;
  bq_error err;
  int result = bq_config_load(&config, source, &faults, &err);
  for (size_t i = 0; faults != NULL && i < faults->count; i++) {
    char *text = bq_config_fault_text(&faults->items[i]);
    (void)fprintf(stderr, "buildq: %s: %s\n", faults->items[i].warning ? "warning" : "error", text != NULL ? text : "");
    bq_free(text);
  }
  if (result < 0 && (faults == NULL || faults->errors == 0)) (void)fprintf(stderr, "buildq: %s\n", err.message);
  bq_config_faults_free(faults);
  return result < 0 ? NULL : config;
}
