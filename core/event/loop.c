#include "event/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

struct bq_loop {
  struct event_base *base; // owned
  struct event *wake;      // owned; readable when other threads have posted
  int wake_fd;             // owned eventfd
  pthread_mutex_t lock;    // guards first, last
  bq_post *first;          // queue of posted items, oldest first
  bq_post *last;
  bq_post *due;            // those of this turn that are still to run; the loop thread's
  uint64_t ran;            // items, so far; the loop thread's
  bq_timer *following;     // those set that follow the clock, in no order
};

struct bq_timer {
  struct event *event; // owned
  bq_timer_fn fn;
  void *arg;
  bq_loop *loop;       // borrowed
  int follows;         // the clock: see bq_timer_follow_clock
  int64_t due_us;      // bq_clock_mono_us; 0: not set. Kept for those that follow
  bq_timer *next;      // in loop->following …
  bq_timer **link;     // … and what points to it there
};

static void run_posts(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  bq_loop *loop = arg;
  uint64_t count;
  if (read(fd, &count, sizeof count) < 0) { /* EAGAIN: an earlier turn has taken the count */ }
  pthread_mutex_lock(&loop->lock);
  loop->due = loop->first;
  loop->first = loop->last = NULL;
  pthread_mutex_unlock(&loop->lock);
  for (bq_post *post; (post = loop->due) != NULL;) {
    loop->due = post->next;
    post->next = NULL;
    loop->ran++;
    post->run(post);
  }
}

int bq_loop_new(bq_loop **out, bq_error *err) {
  *out = NULL;
  int result = 0;
  bq_loop *loop = bq_alloc(sizeof *loop);
  if (loop == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the event loop");
  loop->wake_fd = -1;
  (void)pthread_mutex_init(&loop->lock, NULL);
  loop->base = event_base_new();
  if (loop->base == NULL) {
    result = bq_fail(err, BQ_EIO, "can't create the event loop");
    goto cleanup;
  }
  loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (loop->wake_fd < 0) {
    result = bq_fail_errno(err, errno, "can't create the event loop's eventfd");
    goto cleanup;
  }
  loop->wake = event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, run_posts, loop);
  if (loop->wake == NULL || event_add(loop->wake, NULL) < 0) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for the event loop");
    goto cleanup;
  }
  *out = loop;
  loop = NULL;
cleanup:
  bq_loop_free(loop);
  return result;
}

void bq_loop_free(bq_loop *loop) {
  if (loop == NULL) return;
  if (loop->wake != NULL) event_free(loop->wake);
  if (loop->wake_fd >= 0) close(loop->wake_fd);
  if (loop->base != NULL) event_base_free(loop->base);
  pthread_mutex_destroy(&loop->lock);
  bq_free(loop);
}

struct event_base *bq_loop_base(bq_loop *loop) {
  return loop->base;
}

int bq_loop_run(bq_loop *loop, bq_error *err) {
  if (event_base_dispatch(loop->base) < 0) return bq_fail(err, BQ_EIO, "the event loop failed");
  return 0;
}

void bq_loop_stop(bq_loop *loop) {
  // At once, in the middle of a turn, when there is no memory for an orderly end of it.
  if (event_base_loopexit(loop->base, NULL) < 0) (void)event_base_loopbreak(loop->base);
}

void bq_loop_post(bq_loop *loop, bq_post *post) {
  post->next = NULL;
  pthread_mutex_lock(&loop->lock);
  int was_empty = loop->first == NULL;
  if (was_empty) loop->first = post;
  else loop->last->next = post;
  loop->last = post;
  pthread_mutex_unlock(&loop->lock);
  uint64_t one = 1;
  // Can only fail when the counter is full, and then the loop is awake already.
  if (was_empty && write(loop->wake_fd, &one, sizeof one) < 0) { /* see above */ }
}

