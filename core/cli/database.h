// The database that the configuration means, for commands that talk to it directly.
#ifndef BQ_CLI_DATABASE_H
#define BQ_CLI_DATABASE_H

#include "base/config.h"
#include "base/error.h"

// The conninfo: ConnectionString, or the private cluster's, which must be running (a server started it). The caller's.
int bq_database_conninfo(const bq_config *config, char **out, bq_error *err) BQ_MUSTCHECK;

#endif
