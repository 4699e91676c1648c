#include "queue/header_list.h"

#include <string.h>

void bq_header_list_add(bq_header_list *list, const bq_http_header *headers, size_t count) {
  for (size_t i = 0; i < count; i++) {
    bq_buf_add(&list->text, headers[i].name, strlen(headers[i].name) + 1);
    bq_buf_add(&list->text, headers[i].value, strlen(headers[i].value) + 1);
    list->count++;
  }
}

size_t bq_header_list_get(const bq_header_list *list, bq_http_header *out, size_t most) {
  size_t count = list->count < most ? list->count : most;
  const char *text = list->text.data;
  for (size_t i = 0; i < count; i++) {
    const char *value = text + strlen(text) + 1;
    out[i] = (bq_http_header){text, value};
    text = value + strlen(value) + 1;
  }
  return count;
}

void bq_header_list_free(bq_header_list *list) {
  bq_buf_free(&list->text);
  list->count = 0;
}
