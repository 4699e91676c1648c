// What the configuration says of the mail server.
#ifndef BQ_QUEUE_MAIL_ACCOUNT_H
#define BQ_QUEUE_MAIL_ACCOUNT_H

#include "base/config.h"
#include "io/smtp.h"

// 0: mails are written to StateDirectory/outbox instead.
int bq_mail_has_server(const bq_config *config);

// Borrows the configuration's strings.
bq_smtp_account bq_mail_account(const bq_config *config);

#endif
