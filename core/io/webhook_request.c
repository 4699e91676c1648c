#include "io/webhook_request.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "base/secret.h"
#include "io/webhook.h"

enum { MAX_KEY_BYTES = 512, MAX_ID = 200, HMAC_BYTES = 32, HMAC_TEXT = 44 };

static const char prefix[] = "whsec_";

// A field name, and no one that belongs to the message's frame (RFC 9110, section 5.1; RFC 9112).
static int is_header_name(const char *name) {
  static const char *const ours[] = {"Host",   "Content-Length", "Content-Type",      "Transfer-Encoding", "Connection",
                                     "Expect", "webhook-id",     "webhook-timestamp", "webhook-signature"};
  static const char token[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
    if (strcasecmp(ours[i], name) == 0) return 0;
  }
  return *name != '\0' && name[strspn(name, token)] == '\0';
}

static int is_header_value(const char *text) {
  for (const char *c = text; *c != '\0'; c++) {
    if ((unsigned char)*c < ' ' || *c == 0x7f) return 0;
  }
  return 1;
}

static int is_id(const char *text) {
  size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
  return length > 0 && length <= MAX_ID && text[length] == '\0';
}

// Notes that a secret is wanted.
static int want(bq_webhook_request *request, const json_t *name, bq_error *err) {
  const char *text = json_string_value(name);
  if (text == NULL || text[0] == '\0' || text[0] == '.' || strchr(text, '/') != NULL) {
    return bq_fail(err, BQ_EINVAL, "http: a secret's name is a text without a slash and a dot at its beginning");
  }
  if (json_object_get(request->secrets, text) != NULL) return 0;
  if (json_object_size(request->secrets) == BQ_WEBHOOK_MAX_SECRETS) {
    return bq_fail(err, BQ_EINVAL, "http: at most %d secrets", BQ_WEBHOOK_MAX_SECRETS);
  }
  return json_object_set_new(request->secrets, text, json_null()) == 0 ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
}

// A text, or {secret = NAME}.
static int check_text(bq_webhook_request *request, const json_t *value, const char *what, bq_error *err) {
  if (json_is_string(value)) return 0;
  if (json_is_object(value)) return want(request, json_object_get(value, "secret"), err);
  return bq_fail(err, BQ_EINVAL, "http: %s must be a text or {secret = NAME}", what);
}

static int check_headers(bq_webhook_request *request, bq_error *err) {
  const char *name;
  json_t *value;
  json_t *headers = json_object_get(request->http, "headers");
  if (headers != NULL && !json_is_object(headers)) return bq_fail(err, BQ_EINVAL, "http: headers must be a table");
  if (json_object_size(headers) > BQ_WEBHOOK_MAX_HEADERS) {
    return bq_fail(err, BQ_EINVAL, "http: at most %d headers", BQ_WEBHOOK_MAX_HEADERS);
  }
  json_object_foreach(headers, name, value) {
    if (!is_header_name(name)) return bq_fail(err, BQ_EINVAL, "http: %s is no name of a header, or not yours", name);
    int result = check_text(request, value, "a header", err);
    if (result < 0) return result;
    const json_t *before = json_object_get(value, "before");
    const char *text = json_is_string(value) ? json_string_value(value) : json_string_value(before);
    if ((before != NULL && text == NULL) || (text != NULL && !is_header_value(text))) {
      return bq_fail(err, BQ_EINVAL, "http: the header %s must be a text in one line", name);
    }
  }
  return 0;
}

static int check_signature(bq_webhook_request *request, bq_error *err) {
  size_t index;
  json_t *name;
  const json_t *sign = json_object_get(request->http, "sign");
  if (sign == NULL) return 0;
  const char *id = json_string_value(json_object_get(sign, "id"));
  const json_t *names = json_object_get(sign, "secrets");
  if (id == NULL || !is_id(id)) {
    return bq_fail(err, BQ_EINVAL, "http: sign.id must be letters, digits, - and _, %d at most", MAX_ID);
  }
  if (json_array_size(names) == 0) return bq_fail(err, BQ_EINVAL, "http: sign.secrets must be a list of names");
  json_array_foreach(names, index, name) {
    int result = want(request, name, err);
    if (result < 0) return result;
  }
  return 0;
}

