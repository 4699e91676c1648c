// Checking: raw values become the fields of struct bq_config, and every fault is found in one go.
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/config_internal.h"
#include "base/connection_string.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/secret.h"

// What one conversion works on.
typedef struct conversion {
  bq_config_input *input;
  const bq_config_option *option;
  const bq_config_raw *raw;
  void *field;     // in the configuration
  char name[128];  // "BuildQueue.MaxConcurrentBuilds", or the spelling that was used
} conversion;

static void fault(const conversion *c, const char *right) {
  const char *value = bq_config_is_secret(c->option) ? "***" : c->raw->text;
  bq_config_fault_add(c->input, false, c->name, *c->raw->text != '\0' ? value : "", c->raw->where, "%s", right);
}

static void fault_range(const conversion *c) {
  char *range = bq_config_range_text(c->option);
  if (range == NULL) {
    c->input->no_memory = true;
    return;
  }
  char *right = bq_format("must be %s%s%s", range, c->option->unit != NULL ? ", in " : "",
                          c->option->unit != NULL ? c->option->unit : "");
  if (right == NULL) c->input->no_memory = true;
  else fault(c, right);
  bq_free(range);
  bq_free(right);
}

// Blanks around numbers and words are nobody's intention; .NET skips them too.
static void trimmed(const char *text, char *out, size_t size) {
  text += strspn(text, " \t\r\n");
  size_t length = strlen(text);
  while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL) length--;
  if (length >= size) length = size - 1; // longer than any number or word: it will not be taken for one
  memcpy(out, text, length);
  out[length] = '\0';
}

static int parse_integer(const bq_config_raw *raw, int *out) {
  char text[64];
  if (raw->kind != BQ_RAW_TEXT && raw->kind != BQ_RAW_INTEGER) return 0;
  trimmed(raw->text, text, sizeof text);
  const char *digits = text + (*text == '-' || *text == '+' ? 1 : 0);
  if (*digits == '\0' || digits[strspn(digits, "0123456789")] != '\0') return 0;
  errno = 0;
  long long value = strtoll(text, NULL, 10);
  if (errno != 0 || value < INT_MIN || value > INT_MAX) return 0;
  *out = (int)value;
  return 1;
}

static void convert_integer(const conversion *c) {
  int value;
  if (!parse_integer(c->raw, &value) || value < c->option->min || value > c->option->max) fault_range(c);
  else *(int *)c->field = value;
}

static void convert_bool(const conversion *c) {
  char text[16];
  trimmed(c->raw->text, text, sizeof text);
  bool is_true = strcasecmp(text, "true") == 0;
  bool right_kind = c->raw->kind == BQ_RAW_TEXT || c->raw->kind == BQ_RAW_BOOL;
  if (!right_kind || (!is_true && strcasecmp(text, "false") != 0)) fault_range(c);
  else *(bool *)c->field = is_true;
}

static void convert_word(const conversion *c) {
  char text[64];
  trimmed(c->raw->text, text, sizeof text);
  for (int i = 0; c->raw->kind == BQ_RAW_TEXT && c->option->words[i] != NULL; i++) {
    if (strcasecmp(text, c->option->words[i]) == 0) {
      *(int *)c->field = i;
      return;
    }
  }
  fault_range(c);
}

// Checks a text of any option; 1 when it may be stored.
static int text_is_right(const conversion *c) {
  if (c->raw->kind != BQ_RAW_TEXT) {
    fault(c, "must be a text in quotes");
    return 0;
  }
  for (const unsigned char *byte = (const unsigned char *)c->raw->text; *byte != '\0'; byte++) {
    if (*byte < 0x20 || *byte == 0x7f) {
      fault(c, "must not hold line breaks or other control characters");
      return 0;
    }
  }
  const char *right = c->option->check != NULL ? c->option->check(c->raw->text) : NULL;
  if (right != NULL) fault(c, right);
  return right == NULL;
}

static void store(const conversion *c, char *text) {
  if (text == NULL) {
    c->input->no_memory = true;
    return;
  }
  char **field = c->field;
  bq_free(*field);
  *field = text;
}

