// The configuration for people: effective values, the example file, README's tables.
#include <errno.h>
#include <string.h>

#include "base/config_internal.h"
#include "base/memory.h"

void bq_config_value_text(const bq_config *config, const bq_config_option *option, bq_buf *out) {
  const void *field = (const char *)config + option->offset;
  bq_buf_adds(out, ""); // an empty value is a text, too
  switch (option->kind) {
  case BQ_OPTION_BOOL: bq_buf_adds(out, *(const bool *)field ? "true" : "false"); break;
  case BQ_OPTION_INTEGER: bq_buf_addf(out, "%d", *(const int *)field); break;
  case BQ_OPTION_WORD: bq_buf_adds(out, option->words[*(const int *)field]); break;
  case BQ_OPTION_STRING:
  case BQ_OPTION_OBJECT:
  case BQ_OPTION_PATH: bq_buf_adds(out, *(char *const *)field); break;
  case BQ_OPTION_SECRET:
    if (**(char *const *)field != '\0') bq_buf_adds(out, "***");
    break;
  case BQ_OPTION_LIST:
  case BQ_OPTION_SECRETS:
    for (char *const *item = *(char **const *)field; *item != NULL; item++) {
      if (item != *(char **const *)field) bq_buf_adds(out, ", ");
      bq_buf_adds(out, option->kind == BQ_OPTION_SECRETS ? "***" : *item);
    }
    break;
  }
}

// Writes all of `text` or says why not.
static int put_out(bq_buf *text, FILE *out, bq_error *err) {
  int code = bq_buf_check(text, err);
  if (code == 0 && (fwrite(text->data, 1, text->length, out) != text->length || fflush(out) != 0)) {
    code = bq_fail_errno(err, errno, "can't write the configuration");
  }
  bq_buf_free(text);
  return code;
}

int bq_config_print(const bq_config *config, FILE *out, bq_error *err) {
  bq_buf text = {0};
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    bq_buf_addf(&text, "%s.%s = ", option->section, option->name);
    bq_config_value_text(config, option, &text);
    bq_buf_addf(&text, "  (%s)\n", bq_config_origin(config, i));
  }
  return put_out(&text, out, err);
}

// "a whole number from 1 to 43200, in minutes"
static void add_range(const bq_config_option *option, bq_buf *out) {
  char *range = bq_config_range_text(option);
  if (range == NULL) {
    out->failed = 1;
    return;
  }
  bq_buf_adds(out, range);
  if (option->unit != NULL) bq_buf_addf(out, ", in %s", option->unit);
  bq_free(range);
}

static void add_example_value(const bq_config_option *option, bq_buf *out) {
  switch (option->kind) {
  case BQ_OPTION_BOOL:
  case BQ_OPTION_INTEGER: bq_buf_adds(out, option->standard); break;
  case BQ_OPTION_WORD:
  case BQ_OPTION_STRING:
  case BQ_OPTION_SECRET:
  case BQ_OPTION_PATH: bq_buf_addf(out, "\"%s\"", option->standard != NULL ? option->standard : ""); break;
  case BQ_OPTION_LIST:
  case BQ_OPTION_SECRETS: bq_buf_adds(out, "[]"); break;
  case BQ_OPTION_OBJECT: bq_buf_adds(out, "{}"); break;
  }
}

static void add_example_option(const bq_config_option *option, bq_buf *out) {
  bq_buf_addf(out, "    // %s\n    // Values: ", option->help);
  add_range(option, out);
  bq_buf_adds(out, ".");
  if (option->standard_help != NULL) bq_buf_addf(out, " Not given: %s.", option->standard_help);
  bq_buf_adds(out, option->reload ? "\n" : " A change waits for a restart.\n");
  // What is empty or depends on the machine stays out until somebody fills it in.
  bool active = option->standard != NULL && (*option->standard != '\0' || option->kind == BQ_OPTION_LIST);
  bq_buf_addf(out, "    %s\"%s\": ", active ? "" : "// ", option->name);
  add_example_value(option, out);
  bq_buf_adds(out, ",\n");
}

int bq_config_write_example(FILE *out, bq_error *err) {
  bq_buf text = {0};
  const char *section = "";
  bq_buf_adds(&text,
              "// The configuration of buildq: all options with their defaults. Names may be in any case, comments and\n"
              "// trailing commas are allowed. Over it lie appsettings.{DOTNET_ENVIRONMENT}.json beside it and the\n"
              "// environment: BuildQueue__MaxConcurrentBuilds=4, BuildQueue__AllowedHosts__0=builds.example.com.\n"
              "// A secret may be file:PATH, env:NAME or command:PROGRAM; one that is not given is looked for in\n"
              "// $CREDENTIALS_DIRECTORY under its option's name. `buildq check` reads all this without starting.\n"
              "{\n");
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    if (strcmp(option->section, section) != 0) {
      bq_buf_addf(&text, "%s  \"%s\": {\n", *section != '\0' ? "  },\n" : "", option->section);
      section = option->section;
    } else {
      bq_buf_addc(&text, '\n');
    }
    add_example_option(option, &text);
  }
  bq_buf_adds(&text, "  },\n}\n");
  return put_out(&text, out, err);
}

int bq_config_markdown(FILE *out, bq_error *err) {
  bq_buf text = {0};
  const char *section = "";
  for (size_t i = 0; i < bq_config_option_count; i++) {
    const bq_config_option *option = &bq_config_options[i];
    if (strcmp(option->section, section) != 0) {
      bq_buf_addf(&text, "%s### Section `%s`\n\n| Option | Default | Values | Changes apply | What it does |\n"
                  "|---|---|---|---|---|\n", *section != '\0' ? "\n" : "", option->section);
      section = option->section;
    }
    bq_buf_addf(&text, "| `%s` | ", option->name);
    if (option->standard_help != NULL) bq_buf_adds(&text, option->standard_help);
    else bq_buf_addf(&text, *option->standard != '\0' ? "`%s`" : "empty%s", option->standard);
    bq_buf_adds(&text, " | ");
    add_range(option, &text);
    bq_buf_addf(&text, " | %s | %s |\n", option->reload ? "at SIGHUP" : "at a restart", option->help);
  }
  return put_out(&text, out, err);
}