static int check_body(bq_webhook_request *request, bq_error *err) {
  const json_t *body = json_object_get(request->http, "body");
  const json_t *type = json_object_get(request->http, "contentType");
  if (!json_is_string(body)) return bq_fail(err, BQ_EINVAL, "http: body must be a text");
  if (json_string_length(body) > BQ_WEBHOOK_MAX_BODY) {
    return bq_fail(err, BQ_EINVAL, "http: the body has %zu bytes, %d is the most", json_string_length(body),
                   BQ_WEBHOOK_MAX_BODY);
  }
  if (type != NULL && (!json_is_string(type) || !is_header_value(json_string_value(type)))) {
    return bq_fail(err, BQ_EINVAL, "http: contentType must be a text in one line");
  }
  request->body_length = json_string_length(body);
  request->body = bq_strndup(json_string_value(body), request->body_length);
  return request->body != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a message");
}

// One that stands in the script; a secret's is looked at when it is read.
static int check_url(const char *url, bq_error *err) {
  if (url == NULL) return 0;
  char *host = bq_webhook_host(url);
  int result = host != NULL ? 0 : bq_fail(err, BQ_EINVAL, "http: url is no https or http URL");
  bq_free(host);
  return result;
}

// What the configuration has under that name; NULL when it is not one of its names. A new list.
static json_t *configured(const bq_config *config, const char *name) {
  const struct {
    const char *name;
    const char *value;
  } single[] = {{"SlackWebhookUrl", config->slack_webhook_url},
                {"TeamsWebhookUrl", config->teams_webhook_url},
                {"WebhookUrl", config->webhook_url}};
  for (size_t i = 0; i < sizeof single / sizeof single[0]; i++) {
    if (strcmp(single[i].name, name) != 0) continue;
    return *single[i].value != '\0' ? json_pack("[s]", single[i].value) : json_array();
  }
  if (strcmp(name, "WebhookSecrets") != 0) return NULL;
  json_t *list = json_array();
  for (char *const *item = config->webhook_secrets; *item != NULL; item++) {
    (void)json_array_append_new(list, json_string(*item));
  }
  return list;
}

