// Time in the core, in microseconds. Monotonic time for waiting, wall time for people, time since boot for what others
// hold us to.
//
// What the queue promises about time (due, lease, retention) is decided in SQL by buildq_now().
#ifndef BQ_BASE_CLOCK_H
#define BQ_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t bq_clock_mono_us(void); // since an arbitrary start; never goes back; stands still while the system is suspended
int64_t bq_clock_boot_us(void); // likewise, but goes on meanwhile
int64_t bq_clock_wall_us(void); // since 1970-01-01T00:00:00Z

// Writes "2026-11-23T21:36:17.123Z" (RFC 3339, milliseconds, UTC) and a NUL: 25 bytes.
#define BQ_CLOCK_TEXT_SIZE 25
void bq_clock_format(int64_t wall_us, char out[BQ_CLOCK_TEXT_SIZE]);

// Replaces the monotonic clock for a test of timeouts; NULL restores the real one.
typedef int64_t (*bq_clock_fn)(void);
void bq_clock_replace_mono(bq_clock_fn replacement);

// The virtual clock of `buildq test`: from now on all clocks are `us` (0 or more) later than before. Timers that
// follow the clock are told by bq_loop_look_at_clock. Any thread.
void bq_clock_shift(int64_t us);
int64_t bq_clock_shifted(void); // by how much in all, us

#endif
