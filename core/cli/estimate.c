#include "cli/estimate.h"

#include "base/buf.h"

static void add_seconds(bq_buf *line, const json_t *value) {
  double seconds = json_number_value(value);
  bq_buf_addf(line, seconds < 9.95 ? "%.1f s" : "%.0f s", seconds);
}

char *bq_estimate_line(const json_t *estimate) {
  const json_t *seconds = json_object_get(estimate, "seconds");
  const json_t *cost = json_object_get(estimate, "cost");
  const char *currency = json_string_value(json_object_get(estimate, "currency"));
  bq_buf line = {0};
  if (seconds == NULL && cost == NULL) return NULL;
  if (seconds != NULL) {
    add_seconds(&line, seconds);
    bq_buf_adds(&line, ", nine times of ten not over ");
    add_seconds(&line, json_object_get(estimate, "secondsHigh"));
  }
  if (cost != NULL) {
    bq_buf_addf(&line, "%s%.2f%s%s", seconds != NULL ? "; " : "", json_number_value(cost), currency != NULL ? " " : "",
                currency != NULL ? currency : "");
  }
  return bq_buf_take(&line);
}
