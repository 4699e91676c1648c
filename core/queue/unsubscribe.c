#include "queue/unsubscribe.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"

enum { MAC_BYTES = 32, MAC_TEXT = 43, MAX_TOKEN = BQ_UNSUBSCRIBE_MAX_URL };

// Signed along, so that nothing else that this secret ever signs can stand for a link.
static const char purpose[] = "buildq unsubscribe 1\n";

void bq_unsubscribe_free(bq_unsubscribe *unsubscribe) {
  bq_free(unsubscribe->event);
  bq_free(unsubscribe->customer);
  bq_free(unsubscribe->recipient);
  *unsubscribe = (bq_unsubscribe){0};
}

static int sign(unsigned char mac[MAC_BYTES], const bq_config *config, const void *payload, size_t length,
                bq_error *err) {
  bq_buf text = {0};
  unsigned int size = 0;
  const char *secret = config->email_unsubscribe_secret;
  bq_buf_adds(&text, purpose);
  bq_buf_add(&text, payload, length);
  int result = bq_buf_check(&text, err);
  if (result == 0 && HMAC(EVP_sha256(), secret, (int)strlen(secret), (const unsigned char *)text.data, text.length, mac,
                          &size) == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "a link can't be signed");
  }
  bq_buf_free(&text);
  return result;
}

static void add_base64url(bq_buf *out, const void *bytes, size_t length) {
  unsigned char *text = bq_alloc((length + 2) / 3 * 4 + 1);
  if (text == NULL) {
    out->failed = 1;
    return;
  }
  (void)EVP_EncodeBlock(text, bytes, (int)length);
  for (unsigned char *c = text; *c != '\0' && *c != '='; c++) {
    bq_buf_addc(out, *c == '+' ? '-' : *c == '/' ? '_' : (char)*c);
  }
  bq_free(text);
}

// The bytes of `length` characters of base64url, with a NUL behind them; NULL for what is none or empty (or no memory). A text
// has one form only: what the last character has beyond the bytes must be 0.
static unsigned char *read_base64url(const char *text, size_t length, size_t *size) {
  size_t padded = (length + 3) / 4 * 4;
  char *copy = length == 0 || length % 4 == 1 ? NULL : bq_alloc(padded + 1);
  unsigned char *bytes = copy != NULL ? bq_alloc(padded / 4 * 3 + 1) : NULL;
  bq_buf again = {0};
  int good = bytes != NULL;
  for (size_t i = 0; good && i < padded; i++) {
    char c = i < length ? text[i] : '=';
    copy[i] = c == '-' ? '+' : c == '_' ? '/' : c;
  }
  good = good && EVP_DecodeBlock(bytes, (const unsigned char *)copy, (int)padded) >= 0;
  if (good) {
    *size = length * 3 / 4;
    bytes[*size] = '\0';
    add_base64url(&again, bytes, *size);
    good = !again.failed && again.length == length && memcmp(again.data, text, length) == 0;
  }
  bq_buf_free(&again);
  bq_free(copy);
  if (good) return bytes;
  bq_free(bytes);
  return NULL;
}

int bq_unsubscribe_url(char **out, const bq_config *config, const char *event, const char *customer,
                       const char *recipient, bq_error *err) {
  bq_buf payload = {0};
  bq_buf url = {0};
  unsigned char mac[MAC_BYTES];
  *out = NULL;
  if (*config->email_unsubscribe_url == '\0' || *config->email_unsubscribe_secret == '\0') return 0;
  bq_buf_add(&payload, event, strlen(event) + 1);
  bq_buf_add(&payload, customer, strlen(customer) + 1);
  bq_buf_adds(&payload, recipient);
  int result = bq_buf_check(&payload, err);
  if (result == 0) result = sign(mac, config, payload.data, payload.length, err);
  if (result == 0) {
    bq_buf_addf(&url, "%s?token=", config->email_unsubscribe_url);
    add_base64url(&url, payload.data, payload.length);
    bq_buf_addc(&url, '.');
    add_base64url(&url, mac, sizeof mac);
    result = bq_buf_check(&url, err);
  }
  if (result == 0 && url.length <= BQ_UNSUBSCRIBE_MAX_URL) *out = bq_buf_take(&url);
  bq_buf_free(&url);
  bq_buf_free(&payload);
  return result;
}

// Splits "event NUL customer NUL recipient", behind which is a NUL.
static int split(bq_unsubscribe *out, const char *payload, size_t length, bq_error *err) {
  const char *end = payload + length;
  const char *customer = memchr(payload, '\0', length);
  const char *recipient = customer != NULL ? memchr(customer + 1, '\0', (size_t)(end - customer - 1)) : NULL;
  if (recipient == NULL || recipient + 1 + strlen(recipient + 1) != end) {
    return bq_fail(err, BQ_EINVAL, "the link is none of this server's");
  }
  out->event = bq_strdup(payload);
  out->customer = bq_strdup(customer + 1);
  out->recipient = bq_strdup(recipient + 1);
  if (out->event != NULL && out->customer != NULL && out->recipient != NULL) return 0;
  bq_unsubscribe_free(out);
  return bq_fail(err, BQ_ENOMEM, "out of memory for a link");
}

int bq_unsubscribe_read(bq_unsubscribe *out, const bq_config *config, const char *token, bq_error *err) {
  unsigned char mac[MAC_BYTES];
  size_t size = 0;
  size_t mac_size = 0;
  const char *dot = strchr(token, '.');
  size_t length = dot != NULL ? (size_t)(dot - token) : 0;
  *out = (bq_unsubscribe){0};
  int shaped = dot != NULL && length <= MAX_TOKEN && strlen(dot + 1) == MAC_TEXT;
  unsigned char *payload = shaped ? read_base64url(token, length, &size) : NULL;
  unsigned char *given = payload != NULL ? read_base64url(dot + 1, MAC_TEXT, &mac_size) : NULL;
  int result = given != NULL && *config->email_unsubscribe_secret != '\0'
                   ? sign(mac, config, payload, size, err)
                   : bq_fail(err, BQ_EINVAL, "the link is none of this server's, or not whole");
  if (result == 0 && (mac_size != MAC_BYTES || CRYPTO_memcmp(mac, given, MAC_BYTES) != 0)) {
    result = bq_fail(err, BQ_EINVAL, "the link is none of this server's, or not whole");
  }
  if (result == 0) result = split(out, (const char *)payload, size, err);
  bq_free(given);
  bq_free(payload);
  return result;
}
