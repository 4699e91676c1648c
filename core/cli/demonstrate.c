#include "cli/demonstrate.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "cli/client.h"
#include "cli/follow.h"

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

static void print_commands(const char *url, const json_t *build) {
  char self[PATH_MAX] = "buildq";
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length > 0) self[length] = '\0';
  const char *id = text_of(build, "id");
  const char *download = text_of(build, "downloadUrl");
  const char *name = strrchr(download, '/');
  (void)printf("\nIts artifact: %s%s\n\nTry in a second terminal:\n\n", text_of(build, "outputPath"),
               name != NULL ? name : "");
  (void)printf("  curl -s %s/builds/%s\n", url, id);
  (void)printf("  curl -s %s/builds/%s/log\n", url, id);
  (void)printf("  curl -sO %s\n", download);
  (void)printf("  %s list --server %s\n", self, url);
  (void)printf("  %s stats --server %s\n", self, url);
  (void)printf("\nThe server goes on at %s until Ctrl-C.\n", url);
  (void)fflush(stdout);
}

static json_t *make_request(const char *manifest) {
  return json_pack("{s:s, s:s, s:s, s:s, s:s}", "customerId", "demonstration", "customerName", "Demonstration",
                   "customerEmail", "demonstration@localhost.localdomain", "configurationName", "buildq builds itself",
                   "manifestPath", manifest);
}

void bq_demonstrate(const char *address, const char *manifest) {
  char *url = bq_format("http://%s", address);
  const bq_common common = {.server = url};
  bq_client *client = url != NULL ? bq_client_new(&common) : NULL;
  json_t *request = make_request(manifest);
  json_t *answer = NULL;
  json_t *build = NULL;
  if (client == NULL || request == NULL) goto cleanup;
  (void)printf("The demonstration build: buildq compiles itself.\n");
  if (bq_client_call(client, "POST", "/builds", request, NULL, &answer) != BQ_EXIT_OK) goto cleanup;
  const char *id = text_of(answer, "jobId");
  (void)printf("build %s\n", id);
  if (bq_follow_build(client, id, 0, &build) == BQ_EXIT_OK) {
    (void)printf("success\n");
    print_commands(url, build);
  } else {
    (void)printf("\nIts log: curl -s %s/builds/%s/log\nThe server goes on at %s until Ctrl-C.\n", url, id, url);
  }
cleanup:
  (void)fflush(stdout);
  json_decref(request);
  json_decref(answer);
  json_decref(build);
  bq_client_free(client);
  bq_free(url);
}
