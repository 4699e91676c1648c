// Each call that may fail, once: what it is given, and what it answers when it is to fail. The linker is told to wrap
// exactly what is defined here as __wrap_…, so a new row is all that a new call needs.
#include <curl/curl.h>
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <jansson.h>
#include <libpq-fe.h>
#include <lua.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "inject.h"

#undef curl_easy_setopt
#undef curl_multi_setopt

// CALL(class, answer when it fails, errno then, type, name, (parameters), (arguments))
#define CALL(class, failing, errnum, type, name, parameters, arguments) \
  type __real_##name parameters;                                       \
  type __wrap_##name parameters;                                       \
  type __wrap_##name parameters {                                      \
    if (!torture_strikes(TORTURE_##class, #name)) return __real_##name arguments; \
    errno = (errnum);                                                  \
    return (failing);                                                  \
  }

CALL(MEMORY, NULL, ENOMEM, void *, realloc, (void *old, size_t size), (old, size))
CALL(MEMORY, MAP_FAILED, ENOMEM, void *, mmap64, (void *at, size_t size, int prot, int flags, int fd, off_t offset),
     (at, size, prot, flags, fd, offset))

CALL(FILE, NULL, EMFILE, FILE *, fopen64, (const char *path, const char *mode), (path, mode))
CALL(FILE, NULL, ENOMEM, FILE *, fdopen, (int fd, const char *mode), (fd, mode))
CALL(FILE, NULL, EMFILE, DIR *, opendir, (const char *path), (path))
CALL(FILE, NULL, ENOMEM, DIR *, fdopendir, (int fd), (fd))
CALL(FILE, NULL, EIO, struct dirent64 *, readdir64, (DIR *directory), (directory))
CALL(FILE, -1, EMFILE, int, memfd_create, (const char *name, unsigned flags), (name, flags))
CALL(FILE, -1, ENOSPC, int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(FILE, -1, ENOSPC, int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
CALL(FILE, NULL, ENOSPC, char *, mkdtemp, (char *template), (template))
CALL(FILE, -1, ENOSPC, int, rename, (const char *from, const char *to), (from, to))
CALL(FILE, -1, ENOSPC, int, renameat, (int at, const char *from, int at_to, const char *to), (at, from, at_to, to))
CALL(FILE, -1, ENOSPC, int, linkat, (int at, const char *from, int at_to, const char *to, int flags),
     (at, from, at_to, to, flags))
CALL(FILE, -1, ENOSPC, int, symlinkat, (const char *target, int at, const char *path), (target, at, path))
CALL(FILE, -1, EIO, int, unlink, (const char *path), (path))
CALL(FILE, -1, EIO, int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
CALL(FILE, -1, EIO, int, rmdir, (const char *path), (path))
CALL(FILE, -1, EIO, int, stat64, (const char *path, struct stat64 *out), (path, out))
CALL(FILE, -1, EIO, int, lstat64, (const char *path, struct stat64 *out), (path, out))
CALL(FILE, -1, EIO, int, fstat64, (int fd, struct stat64 *out), (fd, out))
CALL(FILE, -1, EIO, int, fstatat64, (int at, const char *path, struct stat64 *out, int flags), (at, path, out, flags))
CALL(FILE, -1, EIO, int, statvfs64, (const char *path, struct statvfs64 *out), (path, out))
CALL(FILE, -1, EIO, int, access, (const char *path, int mode), (path, mode))
CALL(FILE, NULL, EIO, char *, realpath, (const char *path, char *out), (path, out))
CALL(FILE, -1, EIO, int, chmod, (const char *path, mode_t mode), (path, mode))
CALL(FILE, -1, EIO, int, fchmod, (int fd, mode_t mode), (fd, mode))
CALL(FILE, -1, EIO, int, chown, (const char *path, uid_t user, gid_t group), (path, user, group))
CALL(FILE, -1, EIO, int, lchown, (const char *path, uid_t user, gid_t group), (path, user, group))
CALL(FILE, -1, EIO, int, futimens, (int fd, const struct timespec times[2]), (fd, times))
CALL(FILE, -1, EIO, int, ftruncate64, (int fd, off_t length), (fd, length))
CALL(FILE, -1, EIO, off_t, lseek64, (int fd, off_t offset, int whence), (fd, offset, whence))
CALL(FILE, -1, EMFILE, int, dup, (int fd), (fd))
CALL(FILE, -1, ENOLCK, int, flock, (int fd, int operation), (fd, operation))
CALL(FILE, -1, EMFILE, int, inotify_init1, (int flags), (flags))
CALL(FILE, -1, ENOSPC, int, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask))
CALL(FILE, -1, EMFILE, int, socket, (int domain, int type, int protocol), (domain, type, protocol))

CALL(READ, -1, EIO, ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
CALL(READ, -1, EIO, ssize_t, pread64, (int fd, void *to, size_t size, off_t offset), (fd, to, size, offset))
CALL(READ, -1, EIO, ssize_t, readlink, (const char *path, char *to, size_t size), (path, to, size))
CALL(READ, -1, EIO, ssize_t, readlinkat, (int at, const char *path, char *to, size_t size), (at, path, to, size))
CALL(READ, -1, ECONNRESET, ssize_t, recv, (int fd, void *to, size_t size, int flags), (fd, to, size, flags))
// What stdio has failed with, it remembers (ferror).
#define FAIL(file, answer) ((file)->_flags |= 0x20, answer) // glibc's _IO_ERR_SEEN

CALL(READ, FAIL(file, 0U), EIO, size_t, fread, (void *to, size_t size, size_t number, FILE *file), (to, size, number, file))
CALL(READ, FAIL(file, (char *)NULL), EIO, char *, fgets, (char *to, int size, FILE *file), (to, size, file))
CALL(READ, FAIL(file, -1), ENOMEM, ssize_t, __getdelim, (char **to, size_t *size, int end, FILE *file), (to, size, end, file))
CALL(READ, -1, EIO, ssize_t, getrandom, (void *to, size_t size, unsigned flags), (to, size, flags))

CALL(WRITE, -1, EIO, ssize_t, pwrite64, (int fd, const void *from, size_t size, off_t offset), (fd, from, size, offset))
CALL(WRITE, -1, ECONNRESET, ssize_t, send, (int fd, const void *from, size_t size, int flags), (fd, from, size, flags))
CALL(WRITE, FAIL(file, 0U), ENOSPC, size_t, fwrite, (const void *from, size_t size, size_t number, FILE *file),
     (from, size, number, file))
CALL(WRITE, FAIL(file, EOF), ENOSPC, int, fputs, (const char *text, FILE *file), (text, file))
CALL(WRITE, FAIL(file, EOF), ENOSPC, int, fflush, (FILE *file), (file))

CALL(FSYNC, -1, EIO, int, fsync, (int fd), (fd))
CALL(FSYNC, -1, EIO, int, syncfs, (int fd), (fd))

CALL(SPAWN, -1, EAGAIN, pid_t, fork, (void), ())
CALL(SPAWN, -1, ENOEXEC, int, execve, (const char *path, char *const argv[], char *const env[]), (path, argv, env))
CALL(SPAWN, -1, ENOEXEC, int, execvp, (const char *path, char *const argv[]), (path, argv))
CALL(SPAWN, EAGAIN, 0, int, posix_spawn,
     (pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
      char *const argv[], char *const env[]),
     (pid, path, actions, attr, argv, env))
CALL(SPAWN, EAGAIN, 0, int, posix_spawnp,
     (pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
      char *const argv[], char *const env[]),
     (pid, path, actions, attr, argv, env))
CALL(SPAWN, EAGAIN, 0, int, pthread_create,
     (pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg), (thread, attr, fn, arg))
CALL(SPAWN, -1, EMFILE, int, pipe2, (int fds[2], int flags), (fds, flags))
CALL(SPAWN, -1, EMFILE, int, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds))
CALL(SPAWN, -1, EMFILE, int, eventfd, (unsigned value, int flags), (value, flags))
CALL(SPAWN, -1, EMFILE, int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags))
CALL(SPAWN, -1, EMFILE, int, dup2, (int from, int to), (from, to))
CALL(SPAWN, -1, EIO, int, chdir, (const char *path), (path))
CALL(SPAWN, -1, EPERM, pid_t, setsid, (void), ())
CALL(SPAWN, -1, EAGAIN, int, timer_create, (clockid_t clock, struct sigevent *event, timer_t *timer),
     (clock, event, timer))
CALL(SPAWN, -1, EPERM, int, setrlimit64, (__rlimit_resource_t resource, const struct rlimit64 *limit), (resource, limit))
CALL(SPAWN, -1, EPERM, int, getrlimit64, (__rlimit_resource_t resource, struct rlimit64 *limit), (resource, limit))

CALL(LIBPQ, NULL, ENOMEM, PGconn *, PQconnectdb, (const char *info), (info))
CALL(LIBPQ, NULL, ENOMEM, PGconn *, PQconnectdbParams, (const char *const *names, const char *const *values, int expand),
     (names, values, expand))
CALL(LIBPQ, NULL, ENOMEM, PGconn *, PQconnectStartParams,
     (const char *const *names, const char *const *values, int expand), (names, values, expand))
CALL(LIBPQ, PGRES_POLLING_FAILED, ECONNRESET, PostgresPollingStatusType, PQconnectPoll, (PGconn *c), (c))
CALL(LIBPQ, NULL, ENOMEM, PQconninfoOption *, PQconninfoParse, (const char *info, char **message), (info, message))
CALL(LIBPQ, PQPING_NO_RESPONSE, 0, PGPing, PQping, (const char *info), (info))
CALL(LIBPQ, -1, ECONNRESET, int, PQsetnonblocking, (PGconn *c, int on), (c, on))
CALL(LIBPQ, 0, ENOMEM, int, PQenterPipelineMode, (PGconn *c), (c))
CALL(LIBPQ, 0, ECONNRESET, int, PQpipelineSync, (PGconn *c), (c))
CALL(LIBPQ, 0, ENOMEM, int, PQsendQuery, (PGconn *c, const char *text), (c, text))
CALL(LIBPQ, 0, ENOMEM, int, PQsendQueryParams,
     (PGconn *c, const char *text, int n, const Oid *types, const char *const *values, const int *lengths,
      const int *formats, int format),
     (c, text, n, types, values, lengths, formats, format))
CALL(LIBPQ, 0, ENOMEM, int, PQsendPrepare, (PGconn *c, const char *name, const char *text, int n, const Oid *types),
     (c, name, text, n, types))
CALL(LIBPQ, 0, ENOMEM, int, PQsendQueryPrepared,
     (PGconn *c, const char *name, int n, const char *const *values, const int *lengths, const int *formats, int format),
     (c, name, n, values, lengths, formats, format))
CALL(LIBPQ, 0, ENOMEM, int, PQsetSingleRowMode, (PGconn *c), (c))
CALL(LIBPQ, 0, ECONNRESET, int, PQconsumeInput, (PGconn *c), (c))
CALL(LIBPQ, -1, ECONNRESET, int, PQflush, (PGconn *c), (c))
CALL(LIBPQ, NULL, ENOMEM, PGresult *, PQexec, (PGconn *c, const char *text), (c, text))
CALL(LIBPQ, NULL, ENOMEM, PGresult *, PQexecParams,
     (PGconn *c, const char *text, int n, const Oid *types, const char *const *values, const int *lengths,
      const int *formats, int format),
     (c, text, n, types, values, lengths, formats, format))
CALL(LIBPQ, NULL, ENOMEM, PGresult *, PQcopyResult, (const PGresult *result, int flags), (result, flags))
CALL(LIBPQ, 0, ENOMEM, int, PQsetvalue, (PGresult *result, int row, int column, char *value, int length),
     (result, row, column, value, length))
CALL(LIBPQ, NULL, ENOMEM, PGcancel *, PQgetCancel, (PGconn *c), (c))
CALL(LIBPQ, 0, ECONNRESET, int, PQcancel, (PGcancel *cancel, char *message, int size), (cancel, message, size))

CALL(LIBCURL, NULL, ENOMEM, CURL *, curl_easy_init, (void), ())
CALL(LIBCURL, CURLE_OUT_OF_MEMORY, ENOMEM, CURLcode, curl_easy_perform, (CURL *c), (c))
CALL(LIBCURL, NULL, ENOMEM, char *, curl_easy_escape, (CURL *c, const char *text, int length), (c, text, length))
CALL(LIBCURL, NULL, ENOMEM, CURLM *, curl_multi_init, (void), ())
CALL(LIBCURL, CURLM_OUT_OF_MEMORY, ENOMEM, CURLMcode, curl_multi_add_handle, (CURLM *m, CURL *c), (m, c))
CALL(LIBCURL, CURLM_INTERNAL_ERROR, ENOMEM, CURLMcode, curl_multi_socket_action,
     (CURLM *m, curl_socket_t fd, int what, int *running), (m, fd, what, running))
CALL(LIBCURL, NULL, ENOMEM, struct curl_slist *, curl_slist_append, (struct curl_slist *list, const char *text),
     (list, text))
CALL(LIBCURL, NULL, ENOMEM, CURLU *, curl_url, (void), ())
CALL(LIBCURL, CURLUE_OUT_OF_MEMORY, ENOMEM, CURLUcode, curl_url_set,
     (CURLU *url, CURLUPart part, const char *text, unsigned flags), (url, part, text, flags))
CALL(LIBCURL, CURLUE_OUT_OF_MEMORY, ENOMEM, CURLUcode, curl_url_get,
     (CURLU *url, CURLUPart part, char **text, unsigned flags), (url, part, text, flags))

CALL(CRYPTO, NULL, ENOMEM, EVP_MD_CTX *, EVP_MD_CTX_new, (void), ())
CALL(CRYPTO, 0, ENOMEM, int, EVP_DigestInit_ex, (EVP_MD_CTX *c, const EVP_MD *type, ENGINE *engine), (c, type, engine))
CALL(CRYPTO, 0, ENOMEM, int, EVP_DigestUpdate, (EVP_MD_CTX *c, const void *from, size_t size), (c, from, size))
CALL(CRYPTO, 0, ENOMEM, int, EVP_DigestFinal_ex, (EVP_MD_CTX *c, unsigned char *to, unsigned *size), (c, to, size))
CALL(CRYPTO, 0, ENOMEM, int, EVP_Digest,
     (const void *from, size_t n, unsigned char *to, unsigned *size, const EVP_MD *type, ENGINE *engine),
     (from, n, to, size, type, engine))

// --- those with variable arguments: what they are given fits a machine word, here ------------------------------------

#define LAST_ARGUMENT(type, value, after) \
  va_list list;                           \
  va_start(list, after);                  \
  type value = va_arg(list, type);        \
  va_end(list)

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...) {
  LAST_ARGUMENT(mode_t, mode, flags);
  if (!torture_strikes(TORTURE_FILE, "open64")) return __real_open64(path, flags, mode);
  errno = EMFILE;
  return -1;
}

int __real_openat64(int at, const char *path, int flags, ...);
int __wrap_openat64(int at, const char *path, int flags, ...);
int __wrap_openat64(int at, const char *path, int flags, ...) {
  LAST_ARGUMENT(mode_t, mode, flags);
  if (!torture_strikes(TORTURE_FILE, "openat64")) return __real_openat64(at, path, flags, mode);
  errno = EMFILE;
  return -1;
}

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...) {
  LAST_ARGUMENT(void *, arg, command);
  if (!torture_strikes(TORTURE_FILE, "fcntl64")) return __real_fcntl64(fd, command, arg);
  errno = EMFILE;
  return -1;
}

