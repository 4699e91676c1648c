#include "lua/stand_in.h"

#include <string.h>

int bq_answer_is(const json_t *answer, const char *word) {
  return json_is_true(json_object_get(answer, word));
}

int bq_answer_error(const json_t *answer, bq_error *err) {
  const char *kind = json_string_value(json_object_get(answer, "error"));
  const char *message = json_string_value(json_object_get(answer, "message"));
  if (kind == NULL) return 0;
  int code = BQ_EDATABASE;
  while (code < BQ_ENOMEM && strcmp(bq_err_name(code), kind) != 0) code++;
  if (strcmp(bq_err_name(code), kind) != 0) code = BQ_EINVAL;
  return bq_fail(err, code, "%s", message != NULL ? message : kind);
}
