// A history of JSON lines, rehearsed under the built-in rules.
#include <stdint.h>
#include <string.h>

#include "base/json.h"
#include "queue/rehearse.h"

enum { MOST_BYTES = 20000 };

static int add_lines(bq_past *past, const uint8_t *data, size_t size) {
  bq_error err;
  for (size_t from = 0; from < size;) {
    const uint8_t *end = memchr(data + from, '\n', size - from);
    size_t length = end != NULL ? (size_t)(end - data) - from : size - from;
    json_t *line;
    if (bq_json_parse((const char *)data + from, length, BQ_JSON_STRICT, &line, &err) == 0) {
      int result = bq_past_add(past, line, &err); // one that is wrong is not there
      json_decref(line);
      (void)result;
    }
    from += length + 1;
  }
  return bq_past_finish(past, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  bq_past past = {0};
  bq_replay replay = {0};
  bq_error err;
  const bq_rehearse_options options = {.slots = 2, .max_retries = 3, .retry_minutes = 1, .exponential = 1};
  if (size > MOST_BYTES || bq_past_init(&past, 3, &err) < 0) return 0;
  if (add_lines(&past, data, size) == 0 && bq_rehearse(&replay, &past, &options, &err) == 0) {
    json_decref(bq_rehearse_compare(&past, &replay, &replay, options.slots));
    bq_replay_clear(&replay);
  }
  bq_past_free(&past);
  return 0;
}
