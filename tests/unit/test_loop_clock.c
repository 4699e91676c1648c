// Timers that follow the clock, and the clock that a test sets forward.
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/loop.h"

typedef struct fixture {
  bq_loop *loop;
  bq_timer *following;
  bq_timer *plain;
  int followed; // how often it ran
  int ran;
} fixture;

static void on_following(void *arg) {
  fixture *f = arg;
  f->followed++;
  bq_loop_stop(f->loop);
}

static void on_plain(void *arg) {
  fixture *f = arg;
  f->ran++;
  bq_loop_stop(f->loop);
}

static int set_up(void **state) {
  static fixture f;
  bq_error err;
  f = (fixture){0};
  assert_int_equal(bq_loop_new(&f.loop, &err), 0);
  assert_int_equal(bq_timer_new(&f.following, f.loop, on_following, &f, &err), 0);
  assert_int_equal(bq_timer_new(&f.plain, f.loop, on_plain, &f, &err), 0);
  bq_timer_follow_clock(f.following);
  *state = &f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  bq_timer_free(f->following);
  bq_timer_free(f->plain);
  bq_loop_free(f->loop);
  return 0;
}

static void run(fixture *f) {
  bq_error err;
  assert_int_equal(bq_loop_run(f->loop, &err), 0);
}

static void shift_moves_all_clocks(void **state) {
  (void)state;
  int64_t mono = bq_clock_mono_us();
  int64_t boot = bq_clock_boot_us();
  int64_t wall = bq_clock_wall_us();
  int64_t shifted = bq_clock_shifted();
  bq_clock_shift(3600LL * 1000000);
  assert_in_range(bq_clock_mono_us() - mono, 3600LL * 1000000, 3660LL * 1000000);
  assert_in_range(bq_clock_boot_us() - boot, 3600LL * 1000000, 3660LL * 1000000);
  assert_in_range(bq_clock_wall_us() - wall, 3600LL * 1000000, 3660LL * 1000000);
  assert_int_equal(bq_clock_shifted() - shifted, 3600LL * 1000000);
}

// A process for which the system has been suspended for an hour, as far as a time namespace can pretend that. It ends
// with 0 when only the clock since boot knows of it; 2: there are no such namespaces here.
static int look_after_suspension(void) {
  static const char offset[] = "boottime 3600 0\n";
  int64_t since = bq_clock_boot_us() - bq_clock_mono_us();
  int status = 0;
  if (unshare(CLONE_NEWUSER | CLONE_NEWTIME) < 0) return 2;
  int fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, offset, sizeof offset - 1) < 0) return 2;
  pid_t child = fork(); // children are in it
  if (child == 0) _exit(bq_clock_boot_us() - bq_clock_mono_us() - since > 3590LL * 1000000 ? 0 : 1);
  if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status)) return 2;
  return WEXITSTATUS(status);
}

static void time_since_boot_counts_suspension(void **state) {
  (void)state;
  int status = 0;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) _exit(look_after_suspension());
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) skip();
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void following_timer_is_due_by_the_clock(void **state) {
  fixture *f = *state;
  bq_timer_set(f->following, 3600 * 1000);
  bq_timer_set(f->plain, 20);
  assert_in_range(bq_loop_next_ms(f->loop), 3590 * 1000, 3600 * 1000);
  bq_clock_shift(1800LL * 1000000);
  bq_loop_look_at_clock(f->loop);
  run(f); // only the plain one: half of the hour is left
  assert_int_equal(f->ran, 1);
  assert_int_equal(f->followed, 0);
  assert_in_range(bq_loop_next_ms(f->loop), 1700 * 1000, 1800 * 1000);
  bq_clock_shift(1800LL * 1000000);
  bq_loop_look_at_clock(f->loop);
  run(f);
  assert_int_equal(f->followed, 1);
  assert_int_equal(bq_loop_next_ms(f->loop), -1);
}

static void plain_timer_does_not_see_the_clock(void **state) {
  fixture *f = *state;
  bq_timer_set(f->plain, 3600 * 1000);
  assert_int_equal(bq_loop_next_ms(f->loop), -1);
  bq_clock_shift(7200LL * 1000000);
  bq_loop_look_at_clock(f->loop);
  bq_timer_set(f->following, 20);
  run(f);
  assert_int_equal(f->followed, 1);
  assert_int_equal(f->ran, 0);
}

static void cleared_and_freed_timers_are_forgotten(void **state) {
  fixture *f = *state;
  bq_error err;
  bq_timer *third;
  assert_int_equal(bq_timer_new(&third, f->loop, on_plain, f, &err), 0);
  bq_timer_follow_clock(third);
  bq_timer_set(f->following, 5000);
  bq_timer_set(third, 9000);
  bq_timer_set(f->following, 7000); // replaces
  assert_in_range(bq_loop_next_ms(f->loop), 6000, 7000);
  bq_timer_clear(f->following);
  assert_in_range(bq_loop_next_ms(f->loop), 8000, 9000);
  bq_timer_free(third);
  assert_int_equal(bq_loop_next_ms(f->loop), -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shift_moves_all_clocks),
      cmocka_unit_test(time_since_boot_counts_suspension),
      cmocka_unit_test_setup_teardown(following_timer_is_due_by_the_clock, set_up, tear_down),
      cmocka_unit_test_setup_teardown(plain_timer_does_not_see_the_clock, set_up, tear_down),
      cmocka_unit_test_setup_teardown(cleared_and_freed_timers_are_forgotten, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
