#include "cli/database.h"

#include <sys/stat.h>

#include "base/memory.h"

int bq_database_conninfo(const bq_config *config, char **out, bq_error *err) {
  if (config->connection_string[0] != '\0') {
    *out = bq_strdup(config->connection_string);
    return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
  }
  // Where io/cluster.h says its socket is; peer authentication knows the server's user.
  char *socket = bq_format("%s/pg/.s.PGSQL.5432", config->state_directory);
  struct stat info;
  int there = socket != NULL && stat(socket, &info) == 0;
  bq_free(socket);
  if (!there) {
    return bq_fail(err, BQ_EUNAVAIL, "there is no ConnectionString, and the private PostgreSQL of %s does not run: it "
                                     "runs with `buildq serve`, as whose user this command must be run",
                   config->state_directory);
  }
  *out = bq_format("host='%s/pg' port=5432 dbname=buildq", config->state_directory);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory");
}
