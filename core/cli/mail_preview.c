// buildq mail preview: rendered here, of what lies on this disk; the build, if there is one, comes from the server.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/mail.h"
#include "cli/output.h"
#include "cli/settings.h"
#include "cli/share.h"
#include "cli/text.h"
#include "queue/preview.h"

// The event of that build as the server has it: a reference of the caller's.
static int ask_facts(json_t **facts, const bq_mail_arguments *a) {
  json_t *answer = NULL;
  bq_client *client = bq_client_new(&a->common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  char *event = bq_client_escape(a->subject);
  char *build = bq_client_escape(a->build);
  char *path =
      event != NULL && build != NULL ? bq_format("/notifications/preview/%s?format=json&build=%s", event, build) : NULL;
  int code = path != NULL ? bq_client_call(client, "GET", path, NULL, NULL, &answer) : BQ_EXIT_FAILURE;
  *facts = json_incref(json_object_get(answer, "facts"));
  if (code == BQ_EXIT_OK && *facts == NULL) {
    (void)fputs("buildq: the server's answer has no facts of the build\n", stderr);
    code = BQ_EXIT_FAILURE;
  }
  json_decref(answer);
  bq_free(path);
  bq_free(build);
  bq_free(event);
  bq_client_free(client);
  return code;
}

static void print_header(const char *name, const char *first, const char *second) {
  if (first[0] == '\0' && second[0] == '\0') return;
  (void)printf("%s: ", name);
  bq_text_print(stdout, first);
  if (second[0] != '\0') {
    (void)fputs(first[0] != '\0' ? " <" : "<", stdout);
    bq_text_print(stdout, second);
    (void)putchar('>');
  }
  (void)putchar('\n');
}

// Line by line: what a build says must not move the cursor.
static void print_lines(const char *text) {
  while (*text != '\0') {
    size_t length = strcspn(text, "\n");
    char *line = bq_strndup(text, length);
    if (line != NULL) bq_text_print(stdout, line);
    (void)putchar('\n');
    bq_free(line);
    text += length;
    if (*text == '\n') text++;
  }
}

static void print_mail(const json_t *mail, const bq_config *config) {
  const json_t *to = json_object_get(mail, "to");
  print_header("From", config->email_from_name, config->email_from_address);
  print_header("To", bq_json_text(to, "name"), bq_json_text(to, "address"));
  print_header("Reply-To", bq_json_text(mail, "replyTo"), "");
  print_header("Subject", bq_json_text(mail, "subject"), "");
  (void)putchar('\n');
  print_lines(bq_json_text(mail, "text"));
}

// What is sent to a channel by HTTP; JSON in its body is laid out to be read.
static void print_http(const json_t *http) {
  json_t *copy = json_copy((json_t *)(uintptr_t)http);
  const char *body = json_string_value(json_object_get(http, "body"));
  json_t *parsed = NULL;
  bq_error err;
  if (body != NULL && bq_json_parse(body, strlen(body), BQ_JSON_STRICT, &parsed, &err) == 0) {
    (void)json_object_set_new(copy, "body", parsed);
  }
  bq_print_json(copy, JSON_INDENT(2));
  json_decref(copy);
}

static int write_html(const char *path, const json_t *mail) {
  const char *html = json_string_value(json_object_get(mail, "html"));
  if (html == NULL) {
    (void)fputs("buildq: this channel has no HTML\n", stderr);
    return BQ_EXIT_FAILURE;
  }
  if (strcmp(path, "-") == 0) return fputs(html, stdout) >= 0 ? BQ_EXIT_OK : BQ_EXIT_FAILURE;
  FILE *file = fopen(path, "we");
  int failed = file == NULL || fputs(html, file) < 0;
  if (file != NULL && fclose(file) != 0) failed = 1;
  if (failed) (void)fprintf(stderr, "buildq: can't write %s: %s\n", path, strerror(errno));
  return failed ? BQ_EXIT_FAILURE : BQ_EXIT_OK;
}

static int print_preview(const json_t *preview, const bq_mail_arguments *a, const bq_config *config) {
  const json_t *mail = json_object_get(preview, "mail");
  int code = a->html != NULL ? write_html(a->html, mail) : BQ_EXIT_OK;
  int to_terminal = a->html != NULL && strcmp(a->html, "-") == 0;
  if (code != BQ_EXIT_OK || to_terminal) return code;
  if (!json_is_true(json_object_get(preview, "owed"))) {
    (void)fprintf(stderr, "buildq: no script of scripts/notifications sends %s by %s\n", a->subject,
                  a->channel != NULL ? a->channel : "email");
  }
  if (a->common.json) {
    bq_print_json(preview, JSON_COMPACT);
  } else if (mail != NULL) {
    print_mail(mail, config);
  } else {
    print_http(json_object_get(preview, "http"));
  }
  return BQ_EXIT_OK;
}

int bq_mail_preview(const bq_mail_arguments *a) {
  const bq_config_source source = {.path = a->common.config};
  bq_config *config = bq_settings_load(&source);
  char *share = NULL;
  json_t *facts = NULL;
  json_t *preview = NULL;
  bq_error err;
  if (config == NULL) return BQ_EXIT_FAILURE;
  int code = a->build != NULL ? ask_facts(&facts, a) : BQ_EXIT_OK;
  if (code == BQ_EXIT_OK) {
    int result = bq_share_find(&share, &err);
    const bq_preview_options options = {.share = share,
                                        .templates = a->templates,
                                        .event = a->subject,
                                        .facts = facts,
                                        .cloud = a->cloud,
                                        .channel = a->channel,
                                        .recipient = a->recipient};
    if (result == 0) result = bq_preview(&preview, config, &options, &err);
    if (result == 0) {
      code = print_preview(preview, a, config);
    } else {
      (void)fprintf(stderr, "buildq: %s\n", err.message);
      code = result == BQ_EINVAL ? BQ_EXIT_USAGE : BQ_EXIT_FAILURE;
    }
  }
  json_decref(preview);
  json_decref(facts);
  bq_free(share);
  bq_config_free(config);
  return code;
}
