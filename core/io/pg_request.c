#include "io/pg_request.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

// What a request fails with when there is no memory to say why. Never freed, never written.
static bq_error out_of_memory = {.code = BQ_ENOMEM, .message = "out of memory for a database query"};

bq_pg_request *bq_pg_request_new(const char *text, int param_count, const char *const *params) {
  size_t count = (size_t)param_count, text_size = text != NULL ? strlen(text) + 1 : 0, bytes = text_size;
  for (size_t i = 0; i < count; i++) bytes += params[i] != NULL ? strlen(params[i]) + 1 : 0;
  bq_pg_request *request = bq_alloc(sizeof *request + count * sizeof params[0] + bytes);
  if (request == NULL) return NULL;
  const char **pointers = (const char **)(request + 1);
  char *at = (char *)(pointers + count);
  for (size_t i = 0; i < count; i++) {
    if (params[i] == NULL) continue;
    size_t size = strlen(params[i]) + 1;
    pointers[i] = memcpy(at, params[i], size);
    at += size;
  }
  if (text != NULL) request->text = memcpy(at, text, text_size);
  request->params = pointers;
  request->param_count = param_count;
  return request;
}

void bq_pg_request_free(bq_pg_request *request) {
  if (request == NULL) return;
  PQclear(request->rows);
  if (request->error != &out_of_memory) bq_free(request->error);
  bq_free(request);
}

const char *bq_pg_request_name(const bq_pg_request *request) {
  return request->statement != NULL ? request->statement->name : "SQL statement";
}

void bq_pg_request_fail(bq_pg_request *request, int code, const char *fmt, ...) {
  if (request->error == NULL) request->error = bq_alloc(sizeof *request->error);
  if (request->error == NULL) request->error = &out_of_memory;
  if (request->error == &out_of_memory) return;
  va_list args;
  va_start(args, fmt);
  char text[sizeof request->error->message];
  (void)vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  (void)bq_fail(request->error, code, "%s", text);
}

int bq_pg_request_add_row(bq_pg_request *request, const PGresult *row) {
  enum { OVERHEAD = 16 }; // of one value, in libpq's memory
  if (request->rows == NULL) request->rows = PQcopyResult(row, PG_COPYRES_ATTRS);
  if (request->rows == NULL) return BQ_ENOMEM;
  int at = PQntuples(request->rows), fields = PQnfields(row);
  for (int i = 0; i < fields; i++) {
    int length = PQgetisnull(row, 0, i) ? -1 : PQgetlength(row, 0, i);
    request->bytes += OVERHEAD + (length > 0 ? (size_t)length : 0);
    if (request->bytes > request->max_bytes) return BQ_ELIMIT;
    if (!PQsetvalue(request->rows, at, i, length >= 0 ? PQgetvalue(row, 0, i) : NULL, length)) return BQ_ENOMEM;
  }
  return 0;
}

const char *bq_pg_field(const PGresult *result, int code) {
  const char *value = PQresultErrorField(result, code);
  return value != NULL ? value : "";
}

void bq_pg_request_fail_result(bq_pg_request *request, const PGresult *result) {
  const char *detail = bq_pg_field(result, PG_DIAG_MESSAGE_DETAIL);
  const char *sqlstate = bq_pg_field(result, PG_DIAG_SQLSTATE);
  (void)snprintf(request->sqlstate, sizeof request->sqlstate, "%s", sqlstate);
  if (*sqlstate == '\0') { // libpq's own, of an answer that it could not keep: the statement may have been done
    const char *why = PQresultErrorMessage(result);
    bq_pg_request_fail(request, BQ_EUNKNOWN, "%s: the answer could not be read: %s", bq_pg_request_name(request),
                       *why != '\0' ? why : "out of memory");
    return;
  }
  bq_pg_request_fail(request, BQ_EDATABASE, "%s: %s%s%s (SQLSTATE %s)", bq_pg_request_name(request),
                     bq_pg_field(result, PG_DIAG_MESSAGE_PRIMARY), *detail != '\0' ? "; " : "", detail, sqlstate);
}
