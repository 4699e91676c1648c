// JSON: whatever is taken survives a round trip; nothing crashes, strict or relaxed.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bq_error err = {0};
  for (unsigned flags = BQ_JSON_STRICT; flags <= BQ_JSON_RELAXED; flags++) {
    json_t *value = NULL;
    if (bq_json_parse((const char *)data, size, flags, &value, &err) < 0) continue;
    char *text = NULL;
    json_t *again = NULL;
    if (bq_json_dump(value, &text, &err) < 0) abort();
    if (bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &again, &err) < 0) abort();
    if (!json_equal(value, again)) abort();
    json_decref(value);
    json_decref(again);
    bq_free(text);
  }
  return 0;
}
