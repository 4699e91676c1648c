#include "io/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/cluster_tools.h"
#include "io/tree.h"

enum {
  START_LIMIT_MS = 60000,
  FAST_LIMIT_MS = 30000,          // from SIGINT to SIGQUIT
  IMMEDIATE_LIMIT_MS = 5000,      // from SIGQUIT to SIGKILL
  STEP_MS = 5,                    // between two pings at the start
  LOG_ROTATE_BYTES = 10 * 1000 * 1000,
  LOG_TAIL_BYTES = 700            // of PostgreSQL's log in our error
};

struct bq_cluster {
  char *state_directory;  // owned, absolute
  char *data_directory;   // owned: <state>/postgres
  char *new_directory;    // owned: <state>/postgres.new, while initdb works
  char *socket_directory; // owned: <state>/pg
  char *log_path;         // owned: <state>/postgres.log
  char *bin_directory;    // owned
  char *user;             // owned: this user's name, and the superuser's
  char *conninfo;         // owned: the database buildq
  char *admin_conninfo;   // owned: the database postgres
  pid_t pid;              // 0: not running
  int pidfd;              // owned; -1: not running
};

static int no_memory(bq_error *err) {
  return bq_fail(err, BQ_ENOMEM, "out of memory for the private PostgreSQL");
}

// A value in libpq's keyword form.
static void add_quoted(bq_buf *buf, const char *value) {
  bq_buf_addc(buf, '\'');
  for (; *value != '\0'; value++) {
    if (*value == '\'' || *value == '\\') bq_buf_addc(buf, '\\');
    bq_buf_addc(buf, *value);
  }
  bq_buf_addc(buf, '\'');
}

// Every keyword that a PG* environment variable could otherwise supply and that matters.
static char *make_conninfo(const bq_cluster *cluster, const char *database) {
  bq_buf buf = {0};
  bq_buf_adds(&buf, "host=");
  add_quoted(&buf, cluster->socket_directory);
  bq_buf_adds(&buf, " port=5432 user=");
  add_quoted(&buf, cluster->user);
  bq_buf_addf(&buf, " dbname=%s connect_timeout=5 sslmode=disable", database);
  return bq_buf_take(&buf);
}

static int name_paths(bq_cluster *cluster, const char *state_directory, bq_error *err) {
  char *resolved = realpath(state_directory, NULL);
  if (resolved == NULL) return bq_fail_errno(err, errno, "the state directory %s", state_directory);
  const char *state = cluster->state_directory = bq_strdup(resolved);
  free(resolved);
  if (state == NULL) return no_memory(err);
  int result = 0;
  struct passwd *user = getpwuid(geteuid());
  cluster->data_directory = bq_format("%s/postgres", state);
  cluster->new_directory = bq_format("%s/postgres.new", state);
  cluster->socket_directory = bq_format("%s/pg", state);
  cluster->log_path = bq_format("%s/postgres.log", state);
  size_t socket_length = strlen(state) + strlen("/pg/.s.PGSQL.5432");
  if (user == NULL) {
    result = bq_fail(err, BQ_ENOTFOUND, "user id %u has no name: add it to /etc/passwd, PostgreSQL needs one",
                     (unsigned)geteuid());
  } else if (strchr(state, ',') != NULL) {
    result = bq_fail(err, BQ_EINVAL, "the path of the state directory %s has a comma, which PostgreSQL would take for "
                                     "the end of a host name: use another StateDirectory", state);
  } else if (socket_length >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
    result = bq_fail(err, BQ_EINVAL, "the state directory %s is too long for a socket's path by %zu bytes: use a "
                                     "shorter StateDirectory", state,
                     socket_length + 1 - sizeof(((struct sockaddr_un *)0)->sun_path));
  } else if ((cluster->user = bq_strdup(user->pw_name)) == NULL || cluster->data_directory == NULL ||
             cluster->new_directory == NULL || cluster->socket_directory == NULL || cluster->log_path == NULL ||
             (cluster->conninfo = make_conninfo(cluster, "buildq")) == NULL ||
             (cluster->admin_conninfo = make_conninfo(cluster, "postgres")) == NULL) {
    result = no_memory(err);
  }
  return result;
}

// The major version that made the data directory; 0: there is none yet.
static int read_data_major(const bq_cluster *cluster, int *out, bq_error *err) {
  *out = 0;
  char *path = bq_format("%s/PG_VERSION", cluster->data_directory);
  if (path == NULL) return no_memory(err);
  int result = 0;
  FILE *file = fopen(path, "re");
  if (file == NULL) {
    struct stat info;
    if (errno != ENOENT) result = bq_fail_errno(err, errno, "can't read %s", path);
    else if (lstat(cluster->data_directory, &info) == 0) {
      result = bq_fail(err, BQ_EINVAL, "%s exists but holds no PostgreSQL cluster: move it away",
                       cluster->data_directory);
    }
  } else {
    if (fscanf(file, "%9d", out) != 1) result = bq_fail(err, BQ_EINVAL, "%s holds no version", path);
    (void)fclose(file);
  }
  bq_free(path);
  return result;
}

