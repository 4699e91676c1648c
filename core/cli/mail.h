// What the parts of `buildq mail` share: cli/mail.c reads the command line, each part does one thing.
#ifndef BQ_CLI_MAIL_H
#define BQ_CLI_MAIL_H

#include <jansson.h>

#include "cli/command.h"

typedef struct bq_mail_arguments {
  bq_common common;
  const char *action;
  const char *subject;   // what the action is about: an id, an event, an address; NULL for none
  // Of list; NULL: any
  const char *state;
  const char *channel;   // also of preview: NULL is email
  const char *event;     // also of send-test: NULL is completed
  const char *customer;
  const char *recipient; // also of preview
  long limit;            // 0: not given
  // Of list, preview and send-test
  const char *build;     // an id
  // Of preview
  const char *templates; // directory
  const char *html;      // file to be written; "-" is standard output
  const char *cloud;
  // Of requeue
  int resend;            // also what was sent
} bq_mail_arguments;

// Each returns an exit code and has printed what went wrong.
int bq_mail_list(const bq_mail_arguments *a);
int bq_mail_show(const bq_mail_arguments *a);
int bq_mail_preview(const bq_mail_arguments *a);

#endif