int bq_webhook_request_new(bq_webhook_request *request, const bq_config *config, const json_t *http, bq_error *err) {
  const char *name;
  json_t *value;
  *request = (bq_webhook_request){.directory = config->secrets_directory};
  if (!json_is_object(http)) return bq_fail(err, BQ_EINVAL, "http must be a table");
  request->http = json_deep_copy(http);
  request->secrets = json_object();
  if (request->http == NULL || request->secrets == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a message");
  int result = check_text(request, json_object_get(http, "url"), "url", err);
  if (result == 0) result = check_url(json_string_value(json_object_get(http, "url")), err);
  if (result == 0) result = check_body(request, err);
  if (result == 0) result = check_headers(request, err);
  if (result == 0) result = check_signature(request, err);
  json_object_foreach(request->secrets, name, value) {
    json_t *values = configured(config, name);
    if (values == NULL) continue;
    (void)json_object_iter_set_new(request->secrets, json_object_key_to_iter(name), values);
  }
  return result;
}

int bq_webhook_request_read(bq_webhook_request *request, bq_error *err) {
  const char *name;
  json_t *value;
  json_object_foreach(request->secrets, name, value) {
    char *secret = NULL;
    if (json_is_array(value)) {
      if (json_array_size(value) > 0) continue;
      return bq_fail(err, BQ_ENOTFOUND, "Notifications.%s is not given any more", name);
    }
    int result = bq_secret_from_directory(request->directory, name, &(bq_secret_source){0}, &secret, err);
    if (result < 0) return bq_fail_in(err, "the secret %s", name);
    if (secret == NULL) return bq_fail(err, BQ_ENOTFOUND, "SecretsDirectory has no secret %s", name);
    json_t *list = json_pack("[s]", secret);
    bq_free(secret);
    if (list == NULL || json_object_iter_set_new(request->secrets, json_object_key_to_iter(name), list) < 0) {
      return bq_fail(err, BQ_EINVAL, "the secret %s is no UTF-8 text", name);
    }
  }
  return 0;
}

// The one value of a text or {secret = NAME}. Borrowed.
static const char *text_of(const bq_webhook_request *request, const json_t *value) {
  if (json_is_string(value)) return json_string_value(value);
  const char *name = json_string_value(json_object_get(value, "secret"));
  return json_string_value(json_array_get(json_object_get(request->secrets, name), 0));
}

static int add_header(bq_webhook_request *request, const char *name, const char *before, const char *value,
                      bq_error *err) {
  int has_value = *before != '\0' || *value != '\0';
  char *line = has_value ? bq_format("%s: %s%s", name, before, value) : bq_format("%s;", name);
  struct curl_slist *grown = line != NULL ? curl_slist_append(request->headers, line) : NULL;
  bq_free(line);
  if (grown == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a message");
  request->headers = grown;
  return 0;
}

static int add_headers(bq_webhook_request *request, bq_error *err) {
  const char *name;
  json_t *value;
  const char *type = json_string_value(json_object_get(request->http, "contentType"));
  int result = add_header(request, "Content-Type", "", type != NULL ? type : "application/json", err);
  if (result == 0) result = add_header(request, "Accept", "", "*/*", err);
  // libcurl asks for leave before it sends much; some servers never answer that.
  struct curl_slist *grown = result == 0 ? curl_slist_append(request->headers, "Expect:") : NULL;
  if (grown == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a message");
  request->headers = grown;
  json_object_foreach(json_object_get(request->http, "headers"), name, value) {
    const char *before = json_string_value(json_object_get(value, "before"));
    const char *text = text_of(request, value);
    if (!is_header_value(text)) {
      return bq_fail(err, BQ_EINVAL, "the secret for the header %s has more than one line", name);
    }
    result = add_header(request, name, before != NULL ? before : "", text, err);
    if (result < 0) return result;
  }
  return 0;
}

// " v1,<base64>" for one secret.
static int add_signature(const char *secret, const char *content, size_t length, bq_buf *out, bq_error *err) {
  unsigned char key[MAX_KEY_BYTES * 3 / 4];
  unsigned char mac[HMAC_BYTES];
  unsigned char text[HMAC_TEXT + 1];
  const char *code = strncmp(secret, prefix, sizeof prefix - 1) == 0 ? secret + sizeof prefix - 1 : "";
  size_t code_length = strlen(code);
  size_t padding = code_length - strcspn(code, "=");
  int key_length = -1;
  if (code_length > 0 && code_length <= MAX_KEY_BYTES && padding <= 2) {
    key_length = EVP_DecodeBlock(key, (const unsigned char *)code, (int)code_length); // -1: no base64
  }
  if (key_length < 0) return bq_fail(err, BQ_EINVAL, "a secret that signs must be %s and base64", prefix);
  key_length -= (int)padding;
  int has_mac = HMAC(EVP_sha256(), key, key_length, (const unsigned char *)content, length, mac, NULL) != NULL;
  explicit_bzero(key, sizeof key);
  if (!has_mac) return bq_fail(err, BQ_ENOMEM, "out of memory for a signature");
  (void)EVP_EncodeBlock(text, mac, HMAC_BYTES);
  bq_buf_addf(out, "%sv1,%s", out->length > 0 ? " " : "", (const char *)text);
  return 0;
}

// Standard Webhooks 1.0, "Signature scheme": HMAC-SHA256 over id.timestamp.body, one signature a secret.
static int sign(bq_webhook_request *request, int64_t now_s, bq_error *err) {
  size_t index;
  size_t inner;
  json_t *name;
  json_t *secret;
  bq_buf content = {0};
  bq_buf signatures = {0};
  const json_t *how = json_object_get(request->http, "sign");
  if (how == NULL) return 0;
  char time[32];
  (void)snprintf(time, sizeof time, "%lld", (long long)now_s);
  const char *id = json_string_value(json_object_get(how, "id"));
  bq_buf_addf(&content, "%s.%s.", id, time);
  bq_buf_add(&content, request->body, request->body_length);
  int result = bq_buf_check(&content, err);
  json_array_foreach(json_object_get(how, "secrets"), index, name) {
    json_array_foreach(json_object_get(request->secrets, json_string_value(name)), inner, secret) {
      const char *text = json_string_value(secret);
      if (result == 0) result = add_signature(text, content.data, content.length, &signatures, err);
    }
  }
  if (result == 0) result = bq_buf_check(&signatures, err);
  if (result == 0) result = add_header(request, "webhook-id", "", id, err);
  if (result == 0) result = add_header(request, "webhook-timestamp", "", time, err);
  if (result == 0) result = add_header(request, "webhook-signature", "", signatures.data, err);
  bq_buf_free(&content);
  bq_buf_free(&signatures);
  return result;
}

char *bq_webhook_host(const char *url) {
  CURLU *parts = curl_url();
  char *scheme = NULL;
  char *host = NULL;
  char *port = NULL;
  char *out = NULL;
  if (parts != NULL && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
      curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
      curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
      (strcasecmp(scheme, "https") == 0 || strcasecmp(scheme, "http") == 0)) {
    int has_port = curl_url_get(parts, CURLUPART_PORT, &port, 0) == CURLUE_OK;
    out = bq_format("%s%s%s", host, has_port ? ":" : "", has_port ? port : "");
  }
  curl_free(scheme);
  curl_free(host);
  curl_free(port);
  curl_url_cleanup(parts);
  return out;
}

// A secret is told nowhere, and of a URL nothing behind its host. Too short ones can't be masked and hide nothing.
static int hide(bq_webhook_request *request, const char *text, bq_error *err) {
  size_t length = strlen(text);
  if (length < BQ_MASK_MIN_BYTES) return 0;
  return bq_mask_set_add(request->mask, text, length, err);
}

static int hide_all(bq_webhook_request *request, bq_error *err) {
  const char *name;
  json_t *values;
  json_t *value;
  size_t index;
  int result = bq_mask_set_new(&request->mask, NULL, err);
  if (result == 0) result = hide(request, request->url, err);
  const char *rest = strstr(request->url, "://");
  rest = rest != NULL ? strpbrk(rest + 3, "/?#") : NULL;
  if (result == 0 && rest != NULL) result = hide(request, rest, err);
  json_object_foreach(request->secrets, name, values) {
    json_array_foreach(values, index, value) {
      if (result == 0) result = hide(request, json_string_value(value), err);
    }
  }
  return result;
}

int bq_webhook_request_finish(bq_webhook_request *request, int64_t now_s, bq_error *err) {
  const char *url = text_of(request, json_object_get(request->http, "url"));
  if (strlen(url) > BQ_WEBHOOK_MAX_URL) {
    return bq_fail(err, BQ_EINVAL, "the URL has more than %d bytes", BQ_WEBHOOK_MAX_URL);
  }
  request->url = bq_strdup(url);
  request->host = bq_webhook_host(url);
  if (request->url == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a message");
  if (request->host == NULL) return bq_fail(err, BQ_EINVAL, "the URL is no https or http URL");
  int result = hide_all(request, err);
  if (result == 0) result = add_headers(request, err);
  if (result == 0) result = sign(request, now_s, err);
  return result;
}

void bq_webhook_request_clear(bq_webhook_request *request) {
  curl_slist_free_all(request->headers);
  bq_mask_set_free(request->mask);
  json_decref(request->http);
  json_decref(request->secrets);
  bq_free(request->url);
  bq_free(request->host);
  bq_free(request->body);
  *request = (bq_webhook_request){0};
}