static int find_programs(bq_cluster *cluster, const char *wanted, int data_major, bq_error *err) {
  int bin_major = 0;
  int result = bq_cluster_find_bin(wanted, data_major, &cluster->bin_directory, err);
  if (result == 0) result = bq_cluster_bin_major(cluster->bin_directory, &bin_major, err);
  if (result < 0 || data_major == 0 || data_major == bin_major) return result;
  return bq_fail(err, BQ_EINVAL, "the data in %s was made by PostgreSQL %d, but the programs in %s are of version %d: "
                                 "install postgresql-%d, or move the data with pg_upgrade", cluster->data_directory,
                 data_major, cluster->bin_directory, bin_major, data_major);
}

// --- making it ---

// initdb skips its thousands of fsyncs; one syncfs before the rename makes up for them, so that a directory with
// this name is always whole.
static int sync_and_rename(const bq_cluster *cluster, bq_error *err) {
  int fd = open(cluster->new_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || syncfs(fd) < 0) {
    int errnum = errno;
    if (fd >= 0) close(fd);
    return bq_fail_errno(err, errnum, "can't write %s to disk", cluster->new_directory);
  }
  close(fd);
  if (rename(cluster->new_directory, cluster->data_directory) == 0) return 0;
  return bq_fail_errno(err, errno, "can't rename %s", cluster->new_directory);
}

static const char new_name[] = "postgres.new";

static int make_cluster(const bq_cluster *cluster, bq_error *err) {
  int result = bq_tree_remove(cluster->state_directory, new_name, err); // of an initdb that was killed
  if (result < 0) return result;
  char *program = bq_format("%s/initdb", cluster->bin_directory);
  if (program == NULL) return no_memory(err);
  const char *const argv[] = {program, "-D", cluster->new_directory, "-U", cluster->user, "--auth-local=peer",
                              "--auth-host=reject", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
                              "--no-instructions", NULL};
  bq_buf output = {0};
  result = bq_cluster_run(argv, &output, err);
  if (result == 0) result = sync_and_rename(cluster, err);
  bq_error second; // the first one is what the caller must hear
  if (result < 0 && bq_tree_remove(cluster->state_directory, new_name, &second) < 0) {
    bq_log_error("an unfinished cluster stays behind", &second);
  }
  bq_buf_free(&output);
  bq_free(program);
  return result;
}

// --- starting it ---

// The process id in postmaster.pid; 0 without one.
static int read_lock(const bq_cluster *cluster, char **path, pid_t *pid, bq_error *err) {
  *pid = 0;
  *path = bq_format("%s/postmaster.pid", cluster->data_directory);
  if (*path == NULL) return no_memory(err);
  FILE *file = fopen(*path, "re");
  if (file == NULL) return 0;
  int number = 0;
  if (fscanf(file, "%9d", &number) == 1 && number > 0) *pid = number;
  (void)fclose(file);
  return 0;
}

// A killed server can leave a running cluster, or its lock files. PostgreSQL takes a lock for valid when its process
// number belongs to any process of this user, which in a container is common: so they are removed, once it is sure
// that nothing works in the data directory.
static int clear_leftovers(const bq_cluster *cluster, bq_error *err) {
  char *lock = NULL, *socket_path = bq_format("%s/.s.PGSQL.5432", cluster->socket_directory);
  char *socket_lock = bq_format("%s/.s.PGSQL.5432.lock", cluster->socket_directory);
  pid_t postmaster;
  int result = read_lock(cluster, &lock, &postmaster, err);
  if (result == 0 && (socket_path == NULL || socket_lock == NULL)) result = no_memory(err);
  if (result == 0) result = bq_cluster_end_leftovers(cluster->data_directory, postmaster, err);
  if (result == 0) {
    const char *const paths[] = {lock, socket_path, socket_lock};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0] && result == 0; i++) {
      if (paths[i] == NULL || unlink(paths[i]) == 0 || errno == ENOENT) continue;
      result = bq_fail_errno(err, errno, "can't remove %s", paths[i]);
    }
  }
  bq_free(lock);
  bq_free(socket_path);
  bq_free(socket_lock);
  return result;
}

