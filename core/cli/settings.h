// Loading the configuration for a command, with all its faults told.
#ifndef BQ_CLI_SETTINGS_H
#define BQ_CLI_SETTINGS_H

#include "base/config.h"

// Prints warnings and faults to standard error, a line each. NULL when there was a fault. The caller's.
bq_config *bq_settings_load(const bq_config_source *source);

#endif