int __real_prctl(int option, ...);
int __wrap_prctl(int option, ...);
int __wrap_prctl(int option, ...) {
  unsigned long args[4];
  va_list list;
  va_start(list, option);
  for (int i = 0; i < 4; i++) args[i] = va_arg(list, unsigned long);
  va_end(list);
  if (!torture_strikes(TORTURE_SPAWN, "prctl")) return __real_prctl(option, args[0], args[1], args[2], args[3]);
  errno = EPERM;
  return -1;
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...) {
  long args[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++) args[i] = va_arg(list, long);
  va_end(list);
  if (!torture_strikes(TORTURE_FILE, "syscall")) {
    return __real_syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
  }
  errno = EMFILE;
  return -1;
}

int __real_clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
int __wrap_clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
int __wrap_clone(int (*fn)(void *), void *stack, int flags, void *arg, ...) {
  LAST_ARGUMENT(void *, parent_word, arg); // where its pidfd goes
  if (!torture_strikes(TORTURE_SPAWN, "clone")) return __real_clone(fn, stack, flags, arg, parent_word);
  errno = EAGAIN;
  return -1;
}

CURLcode __real_curl_easy_setopt(CURL *c, CURLoption option, ...);
CURLcode __wrap_curl_easy_setopt(CURL *c, CURLoption option, ...);
CURLcode __wrap_curl_easy_setopt(CURL *c, CURLoption option, ...) {
  LAST_ARGUMENT(void *, value, option);
  if (!torture_strikes(TORTURE_LIBCURL, "curl_easy_setopt")) return __real_curl_easy_setopt(c, option, value);
  return CURLE_OUT_OF_MEMORY;
}

