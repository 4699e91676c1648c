// Options that commands share.
#include "cli/command.h"

enum { OPTION_SERVER = 0x100, OPTION_JSON };

static error_t parse_common(int key, char *value, struct argp_state *state) {
  bq_common *common = state->input;
  switch (key) {
  case 'c': common->config = value; return 0;
  case OPTION_SERVER: common->server = value; return 0;
  case OPTION_JSON: common->json = 1; return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_option config_options[] = {
    {"config", 'c', "FILE", 0, "Configuration (appsettings.json here, else /etc/buildq/appsettings.json)", 9}, {0}};

static const struct argp_option client_options[] = {
    {"config", 'c', "FILE", 0, "Configuration that names the server (its Listen)", 9},
    {"server", OPTION_SERVER, "URL", 0, "The server, instead ($BUILDQ_SERVER)", 9},
    {"json", OPTION_JSON, NULL, 0, "The answer as JSON, for programs", 9},
    {0}};

const struct argp bq_config_argp = {.options = config_options, .parser = parse_common};
const struct argp bq_client_argp = {.options = client_options, .parser = parse_common};