static void convert_path(const conversion *c) {
  if (!text_is_right(c)) return;
  const char *text = c->raw->text;
  char here[PATH_MAX];
  if (*text == '\0' || *text == '/') {
    store(c, bq_strdup(text));
  } else if (getcwd(here, sizeof here) == NULL) {
    fault(c, "must be an absolute path: the current directory can't be read");
    return;
  } else {
    store(c, bq_format("%s/%s", strcmp(here, "/") == 0 ? "" : here, text));
  }
  char *path = *(char **)c->field;
  for (size_t length = path != NULL ? strlen(path) : 0; length > 1 && path[length - 1] == '/'; length--) {
    path[length - 1] = '\0';
  }
  if (path != NULL && strlen(path) >= PATH_MAX) fault(c, "must be shorter than 4096 bytes");
}

// Rewrites the connection string for libpq and makes its passwords known to the log.
static char *libpq_form(const conversion *c, const char *text, const bq_secret_source *secrets) {
  char *libpq = NULL;
  char *notes = NULL;
  bq_error problem = {0};
  int code = bq_connection_string_translate(text, secrets, &libpq, &notes, &problem);
  if (code == 0) code = bq_connection_string_hide(libpq, &problem);
  if (code == BQ_ENOMEM) c->input->no_memory = true;
  else if (code < 0) fault(c, problem.message);
  if (code == 0 && notes != NULL) {
    bq_config_fault_add(c->input, true, c->name, "", c->raw->where, "has keys without a meaning here: %s", notes);
  }
  bq_free(notes);
  if (code == 0) return libpq;
  bq_free(libpq);
  return NULL;
}

// The secret that the raw value names, known to the log; NULL with a fault when there is none to be had, "" when none is
// given. The caller's.
static char *resolve_secret(const conversion *c, const char **origin) {
  char *value = NULL;
  bq_error problem = {0};
  bq_secret_source secrets = {.environment = c->input->environment};
  int code;
  if (c->raw->kind != BQ_RAW_TEXT) {
    fault(c, "must be a text in quotes");
    return NULL;
  }
  if (*c->raw->text != '\0') {
    code = bq_secret_resolve(c->raw->text, &secrets, &value, &problem);
  } else {
    code = bq_secret_from_credentials(c->option->name, &secrets, &value, &problem);
    if (value != NULL) *origin = "credentials directory";
    else if (code == 0) value = bq_strdup("");
  }
  if (code == BQ_ENOMEM || (code == 0 && value == NULL)) c->input->no_memory = true;
  else if (code < 0) bq_config_fault_add(c->input, false, c->name, "***", c->raw->where, "%s", problem.message);
  if (code < 0 || value == NULL) goto failed;
  // A connection string is no secret as a whole: libpq_form hides its passwords. Beyond the log's 256 secrets a value
  // could show: better no start than that.
  int hidden = c->option->offset == offsetof(bq_config, connection_string) ? 0 : bq_log_hide(value);
  if (hidden == BQ_ENOMEM) {
    c->input->no_memory = true;
    goto failed;
  }
  if (hidden < 0) {
    fault(c, "can't be hidden from the log: too many secrets are known already");
    goto failed;
  }
  const char *right = strpbrk(value, "\r\n") != NULL ? "must be a single line" : NULL;
  if (right == NULL && *value != '\0' && c->option->check != NULL) right = c->option->check(value);
  if (right == NULL) return value;
  fault(c, right);
failed:
  bq_free(value);
  return NULL;
}

static void convert_secret(const conversion *c, const char **origin) {
  char *value = resolve_secret(c, origin);
  if (value == NULL) return;
  if (c->option->offset != offsetof(bq_config, connection_string) || *value == '\0') {
    store(c, value);
    return;
  }
  bq_secret_source secrets = {.environment = c->input->environment};
  char *libpq = libpq_form(c, value, &secrets);
  if (libpq != NULL) store(c, libpq);
  bq_free(value);
}

