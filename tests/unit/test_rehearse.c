// The rehearsal's queue takes builds in the order of the claim statement, on a real PostgreSQL; and what its counts
// are.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "queue/facts.h"
#include "queue/rehearse_facts.h"
#include "queue/rehearse_heap.h"
#include "sql_test.h"

enum { BUILDS = 400, ROUNDS = 5, MOMENTS = 12, TWINS = 120 };

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
  const char *params[] = {node, limit, "-9223372036854775808", "g", "{}"};
  sql_do(pg, now);
  const bq_statement *claim = bq_statements_find(fixture.statements, "claim");
  PGresult *rows = PQexecParams(pg, claim->text, 5, NULL, params, NULL, NULL, 0);
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

// A queue that SQL and the census both see.
typedef struct twin {
  PGconn *pg;
  bq_census census;
  char statuses[TWINS]; // 'n' none yet, 'p' pending, 'r' running, 'e' ended
  int attempts[TWINS];
  int64_t tags[5][BQ_PRIORITIES]; // of each customer
  int64_t now_us;
  int count;
} twin;

static int customer_of(int n) {
  return n * 7 % 5;
}

static int tier_of(int n) {
  return n * 3 % 2;
}

static int priority_of(int n) {
  return n * 5 % 4;
}

static int twin_is_pending(void *arg, uint64_t item) {
  const twin *t = arg;
  return t->statuses[item] == 'p' && t->attempts[item] == 0;
}

static void twin_do(twin *t, char *sql) {
  sql_do(t->pg, sql);
  bq_free(sql);
}

static void twin_sleep(twin *t, int64_t us) {
  t->now_us += us;
  twin_do(t, bq_format("select set_config('buildq.now', (timestamptz 'epoch' + %lld * interval '1 us')::text, false)",
                       (long long)t->now_us));
}

static void twin_enqueue(twin *t) {
  int n = t->count++;
  int customer = customer_of(n);
  int priority = priority_of(n);
  int64_t start = t->tags[customer][priority] + rand() % 1000 + 1;
  bq_error err;
  const bq_placement place = {.priority = priority,
                              .key = ((int64_t)(3 - priority) << 58) + start,
                              .has_tag = 1,
                              .tag = start + 1000 + rand() % 1000};
  twin_do(t, bq_format("insert into build_queue (id, customer_id, customer_name, customer_email, configuration_name, "
                       "manifest_path, tier, architecture, cloud_provider, priority, claim_key, keyed_by, enqueued_at) "
                       "values ('00000000-0000-7000-8000-%012d', 'c%d', 'C', 'c@x', 'm', 'm', 't%d', 'x', 'a', %d, %lld, "
                       "'p', buildq_now())",
                       n, customer, tier_of(n), priority, (long long)place.key));
  twin_do(t, bq_format("insert into claim_tags (customer_id, priority, tag) values ('c%d', %d, %lld) on conflict "
                       "(customer_id, priority) do update set tag = excluded.tag",
                       customer, priority, (long long)place.tag));
  t->tags[customer][priority] = place.tag;
  t->statuses[n] = 'p';
  bq_census_accept(&t->census, (size_t)customer, (size_t)tier_of(n), t->now_us, &place);
  bq_census_wait(&t->census, (size_t)customer, priority, 1);
  assert_int_equal(bq_census_note_key(&t->census, place.key, (uint64_t)n, &err), 0);
}

// One that exists goes on: it is claimed, ends, or waits again after a failure.
static void twin_move(twin *t, int n) {
  size_t customer = (size_t)customer_of(n);
  const char *set = NULL;
  if (t->statuses[n] == 'p') {
    set = "status = 'building', attempt = attempt + 1";
    t->statuses[n] = 'r';
    t->attempts[n]++;
    bq_census_wait(&t->census, customer, priority_of(n), -1);
    bq_census_run(&t->census, customer, 1);
  } else if (t->statuses[n] == 'r') {
    int again = rand() % 3 == 0;
    set = again ? "status = 'pending', retry_count = retry_count + 1" : "status = 'success'";
    t->statuses[n] = again ? 'p' : 'e';
    bq_census_run(&t->census, customer, -1);
    if (again) bq_census_wait(&t->census, customer, priority_of(n), 1);
  }
  if (set != NULL) twin_do(t, bq_format("update build_queue set %s where id = '00000000-0000-7000-8000-%012d'", set, n));
}

static void twin_compare(twin *t, int customer, int tier) {
  char *sql = bq_format("select jsonb_build_array(buildq_counts(w, 'c%d', 't%d'), buildq_surroundings(w, 'p')) from "
                        "(select array['customer', 'customerUsage', 'tierUsage', 'tags', 'queue']) as names(w)",
                        customer, tier);
  char *answer = sql_ask(t->pg, sql);
  json_t *both = json_loads(answer, 0, NULL);
  json_t *expected = bq_facts_join(json_array_get(both, 0), json_array_get(both, 1), NULL, NULL);
  json_t *facts = bq_census_facts(&t->census, (size_t)customer, (size_t)tier, t->now_us, twin_is_pending, t);
  if (!json_equal(expected, facts)) {
    fail_msg("c%d, t%d: SQL says %s, the rehearsal %s", customer, tier, json_dumps(expected, 0), json_dumps(facts, 0));
  }
  json_decref(facts);
  json_decref(expected);
  json_decref(both);
  bq_free(answer);
  bq_free(sql);
}

static void facts_are_those_that_sql_counts(void **state) {
  (void)state;
  twin t = {.now_us = INT64_C(1772150400000000)}; // 2026-02-27
  bq_error err;
  char *conninfo = sql_create(&fixture, NULL);
  sql_migrate(&fixture, conninfo);
  t.pg = sql_connect(conninfo);
  assert_int_equal(bq_census_init(&t.census, NULL, 5, 2, &err), 0);
  t.census.wants = (bq_wanted){1, 1, 1, 1, 1};
  memset(t.statuses, 'n', sizeof t.statuses);
  srand(4);
  for (int step = 0; step < 3 * TWINS; step++) {
    twin_sleep(&t, INT64_C(1000000) * (rand() % 3600));
    if (t.count < TWINS && rand() % 3 == 0) twin_enqueue(&t);
    else if (t.count > 0) twin_move(&t, rand() % t.count);
    twin_compare(&t, rand() % 5, rand() % 2);
  }
  bq_census_clear(&t.census);
  PQfinish(t.pg);
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
      cmocka_unit_test(facts_are_those_that_sql_counts),
      cmocka_unit_test(counts_begin_anew_with_the_day_and_the_month),
  };
  sql_prepare(&fixture);
  return cmocka_run_group_tests(tests, start, stop);
}
