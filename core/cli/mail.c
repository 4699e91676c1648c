// buildq mail list|show|preview|send-test|requeue|cancel
#include "cli/mail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/text.h"

enum {
  OPTION_BUILD = 0xc00,
  OPTION_CHANNEL,
  OPTION_CLOUD,
  OPTION_CUSTOMER,
  OPTION_HTML,
  OPTION_RECIPIENT,
  OPTION_RESEND,
  OPTION_TEMPLATES,
  MAX_LIMIT = 100 * 1000
};

// Which options an action takes, as bits.
enum {
  TAKES_FILTER = 1,  // state, customer, limit
  TAKES_EVENT = 2,
  TAKES_CHANNEL = 4, // and recipient
  TAKES_BUILD = 8,
  TAKES_PREVIEW = 16, // templates, html, cloud
  TAKES_RESEND = 32
};

static error_t parse(int key, char *value, struct argp_state *state) {
  bq_mail_arguments *a = state->input;
  char *end;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &a->common; return 0;
  case 's': a->state = value; return 0;
  case 'e': a->event = value; return 0;
  case OPTION_BUILD: a->build = value; return 0;
  case OPTION_CHANNEL: a->channel = value; return 0;
  case OPTION_CLOUD: a->cloud = value; return 0;
  case OPTION_CUSTOMER: a->customer = value; return 0;
  case OPTION_HTML: a->html = value; return 0;
  case OPTION_RECIPIENT: a->recipient = value; return 0;
  case OPTION_RESEND: a->resend = 1; return 0;
  case OPTION_TEMPLATES: a->templates = value; return 0;
  case 'n':
    a->limit = strtol(value, &end, 10);
    if (*end != '\0' || a->limit < 1 || a->limit > MAX_LIMIT) {
      argp_error(state, "--limit is a number from 1 to %d, not %s", MAX_LIMIT, value);
    }
    return 0;
  case ARGP_KEY_ARG:
    if (a->subject != NULL) argp_usage(state);
    if (a->action == NULL) a->action = value;
    else a->subject = value;
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

// POST to `path` (owned by the caller); says what has become of the delivery, which is the answer.
static int change(const bq_mail_arguments *a, const char *path, json_t *body) {
  json_t *answer = NULL;
  bq_client *client = bq_client_new(&a->common);
  if (client == NULL) return BQ_EXIT_FAILURE;
  int code = bq_client_call(client, "POST", path, body, NULL, &answer);
  if (code == BQ_EXIT_OK && a->common.json) {
    bq_print_json(answer, JSON_COMPACT);
  } else if (code == BQ_EXIT_OK) {
    (void)printf("%s %s: ", bq_json_text(answer, "id"), bq_json_text(answer, "state"));
    bq_text_print(stdout, bq_json_text(answer, "event"));
    (void)fputs(" to ", stdout);
    bq_text_print(stdout, bq_json_text(answer, "recipient"));
    (void)putchar('\n');
  }
  json_decref(answer);
  bq_client_free(client);
  return code;
}

static int change_one(const bq_mail_arguments *a, const char *verb) {
  char *escaped = bq_client_escape(a->subject);
  char *path = escaped != NULL ? bq_format("/notifications/%s/%s", escaped, verb) : NULL;
  json_t *body = json_object();
  int code = path != NULL && body != NULL ? change(a, path, body) : BQ_EXIT_FAILURE;
  json_decref(body);
  bq_free(path);
  bq_free(escaped);
  return code;
}

static int requeue(const bq_mail_arguments *a) {
  return change_one(a, a->resend ? "resend" : "requeue");
}

static int cancel(const bq_mail_arguments *a) {
  return change_one(a, "cancel");
}

static int send_test(const bq_mail_arguments *a) {
  // "slack" is a channel: the scripts know whom it tells.
  const char *whom = strchr(a->subject, '@') != NULL ? "recipient" : "channel";
  json_t *body = json_pack("{s:s, s:s*, s:s*}", whom, a->subject, "event", a->event, "build", a->build);
  if (body == NULL) {
    (void)fputs("buildq: the address or channel, the event or the build is not UTF-8\n", stderr);
    return BQ_EXIT_USAGE;
  }
  int code = change(a, "/notifications/test", body);
  json_decref(body);
  return code;
}

typedef struct action {
  const char *name;
  const char *subject; // what it needs, for messages; NULL: nothing
  int takes;           // options, see above
  int (*perform)(const bq_mail_arguments *a);
} action;

static const action actions[] = {
    {"list", NULL, TAKES_FILTER | TAKES_EVENT | TAKES_CHANNEL | TAKES_BUILD, bq_mail_list},
    {"show", "the ID of a notification", 0, bq_mail_show},
    {"preview", "an EVENT, such as completed", TAKES_CHANNEL | TAKES_BUILD | TAKES_PREVIEW, bq_mail_preview},
    {"send-test", "an ADDRESS or a CHANNEL, such as slack", TAKES_EVENT | TAKES_BUILD, send_test},
    {"requeue", "the ID of a notification", TAKES_RESEND, requeue},
    {"cancel", "the ID of a notification", 0, cancel},
};

static int given(const bq_mail_arguments *a) {
  int bits = 0;
  if (a->state != NULL || a->customer != NULL || a->limit > 0) bits |= TAKES_FILTER;
  if (a->event != NULL) bits |= TAKES_EVENT;
  if (a->channel != NULL || a->recipient != NULL) bits |= TAKES_CHANNEL;
  if (a->build != NULL) bits |= TAKES_BUILD;
  if (a->templates != NULL || a->html != NULL || a->cloud != NULL) bits |= TAKES_PREVIEW;
  if (a->resend) bits |= TAKES_RESEND;
  return bits;
}

static int refuse(const struct argp *argp, const char *name, const char *what) {
  char copy[64];
  (void)snprintf(copy, sizeof copy, "%s", name);
  argp_help(argp, stderr, ARGP_HELP_STD_USAGE, copy);
  if (what != NULL) (void)fprintf(stderr, "%s\n", what);
  return BQ_EXIT_USAGE;
}

int bq_command_mail(int argc, char **argv) {
  static const struct argp_option options[] = {
      {"state", 's', "STATE", 0, "list: waiting, sending, faulty, sent, dead, cancelled or skipped", 1},
      {"event", 'e', "EVENT", 0, "list; send-test (completed)", 1},
      {"channel", OPTION_CHANNEL, "NAME", 0, "list; preview (email)", 1},
      {"customer", OPTION_CUSTOMER, "ID", 0, "list: about builds of one customer", 1},
      {"recipient", OPTION_RECIPIENT, "ADDRESS", 0, "list; preview: as it is for this recipient", 1},
      {"limit", 'n', "COUNT", 0, "list: at most so many, newest first (20; 100000 at most)", 1},
      {"build", OPTION_BUILD, "ID", 0, "list; preview and send-test: with this build instead of a sample", 1},
      {"templates", OPTION_TEMPLATES, "DIR", 0,
       "preview: with the templates of this directory (email/…) instead of TemplateDirectory", 2},
      {"html", OPTION_HTML, "FILE", 0, "preview: write the HTML there; - is standard output, without the text", 2},
      {"cloud", OPTION_CLOUD, "NAME", 0, "preview: the sample's, aws, azure, gcp, on-premises or other", 2},
      {"resend", OPTION_RESEND, NULL, 0, "requeue: also what was sent; with a new Message-ID, so it arrives again", 2},
      {0}};
  static const struct argp_child children[] = {{&bq_client_argp, 0, NULL, 0}, {0}};
  static const struct argp argp = {
      .options = options,
      .parser = parse,
      .args_doc = "list\nshow ID\npreview EVENT\nsend-test ADDRESS|CHANNEL\nrequeue ID\ncancel ID",
      .doc = "Notifications: what customers and channels were told, by mail or otherwise. show has each attempt with the "
             "server's reply. preview needs no server unless --build is given: it prints headers and text as the scripts "
             "and templates on this disk make them, also when another template is broken. send-test queues a "
             "sample like any other, for an address or for a channel (slack, teams, webhook, one of your own): show tells "
             "what became of it. requeue tries at once what waits, was "
             "refused, cancelled or skipped; cancel takes back what waits.\v"
             "Exit codes: 0 done, 1 failed (preview: a script or template; its file and line are told), 2 wrong usage, 3 no "
             "server answers, 4 no such notification or build, 5 its state forbids it.",
      .children = children};
  bq_mail_arguments a = {0};
  (void)argp_parse(&argp, argc, argv, 0, NULL, &a);
  if (a.action == NULL) return refuse(&argp, argv[0], NULL);
  for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
    const action *act = &actions[i];
    char text[128];
    if (strcmp(act->name, a.action) != 0) continue;
    if (act->subject != NULL && a.subject == NULL) {
      (void)snprintf(text, sizeof text, "%s needs %s.", act->name, act->subject);
      return refuse(&argp, argv[0], text);
    }
    if ((act->subject == NULL && a.subject != NULL) || (given(&a) & ~act->takes) != 0) {
      (void)snprintf(text, sizeof text, "%s takes no such %s; --help says what it takes.", act->name,
                     act->subject == NULL && a.subject != NULL ? "argument" : "option");
      return refuse(&argp, argv[0], text);
    }
    return act->perform(&a);
  }
  return refuse(&argp, argv[0], "There is no such action.");
}
