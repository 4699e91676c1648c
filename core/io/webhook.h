// One POST to a web server elsewhere: Slack, Teams, a webhook.
//
//   http = {
//     url = TEXT or {secret = NAME},              https or http
//     body = TEXT,                                UTF-8
//     contentType = TEXT,                         "application/json" when absent
//     headers = {Name = TEXT or {secret = NAME, before = "Bearer "}},
//     sign = {id = TEXT, secrets = [NAME, …]},    Standard Webhooks 1.0: webhook-id, -timestamp, -signature
//   }
//
// NAME is a secret of the configuration's section Notifications (SlackWebhookUrl, WebhookSecrets, …), else a file of
// SecretsDirectory or of $CREDENTIALS_DIRECTORY, read anew for each call. So no secret stands in `http`, and none comes
// out: a URL is told by its host alone.
//
// Where it goes. Certificates are checked, against the system's authorities and those of TrustedCertificates. Redirects
// are not followed and no proxy is asked. An address that is not public (base/network.h) is refused unless
// Notifications.AllowedNetworks holds it; it is the address about to be connected to that is looked at, so a name that
// changes its address between two look-ups does not get past it. Connections are this module's own: none that a script
// has opened is used again.
//
// What came of it. 2xx: sent. 410: gone. 408, 425, 429, 5xx and whatever breaks before a status: retry, with the
// server's Retry-After (seconds or a date; RFC 9110, section 10.2.3). Any other status and a refused address:
// dead. Once a status has come it decides, whatever becomes of the rest of the answer.
//
// Thread rule: loop thread only; secrets' files are read on the blocking pool. Nothing yields.
#ifndef BQ_IO_WEBHOOK_H
#define BQ_IO_WEBHOOK_H

#include <jansson.h>

#include "base/config.h"
#include "event/pool.h"
#include "io/transport.h"

enum {
  BQ_WEBHOOK_MAX_BODY = 256 * 1024,  // bytes sent
  BQ_WEBHOOK_MAX_URL = 8192,         // bytes
  BQ_WEBHOOK_MAX_HEADERS = 20,       // beside those that are always sent
  BQ_WEBHOOK_MAX_SECRETS = 8,        // names in one message
  BQ_WEBHOOK_MAX_ANSWER = 64 * 1024, // bytes of the answer that are read; then the connection is closed
  BQ_WEBHOOK_MAX_REPLY = 300,        // bytes of it that are told
  BQ_WEBHOOK_MAX_RETRY_AFTER_S = 86400
};

typedef struct bq_webhook bq_webhook;

// All borrowed; `max_transfers` connections at once, later calls wait.
int bq_webhook_new(bq_webhook **out, bq_loop *loop, bq_pool *blocking, const bq_config *config, unsigned max_transfers,
                   bq_error *err) BQ_MUSTCHECK;
// Calls under way end with BQ_TRANSPORT_RETRY. The loop does not run afterwards; the pool may be freed before or after.
void bq_webhook_free(bq_webhook *webhook);

// Sends; `http` is not kept. `done` is called once, on a later turn of the loop, or never when this returns an error:
// BQ_EINVAL (the table is none of the above, which the script has to mend), BQ_ELIMIT (the blocking pool is full),
// BQ_ENOMEM. A secret that can't be read is no error but BQ_TRANSPORT_RETRY: an operator will mend it.
int bq_webhook_send(bq_webhook *webhook, const json_t *http, bq_transport_done done, void *arg,
                    bq_error *err) BQ_MUSTCHECK;

// How people tell URLs apart that must not be shown: "hooks.slack.com #1a2b3c4d", the host and the beginning of the
// URL's SHA-256. "" for what is no URL.
enum { BQ_WEBHOOK_LABEL_SIZE = 128 };
void bq_webhook_label(const char *url, char label[BQ_WEBHOOK_LABEL_SIZE]);

#endif
