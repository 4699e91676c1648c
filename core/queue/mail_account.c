#include "queue/mail_account.h"

int bq_mail_has_server(const bq_config *config) {
  return config->email_enabled && config->email_smtp_server[0] != '\0';
}

bq_smtp_account bq_mail_account(const bq_config *config) {
  return (bq_smtp_account){.server = config->email_smtp_server,
                           .port = config->email_smtp_port,
                           .tls = config->email_use_ssl,
                           .ca_file = config->email_ca_file,
                           .username = config->email_smtp_username,
                           .password = config->email_smtp_password,
                           .token = config->email_oauth_token,
                           .timeout_s = config->email_timeout_seconds};
}
