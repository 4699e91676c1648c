// Headers of an answer, copied: for one that is begun later than its handler has returned.
#ifndef BQ_QUEUE_HEADER_LIST_H
#define BQ_QUEUE_HEADER_LIST_H

#include "base/buf.h"
#include "io/http_server.h"

// A zeroed one is empty. text.failed: memory ran out.
typedef struct bq_header_list {
  bq_buf text; // pairs of NUL-terminated strings, name then value
  size_t count;
} bq_header_list;

void bq_header_list_add(bq_header_list *list, const bq_http_header *headers, size_t count);
// Fills `out` with the first `most` at most; returns how many. They point into the list.
size_t bq_header_list_get(const bq_header_list *list, bq_http_header *out, size_t most);
void bq_header_list_free(bq_header_list *list);

#endif
