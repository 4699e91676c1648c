#include "lua/watchdog.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "lua/vm_state.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid // glibc names it from 2.38 on
#endif

enum { PERIOD_US = 2000 };

// What a signal handler finds can only be static. All of it belongs to one thread, but for the key.
static _Thread_local bq_vm *volatile watched; // whose slice runs; NULL: none
static _Thread_local int state;               // 0: not tried yet, 1: the timer runs, -1: there is none
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t timer_key; // its destructor deletes a thread's timer
static int usable;              // the handler and the key are there

// In the middle of anything that the slice does. lua_sethook is what Lua allows here.
static void on_signal(int number) {
  (void)number;
  bq_vm *vm = watched;
  if (vm != NULL) bq_hook_ask(vm);
}

static void delete_timer(void *timer) {
  (void)timer_delete((timer_t)timer);
}

static void set_up(void) {
#ifndef __SANITIZE_THREAD__
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  (void)sigemptyset(&action.sa_mask);
  if (sigaction(SIGRTMIN, &action, NULL) < 0) return;
  usable = pthread_key_create(&timer_key, delete_timer) == 0;
#endif
}

static int start_timer(void) {
  (void)pthread_once(&once, set_up);
  if (!usable) return -1;
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
  event.sigev_notify_thread_id = gettid();
  if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) < 0) return -1;
  const struct itimerspec period = {.it_interval.tv_nsec = PERIOD_US * 1000, .it_value.tv_nsec = PERIOD_US * 1000};
  sigset_t mine;
  (void)sigemptyset(&mine);
  (void)sigaddset(&mine, SIGRTMIN);
  if (pthread_setspecific(timer_key, timer) != 0 || pthread_sigmask(SIG_UNBLOCK, &mine, NULL) != 0 ||
      timer_settime(timer, 0, &period, NULL) < 0) {
    (void)pthread_setspecific(timer_key, NULL);
    (void)timer_delete(timer);
    return -1;
  }
  return 1;
}

int bq_watchdog_begin(bq_vm *vm, bq_vm **outer) {
  if (state == 0) state = start_timer();
  *outer = watched;
  watched = vm;
  return state > 0;
}

void bq_watchdog_end(bq_vm *outer) {
  watched = outer;
}
