#include "cli/demonstrate.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/follow.h"

enum { MAIL_POLL_MS = 100, MAIL_POLLS = 50 };

static void print_commands(const char *url, const json_t *build) {
  char self[PATH_MAX] = "buildq";
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length > 0) self[length] = '\0';
  const char *id = bq_json_text(build, "id");
  const char *download = bq_json_text(build, "downloadUrl");
  const char *name = strrchr(download, '/');
  (void)printf("\nIts artifact: %s%s\n\nTry in a second terminal:\n\n", bq_json_text(build, "outputPath"),
               name != NULL ? name : "");
  (void)printf("  curl -s %s/builds/%s\n", url, id);
  (void)printf("  curl -s %s/builds/%s/log\n", url, id);
  (void)printf("  curl -sO %s\n", download);
  (void)printf("  %s list --server %s\n", self, url);
  (void)printf("  %s stats --server %s\n", self, url);
  (void)fflush(stdout);
}

// The mail of the end is sent a moment later. Without a mail server its reply is the file's path.
static void show_mails(bq_client *client, const char *id) {
  const struct timespec pause = {.tv_nsec = (long)MAIL_POLL_MS * 1000000};
  char *path = bq_format("/notifications?build=%s", id);
  int shown = 0;
  for (int tries = 0; path != NULL && !shown && tries < MAIL_POLLS; tries++) {
    json_t *page = NULL;
    size_t index;
    json_t *mail;
    int has_end = 0;
    if (bq_client_call(client, "GET", path, NULL, NULL, &page) != BQ_EXIT_OK) break;
    const json_t *mails = json_object_get(page, "notifications");
    json_array_foreach(mails, index, mail) {
      has_end |= strcmp(bq_json_text(mail, "event"), "completed") == 0 && strcmp(bq_json_text(mail, "state"), "sent") == 0;
    }
    if (has_end) {
      (void)printf("\nIts mails, which any mail program opens:\n\n");
      for (index = json_array_size(mails); index > 0; index--) { // the oldest first
        (void)printf("  %s\n", bq_json_text(json_array_get(mails, index - 1), "lastReply"));
      }
      shown = 1;
    }
    json_decref(page);
    if (!shown) (void)nanosleep(&pause, NULL);
  }
  bq_free(path);
}

static json_t *make_request(const char *manifest) {
  const char *slash = strrchr(manifest, '/');
  return json_pack("{s:s, s:s, s:s, s:s, s:s}", "customerId", "demonstration", "customerName", "Demonstration",
                   "customerEmail", "demonstration@localhost.localdomain", "configurationName",
                   slash != NULL ? slash + 1 : manifest, "manifestPath", manifest);
}

// Submits one and follows it; whether the next one is worth a try.
static int demonstrate_one(bq_client *client, const char *url, const char *manifest) {
  json_t *request = make_request(manifest);
  json_t *answer = NULL;
  json_t *build = NULL;
  int goes_on = 0;
  if (request == NULL || bq_client_call(client, "POST", "/builds", request, NULL, &answer) != BQ_EXIT_OK) goto cleanup;
  const char *id = bq_json_text(answer, "jobId");
  (void)printf("build %s\n", id);
  goes_on = bq_follow_build(client, id, 0, &build) == BQ_EXIT_OK;
  if (goes_on) {
    (void)printf("success\n");
    print_commands(url, build);
    show_mails(client, id);
    (void)printf("\nThe server goes on at %s until Ctrl-C.\n", url);
  } else {
    (void)printf("\nIts log: curl -s %s/builds/%s/log\nThe server goes on at %s until Ctrl-C.\n", url, id, url);
  }
cleanup:
  (void)fflush(stdout);
  json_decref(request);
  json_decref(answer);
  json_decref(build);
  return goes_on;
}

void bq_demonstrate(const char *address, const char *const *manifests) {
  char *url = bq_format("http://%s", address);
  const bq_common common = {.server = url};
  bq_client *client = url != NULL ? bq_client_new(&common) : NULL;
  int goes_on = client != NULL;
  for (size_t i = 0; goes_on && manifests[i] != NULL; i++) {
    (void)printf(i == 0 ? "The demonstration build: buildq compiles itself.\n"
                        : "\nAn order for a sample of the product, compiled by the .NET SDK.\n");
    goes_on = demonstrate_one(client, url, manifests[i]);
  }
  bq_client_free(client);
  bq_free(url);
}