static void convert_list(const conversion *c, const char **origin) {
  const bq_config_slot *slot = &c->input->slots[c->option - bq_config_options];
  char **items = *(char ***)c->field;
  size_t count = 0;
  for (size_t i = 0; i < BQ_CONFIG_MAX_ITEMS; i++) {
    conversion item = *c;
    item.raw = &slot->items[i];
    (void)snprintf(item.name, sizeof item.name, "%.100s[%zu]", c->name, i);
    // An empty item takes out what a file gave at its place.
    if (item.raw->kind == BQ_RAW_NONE || (item.raw->kind == BQ_RAW_TEXT && *item.raw->text == '\0')) continue;
    if (c->option->kind == BQ_OPTION_SECRETS) {
      items[count] = resolve_secret(&item, origin);
      if (items[count] != NULL) count++;
      continue;
    }
    if (!text_is_right(&item)) continue;
    items[count] = bq_strdup(item.raw->text);
    if (items[count] == NULL) c->input->no_memory = true;
    else count++;
  }
}

// Which of the two spellings counts; a difference between them is a fault.
static const bq_config_raw *choose(conversion *c) {
  const bq_config_slot *slot = &c->input->slots[c->option - bq_config_options];
  const bq_config_raw *right = &slot->by_name;
  const bq_config_raw *wrong = &slot->by_misspelt;
  if (wrong->kind == BQ_RAW_NONE) return right;
  char misspelt[128];
  (void)snprintf(misspelt, sizeof misspelt, "%s.%s", c->option->section, c->option->misspelt);
  const char *value = bq_config_is_secret(c->option) && *wrong->text != '\0' ? "***" : wrong->text;
  if (right->kind == BQ_RAW_NONE) {
    bq_config_fault_add(c->input, true, misspelt, value, wrong->where, "is called %s; write that instead", c->name);
    (void)snprintf(c->name, sizeof c->name, "%s", misspelt);
    return wrong;
  }
  int a;
  int b;
  bool same = strcmp(right->text, wrong->text) == 0;
  if (c->option->kind == BQ_OPTION_INTEGER && parse_integer(right, &a) && parse_integer(wrong, &b)) same = a == b;
  if (same) {
    bq_config_fault_add(c->input, true, misspelt, value, wrong->where, "is called %s, which is given too; take it out",
                        c->name);
  } else {
    bq_config_fault_add(c->input, false, misspelt, value, wrong->where,
                        "is a misspelt %s, which is given too (%s) with a different value; keep one of them", c->name,
                        right->where);
  }
  return right;
}

// Converts one row; `*origin` is set to where its value came from (borrowed from the input, or constant).
static void convert(bq_config_input *input, bq_config *config, const bq_config_option *option, const char **origin) {
  conversion c = {.input = input, .option = option, .field = (char *)config + option->offset};
  (void)snprintf(c.name, sizeof c.name, "%s.%s", option->section, option->name);
  bq_config_raw standard = {.kind = BQ_RAW_TEXT, .where = ""};
  char *computed = NULL;
  c.raw = choose(&c);
  *origin = c.raw->where;
  if (option->kind == BQ_OPTION_LIST || option->kind == BQ_OPTION_SECRETS) {
    *origin = "default";
    for (size_t i = 0; i < BQ_CONFIG_MAX_ITEMS; i++) {
      const bq_config_raw *item = &input->slots[option - bq_config_options].items[i];
      if (item->kind != BQ_RAW_NONE) *origin = item->where;
    }
  } else if (c.raw->kind == BQ_RAW_NONE) {
    *origin = "default";
    if (option->standard == NULL) computed = bq_config_standard_state(geteuid(), input->environment);
    standard.text = (char *)(uintptr_t)(option->standard != NULL ? option->standard : computed);
    if (standard.text == NULL) {
      input->no_memory = true;
      return;
    }
    c.raw = &standard;
  }
  switch (option->kind) {
  case BQ_OPTION_BOOL: convert_bool(&c); break;
  case BQ_OPTION_INTEGER: convert_integer(&c); break;
  case BQ_OPTION_WORD: convert_word(&c); break;
  case BQ_OPTION_STRING:
    if (text_is_right(&c)) store(&c, bq_strdup(c.raw->text));
    break;
  case BQ_OPTION_PATH: convert_path(&c); break;
  case BQ_OPTION_SECRET: convert_secret(&c, origin); break;
  case BQ_OPTION_LIST:
  case BQ_OPTION_SECRETS: convert_list(&c, origin); break;
  case BQ_OPTION_OBJECT:
    if (text_is_right(&c)) store(&c, bq_strdup(c.raw->text));
    break;
  }
  bq_free(computed);
}

