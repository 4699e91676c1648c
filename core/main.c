// The program: `buildq serve`.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "queue/server.h"

// Where scripts, templates and sql are: beside an installed program, or in its source tree.
static int find_share(char out[PATH_MAX]) {
  static const char *const places[] = {"../share/buildq", ".."};
  char self[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) return 0;
  self[length] = '\0';
  *strrchr(self, '/') = '\0';
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    char probe[PATH_MAX * 2];
    (void)snprintf(probe, sizeof probe, "%s/%s/scripts/pipelines", self, places[i]);
    if (access(probe, R_OK) != 0) continue;
    (void)snprintf(probe, sizeof probe, "%s/%s", self, places[i]);
    return realpath(probe, out) != NULL;
  }
  return 0;
}

int main(int argc, char **argv) {
  bq_config *config = NULL;
  bq_config_faults *faults = NULL;
  bq_error err = {0};
  bq_config_source source = {0};
  char share[PATH_MAX];
  if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)) {
    (void)puts("buildq " BQ_VERSION);
    return 0;
  }
  if (argc < 2 || strcmp(argv[1], "serve") != 0) {
    (void)fputs("usage: buildq serve [--config FILE]\n", stderr);
    return 2;
  }
  for (int i = 2; i + 1 < argc; i++) {
    if (strcmp(argv[i], "--config") == 0) source.path = argv[i + 1];
  }
  int result = bq_config_load(&config, &source, &faults, &err);
  if (result == 0) bq_log_setup((bq_log_level)config->log_level, (bq_log_format)config->log_format);
  if (faults != NULL) bq_config_faults_log(faults);
  bq_config_faults_free(faults);
  if (result == 0 && !find_share(share)) {
    bq_config_free(config);
    result = bq_fail(&err, BQ_ENOTFOUND, "the program's scripts are neither beside it nor in ../share/buildq");
  } else if (result == 0) {
    const bq_serve_options options = {.share = share, .source = &source, .migrate = 1};
    result = bq_serve(config, &options, &err);
  }
  if (result < 0) bq_log_error("buildq serve failed", &err);
  return result < 0;
}
