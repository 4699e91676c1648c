// Where the program's scripts, templates and SQL are.
#ifndef BQ_CLI_SHARE_H
#define BQ_CLI_SHARE_H

#include "base/error.h"

// The first of these that has scripts/pipelines: ../share/buildq from the program's directory (installed), .. from it
// (a build tree), BQ_DATA_DIR as compiled in. `*out` is the caller's. BQ_ENOTFOUND names all three.
int bq_share_find(char **out, bq_error *err) BQ_MUSTCHECK;

#endif
