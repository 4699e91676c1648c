// The list of what is wrong with a configuration.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/config_internal.h"
#include "base/log.h"
#include "base/memory.h"

enum { MAX_SHOWN = 200 }; // bytes of a value

static void fault_clear(bq_config_fault *fault) {
  bq_free(fault->name);
  bq_free(fault->value);
  bq_free(fault->where);
  bq_free(fault->right);
}

// A copy that fits a terminal: cut between characters, without control characters.
static char *shown(const char *text) {
  size_t length = text != NULL ? strlen(text) : 0;
  size_t kept = length;
  if (length > MAX_SHOWN) {
    kept = MAX_SHOWN;
    while (kept > 0 && ((unsigned char)text[kept] & 0xc0) == 0x80) kept--;
  }
  char *copy = bq_format("%.*s%s", (int)kept, text != NULL ? text : "", kept < length ? "..." : "");
  for (char *c = copy; c != NULL && *c != '\0'; c++) {
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  }
  return copy;
}

void bq_config_fault_add(bq_config_input *input, bool warning, const char *name, const char *value, const char *where,
                         const char *right_fmt, ...) {
  bq_config_faults *faults = input->faults;
  if (!warning) faults->errors++;
  if (faults->count >= BQ_CONFIG_MAX_FAULTS) return;
  char right[1024];
  va_list args;
  va_start(args, right_fmt);
  (void)vsnprintf(right, sizeof right, right_fmt, args);
  va_end(args);
  bq_config_fault *grown = bq_realloc(faults->items, (faults->count + 1) * sizeof *grown);
  if (grown == NULL) {
    input->no_memory = true;
    return;
  }
  faults->items = grown;
  bq_config_fault fault = {warning, shown(name), shown(value), bq_strdup(where != NULL ? where : ""), bq_strdup(right)};
  if (fault.name == NULL || fault.value == NULL || fault.where == NULL || fault.right == NULL) {
    fault_clear(&fault);
    input->no_memory = true;
    return;
  }
  faults->items[faults->count++] = fault;
}

char *bq_config_fault_text(const bq_config_fault *fault) {
  bq_buf text = {0};
  bq_buf_adds(&text, fault->name);
  if (*fault->value != '\0') bq_buf_addf(&text, " is \"%s\"", fault->value);
  if (*fault->where != '\0') bq_buf_addf(&text, " (%s)", fault->where);
  bq_buf_addf(&text, ": %s", fault->right);
  return bq_buf_take(&text);
}

void bq_config_faults_log(const bq_config_faults *faults) {
  for (size_t i = 0; i < faults->count; i++) {
    const bq_config_fault *fault = &faults->items[i];
    bq_log(fault->warning ? BQ_WARN : BQ_ERROR, fault->warning ? "configuration" : "configuration fault", "name",
           fault->name, "value", *fault->value != '\0' ? fault->value : NULL, "where",
           *fault->where != '\0' ? fault->where : NULL, "right", fault->right, NULL);
  }
}

void bq_config_faults_free(bq_config_faults *faults) {
  if (faults == NULL) return;
  for (size_t i = 0; i < faults->count; i++) fault_clear(&faults->items[i]);
  bq_free(faults->items);
  bq_free(faults);
}
