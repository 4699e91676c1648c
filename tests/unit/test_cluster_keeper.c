// How often the private PostgreSQL is started again.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "queue/cluster_keeper.h"

static void starts_a_few_times_a_minute(void **state) {
  (void)state;
  int64_t at_ms = 0;
  unsigned starts = 0;
  while (at_ms + bq_cluster_keeper_pause_ms(starts) <= 60000) at_ms += bq_cluster_keeper_pause_ms(starts++);
  assert_in_range(starts, 3, 5);
  assert_true(bq_cluster_keeper_pause_ms(0) < 1000); // the first one at once
  for (unsigned failures = 1; failures < 100; failures++) {
    assert_true(bq_cluster_keeper_pause_ms(failures) >= bq_cluster_keeper_pause_ms(failures - 1));
  }
  assert_int_equal(bq_cluster_keeper_pause_ms(UINT32_MAX), 30000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(starts_a_few_times_a_minute)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
