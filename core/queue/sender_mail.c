// A mail: its headers, and whether a server or a directory gets it. The bytes are made where they are sent or written,
// beside the loop.
#include <ctype.h>
#include <stdint.h>
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

// A mail that is not made into bytes yet: what they are made of, and who waits for what becomes of them.
typedef struct letter {
  bq_mime_mail mail;       // borrowed, of what follows and of the configuration, which stays until the server ends
  json_t *message;         // retained
  char *message_id;        // owned, as the next two
  char *thread;
  char *unsubscribe;
  const bq_node *node;     // that has claimed it, in `term`
  unsigned term;
  bq_transport_done done;
  void *arg;
} letter;

static void free_letter(letter *l) {
  json_decref(l->message);
  bq_free(l->message_id);
  bq_free(l->thread);
  bq_free(l->unsubscribe);
  bq_free(l);
}

static int new_letter(letter **out, const bq_server *server, const bq_outgoing *what, bq_error *err) {
  const bq_config *config = server->config;
  const json_t *to = json_object_get(what->message, "to");
  letter *l = bq_alloc(sizeof *l);
  *out = NULL;
  if (l == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  l->message = json_incref((json_t *)(uintptr_t)what->message);
  l->message_id = bq_strdup(what->message_id);
  l->node = server->node;
  l->term = what->term;
  int result = l->message_id != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  if (result == 0) result = bq_message_thread(&l->thread, server, what->delivery, err);
  if (result == 0) result = unsubscribe_url(&l->unsubscribe, server, what->delivery, err);
  l->mail = (bq_mime_mail){.from_name = config->email_from_name,
                           .from_address = config->email_from_address[0] != '\0' ? config->email_from_address
                                                                                 : "buildq@localhost",
                           .to_name = bq_json_text(to, "name"),
                           .to_address = bq_json_text(to, "address"),
                           .reply_to = bq_json_text(what->message, "replyTo"),
                           .subject = bq_json_text(what->message, "subject"),
                           .text = bq_json_text(what->message, "text"),
                           .html = bq_json_text(what->message, "html"),
                           .message_id = l->message_id,
                           .in_reply_to = l->thread,
                           .unsubscribe_url = l->unsubscribe,
                           .date_s = bq_clock_wall_us() / 1000000};
  if (result < 0) free_letter(l);
  else *out = l;
  return result;
}

static int make_bytes(void *arg, char **bytes, size_t *length, bq_error *err) {
  const letter *l = arg;
  return bq_mime_write(&l->mail, bytes, length, err);
}

static int may_go(void *arg) {
  const letter *l = arg;
  return bq_node_holds(l->node, l->term);
}

int bq_mail_bytes(char **bytes, size_t *length, const bq_server *server, const bq_outgoing *what, bq_error *err) {
  letter *l = NULL;
  int result = new_letter(&l, server, what, err);
  if (result < 0) return result;
  result = make_bytes(l, bytes, length, err);
  free_letter(l);
  return result;
}

static void on_end(void *arg, const bq_transport_result *result) {
  letter *l = arg;
  l->done(l->arg, result);
  free_letter(l);
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

static int write_to_file(bq_server *server, const bq_outgoing *what, letter *l, bq_error *err) {
  char *name = file_name(what);
  if (name == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  const bq_content content = {.make = make_bytes, .arg = l};
  int result = bq_mail_write(server, name, &content, on_end, l, err);
  bq_free(name);
  return result;
}

static int send_to_server(bq_server *server, letter *l, bq_error *err) {
  const bq_smtp_account account = bq_mail_account(server->config);
  const bq_content content = {.make = make_bytes, .may_go = may_go, .arg = l};
  return bq_smtp_send(server->smtp, &account, server->config->email_from_address, l->mail.to_address, &content, on_end,
                      l, err);
}

int bq_mail_send(bq_server *server, const bq_outgoing *what, bq_transport_done done, void *arg, bq_error *err) {
  letter *l = NULL;
  int result = new_letter(&l, server, what, err);
  if (result < 0) return result;
  l->done = done;
  l->arg = arg;
  if (bq_mail_has_server(server->config)) result = send_to_server(server, l, err);
  else result = write_to_file(server, what, l, err);
  if (result < 0) free_letter(l);
  return result;
}
