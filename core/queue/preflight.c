#include "queue/preflight.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <lauxlib.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/cluster.h"
#include "io/tree.h"
#include "lua/script_host.h"
#include "queue/mail_account.h"
#include "queue/migrate.h"
#include "queue/overrides.h"
#include "queue/server_internal.h"
#include "queue/server_modules.h"

enum {
  MAX_MANIFEST_BYTES = 1024 * 1024,
  MAX_ENTRIES = 10000, // below ManifestDirectory
  CHECK_BYTES = 64 * 1024 * 1024
};

// Checks one manifest's text; returns nil, or what is wrong, a line each; and what it needs that is not here, or nil.
static const char manifest_source[] = "return require('manifest.tool').preflight(...)\n";

typedef struct preflight {
  const bq_config *config;
  const bq_preflight_options *options;
  bq_server server; // only what scripts and their bindings look at
  int faults;
  int share_fd;     // with `connect`
  int as_root;      // started as root, as the server would be
  const char *user; // whom the directories are for, in a sentence
} preflight;

static void say(preflight *p, int fault, const char *subject, const char *text) {
  if (fault) p->faults++;
  p->options->report(p->options->arg, fault, subject, text);
}

static void on_scripts(void *arg, int swapped, const bq_error *error) {
  preflight *p = arg;
  (void)swapped;
  if (error != NULL) say(p, 1, "scripts", error->message);
  else say(p, 0, "scripts", bq_generation_hash(bq_script_host_current(p->server.host)));
  bq_loop_stop(p->server.loop);
}

static const char *no_build(lua_State *L) {
  (void)L;
  return NULL;
}

static int open_scripts(preflight *p, bq_error *err) {
  bq_server *server = &p->server;
  const bq_config *config = p->config;
  int result = bq_loop_new(&server->loop, err);
  if (result == 0) result = bq_pool_new(&server->compute, server->loop, "compute", 1, 100, err);
  if (result == 0) result = bq_pool_new(&server->blocking, server->loop, "blocking", 1, 100, err);
  if (result < 0) return result;
  server->services = (bq_services){.loop = server->loop,
                                   .blocking = server->blocking,
                                   .workspace = no_build,
                                   .build_id = no_build,
                                   .product = server};
  const bq_script_host_options options = {
      .loop = server->loop,
      .compute = server->compute,
      .blocking = server->blocking,
      .directories = {.share = p->options->share,
                      .scripts = config->script_directory[0] != '\0' ? config->script_directory : NULL,
                      .templates = config->template_directory[0] != '\0' ? config->template_directory : NULL},
      .check_modules = bq_check_modules,
      .handler_modules = bq_check_modules,
      .services = &server->services,
      .memory_bytes = CHECK_BYTES,
      .handler_slice_us = 1000000,
      .loaded = on_scripts,
      .arg = p};
  return bq_script_host_new(&server->host, &options, err);
}

// Files that stand in the place of shipped ones --------------------------------------------------------------------

// Not a fault: the team's file works, but may lack what the new original brought.
static void say_override(void *arg, const char *path, bq_override_state state) {
  preflight *p = arg;
  switch (state) {
  case BQ_OVERRIDE_CURRENT: break;
  case BQ_OVERRIDE_CHANGED:
    say(p, 0, path, "WARNING: the shipped original has changed since it was copied: compare them, take over what is new, "
                    "then buildq override --accept");
    break;
  case BQ_OVERRIDE_UNKNOWN:
    say(p, 0, path, "WARNING: it replaces a shipped file, and what it was copied from was not noted: buildq override "
                    "--accept notes the present one");
    break;
  }
}

static void check_overrides(preflight *p) {
  const bq_config *config = p->config;
  const bq_source_directories directories = {
      .share = p->options->share,
      .scripts = config->script_directory[0] != '\0' ? config->script_directory : NULL,
      .templates = config->template_directory[0] != '\0' ? config->template_directory : NULL};
  bq_error err;
  if (bq_overrides_check(&directories, say_override, p, &err) < 0) say(p, 1, "overrides", err.message);
}

// Manifests -------------------------------------------------------------------------------------------------------

// Argument: the source. Pushes it as a function in the scripts' environment. Inside bq_vm_call: may raise.
static int load_source(lua_State *L) {
  if (luaL_loadbufferx(L, manifest_source, sizeof manifest_source - 1, "=check", "t") != LUA_OK) return lua_error(L);
  bq_script_push_env(L);
  (void)lua_setupvalue(L, -2, 1);
  lua_insert(L, 1); // under the text
  lua_call(L, 1, 2);
  return 2;
}

