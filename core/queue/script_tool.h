// A command that is answered by a script: loads the scripts as a start would, and calls one function of scripts/lib.
#ifndef BQ_QUEUE_SCRIPT_TOOL_H
#define BQ_QUEUE_SCRIPT_TOOL_H

#include <jansson.h>

#include "base/config.h"
#include "base/error.h"

typedef struct bq_script_answer {
  int code;     // exit code
  char *output; // owned; for standard output
  char *errors; // owned; for standard error
} bq_script_answer;

// Calls `function` of the module `module` with `subject` (NULL: nil) and `options`; it returns a code and two texts, and
// can't wait. Fails when the scripts can't be loaded or the function raises. Blocks; for the main thread. All arguments
// are borrowed; the answer's texts are the caller's (bq_script_answer_free).
int bq_script_tool(bq_script_answer *answer, const bq_config *config, const char *share, const char *module,
                   const char *function, const json_t *subject, const json_t *options, bq_error *err) BQ_MUSTCHECK;
void bq_script_answer_free(bq_script_answer *answer);

#endif
