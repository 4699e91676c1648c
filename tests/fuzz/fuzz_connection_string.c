// Whatever is accepted and is not a URI must be accepted by libpq as well, and can be shown and hidden.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>

#include "base/connection_string.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = bq_strndup((const char *)data, size);
  char *libpq = NULL;
  char *notes = NULL;
  char *shown = NULL;
  char *again = NULL;
  bq_error err;
  if (text == NULL) return 0;
  if (bq_connection_string_translate(text, NULL, &libpq, &notes, &err) == 0) {
    if (bq_connection_string_printable(libpq, &shown, &err) < 0) abort();
    if (strncmp(libpq, "postgres", 8) != 0) {
      PQconninfoOption *options = PQconninfoParse(libpq, NULL);
      if (options == NULL) abort();
      PQconninfoFree(options);
      options = PQconninfoParse(shown, NULL);
      if (options == NULL) abort();
      for (PQconninfoOption *option = options; option->keyword != NULL; option++) {
        int secret = strcmp(option->keyword, "password") == 0 || strcmp(option->keyword, "sslpassword") == 0;
        if (secret && option->val != NULL && strcmp(option->val, "***") != 0) abort();
      }
      PQconninfoFree(options);
    }
    // What was translated is libpq's from then on.
    bq_free(text);
    text = NULL;
    if (bq_connection_string_translate(libpq, NULL, &text, &again, &err) < 0 || strcmp(text, libpq) != 0) abort();
  }
  bq_free(text);
  bq_free(libpq);
  bq_free(notes);
  bq_free(shown);
  bq_free(again);
  return 0;
}
