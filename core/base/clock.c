#include "base/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

static int64_t read_clock(clockid_t id) {
  struct timespec now;
  (void)clock_gettime(id, &now); // can't fail: all these ids exist on every Linux
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t real_mono(void) {
  return read_clock(CLOCK_MONOTONIC);
}

static bq_clock_fn mono = real_mono;
static _Atomic int64_t shift_us;

void bq_clock_replace_mono(bq_clock_fn replacement) {
  mono = replacement != NULL ? replacement : real_mono;
}

int64_t bq_clock_mono_us(void) {
  return mono() + atomic_load_explicit(&shift_us, memory_order_relaxed);
}

int64_t bq_clock_boot_us(void) {
  return read_clock(CLOCK_BOOTTIME) + atomic_load_explicit(&shift_us, memory_order_relaxed);
}

int64_t bq_clock_wall_us(void) {
  return read_clock(CLOCK_REALTIME) + atomic_load_explicit(&shift_us, memory_order_relaxed);
}

void bq_clock_shift(int64_t us) {
  atomic_fetch_add(&shift_us, us);
}

int64_t bq_clock_shifted(void) {
  return atomic_load(&shift_us);
}

void bq_clock_format(int64_t wall_us, char out[BQ_CLOCK_TEXT_SIZE]) {
  time_t seconds = (time_t)(wall_us / 1000000);
  struct tm utc;
  char day[20] = "";
  (void)gmtime_r(&seconds, &utc);
  (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
  (void)snprintf(out, BQ_CLOCK_TEXT_SIZE, "%.19s.%03uZ", day, (unsigned)(wall_us / 1000 % 1000) % 1000U);
}
