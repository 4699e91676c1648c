// The worker pool's end: every task that was taken is settled, also when the loop does not run any more.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <semaphore.h>

#include "event/pool.h"

typedef struct job {
  bq_task task;
  sem_t *worked; // posted by the worker
  int done;      // times that `done` ran
} job;

typedef struct fixture {
  bq_loop *loop;
  bq_pool *pool;
  sem_t worked;
} fixture;

static void work(bq_task *task) {
  sem_post(((job *)task)->worked);
}

static void done(bq_task *task) {
  ((job *)task)->done++;
}

static int set_up(void **state) {
  static fixture f;
  bq_error err;
  f = (fixture){0};
  assert_int_equal(sem_init(&f.worked, 0, 0), 0);
  assert_int_equal(bq_loop_new(&f.loop, &err), 0);
  assert_int_equal(bq_pool_new(&f.pool, f.loop, "test", 1, 8, &err), 0);
  *state = &f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  bq_pool_free(f->pool);
  bq_loop_free(f->loop);
  sem_destroy(&f->worked);
  return 0;
}

static job submitted(fixture *f) {
  return (job){.task = {.work = work, .done = done}, .worked = &f->worked};
}

static void wait_for_work(fixture *f, int count) {
  for (int i = 0; i < count; i++) assert_int_equal(sem_wait(&f->worked), 0);
}

static void the_end_settles_what_the_loop_has_not_seen(void **state) {
  fixture *f = *state;
  bq_error err;
  job first = submitted(f), second = submitted(f);
  assert_int_equal(bq_pool_submit(f->pool, &first.task, &err), 0);
  assert_int_equal(bq_pool_submit(f->pool, &second.task, &err), 0);
  wait_for_work(f, 2); // the only worker has handed the first one back before it took the second
  assert_int_equal(first.done, 0);
  bq_pool_free(f->pool);
  f->pool = NULL;
  assert_int_equal(first.done, 1);
  assert_int_equal(second.done, 1);
  int idle;
  (void)bq_loop_ran(f->loop, &idle);
  assert_true(idle); // nothing of the pool is left behind
}

typedef struct owner {
  bq_post post;
  fixture *f;
  int ran;
} owner;

static void free_pool(bq_post *post) {
  owner *o = (owner *)post;
  o->ran++;
  bq_pool_free(o->f->pool);
  o->f->pool = NULL;
}

static void stop(bq_post *post) {
  owner *o = (owner *)post;
  o->ran++;
  bq_loop_stop(o->f->loop);
}

// The same turn of the loop would have run the task next: it is taken out, and what others have posted stays.
static void the_end_within_a_turn_takes_its_own_only(void **state) {
  fixture *f = *state;
  bq_error err;
  owner closing = {.post.run = free_pool, .f = f}, other = {.post.run = stop, .f = f};
  job early = submitted(f), late = submitted(f);
  bq_loop_post(f->loop, &closing.post);
  assert_int_equal(bq_pool_submit(f->pool, &early.task, &err), 0);
  assert_int_equal(bq_pool_submit(f->pool, &late.task, &err), 0);
  wait_for_work(f, 2);
  bq_loop_post(f->loop, &other.post);
  assert_int_equal(bq_loop_run(f->loop, &err), 0);
  assert_int_equal(closing.ran, 1);
  assert_int_equal(other.ran, 1);
  assert_int_equal(early.done, 1);
  assert_int_equal(late.done, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(the_end_settles_what_the_loop_has_not_seen, set_up, tear_down),
      cmocka_unit_test_setup_teardown(the_end_within_a_turn_takes_its_own_only, set_up, tear_down),
  };
  return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
