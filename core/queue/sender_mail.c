// A mail: its headers, and whether a server or a directory gets it.
#include <ctype.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/clock.h"
#include "io/mime.h"
#include "io/smtp.h"
#include "queue/mail_account.h"
#include "queue/sender_internal.h"
#include "queue/unsubscribe.h"

static int unsubscribe_url(char **out, const bq_server *server, const json_t *delivery, bq_error *err) {
  const char *customer = bq_json_text(json_object_get(delivery, "customer"), "id");
  *out = NULL;
  if (json_is_true(json_object_get(delivery, "test")) || *customer == '\0') return 0;
  return bq_unsubscribe_url(out, server->config, bq_json_text(delivery, "event"), customer, bq_json_text(delivery, "recipient"),
                            err);
}

int bq_mail_bytes(char **bytes, size_t *length, const bq_server *server, const bq_outgoing *what, bq_error *err) {
  const bq_config *config = server->config;
  const json_t *to = json_object_get(what->message, "to");
  char *thread = NULL;
  char *unsubscribe = NULL;
  int result = bq_message_thread(&thread, server, what->delivery, err);
  if (result == 0) result = unsubscribe_url(&unsubscribe, server, what->delivery, err);
  const bq_mime_mail mail = {.from_name = config->email_from_name,
                             .from_address = config->email_from_address[0] != '\0' ? config->email_from_address
                                                                                   : "buildq@localhost",
                             .to_name = bq_json_text(to, "name"),
                             .to_address = bq_json_text(to, "address"),
                             .reply_to = bq_json_text(what->message, "replyTo"),
                             .subject = bq_json_text(what->message, "subject"),
                             .text = bq_json_text(what->message, "text"),
                             .html = bq_json_text(what->message, "html"),
                             .message_id = what->message_id,
                             .in_reply_to = thread,
                             .unsubscribe_url = unsubscribe,
                             .date_s = bq_clock_wall_us() / 1000000};
  if (result == 0) result = bq_mime_write(&mail, bytes, length, err);
  bq_free(thread);
  bq_free(unsubscribe);
  return result;
}

// "2026-01-31T121347-0193a5c2-….queued.1.0.….eml": by time, the same for each try.
static char *file_name(const bq_outgoing *what) {
  char time[18] = "";
  size_t used = 0;
  for (const char *c = bq_json_text(what->delivery, "createdAt"); *c != '\0' && *c != '.' && used + 1 < sizeof time; c++) {
    if (*c != ':') time[used++] = *c;
  }
  int length = (int)strcspn(what->message_id + 1, "@>"); // "<LOCAL@DOMAIN>"
  char *name = bq_format("%s-%.*s.eml", time, length, what->message_id + 1);
  if (name == NULL) return NULL;
  for (char *c = name; *c != '\0'; c++) {
    if (!isalnum((unsigned char)*c) && strchr("-._", *c) == NULL) *c = '_';
  }
  return name;
}

int bq_mail_send(bq_server *server, const bq_outgoing *what, bq_transport_done done, void *arg, bq_error *err) {
  char *bytes = NULL;
  size_t length = 0;
  int result = bq_mail_bytes(&bytes, &length, server, what, err);
  if (result < 0) return result;
  if (bq_mail_has_server(server->config)) {
    const bq_smtp_account account = bq_mail_account(server->config);
    const char *to = bq_json_text(json_object_get(what->message, "to"), "address");
    const char *from = server->config->email_from_address;
    result = bq_smtp_send(server->smtp, &account, from, to, bytes, length, done, arg, err);
    if (result < 0) bq_free(bytes);
    return result;
  }
  char *name = file_name(what);
  if (name == NULL) {
    bq_free(bytes);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  }
  result = bq_mail_write(server, name, bytes, length, done, arg, err);
  bq_free(name);
  return result;
}
