// A token from outside is refused or read whole; what a link was made of comes out of it again.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "queue/unsubscribe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char url_option[] = "https://b.example/u";
static char secret[] = "0123456789abcdef";
static const bq_config config = {.email_unsubscribe_url = url_option, .email_unsubscribe_secret = secret};

// What is accepted makes the same token again: there is one form of each.
static void read_token(const char *token) {
  bq_unsubscribe read;
  bq_error err;
  char *url = NULL;
  if (bq_unsubscribe_read(&read, &config, token, &err) < 0) return;
  if (bq_unsubscribe_url(&url, &config, read.event, read.customer, read.recipient, &err) < 0) abort();
  if (url != NULL && strcmp(url + strlen(url_option) + strlen("?token="), token) != 0) abort();
  bq_free(url);
  bq_unsubscribe_free(&read);
}

static void make_link(const char *event, const char *customer, const char *recipient) {
  bq_unsubscribe read;
  bq_error err;
  char *url = NULL;
  if (bq_unsubscribe_url(&url, &config, event, customer, recipient, &err) < 0 || url == NULL) return;
  if (bq_unsubscribe_read(&read, &config, strchr(url, '=') + 1, &err) < 0) abort();
  if (strcmp(read.event, event) != 0 || strcmp(read.customer, customer) != 0) abort();
  if (strcmp(read.recipient, recipient) != 0) abort();
  bq_unsubscribe_free(&read);
  bq_free(url);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = bq_strndup((const char *)data, size); // its parts end in the input's own NULs
  if (text == NULL) return 0;
  const char *second = text + strlen(text);
  if (second < text + size) second++;
  const char *third = second + strlen(second);
  if (third < text + size) third++;
  read_token(text);
  make_link(text, second, third);
  bq_free(text);
  return 0;
}
