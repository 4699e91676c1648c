// Message-IDs (RFC 5322, section 3.6.4): made of what a mail tells, not of when it is sent. A mail whose fate is
// unknown goes out once more under the same id, and mail programs show one.
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "io/hash.h"
#include "queue/sender_internal.h"

const char *bq_message_domain(const bq_server *server) {
  const char *at = strrchr(server->config->email_from_address, '@');
  if (at != NULL && at[1] != '\0') return at + 1;
  return server->host_name[0] != '\0' ? server->host_name : "localhost";
}

// What stands behind the @: that of the sender's address, when the mail was first tried.
static const char *domain_of(const bq_server *server, const json_t *delivery, const char *member) {
  const char *kept = bq_json_text(delivery, member);
  return *kept != '\0' ? kept : bq_message_domain(server);
}

static int make(char **out, const char *domain, const json_t *delivery, const char *event, int64_t round,
                int64_t attempt, int64_t resend, bq_error *err) {
  char hash[BQ_HASH_TEXT_SIZE];
  const char *recipient = bq_json_text(delivery, "recipient");
  int result = bq_hash_bytes(recipient, strlen(recipient), hash, err);
  if (result < 0) return result;
  hash[16] = '\0';
  char again[32] = "";
  if (resend > 0) (void)snprintf(again, sizeof again, ".again%lld", (long long)resend);
  const char *subject = bq_json_text(json_object_get(delivery, "build"), "id");
  if (json_is_true(json_object_get(delivery, "test"))) subject = bq_json_text(delivery, "id");
  *out = bq_format("<%s.%s.%lld.%lld.%s%s@%s>", subject, event, (long long)round, (long long)attempt, hash, again,
                   domain);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
}

int bq_message_id(char **out, const bq_server *server, const json_t *delivery, bq_error *err) {
  return make(out, domain_of(server, delivery, "messageDomain"), delivery, bq_json_text(delivery, "event"),
              json_integer_value(json_object_get(delivery, "round")),
              json_integer_value(json_object_get(delivery, "attempt")),
              json_integer_value(json_object_get(delivery, "resend")), err);
}

int bq_message_thread(char **out, const bq_server *server, const json_t *delivery, bq_error *err) {
  int64_t round = json_integer_value(json_object_get(delivery, "round"));
  int64_t resend = json_integer_value(json_object_get(delivery, "resend"));
  int is_first = strcmp(bq_json_text(delivery, "event"), "queued") == 0 && round == 1 && resend == 0;
  *out = NULL;
  if (is_first || json_is_true(json_object_get(delivery, "test"))) return 0;
  return make(out, domain_of(server, delivery, "threadDomain"), delivery, "queued", 1, 0, 0, err);
}