CURLMcode __real_curl_multi_setopt(CURLM *m, CURLMoption option, ...);
CURLMcode __wrap_curl_multi_setopt(CURLM *m, CURLMoption option, ...);
CURLMcode __wrap_curl_multi_setopt(CURLM *m, CURLMoption option, ...) {
  LAST_ARGUMENT(void *, value, option);
  if (!torture_strikes(TORTURE_LIBCURL, "curl_multi_setopt")) return __real_curl_multi_setopt(m, option, value);
  return CURLM_OUT_OF_MEMORY;
}

// --- what fails in another way, or not always ----------------------------------------------------------------------------------------

// An eventfd can't fail but by being full, and then whoever reads it is awake.
static int is_eventfd(int fd) {
  static const char name[] = "anon_inode:[eventfd]";
  char path[64], target[sizeof name];
  (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t length = __real_readlink(path, target, sizeof target);
  return length == (ssize_t)sizeof name - 1 && memcmp(target, name, sizeof name - 1) == 0;
}

ssize_t __real_write(int fd, const void *from, size_t size);
ssize_t __wrap_write(int fd, const void *from, size_t size);
ssize_t __wrap_write(int fd, const void *from, size_t size) {
  int may_fail = size != sizeof(uint64_t) || !is_eventfd(fd);
  if (!may_fail || !torture_strikes(TORTURE_WRITE, "write")) return __real_write(fd, from, size);
  errno = EIO;
  return -1;
}

// Budgets of processor time are for a program without sanitizers, on a machine that does nothing else.
enum { SLOWER = 8 };
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
  int result = __real_clock_gettime(clock, now);
  if (result < 0 || clock != CLOCK_THREAD_CPUTIME_ID) return result;
  long long ns = ((long long)now->tv_sec * 1000000000 + now->tv_nsec) / SLOWER;
  now->tv_sec = (time_t)(ns / 1000000000);
  now->tv_nsec = (long)(ns % 1000000000);
  return result;
}