static int make_socket_directory(const bq_cluster *cluster, bq_error *err) {
  const char *path = cluster->socket_directory;
  struct stat info;
  if (mkdir(path, 0700) < 0 && errno != EEXIST) return bq_fail_errno(err, errno, "can't make %s", path);
  if (lstat(path, &info) < 0) return bq_fail_errno(err, errno, "can't look at %s", path);
  // Peer authentication protects the server; this protects us from talking to somebody else's.
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid()) {
    return bq_fail(err, BQ_ECONFLICT, "%s is not a directory of this user: remove it", path);
  }
  if (chmod(path, 0700) < 0) return bq_fail_errno(err, errno, "can't protect %s", path);
  return 0;
}

static int open_log(const bq_cluster *cluster, int *out, bq_error *err) {
  struct stat info;
  if (stat(cluster->log_path, &info) == 0 && info.st_size > LOG_ROTATE_BYTES) {
    char *old = bq_format("%s.1", cluster->log_path);
    if (old == NULL) return no_memory(err);
    int moved = rename(cluster->log_path, old);
    bq_free(old);
    if (moved < 0) return bq_fail_errno(err, errno, "can't rotate %s", cluster->log_path);
  }
  *out = open(cluster->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (*out < 0 || fchmod(*out, 0640) < 0) {
    int errnum = errno;
    if (*out >= 0) close(*out);
    return bq_fail_errno(err, errnum, "can't write %s", cluster->log_path);
  }
  return 0;
}

static int spawn(bq_cluster *cluster, off_t *log_begin, bq_error *err) {
  int log_fd = -1;
  int result = open_log(cluster, &log_fd, err);
  if (result < 0) return result;
  *log_begin = lseek(log_fd, 0, SEEK_END);
  char *program = bq_format("%s/postgres", cluster->bin_directory);
  // PostgreSQL splits this list itself; double quotes keep spaces.
  bq_buf sockets = {0};
  bq_buf_adds(&sockets, "unix_socket_directories=\"");
  for (const char *c = cluster->socket_directory; *c != '\0'; c++) {
    if (*c == '"') bq_buf_addc(&sockets, '"');
    bq_buf_addc(&sockets, *c);
  }
  bq_buf_adds(&sockets, "\"");
  result = program != NULL ? bq_buf_check(&sockets, err) : no_memory(err);
  if (result == 0) {
    const char *const argv[] = {program, "-D", cluster->data_directory, "-p", "5432", "-c", "listen_addresses=", "-c",
                                sockets.data, "-c", "unix_socket_permissions=0700", "-c", "logging_collector=off", "-c",
                                "log_destination=stderr", "-c", "timezone=UTC", "-c", "log_timezone=UTC", "-c",
                                "cluster_name=buildq", NULL};
    result = bq_cluster_spawn(argv, log_fd, &cluster->pid, &cluster->pidfd, err);
    if (result < 0) cluster->pid = 0;
  }
  bq_buf_free(&sockets);
  bq_free(program);
  close(log_fd);
  return result;
}

// What PostgreSQL has logged since `begin`, its end only, on one line.
static void log_tail(const bq_cluster *cluster, off_t begin, char out[LOG_TAIL_BYTES + 1]) {
  out[0] = '\0';
  int fd = open(cluster->log_path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  off_t size = lseek(fd, 0, SEEK_END);
  if (size - begin > LOG_TAIL_BYTES) begin = size - LOG_TAIL_BYTES;
  ssize_t got = pread(fd, out, LOG_TAIL_BYTES, begin);
  close(fd);
  out[got > 0 ? got : 0] = '\0';
  for (char *c = out; *c != '\0'; c++) {
    if (*c == '\n' || *c == '\t') *c = ' ';
  }
}

static int wait_until_ready(const bq_cluster *cluster, off_t log_begin, bq_error *err) {
  char tail[LOG_TAIL_BYTES + 1];
  int64_t until = bq_clock_mono_us() + (int64_t)START_LIMIT_MS * 1000;
  while (bq_clock_mono_us() < until) {
    if (PQping(cluster->admin_conninfo) == PQPING_OK) return 0;
    if (bq_cluster_wait_end(cluster->pidfd, STEP_MS) == 0) {
      log_tail(cluster, log_begin, tail);
      return bq_fail(err, BQ_EIO, "the private PostgreSQL ended at its start; %s says: %s", cluster->log_path, tail);
    }
  }
  log_tail(cluster, log_begin, tail);
  return bq_fail(err, BQ_ETIMEOUT, "the private PostgreSQL does not accept connections after %d s; %s says: %s",
                 START_LIMIT_MS / 1000, cluster->log_path, tail);
}

static int make_database(const bq_cluster *cluster, bq_error *err) {
  int result = 0;
  PGresult *found = NULL, *made = NULL;
  PGconn *pg = PQconnectdb(cluster->admin_conninfo);
  if (pg == NULL) return no_memory(err);
  if (PQstatus(pg) != CONNECTION_OK) goto failed;
  found = PQexec(pg, "select 1 from pg_database where datname = 'buildq'");
  if (PQresultStatus(found) != PGRES_TUPLES_OK) goto failed;
  if (PQntuples(found) > 0) goto cleanup;
  made = PQexec(pg, "create database buildq");
  if (PQresultStatus(made) == PGRES_COMMAND_OK) goto cleanup;
failed:
  result = bq_fail(err, BQ_EDATABASE, "can't make the database buildq: %s", PQerrorMessage(pg));
cleanup:
  PQclear(found);
  PQclear(made);
  PQfinish(pg);
  return result;
}

int bq_cluster_start(bq_cluster **out, const bq_cluster_options *options, bq_error *err) {
  *out = NULL;
  if (geteuid() == 0) {
    return bq_fail(err, BQ_EINVAL, "PostgreSQL does not run as root: start as another user, or set RunAsUser");
  }
  bq_cluster *cluster = bq_alloc(sizeof *cluster);
  if (cluster == NULL) return no_memory(err);
  cluster->pidfd = -1;
  int data_major = 0;
  off_t log_begin = 0;
  int result = name_paths(cluster, options->state_directory, err);
  if (result == 0) result = read_data_major(cluster, &data_major, err);
  if (result == 0) result = find_programs(cluster, options->bin_directory, data_major, err);
  if (result == 0 && data_major == 0) result = make_cluster(cluster, err);
  if (result == 0) result = clear_leftovers(cluster, err);
  if (result == 0) result = make_socket_directory(cluster, err);
  if (result == 0) result = spawn(cluster, &log_begin, err);
  if (result == 0) result = wait_until_ready(cluster, log_begin, err);
  if (result == 0) result = make_database(cluster, err);
  if (result == 0) *out = cluster;
  else bq_cluster_stop(cluster);
  return result;
}

int bq_cluster_probe(const bq_cluster_options *options, bq_error *err) {
  bq_cluster *cluster = bq_alloc(sizeof *cluster);
  if (cluster == NULL) return no_memory(err);
  cluster->pidfd = -1;
  int data_major = 0;
  int result = 0;
  if (access(options->state_directory, F_OK) == 0) {
    result = name_paths(cluster, options->state_directory, err);
    if (result == 0) result = read_data_major(cluster, &data_major, err);
  }
  if (result == 0) result = find_programs(cluster, options->bin_directory, data_major, err);
  bq_cluster_stop(cluster);
  return result;
}

int bq_cluster_clear(bq_cluster *cluster, bq_error *err) {
  if (cluster->pidfd >= 0) {
    (void)waitpid(cluster->pid, NULL, WNOHANG);
    close(cluster->pidfd);
    cluster->pidfd = -1;
    cluster->pid = 0;
  }
  int result = clear_leftovers(cluster, err);
  return result == 0 ? make_socket_directory(cluster, err) : result;
}

int bq_cluster_spawn_again(bq_cluster *cluster, bq_error *err) {
  off_t log_begin;
  return spawn(cluster, &log_begin, err);
}

const char *bq_cluster_conninfo(const bq_cluster *cluster) {
  return cluster->conninfo;
}

int bq_cluster_pid(const bq_cluster *cluster) {
  return cluster->pid;
}

int bq_cluster_fd(const bq_cluster *cluster) {
  return cluster->pidfd;
}

// By pidfd: it can't reach another process, even when somebody else has reaped this one.
static void end(const bq_cluster *cluster) {
  static const struct {
    int number;
    int64_t limit_ms;
  } steps[] = {{SIGINT, FAST_LIMIT_MS}, {SIGQUIT, IMMEDIATE_LIMIT_MS}, {SIGKILL, IMMEDIATE_LIMIT_MS}};
  for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    (void)pidfd_send_signal(cluster->pidfd, steps[i].number, NULL, 0);
    if (bq_cluster_wait_end(cluster->pidfd, steps[i].limit_ms) == 0) break;
    bq_log(BQ_WARN, "the private PostgreSQL does not stop", "signal", strsignal(steps[i].number), NULL);
  }
  (void)waitpid(cluster->pid, NULL, WNOHANG);
}

void bq_cluster_stop(bq_cluster *cluster) {
  if (cluster == NULL) return;
  if (cluster->pidfd >= 0) {
    end(cluster);
    close(cluster->pidfd);
  }
  bq_free(cluster->state_directory);
  bq_free(cluster->data_directory);
  bq_free(cluster->new_directory);
  bq_free(cluster->socket_directory);
  bq_free(cluster->log_path);
  bq_free(cluster->bin_directory);
  bq_free(cluster->user);
  bq_free(cluster->conninfo);
  bq_free(cluster->admin_conninfo);
  bq_free(cluster);
}
