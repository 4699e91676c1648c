// The rehearsal's queue takes builds in the order of the claim statement, on a real PostgreSQL; and what its counts
// are.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "queue/rehearse_facts.h"
#include "queue/rehearse_heap.h"
#include "sql_test.h"

enum { BUILDS = 400, ROUNDS = 5, MOMENTS = 12 };

static const char node[] = "11111111-0000-7000-8000-000000000001";

static sql_fixture fixture;

static void heap_gives_the_smallest_and_keeps_the_order_of_equals(void **state) {
  (void)state;
  bq_heap heap = {0};
  bq_error err;
  for (uint64_t i = 0; i < 5000; i++) {
    int64_t rank = (int64_t)(i * 2654435761u % 97) - 40;
    assert_int_equal(bq_heap_add(&heap, rank, rank * 2, i, &err), 0);
    if (i % 3 == 0) bq_heap_pop(&heap);
  }
  bq_heap_entry last = *bq_heap_top(&heap);
  for (bq_heap_pop(&heap); bq_heap_top(&heap) != NULL; bq_heap_pop(&heap)) {
    const bq_heap_entry *top = bq_heap_top(&heap);
    assert_true(top->rank > last.rank || (top->rank == last.rank && top->item > last.item));
    assert_int_equal(top->value, top->rank * 2);
    last = *top;
  }
  bq_heap_free(&heap);
}

// A row with a key of its own; its id ends in `number`. `due_s` seconds after the first moment, -1: at once.
static void insert_pending(PGconn *pg, bq_due *due, uint64_t number, int64_t key, int due_s) {
  bq_error err;
  char *run_after = due_s < 0 ? bq_strdup("null") : bq_format("timestamptz '2026-01-01Z' + interval '%d s'", due_s);
  char *sql = bq_format(
      "insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name, manifest_path, "
      "tier, architecture, cloud_provider, claim_key, run_after) values ('00000000-0000-7000-8000-%012llu', 'c', 'C', "
      "'c@x', 'm', 'm.json', 'pro', 'x', 'aws', %lld, %s)",
      (unsigned long long)number, (long long)key, run_after);
  sql_do(pg, sql);
  assert_int_equal(bq_due_add(due, key, due_s < 0 ? 0 : due_s, number, &err), 0);
  bq_free(sql);
  bq_free(run_after);
}

// The next `count` by the server's own statement and by the heap are the same.
static void claim_alike(PGconn *pg, bq_due *due, int now_s, int count) {
  char limit[16];
  bq_error err;
  char *now = bq_format("set buildq.now = '2026-01-01T00:%02d:%02dZ'", now_s / 60, now_s % 60);
  (void)snprintf(limit, sizeof limit, "%d", count);
  const char *params[] = {node, limit, "-9223372036854775808", "g"};
  sql_do(pg, now);
  const bq_statement *claim = bq_statements_find(fixture.statements, "claim");
  PGresult *rows = PQexecParams(pg, claim->text, 4, NULL, params, NULL, NULL, 0);
  if (PQresultStatus(rows) != PGRES_TUPLES_OK) fail_msg("%s", PQerrorMessage(pg));
  for (int i = 0; i < count; i++) {
    int64_t key;
    uint64_t item;
    char id[40];
    int taken = bq_due_take(due, now_s, &key, &item, &err);
    assert_int_equal(taken, i < PQntuples(rows));
    if (!taken) break;
    (void)snprintf(id, sizeof id, "8000-%012llu", (unsigned long long)item);
    if (strstr(PQgetvalue(rows, i, 0), id) == NULL) {
      fail_msg("at %d s, row %d: the heap takes %s (key %lld), SQL %s", now_s, i, id, (long long)key,
               PQgetvalue(rows, i, 0));
    }
  }
  PQclear(rows);
  bq_free(now);
}

