// Following a build in the terminal until its end.
#ifndef BQ_CLI_FOLLOW_H
#define BQ_CLI_FOLLOW_H

#include "cli/client.h"

// Prints progress (a bar on a terminal, a line for each change in a pipe, JSON lines with `json`) until the build has
// ended. A server that stops answering, or whose database is away, is asked again for a minute; one that doesn't answer
// at first isn't. Returns BQ_EXIT_OK for success, BQ_EXIT_BUILD for every
// other end, or what kept it from following. `*last` (may be NULL) gets the build as it was last seen: the caller's.
int bq_follow_build(bq_client *client, const char *id, int json, json_t **last);

// "[#####.....]  50% Building for target platforms": pure. No wider than `width`, the terminal's; the step is cut, and
// the bar is shorter in a narrow one.
void bq_follow_bar(char *out, size_t size, int percent, const char *step, int width);

#endif
