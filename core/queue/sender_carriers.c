// Who takes which kind of message.
#include "io/webhook.h"
#include "queue/sender_internal.h"

static int send_http(bq_server *server, const bq_outgoing *what, bq_transport_done done, void *arg, bq_error *err) {
  int result = bq_webhook_send(server->webhook, what->message, done, arg, err);
  if (result == BQ_EINVAL) result = err->code = BQ_ESCRIPT; // the script's table is none
  return result;
}

const bq_carrier bq_carriers[] = {
    {"mail", bq_mail_send},
    {"http", send_http},
    {NULL, NULL},
};