// What is written in one of several ways gets the one that the rest of the program reads.
static int settle(bq_config *config) {
  char *url = config->download_base_url;
  for (size_t length = strlen(url); length > 0 && url[length - 1] == '/'; length--) url[length - 1] = '\0';
  if (strncasecmp(config->listen, "localhost:", 10) == 0) {
    char *listen = bq_format("127.0.0.1:%s", config->listen + 10);
    if (listen == NULL) return 0;
    bq_free(config->listen);
    config->listen = listen;
  }
  if (*config->manifest_directory == '\0') {
    char *path = bq_format("%s/manifests", config->state_directory);
    if (path == NULL) return 0;
    bq_free(config->manifest_directory);
    config->manifest_directory = path;
  }
  return 1;
}

// Faults that only show in several values together.
static void check_together(bq_config_input *input, const bq_config *config) {
  bool given = false;
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_raw *raw = &input->slots[i].by_name;
    if (bq_config_options[i].offset != offsetof(bq_config, connection_string)) continue;
    given = raw->kind != BQ_RAW_NONE && *raw->text != '\0';
  }
  if (input->connection_strings_where != NULL && !given && *config->connection_string == '\0') {
    bq_config_fault_add(input, false, "ConnectionStrings", "***", input->connection_strings_where,
                        "is filled and BuildQueue.ConnectionString is not; which database is meant? Put that one into "
                        "BuildQueue.ConnectionString, or empty ConnectionStrings to use the private PostgreSQL");
  }
  if (*config->output_directory != '\0' && strcmp(config->workspace_directory, config->output_directory) == 0) {
    bq_config_fault_add(input, false, "BuildQueue.OutputDirectory", config->output_directory, "",
                        "must not be the WorkspaceDirectory: workspaces are removed");
  }
  if (config->email_enabled && *config->email_smtp_server != '\0' && *config->email_from_address == '\0') {
    bq_config_fault_add(input, true, "Email.FromAddress", "", "",
                        "is not given; mails need it, set it or set Email.Enabled to false");
  }
  if (*config->email_unsubscribe_url != '\0' && *config->email_unsubscribe_secret == '\0') {
    bq_config_fault_add(input, true, "Email.UnsubscribeSecret", "", "",
                        "is not given, so mails have no link to UnsubscribeUrl; give it file:PATH of what "
                        "`openssl rand -hex 32` prints, the same on all servers");
  }
  if (*config->webhook_url != '\0' && *config->webhook_secrets == NULL) {
    bq_config_fault_add(input, true, "Notifications.WebhookSecrets", "", "",
                        "is not given, so nothing is sent to WebhookUrl: a receiver could not tell who calls; give it "
                        "file:PATH of what `echo whsec_$(openssl rand -base64 32)` prints");
  }
  size_t length = strlen(config->email_unsubscribe_secret);
  if (length > 0 && length < 16) {
    bq_config_fault_add(input, false, "Email.UnsubscribeSecret", "***", "",
                        "must have 16 characters or more, such as `openssl rand -hex 32` prints");
  }
}

void bq_config_check(bq_config_input *input, bq_config *config, const char **origins) {
  for (size_t i = 0; i < bq_config_option_count; i++) {
    convert(input, config, &bq_config_options[i], &origins[i]);
  }
  if (input->no_memory) return;
  if (!settle(config)) input->no_memory = true;
  check_together(input, config);
}