// Reads it as the server would: a link may lead to another file below ManifestDirectory, not out of it.
static int read_manifest(const char *root, const char *name, char **text, size_t *length, bq_error *err) {
  int fd;
  int result = bq_tree_open(root, name, O_RDONLY | O_NONBLOCK, 0, BQ_TREE_INNER_LINKS, &fd, err);
  if (result < 0) return result;
  (void)close(fd);
  char *path = bq_format("%s/%s", root, name);
  result = path != NULL ? bq_file_read(path, MAX_MANIFEST_BYTES, text, length, err)
                        : bq_fail(err, BQ_ENOMEM, "out of memory");
  bq_free(path);
  return result;
}

static void check_manifest(preflight *p, bq_vm *vm, const char *name) {
  char *text = NULL;
  size_t length;
  bq_error err;
  lua_State *L = bq_vm_state(vm);
  if (read_manifest(p->config->manifest_directory, name, &text, &length, &err) < 0) {
    say(p, 1, name, err.message);
  } else {
    lua_pushcfunction(L, load_source);
    lua_pushlstring(L, text, length);
    if (bq_vm_call(vm, L, 1, 2, &err) < 0) {
      say(p, 1, name, err.message);
    } else {
      const char *faults = lua_tostring(L, -2);
      const char *needs = lua_tostring(L, -1);
      say(p, faults != NULL, name, faults != NULL ? faults : needs != NULL ? needs : "well");
      lua_pop(L, 2);
    }
  }
  bq_free(text);
}

static int is_manifest(const bq_tree_entry *entry) {
  size_t length = strlen(entry->path);
  return !S_ISDIR(entry->mode) && length > 5 && strcmp(entry->path + length - 5, ".json") == 0;
}

static void check_manifests(preflight *p) {
  bq_vm *vm = NULL;
  bq_error err;
  const bq_vm_options options = {.loop = p->server.loop, .memory_bytes = CHECK_BYTES, .slice_us = 1000000};
  bq_tree_listing files = {0};
  if (access(p->config->manifest_directory, F_OK) < 0 && errno == ENOENT) return; // it is made at the first start
  if (bq_tree_list(&files, p->config->manifest_directory, ".", MAX_ENTRIES, &err) < 0 ||
      bq_script_vm_new(&vm, &options, bq_script_host_current(p->server.host), bq_check_modules, &p->server.services,
                       &err) < 0) {
    say(p, 1, "manifests", err.message);
  } else {
    for (size_t i = 0; i < files.count; i++) {
      if (is_manifest(&files.entries[i])) check_manifest(p, vm, files.entries[i].path);
    }
    bq_vm_free(vm);
  }
  bq_tree_listing_free(&files);
}

static void check_scripts(preflight *p) {
  bq_server *server = &p->server;
  bq_error err;
  server->config = (bq_config *)(uintptr_t)p->config;
  int result = open_scripts(p, &err);
  if (result == 0) {
    bq_script_host_reload(server->host);
    result = bq_loop_run(server->loop, &err);
  }
  if (result < 0) say(p, 1, "scripts", err.message);
  else if (bq_script_host_current(server->host) != NULL) check_manifests(p);
  bq_pool_free(server->compute);
  bq_pool_free(server->blocking);
  bq_script_host_free(server->host);
  bq_loop_free(server->loop);
}

// With --connect ----------------------------------------------------------------------------------------------------

static void check_private_cluster(preflight *p) {
  char text[600];
  const bq_cluster_options options = {.state_directory = p->config->state_directory};
  bq_error err;
  int result = bq_cluster_probe(&options, &err);
  (void)snprintf(text, sizeof text, "the private PostgreSQL of %s does not run now; buildq serve starts it",
                 p->config->state_directory);
  say(p, result < 0, "database", result < 0 ? err.message : text);
}

static void check_database(preflight *p) {
  // Through a descriptor that root has opened: the way to the files may be closed to the server's user.
  char *directory = p->share_fd >= 0 ? bq_format("/proc/self/fd/%d/sql/migrations", p->share_fd) : NULL;
  const bq_migrate_options options = {.max_retry_attempts = p->config->max_retry_attempts, .check_only = 1};
  bq_error err;
  if (directory == NULL) say(p, 1, "database", "the program's SQL can't be opened");
  else if (bq_migrate(p->options->conninfo, directory, &options, NULL, NULL, &err) < 0) say(p, 1, "database", err.message);
  else say(p, 0, "database", "reached, and its schema is up to date");
  bq_free(directory);
}

