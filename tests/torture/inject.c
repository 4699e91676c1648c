#include "inject.h"

#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
  OWN_FRAMES = 2,  // torture_strikes and the function of calls.c
  FRAMES = 10,     // of the program, innermost first: they make a place
  ALL_FRAMES = 48, // with those of libraries between them
  NAME_BYTES = 32,
  PLACES = 16384,
  LOOK_MS = 2 // how often the file is looked at for a wanted search for leaks
};

// A place is a function that was called and who called it. control.lua reads these as they lie here.
typedef struct place {
  _Atomic uint64_t hash; // 0: free
  _Atomic uint64_t calls;
  uint64_t class;
  char name[NAME_BYTES];
  uint64_t frames[FRAMES]; // return addresses; 0 at the end
} place;

typedef struct control {
  _Atomic uint64_t armed;  // 1: calls are counted, and fail as is said below
  _Atomic uint64_t hash;   // the place whose calls fail; 0: any
  _Atomic uint64_t class;  // likewise; TORTURE_CLASSES: any
  _Atomic uint64_t nth;    // the first of them that fails, from 1; 0: none
  _Atomic uint64_t times;  // how many fail from there on
  _Atomic uint64_t seen;   // how many there were
  _Atomic uint64_t failed; // how many of them have failed
  _Atomic uint64_t leaks_wanted, leaks_searched; // raised by run.lua; follows when the search is over
  _Atomic uint64_t leaks;                        // whether it found any
  _Atomic uint64_t unplaced;                     // calls without a place: the table is full
  uint64_t struck[FRAMES];                       // the callers of the last that failed
  place places[PLACES];
} control;

extern char __executable_start, etext; // the linker's: the program's own code lies between
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static control *shared;
_Thread_local int torture_busy; // what finds the callers allocates, too

// The callers that are our own code: the others lie elsewhere in each process.
static void find_callers(uint64_t *frames) {
  void *all[ALL_FRAMES];
  int count = backtrace(all, ALL_FRAMES);
  int kept = 0;
  for (int i = OWN_FRAMES; i < count && kept < FRAMES; i++) {
    const char *at = all[i];
    if (at >= &__executable_start && at < &etext) frames[kept++] = (uint64_t)(uintptr_t)at;
  }
}

static uint64_t hash_of(const char *name, const uint64_t *frames) {
  uint64_t hash = 14695981039346656037u; // FNV-1a
  for (; *name != '\0'; name++) hash = (hash ^ (unsigned char)*name) * 1099511628211u;
  for (int i = 0; i < FRAMES; i++) hash = (hash ^ frames[i]) * 1099511628211u;
  return hash != 0 ? hash : 1;
}

static void count(uint64_t hash, torture_class class, const char *name, const uint64_t *frames) {
  for (uint64_t i = 0; i < PLACES; i++) {
    place *at = &shared->places[(hash + i) % PLACES];
    uint64_t found = 0;
    if (atomic_compare_exchange_strong(&at->hash, &found, hash)) {
      at->class = class;
      (void)snprintf(at->name, sizeof at->name, "%s", name);
      memcpy(at->frames, frames, sizeof at->frames);
      found = hash;
    }
    if (found != hash) continue;
    atomic_fetch_add(&at->calls, 1);
    return;
  }
  atomic_fetch_add(&shared->unplaced, 1);
}

static int is_next(uint64_t hash) {
  uint64_t wanted = atomic_load(&shared->hash);
  if (wanted != 0 && wanted != hash) return 0;
  uint64_t number = atomic_fetch_add(&shared->seen, 1) + 1;
  uint64_t nth = atomic_load(&shared->nth);
  if (nth == 0 || number < nth || number >= nth + atomic_load(&shared->times)) return 0;
  atomic_fetch_add(&shared->failed, 1);
  return 1;
}

// Counting takes a while: only what is to be known is counted, everything as long as nothing is to fail.
static int concerns(torture_class class) {
  if (shared == NULL || torture_busy || !atomic_load(&shared->armed)) return 0;
  uint64_t wanted = atomic_load(&shared->class);
  return wanted == TORTURE_CLASSES || wanted == class;
}

__attribute__((noinline)) int torture_strikes(torture_class class, const char *name) {
  if (!concerns(class)) return 0;
  torture_busy++;
  uint64_t frames[FRAMES] = {0};
  find_callers(frames);
  uint64_t hash = hash_of(name, frames);
  count(hash, class, name, frames);
  torture_busy--;
  if (!is_next(hash)) return 0;
  memcpy(shared->struck, frames, sizeof frames);
  return 1;
}

__attribute__((noinline)) int torture_strikes_often(torture_class class, const char *name) {
  static const uint64_t nobody[FRAMES];
  if (!concerns(class)) return 0;
  uint64_t hash = hash_of(name, nobody);
  count(hash, class, name, nobody);
  if (!is_next(hash)) return 0;
  torture_busy++;
  uint64_t frames[FRAMES] = {0};
  find_callers(frames);
  torture_busy--;
  memcpy(shared->struck, frames, sizeof frames);
  return 1;
}

// Searches for leaks whenever run.lua wants it; what it finds is on standard error.
static void *search_leaks(void *arg) {
  (void)arg;
  const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
  for (;;) {
    uint64_t wanted = atomic_load(&shared->leaks_wanted);
    if (wanted != atomic_load(&shared->leaks_searched)) {
      atomic_store(&shared->leaks, (uint64_t)(__lsan_do_recoverable_leak_check() != 0));
      atomic_store(&shared->leaks_searched, wanted);
    }
    (void)nanosleep(&pause, NULL);
  }
  return NULL;
}

int __real_open64(const char *path, int flags, ...);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

static void start_searcher(void) {
  if (__lsan_do_recoverable_leak_check == NULL) return;
  pthread_t thread;
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before); // signals are for the program's threads
  if (__real_pthread_create(&thread, NULL, search_leaks, NULL) == 0) (void)pthread_detach(thread);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("BUILDQ_TORTURE");
  if (path == NULL) return;
  int fd = __real_open64(path, O_RDWR | O_CLOEXEC);
  void *memory = fd >= 0 ? mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (memory == MAP_FAILED) {
    perror(path);
    _exit(2);
  }
  (void)close(fd);
  void *warm[1];
  (void)backtrace(warm, 1); // the first call loads a library
  shared = memory;
  start_searcher();
}