// Unlinks the oldest item of the list at `link` that matches.
static bq_post *take_matching(bq_post **link, bq_post_match match, const void *arg) {
  for (; *link != NULL; link = &(*link)->next) {
    bq_post *post = *link;
    if (!match(post, arg)) continue;
    *link = post->next;
    post->next = NULL;
    return post;
  }
  return NULL;
}

bq_post *bq_loop_take_back(bq_loop *loop, bq_post_match match, const void *arg) {
  bq_post *post = take_matching(&loop->due, match, arg);
  if (post != NULL) return post;
  pthread_mutex_lock(&loop->lock);
  post = take_matching(&loop->first, match, arg);
  loop->last = loop->first;
  while (loop->last != NULL && loop->last->next != NULL) loop->last = loop->last->next;
  pthread_mutex_unlock(&loop->lock);
  return post;
}

uint64_t bq_loop_ran(bq_loop *loop, int *idle) {
  pthread_mutex_lock(&loop->lock);
  *idle = loop->first == NULL;
  pthread_mutex_unlock(&loop->lock);
  return loop->ran;
}

static void unlink_timer(bq_timer *timer) {
  if (timer->due_us == 0) return;
  timer->due_us = 0;
  *timer->link = timer->next;
  if (timer->next != NULL) timer->next->link = timer->link;
}

static void link_timer(bq_timer *timer, int64_t due_us) {
  timer->due_us = due_us;
  timer->link = &timer->loop->following;
  timer->next = timer->loop->following;
  if (timer->next != NULL) timer->next->link = &timer->next;
  timer->loop->following = timer;
}

static void run_timer(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  bq_timer *timer = arg;
  unlink_timer(timer);
  timer->fn(timer->arg);
}

int bq_timer_new(bq_timer **out, bq_loop *loop, bq_timer_fn fn, void *arg, bq_error *err) {
  *out = NULL;
  bq_timer *timer = bq_alloc(sizeof *timer);
  if (timer == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a timer");
  timer->fn = fn;
  timer->arg = arg;
  timer->loop = loop;
  timer->event = event_new(loop->base, -1, 0, run_timer, timer);
  if (timer->event == NULL) {
    bq_free(timer);
    return bq_fail(err, BQ_ENOMEM, "out of memory for a timer");
  }
  *out = timer;
  return 0;
}

static void arm(bq_timer *timer, int64_t delay_ms) {
  struct timeval delay = {.tv_sec = delay_ms / 1000, .tv_usec = delay_ms % 1000 * 1000};
  (void)event_add(timer->event, &delay); // fails only without memory; the janitor does not depend on one timer
}

void bq_timer_set(bq_timer *timer, int64_t delay_ms) {
  if (delay_ms < 0) delay_ms = 0;
  unlink_timer(timer);
  if (timer->follows) link_timer(timer, bq_clock_mono_us() + delay_ms * 1000);
  arm(timer, delay_ms);
}

void bq_timer_clear(bq_timer *timer) {
  unlink_timer(timer);
  (void)event_del(timer->event);
}

void bq_timer_free(bq_timer *timer) {
  if (timer == NULL) return;
  unlink_timer(timer);
  event_free(timer->event);
  bq_free(timer);
}

void bq_timer_follow_clock(bq_timer *timer) {
  timer->follows = 1;
}

static int64_t left_ms(const bq_timer *timer) {
  int64_t left_us = timer->due_us - bq_clock_mono_us();
  return left_us > 0 ? (left_us + 999) / 1000 : 0;
}

void bq_loop_look_at_clock(bq_loop *loop) {
  for (bq_timer *timer = loop->following; timer != NULL; timer = timer->next) arm(timer, left_ms(timer));
}

int64_t bq_loop_next_ms(const bq_loop *loop) {
  int64_t next_ms = -1;
  for (const bq_timer *timer = loop->following; timer != NULL; timer = timer->next) {
    int64_t wait_ms = left_ms(timer);
    if (next_ms < 0 || wait_ms < next_ms) next_ms = wait_ms;
  }
  return next_ms;
}
