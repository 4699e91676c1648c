// Connection strings: what is taken can be shown and taken again; nothing crashes.
#include <stdint.h>
#include <stdlib.h>

#include "base/connection_string.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bq_error err = {0};
  char *text = bq_strndup((const char *)data, size);
  char *libpq = NULL;
  char *notes = NULL;
  char *shown = NULL;
  if (text == NULL) abort();
  if (bq_connection_string_translate(text, NULL, &libpq, &notes, &err) == 0) {
    char *again = NULL;
    char *no_notes = NULL;
    if (bq_connection_string_printable(libpq, &shown, &err) < 0) abort();
    if (bq_connection_string_translate(libpq, NULL, &again, &no_notes, &err) < 0) abort();
    bq_free(again);
    bq_free(no_notes);
  }
  bq_free(text);
  bq_free(libpq);
  bq_free(notes);
  bq_free(shown);
  return 0;
}
