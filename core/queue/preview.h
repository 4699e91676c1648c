// What a notification says, in a vm of its own that is thrown away: `buildq mail preview`, which needs no server, and
// previews of templates that somebody hands to the server.
//
// Only what this one notification needs is run, so a fault in another template doesn't hinder.
#ifndef BQ_QUEUE_PREVIEW_H
#define BQ_QUEUE_PREVIEW_H

#include <jansson.h>

#include "base/config.h"
#include "base/error.h"
#include "lua/generation.h"

typedef struct bq_preview_options {
  const bq_generation *generation; // its scripts and templates; NULL: read from the disk as they are
  const json_t *files;   // {"email/failed.html": text}: templates in the place of the generation's, or NULL
  const char *share;     // else: directory with scripts/ and templates/
  const char *templates; // and a directory instead of TemplateDirectory; NULL: that
  const char *event;     // its name
  const json_t *facts;   // the event of a build, a NotificationEvent (scripts/lib/buildq.d.lua); NULL: a sample
  const char *cloud;     // of the sample; NULL: aws
  const char *channel;   // NULL: email
  const char *recipient; // NULL: whom the rules name, else the customer
} bq_preview_options;

// `*out` is the caller's: {mail: {to, subject, html, text, replyTo?}} or {http}, and delivery, owed (whether a rule tells
// anybody of this). BQ_EINVAL: there is no such event. BQ_ESCRIPT: a script or template failed; the message has its file
// and line, or says that it took too long. BQ_ENOTFOUND, BQ_EIO: a file can't be read. Blocks; any thread.
int bq_preview(json_t **out, const bq_config *config, const bq_preview_options *options, bq_error *err) BQ_MUSTCHECK;

#endif