// Random keys, negative ones too, no two alike (SQL leaves those open); a third waits for its time; claims of all sizes
// while more come.
static void heap_and_claim_take_the_same_builds_in_the_same_order(void **state) {
  (void)state;
  char *conninfo = sql_create(&fixture, NULL);
  sql_migrate(&fixture, conninfo);
  PGconn *pg = sql_connect(conninfo);
  sql_do(pg, "insert into nodes (id, name, url, version, slots, lease_seconds) "
             "values ('11111111-0000-7000-8000-000000000001', 'n', 'http://n', '1', 10, 30)");
  srand(20261124);
  for (int round = 0; round < ROUNDS; round++) {
    bq_due due = {0};
    sql_do(pg, "delete from build_queue");
    sql_do(pg, "delete from build_events");
    uint64_t number = 0;
    for (int moment = 0; moment < MOMENTS; moment++) {
      for (int i = 0; i < BUILDS / MOMENTS; i++) {
        int64_t key = ((int64_t)(rand() % 9) - 2) * (INT64_C(1) << 58) + (int64_t)rand() * BUILDS + (int64_t)number + 1;
        insert_pending(pg, &due, ++number, key, rand() % 3 == 0 ? rand() % (MOMENTS * 20) : -1);
      }
      claim_alike(pg, &due, moment * 20, 1 + rand() % (2 * BUILDS / MOMENTS));
    }
    claim_alike(pg, &due, MOMENTS * 20, BUILDS);
    assert_int_equal(bq_due_next(&due), INT64_MAX);
    sql_expect(pg, "select count(*) from build_queue where status = 'pending'", "0");
    bq_due_free(&due);
  }
  PQfinish(pg);
  bq_free(conninfo);
}

static int nothing_is_pending(void *arg, uint64_t item) {
  (void)arg, (void)item;
  return 0;
}

// Days and months as PostgreSQL has them, over leap years and centuries.
static void counts_begin_anew_with_the_day_and_the_month(void **state) {
  (void)state;
  static const char sql[] =
      "select string_agg((extract(epoch from d) * 1000000)::bigint::text || ' ' || to_char(d, 'DD MM'), E'\\n' "
      "order by d) from generate_series(timestamp '1999-11-01', timestamp '2104-04-01', interval '7 days 7 hours') d";
  bq_census census;
  bq_error err;
  const bq_placement place = {.priority = 1};
  char *conninfo = sql_create(&fixture, NULL);
  PGconn *pg = sql_connect(conninfo);
  char *all = sql_ask(pg, sql);
  char *rest = NULL;
  int last_day = -1;
  int last_month = -1;
  int64_t today = 0;
  int64_t month = 0;
  assert_int_equal(bq_census_init(&census, NULL, 1, 1, &err), 0);
  for (char *line = strtok_r(all, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    long long now_us;
    int day;
    int month_number;
    assert_int_equal(sscanf(line, "%lld %d %d", &now_us, &day, &month_number), 3);
    today = day == last_day ? today + 1 : 1;
    month = month_number == last_month ? month + 1 : 1;
    bq_census_accept(&census, 0, 0, now_us, &place);
    if (census.customers[0].today != today || census.tiers[0].in_month != month) fail_msg("%s", line);
    last_day = day;
    last_month = month_number;
  }
  json_t *facts = bq_census_facts(&census, 0, 0, 1, nothing_is_pending, NULL);
  assert_int_equal(json_object_size(facts), 1); // nobody asks for more than the time
  json_decref(facts);
  bq_census_clear(&census);
  bq_free(all);
  PQfinish(pg);
  bq_free(conninfo);
}

static int start(void **state) {
  (void)state;
  return sql_start(&fixture);
}

static int stop(void **state) {
  (void)state;
  return sql_stop(&fixture);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(heap_gives_the_smallest_and_keeps_the_order_of_equals),
      cmocka_unit_test(heap_and_claim_take_the_same_builds_in_the_same_order),
      cmocka_unit_test(counts_begin_anew_with_the_day_and_the_month),
  };
  sql_prepare(&fixture);
  return cmocka_run_group_tests(tests, start, stop);
}
