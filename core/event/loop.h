// The event loop: one libevent base, run by the main thread. Nothing that runs on it may block or compute for long.
//
// Thread rule: everything here belongs to the loop's thread, except bq_loop_post.
#ifndef BQ_EVENT_LOOP_H
#define BQ_EVENT_LOOP_H

#include <stdint.h>

#include "base/error.h"

struct event_base;
typedef struct bq_loop bq_loop;

int bq_loop_new(bq_loop **out, bq_error *err) BQ_MUSTCHECK;
void bq_loop_free(bq_loop *loop); // after bq_loop_run has returned and every pool is freed
struct event_base *bq_loop_base(bq_loop *loop);

// Runs until bq_loop_stop. Items posted before the stop are still run.
int bq_loop_run(bq_loop *loop, bq_error *err) BQ_MUSTCHECK;
void bq_loop_stop(bq_loop *loop);

// A piece of work handed to the loop. Embed it in your own struct: posting allocates nothing and can't fail.
// It must stay alive until `run` is called and must not be posted twice meanwhile.
typedef struct bq_post {
  void (*run)(struct bq_post *post); // on the loop's thread
  struct bq_post *next;              // the loop's own while posted
} bq_post;

// Any thread. Items run in the order they were posted, on a later turn of the loop (never inside this call).
void bq_loop_post(bq_loop *loop, bq_post *post);

// Loop thread. Takes out the oldest posted item that has not run yet and for which `match` returns non-zero: whoever
// posted it is being freed and settles it. Returns NULL when there is none.
typedef int (*bq_post_match)(const bq_post *post, const void *arg);
bq_post *bq_loop_take_back(bq_loop *loop, bq_post_match match, const void *arg);

// How many items have run so far, and whether none waits now: all work of fibers and pools passes through here, so that
// an equal count later, with none waiting, tells that nothing has happened meanwhile.
uint64_t bq_loop_ran(bq_loop *loop, int *idle);

// A one-shot timer; set it again to repeat.
typedef struct bq_timer bq_timer;
typedef void (*bq_timer_fn)(void *arg);
int bq_timer_new(bq_timer **out, bq_loop *loop, bq_timer_fn fn, void *arg, bq_error *err) BQ_MUSTCHECK;
void bq_timer_set(bq_timer *timer, int64_t delay_ms); // replaces an earlier setting
void bq_timer_clear(bq_timer *timer);
void bq_timer_free(bq_timer *timer); // NULL is fine; also from inside its own function

// A timer that follows the clock: what scripts wait for (sleep, limits of commands and builds), which a test's virtual
// clock makes pass. Said once, before it is first set.
void bq_timer_follow_clock(bq_timer *timer);
// After bq_clock_shift: what follows the clock and is due by now runs on the next turn.
void bq_loop_look_at_clock(bq_loop *loop);
// When the next timer that follows the clock is due, in ms from now, rounded up; -1: none is set.
int64_t bq_loop_next_ms(const bq_loop *loop);

#endif