// A result that can't be kept is an error without a code, as libpq makes it: the statement may well have been done.
PGresult *__real_PQgetResult(PGconn *c);
PGresult *__wrap_PQgetResult(PGconn *c);
PGresult *__wrap_PQgetResult(PGconn *c) {
  PGresult *result = __real_PQgetResult(c);
  ExecStatusType status = PQresultStatus(result);
  int is_answer = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_SINGLE_TUPLE;
  if (result == NULL || !is_answer || !torture_strikes(TORTURE_LIBPQ, "PQgetResult")) return result;
  PQclear(result);
  return PQmakeEmptyPGresult(c, PGRES_FATAL_ERROR);
}

// Lua asks again when it has collected what it can: memory that is out is out then, too.
static lua_Alloc product_allocate;
static _Thread_local struct {
  void *state, *old;
  size_t size;
} refused;

// What is asked for, as a place: the kind of a new object, or that one grows; and its size, roughly.
static int strikes_lua(const void *old, size_t kind, size_t size) {
  static const char *const kinds[] = {"nil", "boolean", "lightuserdata", "number", "string", "table", "function", "userdata",
                                      "thread", "upvalue", "prototype"};
  char name[32];
  const char *what = old != NULL ? "growth" : kind < sizeof kinds / sizeof kinds[0] ? kinds[kind] : "block";
  int bits = 64 - __builtin_clzll(size);
  (void)snprintf(name, sizeof name, "lua_Alloc %s %d", what, 1 << bits);
  return torture_strikes_often(TORTURE_LUA, name);
}

