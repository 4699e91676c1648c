// Following a build in the terminal until its end.
#ifndef BQ_CLI_FOLLOW_H
#define BQ_CLI_FOLLOW_H

#include "cli/client.h"

// Prints progress (a bar on a terminal, a line for each change in a pipe, JSON lines with `json`) until the build has
// ended; looks again by itself when the connection is lost. Returns BQ_EXIT_OK for success, BQ_EXIT_BUILD for every
// other end, or what kept it from following. `*last` (may be NULL) gets the build as it was last seen: the caller's.
int bq_follow_build(bq_client *client, const char *id, int json, json_t **last);

// "[#####.....]  50% Building for target platforms": pure. `width` is the terminal's.
void bq_follow_bar(char *out, size_t size, int percent, const char *step, int width);

#endif
