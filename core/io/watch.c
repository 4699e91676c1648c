#include "io/watch.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum {
  MAX_WATCHES = 4096,
  MAX_LINKS = 16, // symbolic links followed in one root's path
  MAX_DEPTH = 16  // directories below a root
};

static const uint32_t TREE_EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE |
                                    IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB;
static const uint32_t PARENT_EVENTS = IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE;

// One interest in one inotify watch. A directory can be part of a tree and a parent of another root at once.
typedef struct interest {
  int wd;     // inotify's watch descriptor
  char *name; // owned; the only entry that matters, or NULL when all do
} interest;

// One scan: a fresh inotify instance with everything there is now.
typedef struct scan {
  int fd;              // owned; inotify, non-blocking
  interest *interests; // owned, `count` in use
  size_t count;
  size_t capacity;
  int full;            // MAX_WATCHES or memory was reached: some changes will go unseen
} scan;

struct bq_watch {
  bq_task task;        // a scan on the blocking pool
  bq_loop *loop;       // borrowed
  bq_pool *blocking;   // borrowed
  char **roots;        // owned
  size_t root_count;
  int64_t quiet_ms;
  int64_t longest_ms;
  void (*changed)(void *arg);
  void *arg;
  scan current;        // what events come from
  scan next;           // filled by the task
  struct event *event; // owned; current.fd readable
  bq_timer *timer;     // owned; the debounce
  int64_t first_us;    // of the changes not reported yet; 0: none
  int scanning;        // the task is under way
  int dirty;           // a change came while it was
  int freed;           // bq_watch_free was called while it was
};

static void scan_clear(scan *s) {
  for (size_t i = 0; i < s->count; i++) bq_free(s->interests[i].name);
  bq_free(s->interests);
  if (s->fd >= 0) close(s->fd);
  *s = (scan){.fd = -1};
}

static void add_interest(scan *s, const char *directory, uint32_t events, const char *name) {
  // IN_MASK_ADD: the same directory may be watched for another root already.
  int wd = inotify_add_watch(s->fd, directory, events | IN_ONLYDIR | IN_MASK_ADD);
  if (wd < 0) { // gone, or unreadable: its parent tells when that changes
    if (errno == ENOSPC || errno == ENOMEM) s->full = 1;
    return;
  }
  if (s->count == s->capacity) {
    size_t capacity = s->capacity > 0 ? 2 * s->capacity : 32;
    interest *grown = capacity <= MAX_WATCHES ? bq_realloc(s->interests, capacity * sizeof *grown) : NULL;
    if (grown == NULL) {
      s->full = 1;
      return;
    }
    s->interests = grown;
    s->capacity = capacity;
  }
  char *copy = bq_strdup(name);
  if (name != NULL && copy == NULL) s->full = 1;
  s->interests[s->count++] = (interest){.wd = wd, .name = copy};
}

static void scan_tree(scan *s, const char *path, int depth) {
  add_interest(s, path, TREE_EVENTS, NULL);
  DIR *dir = depth < MAX_DEPTH ? opendir(path) : NULL;
  if (dir == NULL) return;
  struct dirent *entry;
  while ((entry = readdir(dir)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    if (entry->d_type != DT_DIR && entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN) continue;
    char *sub = bq_format("%s/%s", path, entry->d_name);
    struct stat info;
    if (sub == NULL) s->full = 1;
    else if (stat(sub, &info) == 0 && S_ISDIR(info.st_mode)) scan_tree(s, sub, depth + 1);
    bq_free(sub);
  }
  closedir(dir);
}

// Watches the directory before each component of an absolute path for that component, and follows links.
static void scan_parents(scan *s, const char *path, int links) {
  char prefix[PATH_MAX] = "";
  size_t length = 0;
  const char *rest = path;
  while (*rest == '/') rest++;
  while (*rest != '\0') {
    size_t part = strcspn(rest, "/");
    if (part > NAME_MAX || length + part + 2 > sizeof prefix) return;
    char name[NAME_MAX + 1];
    memcpy(name, rest, part);
    name[part] = '\0';
    add_interest(s, length > 0 ? prefix : "/", PARENT_EVENTS, name);
    prefix[length] = '/';
    memcpy(prefix + length + 1, name, part + 1);
    char target[PATH_MAX];
    ssize_t got = readlink(prefix, target, sizeof target - 1);
    if (got > 0 && links < MAX_LINKS) {
      target[got] = '\0';
      char *joined = target[0] == '/' ? bq_strdup(target) : bq_format("%.*s/%s", (int)length, prefix, target);
      if (joined != NULL) scan_parents(s, joined, links + 1);
      else s->full = 1;
      bq_free(joined);
    }
    length += part + 1;
    rest += part;
    while (*rest == '/') rest++;
  }
}

static int scan_all(const bq_watch *watch, scan *s, bq_error *err) {
  *s = (scan){.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)};
  if (s->fd < 0) return bq_fail_errno(err, errno, "can't watch scripts and templates (inotify)");
  for (size_t i = 0; i < watch->root_count; i++) {
    const char *root = watch->roots[i];
    // A descriptor's path stands for a directory that was opened before root was given up: it has no parents.
    if (strncmp(root, "/proc/", 6) != 0) scan_parents(s, root, 0);
    scan_tree(s, root, 0);
  }
  return 0;
}