// The database and the rest are looked at as the user that the server will be. Before its first start there may be
// none.
static void become_user(preflight *p) {
  char text[300];
  const struct passwd *user;
  p->user = "this user";
  if (geteuid() != 0) return;
  p->as_root = 1;
  p->user = p->config->run_as_user;
  user = getpwnam(p->user);
  if (user == NULL) {
    (void)snprintf(text, sizeof text, "%s is made at the start", p->user);
    say(p, 0, "RunAsUser", text);
  } else if (user->pw_uid == 0) {
    (void)snprintf(text, sizeof text, "%s is no ordinary user", p->user);
    say(p, 1, "RunAsUser", text);
  } else if (initgroups(user->pw_name, user->pw_gid) < 0 || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) < 0 ||
             setresuid(user->pw_uid, user->pw_uid, user->pw_uid) < 0) {
    (void)snprintf(text, sizeof text, "can't become the user %s: %s", p->user, strerror(errno));
    say(p, 1, "RunAsUser", text);
  }
}

// Cuts `path` to the nearest directory that is there; 1 when something was cut off. `info` tells of what is left.
static int cut_to_existing(char *path, struct stat *info) {
  int cut = 0;
  while (stat(path, info) < 0) {
    char *slash = strrchr(path, '/');
    *info = (struct stat){0};
    if (errno != ENOENT || slash == NULL || path[1] == '\0') break;
    slash[slash == path] = '\0';
    cut = 1;
  }
  return cut;
}

static void check_directory(preflight *p, const char *option, const char *path) {
  char text[1200];
  struct stat info;
  struct statvfs disk;
  char *there = bq_strdup(path);
  if (there == NULL) {
    say(p, 1, option, "out of memory");
    return;
  }
  int missing = cut_to_existing(there, &info);
  // A start as root makes what is missing, and gives away what is root's.
  int given = p->as_root && S_ISDIR(info.st_mode) && (missing || info.st_uid == 0);
  if (!given && access(there, W_OK | X_OK) < 0) {
    (void)snprintf(text, sizeof text, missing ? "%s can't be made: %s can't be written by %s" :
                                                "%s can't be written by %s%.0s", path, missing ? there : p->user, p->user);
    say(p, 1, option, text);
  } else if (statvfs(there, &disk) == 0) {
    unsigned long long free_mb = (unsigned long long)disk.f_bavail * (disk.f_frsize / 1024) / 1024;
    int reserve = p->config->disk_reserve_megabytes;
    int is_short = free_mb < (unsigned long long)reserve;
    const char *made = missing ? " is made at the start" : "";
    if (is_short) {
      (void)snprintf(text, sizeof text, "%s%s, %llu MB free, less than DiskReserveMegabytes (%d): no build would start",
                     path, made, free_mb, reserve);
    } else {
      (void)snprintf(text, sizeof text, "%s%s, %llu MB free", path, made, free_mb);
    }
    say(p, is_short, option, text);
  }
  bq_free(there);
}

static void check_sandbox(preflight *p) {
  const bq_config *config = p->config;
  const bq_sandbox sandbox = bq_server_sandbox(config);
  bq_error err;
  if (bq_sandbox_probe(&sandbox, &err) < 0) say(p, 1, "sandbox", err.message);
  else say(p, 0, "sandbox", sandbox.kind == BQ_SANDBOX_NONE ? "none: builds see this machine" : "works");
}

static void check_mail_server(preflight *p) {
  const bq_config *config = p->config;
  bq_error err;
  char text[1200];
  if (!bq_mail_has_server(config)) {
    (void)snprintf(text, sizeof text, "none: mails become files in %s/outbox", config->state_directory);
    say(p, 0, "mail server", text);
    return;
  }
  const bq_smtp_account account = bq_mail_account(config);
  int fault = bq_smtp_check(&account, &err) < 0;
  (void)snprintf(text, sizeof text, "%s:%d %s%s", account.server, account.port,
                 fault ? "" : account.username[0] != '\0' ? "takes the login" : "answers", fault ? err.message : "");
  say(p, fault, "mail server", text);
}

int bq_preflight(const bq_config *config, const bq_preflight_options *options) {
  preflight *p = bq_alloc(sizeof *p);
  if (p == NULL) {
    options->report(options->arg, 1, "check", "out of memory");
    return 1;
  }
  p->config = config;
  p->options = options;
  check_scripts(p);
  check_overrides(p);
  if (options->connect) {
    p->share_fd = open(options->share, O_PATH | O_DIRECTORY | O_CLOEXEC);
    become_user(p);
    if (options->conninfo != NULL) check_database(p);
    else check_private_cluster(p);
    check_directory(p, "StateDirectory", config->state_directory);
    check_directory(p, "WorkspaceDirectory", config->workspace_directory);
    check_directory(p, "OutputDirectory", config->output_directory);
    check_sandbox(p);
    check_mail_server(p);
    if (p->share_fd >= 0) (void)close(p->share_fd);
  }
  int faults = p->faults;
  bq_free(p);
  return faults;
}
