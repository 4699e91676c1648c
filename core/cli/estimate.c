#include "cli/estimate.h"

#include "base/buf.h"

char *bq_estimate_line(const json_t *estimate) {
  const json_t *seconds = json_object_get(estimate, "seconds");
  const json_t *cost = json_object_get(estimate, "cost");
  const char *currency = json_string_value(json_object_get(estimate, "currency"));
  bq_buf line = {0};
  if (seconds == NULL && cost == NULL) return NULL;
  if (seconds != NULL) {
    bq_buf_addf(&line, "%.0f s, nine times of ten not over %.0f s", json_number_value(seconds),
                json_number_value(json_object_get(estimate, "secondsHigh")));
  }
  if (cost != NULL) {
    bq_buf_addf(&line, "%s%.2f%s%s", seconds != NULL ? "; " : "", json_number_value(cost), currency != NULL ? " " : "",
                currency != NULL ? currency : "");
  }
  return bq_buf_take(&line);
}