static int concerns(const scan *s, const struct inotify_event *event) {
  if ((event->mask & IN_Q_OVERFLOW) != 0) return 1;
  if ((event->mask & IN_IGNORED) != 0) return 0;
  for (size_t i = 0; i < s->count; i++) {
    if (s->interests[i].wd != event->wd) continue;
    if (s->interests[i].name == NULL) return 1;
    if (event->len > 0 && strcmp(s->interests[i].name, event->name) == 0) return 1;
  }
  return 0;
}

static void note_change(bq_watch *watch) {
  if (watch->scanning) {
    watch->dirty = 1;
    return;
  }
  int64_t now = bq_clock_mono_us();
  if (watch->first_us == 0) watch->first_us = now;
  int64_t left_ms = watch->longest_ms - (now - watch->first_us) / 1000;
  bq_timer_set(watch->timer, left_ms < watch->quiet_ms ? left_ms : watch->quiet_ms);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  bq_watch *watch = arg;
  _Alignas(struct inotify_event) char bytes[16384];
  int changed = 0;
  ssize_t got;
  while ((got = read(fd, bytes, sizeof bytes)) > 0) {
    for (char *at = bytes; at < bytes + got;) {
      const struct inotify_event *event = (const struct inotify_event *)(void *)at;
      changed |= concerns(&watch->current, event);
      at += sizeof *event + event->len;
    }
  }
  if (changed) note_change(watch);
}

static void release(bq_watch *watch) {
  if (watch->event != NULL) event_free(watch->event);
  bq_timer_free(watch->timer);
  scan_clear(&watch->current);
  scan_clear(&watch->next);
  for (size_t i = 0; i < watch->root_count && watch->roots != NULL; i++) bq_free(watch->roots[i]);
  bq_free(watch->roots);
  bq_free(watch);
}

static int adopt_scan(bq_watch *watch, scan *s, bq_error *err) {
  struct event *event = event_new(bq_loop_base(watch->loop), s->fd, EV_READ | EV_PERSIST, on_readable, watch);
  if (event == NULL || event_add(event, NULL) < 0) {
    if (event != NULL) event_free(event);
    return bq_fail(err, BQ_ENOMEM, "out of memory for watching scripts");
  }
  if (s->full) {
    bq_log(BQ_WARN, "too many directories to watch: some changes need SIGHUP to be noticed", "hint",
           "raise fs.inotify.max_user_watches", NULL);
  }
  if (watch->event != NULL) event_free(watch->event);
  watch->event = event;
  scan_clear(&watch->current);
  watch->current = *s;
  *s = (scan){.fd = -1};
  return 0;
}

static void scan_work(bq_task *task) {
  bq_watch *watch = (bq_watch *)task;
  bq_error err;
  if (scan_all(watch, &watch->next, &err) < 0) bq_log_error("a scan of the scripts failed", &err);
}

static void scan_done(bq_task *task) {
  bq_watch *watch = (bq_watch *)task;
  watch->scanning = 0;
  if (watch->freed) {
    release(watch);
    return;
  }
  bq_error err;
  // Without a new scan the old watches stay: they still see what they saw.
  if (watch->next.fd >= 0 && adopt_scan(watch, &watch->next, &err) < 0) bq_log_error("watching failed", &err);
  scan_clear(&watch->next);
  if (watch->dirty) {
    watch->dirty = 0;
    note_change(watch);
  }
  watch->changed(watch->arg);
}

static void on_quiet(void *arg) {
  bq_watch *watch = arg;
  watch->first_us = 0;
  bq_error err;
  // The new watches are made before the owner reads the files: a change after its reading can't go unseen.
  if (bq_pool_submit(watch->blocking, &watch->task, &err) < 0) {
    note_change(watch); // a full pool: later
    return;
  }
  watch->scanning = 1;
}

int bq_watch_new(bq_watch **out, bq_loop *loop, bq_pool *blocking, const bq_watch_options *options, bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_watch *watch = bq_alloc(sizeof *watch);
  if (watch == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for watching scripts");
  watch->task = (bq_task){.work = scan_work, .done = scan_done};
  watch->loop = loop;
  watch->blocking = blocking;
  watch->quiet_ms = options->quiet_ms;
  watch->longest_ms = options->longest_ms;
  watch->changed = options->changed;
  watch->arg = options->arg;
  watch->current.fd = watch->next.fd = -1;
  scan first = {.fd = -1};
  watch->roots = bq_alloc_array(options->root_count, sizeof watch->roots[0]);
  if (watch->roots == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for watching scripts");
    goto cleanup;
  }
  for (; watch->root_count < options->root_count; watch->root_count++) {
    watch->roots[watch->root_count] = bq_strdup(options->roots[watch->root_count]);
    if (watch->roots[watch->root_count] == NULL) {
      result = bq_fail(err, BQ_ENOMEM, "out of memory for watching scripts");
      goto cleanup;
    }
  }
  result = bq_timer_new(&watch->timer, loop, on_quiet, watch, err);
  if (result == 0) result = scan_all(watch, &first, err);
  if (result == 0) result = adopt_scan(watch, &first, err);
  if (result == 0) {
    *out = watch;
    watch = NULL;
  }
cleanup:
  scan_clear(&first);
  if (watch != NULL) release(watch);
  return result;
}

void bq_watch_free(bq_watch *watch) {
  if (watch == NULL) return;
  if (watch->scanning) watch->freed = 1;
  else release(watch);
}
