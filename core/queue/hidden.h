// What no log of a build may show, whichever build it is: the secrets of the configuration, the database's password, and
// values of this server's environment variables that are named like one.
//
// Thread rule: the loop's thread; the sets may be read from any.
#ifndef BQ_QUEUE_HIDDEN_H
#define BQ_QUEUE_HIDDEN_H

#include "base/config.h"
#include "io/mask.h"

// Adds what is new: `*set` (NULL at first) becomes a set on top of the one before, which attempts may be using.
int bq_hidden_update(bq_mask_set **set, const bq_config *config, const char *conninfo, bq_error *err) BQ_MUSTCHECK;
void bq_hidden_free(bq_mask_set *set); // with all below it; NULL is fine

// Whether a variable of this name holds a secret: TOKEN, PASSWORD, SECRET or KEY, or …_TOKEN and so on, in any case.
// `length`: of the name.
int bq_hidden_is_name(const char *name, size_t length);

#endif