static void *allocate(void *arg, void *old, size_t old_size, size_t size) {
  int grows = size > (old != NULL ? old_size : 0);
  if (!grows) return product_allocate(arg, old, old_size, size);
  int again = refused.state == arg && refused.old == old && refused.size == size;
  refused.state = NULL;
  if (again) return NULL;
  if (!strikes_lua(old, old_size, size)) {
    torture_busy++;
    void *block = product_allocate(arg, old, old_size, size);
    torture_busy--;
    return block;
  }
  refused.state = arg;
  refused.old = old;
  refused.size = size;
  return NULL;
}

lua_State *__real_lua_newstate(lua_Alloc allocator, void *arg);
lua_State *__wrap_lua_newstate(lua_Alloc allocator, void *arg);
lua_State *__wrap_lua_newstate(lua_Alloc allocator, void *arg) {
  product_allocate = allocator; // the program has one
  return __real_lua_newstate(allocate, arg);
}

static void *json_allocate(size_t size) {
  return torture_strikes(TORTURE_JSON, "json_malloc") ? NULL : malloc(size);
}

static void *event_allocate(size_t size) {
  return torture_strikes(TORTURE_EVENT, "event_malloc") ? NULL : malloc(size);
}

static void *event_reallocate(void *old, size_t size) {
  return torture_strikes(TORTURE_EVENT, "event_realloc") ? NULL : __real_realloc(old, size);
}

__attribute__((constructor)) static void replace_allocators(void) {
  json_set_alloc_funcs(json_allocate, free);
  event_set_mem_functions(event_allocate, event_reallocate, free);
}
