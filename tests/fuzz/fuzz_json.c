// What parses can be written, and what was written parses strictly to the same value. Strict text is relaxed text, too.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *text = (const char *)data;
  json_t *strict = NULL;
  json_t *relaxed = NULL;
  json_t *again = NULL;
  char *written = NULL;
  bq_error err;
  int strict_code = bq_json_parse(text, size, BQ_JSON_STRICT, &strict, &err);
  int relaxed_code = bq_json_parse(text, size, BQ_JSON_RELAXED, &relaxed, &err);
  if (strict_code == 0 && (relaxed_code < 0 || !json_equal(strict, relaxed))) abort();
  if (relaxed_code == 0) {
    if (bq_json_dump(relaxed, &written, &err) < 0) abort();
    if (bq_json_parse(written, strlen(written), BQ_JSON_STRICT, &again, &err) < 0) abort();
    if (!json_equal(relaxed, again)) abort();
  }
  json_decref(strict);
  json_decref(relaxed);
  json_decref(again);
  bq_free(written);
  return 0;
}
