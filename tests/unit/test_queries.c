// The named statements and triggers: what the queue promises, on a real PostgreSQL, time by its virtual clock.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/log.h"
#include "query_test.h"

// Claims -----------------------------------------------------------------------------------------------------------

typedef struct claimer {
  int starts[200]; // how often this one started build n
  char failure[200];
} claimer;

static void *claim_all(void *arg) {
  claimer *c = arg;
  PGconn *own = PQconnectdb(conninfo);
  const char *params[] = {NODE, "7", "0", "gen-1", "{}"};
  const char *text = bq_statements_find(fixture.statements, "claim")->text;
  int left = 1;
  while (left) {
    PGresult *rows = PQexecParams(own, text, 5, NULL, params, NULL, NULL, 0);
    if (PQresultStatus(rows) != PGRES_TUPLES_OK) {
      (void)snprintf(c->failure, sizeof c->failure, "%s", PQerrorMessage(own));
      PQclear(rows);
      break;
    }
    for (int i = 0; i < PQntuples(rows); i++) {
      const char *name = strstr(PQgetvalue(rows, i, 0), "\"configurationName\" : \"");
      c->starts[atoi(name + strlen("\"configurationName\" : \""))]++;
    }
    left = PQntuples(rows) > 0;
    PQclear(rows);
    if (left) continue;
    // Nothing for us may only mean that all is locked by the others just now.
    rows = PQexec(own, "select count(*) from build_queue where status = 'pending'");
    left = atoi(PQgetvalue(rows, 0, 0)) > 0;
    PQclear(rows);
  }
  PQfinish(own);
  return NULL;
}

static void two_hundred_builds_start_once_each(void **state) {
  (void)state;
  static claimer claimers[8];
  pthread_t threads[8];
  sql_do(pg, "insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,"
             " tier, architecture, cloud_provider, priority) select 'c', 'n', 'e', n, 'm', 't', 'a', 'p', n % 4"
             " from generate_series(0, 199) as n");
  for (int i = 0; i < 8; i++) assert_int_equal(pthread_create(&threads[i], NULL, claim_all, &claimers[i]), 0);
  for (int i = 0; i < 8; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  for (int i = 0; i < 8; i++) assert_string_equal(claimers[i].failure, "");
  for (int n = 0; n < 200; n++) {
    int starts = 0;
    for (int i = 0; i < 8; i++) starts += claimers[i].starts[n];
    assert_int_equal(starts, 1);
  }
  EXPECT_SQL("select row(count(*), max(attempt), count(distinct build_id)) from build_attempts", "(200,1,200)");
  EXPECT_SQL("select count(*) from build_events where type = 'started'", "200");
}

static void claims_go_by_priority_then_time(void **state) {
  (void)state;
  insert(BUILD(1), ", priority, enqueued_at", ", 1, '2026-01-01T00:00:00.000002Z'");
  insert(BUILD(2), ", priority, enqueued_at", ", 1, '2026-01-01T00:00:00.000001Z'");
  insert(BUILD(3), ", priority, enqueued_at", ", 3, '2026-02-01'");
  insert(BUILD(4), ", priority, enqueued_at", ", 0, '2020-01-01'");
  insert(BUILD(5), ", priority, claim_key", ", 0, 1"); // a key of the writer's own wins
  claim(NODE, BUILD(5));
  claim(NODE, BUILD(3));
  claim(NODE, BUILD(2));
  claim(NODE, BUILD(1));
  claim(NODE, BUILD(4));
  claim(NODE, "");
}

static void some_builds_are_not_claimed(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), ", run_after", ", '2026-01-01T12:00:00.000001Z'");
  EXPECT("null", "lowest_key", "{}");
  claim(NODE, "");
  set_clock("2026-01-01T12:00:00.000001Z");
  RUN("pause", "maintenance");
  claim(NODE, "");
  RUN("resume", NULL);
  claim("11111111-0000-7000-8000-00000000dead", ""); // a node that never joined
  RUN("node_drain", NODE);
  claim(NODE, "");
  sql_do(pg, "update nodes set state = 'live'");
  PQclear(CALL("claim", NODE, "1", "9000000000000000000", "gen-1", "{}")); // below the low-water mark
  EXPECT_SQL("select status from build_queue", "pending");
  claim(NODE, BUILD(1));
}

// Only the ids, in the order of the answer, one digit each.
static void expect_chosen(const char *ids, const char *limit, const char *expected) {
  char *list = bq_format("{%s}", ids);
  PGresult *rows = CALL("claim_chosen", NODE, limit, "0", "gen-1", "{}", list);
  bq_buf text = {0};
  bq_buf_adds(&text, "");
  for (int i = 0; i < PQntuples(rows); i++) {
    const char *id = strstr(PQgetvalue(rows, i, 0), "\"id\" : \"00000000");
    if (id == NULL) fail_msg("no id in %s", PQgetvalue(rows, i, 0));
    bq_buf_addc(&text, id[strlen("\"id\" : \"") + strlen(BUILD(1)) - 1]);
  }
  assert_string_equal(text.data, expected);
  PQclear(rows);
  bq_buf_free(&text);
  bq_free(list);
}

static void what_was_chosen_is_claimed_if_it_is_still_due(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  insert(BUILD(2), ", priority", ", 3");
  insert(BUILD(3), ", priority", ", 2");
  insert(BUILD(4), ", run_after", ", '2026-01-02'");
  expect_chosen(BUILD(4), "5", "");
  RUN("pause", "maintenance");
  expect_chosen(BUILD(1), "5", "");
  RUN("resume", NULL);
  expect_chosen(BUILD(1) "," BUILD(4) "," BUILD(3) "," BUILD(2), "2", "13");
  expect_chosen(BUILD(1) "," BUILD(3), "2", "");
  PGconn *other = PQconnectdb(conninfo);
  sql_do(other, "begin; select from build_queue where id = '" BUILD(2) "' for update");
  expect_chosen(BUILD(2), "5", ""); // does not wait
  PQfinish(other);
  EXPECT_SQL("select string_agg(right(build_id::text, 1) || attempt, ' ' order by build_id) from build_attempts", "11 31");
}

// Both statements start an attempt in the same words.
static void a_chosen_build_is_started_as_any_other(void **state) {
  (void)state;
  const char *usual = strstr(bq_statements_find(fixture.statements, "claim")->text, "), started as (");
  const char *chosen = strstr(bq_statements_find(fixture.statements, "claim_chosen")->text, "), started as (");
  assert_non_null(usual);
  assert_non_null(chosen);
  const char *end = strstr(usual, "\norder by claim_key");
  assert_non_null(end);
  assert_int_equal(strncmp(usual, chosen, (size_t)(end - usual)), 0);
}

static void candidates_are_what_is_due_in_order(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  EXPECT("", "candidates", NODE, "200", "0", "true", "{}");
  insert(BUILD(1), ", metadata", ", '{\"a\": [1]}'");
  claim(NODE, BUILD(1));
  EXPECT("", "candidates", NODE, "200", "0", "true", "{}"); // nothing is due: what runs isn't asked for either
  insert(BUILD(2), ", priority", ", 0");
  insert(BUILD(3), ", priority, enqueued_at", ", 3, '2026-01-01T12:00:00.000001Z'");
  insert(BUILD(4), ", run_after", ", '2026-01-02'");
  PGresult *rows = CALL("candidates", NODE, "200", "0", "true", "{}");
  assert_int_equal(PQntuples(rows), 1);
  char *sql = bq_format("create table seen as select $a$%s$a$::jsonb as due, $a$%s$a$::jsonb as facts",
                        PQgetvalue(rows, 0, 0), PQgetvalue(rows, 0, 1));
  PQclear(rows);
  sql_do(pg, sql);
  bq_free(sql);
  EXPECT_SQL("select string_agg(right(b ->> 'id', 1), '') from seen, jsonb_array_elements(due) as b", "32");
  EXPECT_SQL("select string_agg(right(b ->> 'id', 1) || (b ->> 'attempt') || (b -> 'metadata'), '')"
             " from seen, jsonb_array_elements(facts -> 'running') as b", "11{\"a\": [1]}");
  EXPECT_SQL("select facts ->> 'now' from seen", "1767268800000000");
  EXPECT_SQL("select due -> 0 ->> 'enqueuedAt' from seen", "1767268800000001");
  EXPECT_SQL("select count(*) from seen, jsonb_array_elements(due) as b"
             " where (b ->> 'key')::bigint = (select claim_key from build_queue where id = (b ->> 'id')::uuid)", "2");
  EXPECT_SQL("select due::text like '%acme.example%' from seen", "f"); // no mail addresses
  rows = CALL("candidates", NODE, "1", "0", "false", "{}");
  assert_null(strstr(PQgetvalue(rows, 0, 0), BUILD(2)));
  assert_null(strstr(PQgetvalue(rows, 0, 1), "running"));
  PQclear(rows);
  RUN("pause", "maintenance");
  EXPECT("", "candidates", NODE, "200", "0", "true", "{}");
}

static void a_claim_has_all_that_an_attempt_needs(void **state) {
  (void)state;
  EXPECT("{\"id\": \"" BUILD(1) "\", \"answer\": null, \"replayed\": false}", "enqueue",
         "{\"id\": \"" BUILD(1) "\", \"customerId\": \"c\", \"customerName\": \"n\", \"customerEmail\": \"e\","
         "\"configurationName\": \"x\", \"manifestPath\": \"inline:1\", \"manifest\": {\"modules\": [],"
         "\"big\": 9007199254740993}, \"tier\": \"t\", \"architecture\": \"a\", \"cloudProvider\": \"p\","
         "\"priority\": 2, \"pipeline\": \"own\","
         "\"metadata\": {\"team\": \"web\"}, \"answer\": null}");
  PGresult *rows = CALL("claim", NODE, "5", "0", "gen-1", "{}");
  assert_int_equal(PQntuples(rows), 1);
  char *text = PQescapeLiteral(pg, PQgetvalue(rows, 0, 0), (size_t)PQgetlength(rows, 0, 0));
  char *sql = bq_format("create table claimed as select %s::jsonb as row", text);
  sql_do(pg, sql);
  bq_free(sql);
  PQfreemem(text);
  PQclear(rows);
  EXPECT_SQL("select row ->> 'manifest' from claimed", "{\"big\": 9007199254740993, \"modules\": []}");
  EXPECT_SQL("select (row ->> 'status', row ->> 'attempt', row ->> 'generation', row ->> 'pipeline', row ->> 'trusted',"
             " row ->> 'customerEmail', row ->> 'manifestPath', row -> 'metadata' ->> 'team') from claimed",
             "(building,1,gen-1,own,false,e,inline:1,web)");
  EXPECT(BUILD(1) "|1", "mine", NODE);
  // A row that came by plain SQL has no copy yet: its first attempt gives it one.
  insert(BUILD(2), "", "");
  claim(NODE, BUILD(2));
  RUN("keep_manifest", BUILD(2), "1", OTHER, "{\"a\": 1}", "own", "{}");
  EXPECT_SQL("select manifest_hash from build_queue where id = '" BUILD(2) "'", "");
  RUN("keep_manifest", BUILD(2), "1", NODE, "{\"a\": 1}", "own", "{gpu}");
  EXPECT_SQL("select content from build_manifests m join build_queue b on m.hash = b.manifest_hash"
             " where id = '" BUILD(2) "'", "{\"a\": 1}");
  EXPECT_SQL("select pipeline from build_queue where id = '" BUILD(2) "'", "own");
  // The end of a quick build comes before it; the copy of an earlier attempt comes too late.
  insert(BUILD(3), "", "");
  claim(NODE, BUILD(3));
  RUN("finish_end", BUILD(3), "1", NODE, "cancelled", "why", "cancelled", "");
  RUN("keep_manifest", BUILD(3), "0", NODE, "{\"a\": 2}", "own", "{}");
  EXPECT_SQL("select manifest_hash from build_queue where id = '" BUILD(3) "'", "");
  RUN("keep_manifest", BUILD(3), "1", NODE, "{\"a\": 3}", "own", "{}");
  EXPECT_SQL("select content from build_manifests m join build_queue b on m.hash = b.manifest_hash"
             " where id = '" BUILD(3) "'", "{\"a\": 3}");
}

// The end of attempts ----------------------------------------------------------------------------------------------

static void a_failure_waits_longer_each_time_and_then_ends(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), ", enqueued_at", ", '2026-01-01T11:00:00Z'");
  claim(NODE, BUILD(1));
  RUN("progress", BUILD(1), "1", NODE, "50", "Building", "3 of 6");
  fail_attempt(BUILD(1), "1", "300", "recorded|pending");
  EXPECT_SQL("select (run_after = '2026-01-01T12:05:00Z', retry_count, error_message, generation, node_id,"
             " completed_at, enqueued_at = '2026-01-01T11:00:00Z') from build_queue", "(t,1,boom,,,,t)");
  EXPECT_SQL("select (outcome, error_message, error_kind, step, progress, log_tail) from build_attempts",
             "(failed,boom,step,Building,50,\"the tail\")");
  set_clock("2026-01-01T12:04:59.999Z");
  claim(NODE, "");
  set_clock("2026-01-01T12:05:00Z");
  claim(NODE, BUILD(1));
  // A new attempt starts at 0 percent without the old error or step.
  EXPECT_SQL("select (attempt, progress_percent, current_step, error_message, run_after) from build_queue", "(2,0,,,)");
  fail_attempt(BUILD(1), "2", "540", "recorded|pending");
  EXPECT_SQL("select run_after = '2026-01-01T12:14:00Z' from build_queue", "t");
  set_clock("2026-01-01T12:14:00Z");
  claim(NODE, BUILD(1));
  fail_attempt(BUILD(1), "3", "0", "recorded|pending"); // at once
  set_clock("2026-01-01T13:00:00Z");
  claim(NODE, BUILD(1));
  fail_attempt(BUILD(1), "4", NULL, "recorded|failed");
  EXPECT_SQL("select (status, retry_count, run_after, error_message, build_duration_seconds,"
             " completed_at = '2026-01-01T13:00:00Z') from build_queue", "(failed,4,,boom,0,t)");
  claim(NODE, "");
}

static void a_retry_keeps_its_generation_only_when_told_to(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  insert(BUILD(2), "", "");
  PQclear(CALL("claim", NODE, "2", "0", "gen-1", "{}"));
  EXPECT("recorded|pending", "finish_failure", BUILD(1), "1", NODE, "x", "step", "failed", "1.5", "", "true");
  EXPECT("recorded|pending", "finish_failure", BUILD(2), "1", NODE, "x", "timeout", "timedout", "1.5", "", "false");
  EXPECT_SQL("select string_agg(coalesce(generation, 'none'), ' ' order by id) from build_queue", "gen-1 none");
  EXPECT_SQL("select string_agg(outcome, ' ' order by build_id) from build_attempts", "failed timedout");
}

static void writes_name_the_attempt_and_the_node(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  claim(NODE, BUILD(1));
  EXPECT("", "progress", BUILD(1), "2", NODE, "10", "x", "");
  EXPECT("", "progress", BUILD(1), "1", OTHER, "10", "x", "");
  EXPECT("1", "progress", BUILD(1), "1", NODE, "60", "Building", "");
  EXPECT("1", "progress", BUILD(1), "1", NODE, "30", "Packaging", "");
  EXPECT_SQL("select (progress_percent, current_step) from build_queue", "(60,Packaging)"); // it never falls
  EXPECT("stale", "finish_success", SUCCESS(BUILD(1), "1", OTHER, "/o", NULL, "[]", ""));
  EXPECT("stale", "finish_end", BUILD(1), "2", NODE, "timedout", "x", "timeout", "");
  EXPECT("stale", "requeue", BUILD(1), "1", OTHER, "x");
  fail_attempt(BUILD(1), "2", "300", "stale|building");
  EXPECT("recorded", "finish_success", SUCCESS(BUILD(1), "1", NODE, "/o", "http://d", "[{\"name\": \"a\"}]", "tail"));
  EXPECT("repeated", "finish_success", SUCCESS(BUILD(1), "1", NODE, "/o", "http://d", "[{\"name\": \"a\"}]", "tail"));
  fail_attempt(BUILD(1), "1", "300", "stale|success"); // another end than the recorded one
  EXPECT("", "progress", BUILD(1), "1", NODE, "70", "x", "");
  EXPECT_SQL("select (status, progress_percent, output_path, download_url, node_id) from build_queue",
             "(success,100,/o,http://d,)");
  EXPECT("{\"attempt\": 1, \"artifacts\": [{\"name\": \"a\"}]}", "artifacts", BUILD(1));
}

// A progress write that is under way while a batch ends its build: the batch waits for it, and holds.
static void a_finish_waits_for_a_progress_write(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  insert(BUILD(2), "", "");
  PQclear(CALL("claim", NODE, "2", "0", "gen-1", "{}"));
  char *both = bq_format("[{\"id\": \"%s\", \"attempt\": 1, \"node\": \"%s\"}, "
                         "{\"id\": \"%s\", \"attempt\": 1, \"node\": \"%s\"}, "
                         "{\"id\": \"%s\", \"attempt\": 2, \"node\": \"%s\"}]",
                         BUILD(2), NODE, BUILD(1), NODE, BUILD(1), NODE);
  PGconn *other = sql_connect(conninfo);
  sql_do(other, "begin");
  PQclear(call(other, "progress", 6, LIST(BUILD(1), "1", NODE, "60", "Building", "")));
  const char *params[] = {both};
  const char *text = bq_statements_find(fixture.statements, "finish_success")->text;
  assert_int_equal(PQsendQueryParams(pg, text, 1, NULL, params, NULL, NULL, 0), 1);
  sql_wait(other, "select count(*) from pg_stat_activity where wait_event_type = 'Lock'", "1");
  sql_do(other, "commit");
  PGresult *rows = PQgetResult(pg);
  expect_rows(rows, "recorded recorded stale", "finish_success", __LINE__);
  assert_null(PQgetResult(pg));
  EXPECT("repeated repeated stale", "finish_success", both);
  EXPECT_SQL("select string_agg(type || seq, ' ' order by build_id, seq) from build_events",
             "queued1 started2 success3 queued1 started2 success3");
  PQfinish(other);
  bq_free(both);
}

static void ends_may_be_sent_twice(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  insert(BUILD(2), "", "");
  insert(BUILD(3), "", "");
  PQclear(CALL("claim", NODE, "3", "0", "gen-1", "{}"));
  fail_attempt(BUILD(1), "1", "300", "recorded|pending");
  fail_attempt(BUILD(1), "1", "300", "repeated|pending");
  EXPECT("recorded", "finish_end", BUILD(2), "1", NODE, "timedout", "too slow", "timeout", "");
  EXPECT("repeated", "finish_end", BUILD(2), "1", NODE, "timedout", "too slow", "timeout", "");
  EXPECT("recorded", "requeue", BUILD(3), "1", NODE, "stopped");
  EXPECT("repeated", "requeue", BUILD(3), "1", NODE, "stopped");
  EXPECT_SQL("select string_agg(status || retry_count, ' ' order by id) from build_queue",
             "pending1 timedout0 pending0");
}

static void a_success_carries_no_error_of_an_earlier_attempt(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  claim(NODE, BUILD(1));
  fail_attempt(BUILD(1), "1", "300", "recorded|pending");
  sql_do(pg, "update build_queue set run_after = null");
  claim(NODE, BUILD(1));
  EXPECT("recorded", "finish_success", SUCCESS(BUILD(1), "2", NODE, "/o", NULL, "[]", ""));
  EXPECT_SQL("select (error_message, retry_count, lost_nodes) from build_queue", "(,1,0)");
}

static void a_requeue_is_not_charged_and_keeps_its_scripts(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  claim(NODE, BUILD(1));
  EXPECT("recorded", "requeue", BUILD(1), "1", NODE, "the server was stopped");
  EXPECT_SQL("select (status, retry_count, progress_percent, started_at, generation, run_after) from build_queue",
             "(pending,0,0,,gen-1,)");
  PQclear(CALL("claim", NODE, "1", "0", "gen-2", "{}"));
  EXPECT_SQL("select (attempt, generation) from build_queue", "(2,gen-1)");
  EXPECT_SQL("select string_agg(coalesce(outcome, 'runs') || generation, ' ' order by attempt) from build_attempts",
             "requeuedgen-1 runsgen-1");
}

static void a_cancel_wins_in_each_state(void **state) {
  (void)state;
  for (int i = 1; i <= 5; i++) {
    char *id = bq_format("00000000-0000-7000-8000-00000000000%d", i);
    insert(id, "", "");
    bq_free(id);
  }
  EXPECT("{\"status\": \"pending\", \"outcome\": \"cancelled\"}", "cancel", BUILD(1), "not needed");
  EXPECT("{\"status\": \"cancelled\", \"outcome\": \"conflict\"}", "cancel", BUILD(1), NULL);
  EXPECT("", "cancel", BUILD(9), NULL);
  PQclear(CALL("claim", NODE, "4", "0", "gen-1", "{}"));
  EXPECT("{\"status\": \"building\", \"outcome\": \"requested\"}", "cancel", BUILD(2), "why");
  EXPECT("{\"status\": \"building\", \"outcome\": \"requested\"}", "cancel", BUILD(2), "again");
  EXPECT("{\"paused\": false, \"cancels\": [{\"id\": \"" BUILD(2) "\", \"reason\": \"why\", \"attempt\": 1}],"
         " \"drained\": false, \"pauseReason\": null}", "node_heartbeat", NODE);
  // It failed by itself meanwhile: no retry, and no failure either.
  EXPECT("recorded|cancelled", "finish_failure", BUILD(2), "1", NODE, "boom", "step", "failed", NULL, "", "false");
  RUN("cancel", BUILD(3), NULL);
  EXPECT("recorded", "requeue", BUILD(3), "1", NODE, "stopped"); // shutdown
  RUN("cancel", BUILD(4), NULL);
  RUN("node_bury", NODE); // its node is lost
  EXPECT(BUILD(4) "|1|cancelled " BUILD(5) "|1|pending", "takeover", NULL);
  sql_do(pg, "update build_queue set cancel_requested_at = now(), cancel_reason = 'by hand' where id = '" BUILD(5) "'");
  EXPECT_SQL("select string_agg(status || ':' || error_message, ' ' order by id) from build_queue",
             "cancelled:not needed cancelled:why cancelled:cancelled cancelled:cancelled cancelled:by hand");
  EXPECT_SQL("select count(*) from build_queue where completed_at is null or retry_count > 0", "0");
}

static void an_ended_build_may_be_retried(void **state) {
  (void)state;
  set_clock("2026-01-02T00:00:00Z");
  insert(BUILD(1), ", enqueued_at", ", '2026-01-01'");
  EXPECT("{\"status\": \"pending\", \"outcome\": \"conflict\"}", "retry", BUILD(1));
  claim(NODE, BUILD(1));
  EXPECT("{\"status\": \"building\", \"outcome\": \"conflict\"}", "retry", BUILD(1));
  EXPECT("recorded|failed", "finish_failure", BUILD(1), "1", NODE, "x", "step", "failed", NULL, "", "false");
  EXPECT("{\"status\": \"failed\", \"outcome\": \"done\"}", "retry", BUILD(1));
  EXPECT_SQL("select (status, round, retry_count, attempt, error_message, completed_at, generation,"
             " enqueued_at = '2026-01-01') from build_queue", "(pending,1,0,1,,,,t)");
  claim(NODE, BUILD(1));
  EXPECT("recorded", "finish_success", SUCCESS(BUILD(1), "2", NODE, "/o", NULL, "[]", ""));
  EXPECT("{\"status\": \"success\", \"outcome\": \"done\"}", "retry", BUILD(1));
  EXPECT("", "retry", BUILD(9));
  // In bulk: those of the state, ended since, and no more than asked for.
  insert(BUILD(2), ", status, completed_at", ", 'failed', '2026-01-01T10:00:00Z'");
  insert(BUILD(3), ", status, completed_at", ", 'failed', '2026-01-01T12:00:00Z'");
  insert(BUILD(4), ", status, completed_at", ", 'failed', '2026-01-01T12:00:00Z'");
  EXPECT("{\"count\": 0}", "bulk_retry", "success", NULL, "10");
  EXPECT("{\"count\": 1}", "bulk_retry", "failed", "2026-01-01T12:00:00Z", "1");
  EXPECT("{\"count\": 1}", "bulk_retry", "failed", "2026-01-01T12:00:00Z", "10");
  EXPECT_SQL("select status from build_queue where id = '" BUILD(2) "'", "failed");
}

// Plain SQL, history, mails ----------------------------------------------------------------------------------------

static void plain_sql_is_served_too(void **state) {
  (void)state;
  insert(BUILD(1), ", priority, enqueued_at", ", 1, '2026-01-01'");
  insert(BUILD(2), ", priority, enqueued_at", ", 2, '2026-01-02'");
  EXPECT_SQL("select bool_and(claim_key = buildq_claim_key(priority, enqueued_at)) from build_queue", "t");
  EXPECT_SQL("select count(*) from build_events where type = 'queued' and seq = 1", "2");
  EXPECT_SQL("select count(*) from outbox where event = 'queued' and state = 'pending'", "2");
  sql_do(pg, "update build_queue set priority = 3 where id = '" BUILD(1) "'"); // a hand
  claim(NODE, BUILD(1));
  EXPECT_SQL("select data from build_events where type = 'priority'", "{\"to\": 3, \"from\": 1}");
  EXPECT("recorded", "finish_success", SUCCESS(BUILD(1), "1", NODE, "/o", NULL, "[]", ""));
  EXPECT("{\"status\": \"success\", \"outcome\": \"conflict\"}", "set_priority", BUILD(1), "0");
  // The old manual's clean-up.
  sql_do(pg, "update build_queue set completed_at = now() - interval '31 days' where status = 'success'");
  sql_do(pg, "delete from build_queue where completed_at < now() - interval '30 days'");
  EXPECT_SQL("select count(*) from build_queue", "1");
  EXPECT_SQL("select count(*) from outbox where build_id = '" BUILD(1) "'", "0");
  EXPECT_SQL("select count(*) from build_attempts", "0");
  EXPECT_SQL("select max(seq) from build_events where build_id = '" BUILD(1) "'", "4");
  insert(BUILD(1), "", ""); // the id comes again: its history goes on
  EXPECT_SQL("select max(seq) from build_events where build_id = '" BUILD(1) "'", "5");
  // An end written by hand has a time, so that retention finds it.
  sql_do(pg, "update build_queue set status = 'failed' where id = '" BUILD(1) "'");
  EXPECT_SQL("select completed_at is not null from build_queue where id = '" BUILD(1) "'", "t");
}

static void what_the_table_must_not_hold_is_refused(void **state) {
  (void)state;
  static const char *const wrong[][2] = {{", priority", ", 4"}, {", priority", ", null"}, {", status", ", 'done'"},
                                         {", progress_percent", ", 101"}, {", retry_count", ", -1"}};
  for (int i = 0; i < 5; i++) {
    char *sql = bq_format("insert into build_queue (customer_id, customer_name, customer_email, configuration_name,"
                          " manifest_path, tier, architecture, cloud_provider%s)"
                          " values ('c', 'n', 'e', 'x', 'm', 't', 'a', 'p'%s)", wrong[i][0], wrong[i][1]);
    PGresult *rows = PQexec(pg, sql);
    assert_int_equal(PQresultStatus(rows), PGRES_FATAL_ERROR);
    PQclear(rows);
    bq_free(sql);
  }
  // Odd, but no reason for one row to fail the claims of all.
  insert(BUILD(1), ", enqueued_at", ", '-infinity'");
  insert(BUILD(2), ", enqueued_at", ", 'infinity'");
  insert(BUILD(3), ", enqueued_at", ", '9999-12-31'");
  insert(BUILD(4), ", enqueued_at", ", '0001-01-01'");
  sql_do(pg, "update build_queue set enqueued_at = 'infinity' where id = '" BUILD(2) "'");
  PQclear(CALL("claim", NODE, "10", "0", "gen-1", "{}"));
  EXPECT_SQL("select string_agg(status, ' ') from build_queue", "building building building building");
  EXPECT_SQL("select bool_and(isfinite(enqueued_at)) from build_queue", "t");
  RUN("statistics", NULL);
  RUN("metrics", NULL);
}

static void history_has_one_row_for_each_change(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  RUN("set_priority", BUILD(1), "2");
  claim(NODE, BUILD(1));
  RUN("progress", BUILD(1), "1", NODE, "10", "x", ""); // live only
  fail_attempt(BUILD(1), "1", "300", "recorded|pending");
  sql_do(pg, "update build_queue set run_after = null");
  claim(NODE, BUILD(1));
  RUN("requeue", BUILD(1), "2", NODE, "stopped");
  claim(NODE, BUILD(1));
  RUN("cancel", BUILD(1), "why");
  RUN("finish_end", BUILD(1), "3", NODE, "cancelled", "why", NULL, "");
  RUN("retry", BUILD(1));
  claim(NODE, BUILD(1));
  RUN("finish_end", BUILD(1), "4", NODE, "timedout", "slow", "timeout", "");
  RUN("retry", BUILD(1));
  claim(NODE, BUILD(1));
  RUN("finish_success", SUCCESS(BUILD(1), "5", NODE, "/o", NULL, "[]", ""));
  EXPECT_SQL("select string_agg(seq || type || attempt, ' ' order by seq) from build_events",
             "1queued0 2priority0 3started1 4retrying1 5started2 6requeued2 7started3 8cancel_requested3 9cancelled3 "
             "10queued3 11started4 12timedout4 13queued4 14started5 15success5");
  EXPECT_SQL("select event_seq from build_queue", "15");
  // Mails: started once a round, each retry, each end.
  EXPECT_SQL("select string_agg(event || round || attempt, ' ' order by id) from outbox",
             "queued00 started00 retrying01 cancelled00 queued10 started10 timedout10 queued20 started20 completed20");
  EXPECT("{\"events\": [], \"exists\": true}", "events_since", BUILD(1), "15", "10");
  EXPECT("{\"events\": [], \"exists\": false}", "events_since", BUILD(9), "0", "10");
  PGresult *rows = CALL("events_since", BUILD(1), "3", "1");
  assert_non_null(strstr(PQgetvalue(rows, 0, 0), "\"type\": \"retrying\""));
  assert_null(strstr(PQgetvalue(rows, 0, 0), "\"type\": \"started\""));
  PQclear(rows);
  rows = CALL("watch_builds", "{" BUILD(1) "," BUILD(9) "}", "{14,0}");
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"status\": \"success\""));
  assert_non_null(strstr(PQgetvalue(rows, 0, 2), "\"seq\": 15"));
  assert_string_equal(PQgetvalue(rows, 1, 0), BUILD(9));
  PQclear(rows);
}

static void nothing_is_owed_without_notifications(void **state) {
  (void)state;
  RUN("set_notifications", "false");
  insert(BUILD(1), "", "");
  claim(NODE, BUILD(1));
  EXPECT_SQL("select count(*) from outbox", "0");
  EXPECT_SQL("select count(*) from build_events", "2");
  RUN("set_notifications", "true");
  RUN("finish_success", SUCCESS(BUILD(1), "1", NODE, "/o", NULL, "[]", ""));
  EXPECT_SQL("select event from outbox", "completed");
}

static void expect_notified(const char *expected) {
  bq_buf heard = {0};
  bq_buf_adds(&heard, "");
  sql_do(pg, "select 1"); // what this session has told itself has arrived before the answer
  for (PGnotify *n = PQnotifies(pg); n != NULL; n = PQnotifies(pg)) {
    bq_buf_addf(&heard, "%s:%s ", n->relname, n->extra);
    PQfreemem(n);
  }
  assert_string_equal(heard.data, expected);
  bq_buf_free(&heard);
}

static void servers_are_told_what_is_due(void **state) {
  (void)state;
  sql_do(pg, "listen buildq_wake; listen buildq_control");
  sql_do(pg, "begin");
  insert(BUILD(1), "", "");
  insert(BUILD(2), "", "");
  sql_do(pg, "commit");
  expect_notified("buildq_wake: "); // one for both
  sql_do(pg, "set buildq.announces = 'on'");
  insert(BUILD(3), "", "");
  expect_notified("");
  RUN("announce", "buildq_wake");
  expect_notified("buildq_wake: ");
  sql_do(pg, "reset buildq.announces");
  PQclear(CALL("claim", NODE, "2", "0", "gen-1", "{}"));
  RUN("progress", BUILD(1), "1", NODE, "10", "x", "");
  fail_attempt(BUILD(1), "1", "300", "recorded|pending");
  expect_notified(""); // not due yet
  RUN("cancel", BUILD(2), NULL);
  expect_notified("buildq_control:" BUILD(2) " ");
  RUN("pause", "x");
  RUN("pause", "y");
  expect_notified("buildq_control: ");
  RUN("resume", NULL);
  expect_notified("buildq_control: ");
  RUN("finish_end", BUILD(2), "1", NODE, "cancelled", "x", NULL, "");
  RUN("retry", BUILD(2));
  expect_notified("buildq_wake: ");
}

// Enqueue, lists, figures ------------------------------------------------------------------------------------------

static char *enqueue(const char *id, const char *key, const char *hash) {
  char *fields = bq_format(
      "{\"id\": \"%s\", \"customerId\": \"c\", \"customerName\": \"n\", \"customerEmail\": \"e\","
      " \"configurationName\": \"x\", \"manifestPath\": \"m\", \"manifest\": {\"a\": 1}, \"tier\": \"t\","
      " \"architecture\": \"a\", \"cloudProvider\": \"p\", \"priority\": 1,"
      " \"pipeline\": \"z\", \"answer\": {\"jobId\": \"%s\"}%s%s%s%s%s}", id, id,
      key != NULL ? ", \"idempotency\": {\"key\": \"" : "", key != NULL ? key : "",
      key != NULL ? "\", \"hash\": \"" : "",
      key != NULL ? hash : "", key != NULL ? "\"}" : "");
  char *answer = text_of(CALL("enqueue", fields));
  bq_free(fields);
  return answer;
}

static void expect_enqueued(const char *id, const char *key, const char *hash, const char *as, const char *replayed) {
  char *answer = enqueue(id, key, hash);
  char *expected = bq_format("{\"id\": \"%s\", \"answer\": {\"jobId\": \"%s\"}, \"replayed\": %s}", as, as, replayed);
  assert_string_equal(answer, expected);
  bq_free(expected);
  bq_free(answer);
}

static void a_request_is_accepted_once(void **state) {
  (void)state;
  set_clock("2026-01-01T00:00:00Z");
  expect_enqueued(BUILD(1), NULL, NULL, BUILD(1), "false");
  expect_enqueued(BUILD(1), NULL, NULL, BUILD(1), "false"); // sent again after a lost answer
  expect_enqueued(BUILD(2), "k", "h", BUILD(2), "false");
  expect_enqueued(BUILD(2), "k", "h", BUILD(2), "false");
  EXPECT_SQL("select count(*) from build_queue", "2");
  expect_enqueued(BUILD(3), "k", "h", BUILD(2), "true"); // the same request again
  char *answer = enqueue(BUILD(3), "k", "another body");
  assert_string_equal(answer, "{\"conflict\": true}");
  bq_free(answer);
  EXPECT_SQL("select count(*) from build_queue", "2");
  EXPECT_SQL("select count(*) from build_manifests", "1"); // identical ones are kept once
  set_clock("2026-01-01T23:59:59Z");
  RUN("purge_keys", "10");
  expect_enqueued(BUILD(3), "k", "h", BUILD(2), "true");
  set_clock("2026-01-02T00:00:01Z");
  expect_enqueued(BUILD(3), "k", "another body", BUILD(3), "false"); // kept for a day
  set_clock("2026-01-05T00:00:00Z");
  RUN("purge_keys", "10");
  EXPECT_SQL("select count(*) from idempotency_keys", "0");
}

static void builds_are_shown_as_the_api_says(void **state) {
  (void)state;
  insert(BUILD(1), ", enqueued_at", ", '2026-01-01T01:02:03.000004+02'");
  char *view = text_of(CALL("get_build", BUILD(1)));
  assert_non_null(strstr(view, "\"enqueuedAt\": \"2025-12-31T23:02:03.000004Z\""));
  static const char *const names[] = {
      "id", "status", "progressPercent", "currentStep", "outputPath", "imageUrl", "downloadUrl", "errorMessage",
      "enqueuedAt", "startedAt", "completedAt", "buildDurationSeconds", "retryCount", "priority", "attempt", "pipeline",
      "generation", "nextAttemptAt", "metadata"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char *name = bq_format("\"%s\": ", names[i]);
    if (strstr(view, name) == NULL) fail_msg("%s lacks %s", view, names[i]);
    bq_free(name);
  }
  assert_null(strstr(view, "a@acme.example")); // nobody's address
  bq_free(view);
  EXPECT("", "get_build", BUILD(9));
}

// The ids' last digits of a page, and the cursor of the next.
static void expect_page(const char *status, const char *customer, const char *metadata, char cursor[2][40],
                        const char *expected) {
  PGresult *rows = CALL("list_builds", status, customer, metadata, "2", cursor[0][0] != '\0' ? cursor[0] : NULL,
                        cursor[0][0] != '\0' ? cursor[1] : NULL);
  char digits[16] = "";
  for (int i = 0; i < PQntuples(rows) && i < 8; i++) digits[i] = PQgetvalue(rows, i, 2)[35];
  assert_string_equal(digits, expected);
  if (PQntuples(rows) > 2) {
    (void)snprintf(cursor[0], 40, "%s", PQgetvalue(rows, 1, 1));
    (void)snprintf(cursor[1], 40, "%s", PQgetvalue(rows, 1, 2));
  }
  PQclear(rows);
}

static void lists_have_pages_without_gaps(void **state) {
  (void)state;
  char cursor[2][40] = {"", ""};
  insert(BUILD(1), ", enqueued_at", ", '2026-01-01T00:00:00.123456Z'");
  insert(BUILD(2), ", enqueued_at, metadata", ", '2026-01-01T00:00:00.123456Z', '{\"team\": \"web\", \"n\": [1]}'");
  insert(BUILD(3), ", enqueued_at, status", ", '2026-01-01T00:00:00.123456Z', 'failed'");
  insert(BUILD(4), ", enqueued_at", ", '2026-01-01T00:00:00.123455Z'");
  insert(BUILD(5), ", enqueued_at", ", '2026-01-01T00:00:00.123457Z'");
  expect_page(NULL, NULL, NULL, cursor, "532"); // one more than asked for: there is a next page
  expect_page(NULL, NULL, NULL, cursor, "214");
  expect_page(NULL, NULL, NULL, cursor, "4");
  cursor[0][0] = '\0';
  expect_page("failed", NULL, NULL, cursor, "3");
  expect_page(NULL, "nobody", NULL, cursor, "");
  expect_page("pending", "acme", "{\"team\": \"web\"}", cursor, "2");
}

static void statistics_count_right(void **state) {
  (void)state;
  set_clock("2026-01-02T06:00:00Z");
  insert(BUILD(1), ", enqueued_at", ", '2026-01-02T05:00:00Z'");
  insert(BUILD(2), ", enqueued_at, priority", ", '2026-01-02T05:30:00Z', 3");
  insert(BUILD(3), ", status, completed_at, build_duration_seconds", ", 'success', '2026-01-02T01:00:00Z', 10");
  insert(BUILD(4), ", status, completed_at, build_duration_seconds", ", 'success', '2026-01-01T23:00:00Z', 20");
  insert(BUILD(5), ", status, completed_at, build_duration_seconds", ", 'timedout', '2026-01-02T02:00:00Z', 3600");
  insert(BUILD(6), ", status, completed_at, build_duration_seconds", ", 'failed', '2026-01-01T22:00:00Z', 1");
  insert(BUILD(7), ", status, completed_at", ", 'cancelled', '2026-01-02T02:00:00Z'");
  insert(BUILD(8), ", status, completed_at, build_duration_seconds", ", 'failed', '2026-01-01T05:59:59Z', 1");
  claim(NODE, BUILD(2));
  RUN("pause", "x");
  EXPECT("{\"asOf\": \"2026-01-02T06:00:00.000000Z\", \"paused\": true, \"failedToday\": 1, \"pauseReason\": \"x\","
         " \"successRate\": 50, \"activeBuilds\": [{\"id\": \"" BUILD(2) "\", \"attempt\": 1, \"startedAt\":"
         " \"2026-01-02T06:00:00.000000Z\", \"customerId\": \"acme\", \"currentStep\": null, \"progressPercent\": 0,"
         " \"configurationName\": \"web\"}], \"pendingCount\": 1, \"buildingCount\": 1, \"completedToday\": 1,"
         " \"oldestPendingBuild\": \"2026-01-02T05:00:00.000000Z\", \"averageBuildTimeSeconds\": 15}",
         "statistics", NULL);
  EXPECT("{\"active\": 1, \"failed\": 2, \"average\": 15, \"pending\": {\"1\": 1}, \"succeeded\": 2, \"notifications\":"
         " {\"dead\": {}, \"events\": 3, \"faulty\": {}, \"sending\": {}, \"waiting\": {}, \"faultyEvents\": 0,"
         " \"oldestWaitingSeconds\": 0}, \"outboxPending\": 3, \"oldestPendingSeconds\": 3600}", "metrics", NULL);
}

// Whether the plan of a named statement, with these parameters written out, mentions `part`.
static int plan_has(const char *name, const char *params, const char *part) {
  bq_buf sql = {0};
  bq_buf_addf(&sql, "prepare p as %s", bq_statements_find(fixture.statements, name)->text);
  sql_do(pg, sql.data);
  bq_buf_clear(&sql);
  bq_buf_addf(&sql, "explain execute p%s", params);
  PGresult *rows = PQexec(pg, sql.data);
  if (PQresultStatus(rows) != PGRES_TUPLES_OK) fail_msg("%s", PQerrorMessage(pg));
  char *plan = text_of(rows);
  sql_do(pg, "deallocate p");
  int found = strstr(plan, part) != NULL;
  bq_free(plan);
  bq_buf_free(&sql);
  return found;
}

static void a_large_table_costs_nothing(void **state) {
  (void)state;
  sql_do(pg, "alter table build_queue disable trigger user;"
             "insert into build_queue (customer_id, customer_name, customer_email, configuration_name, manifest_path,"
             " tier, architecture, cloud_provider, status, enqueued_at, completed_at, claim_key)"
             " select 'c' || n % 500, 'n', 'e', 'x', 'm', 't', 'a', 'p',"
             " case when n % 400 = 0 then 'pending' else 'success' end, now() - n * interval '1 h',"
             " case when n % 400 <> 0 then now() - n * interval '1 h' end, n from generate_series(1, 40000) as n;"
             "alter table build_queue enable trigger user; analyze build_queue");
  assert_true(plan_has("claim", "('" NODE "', '10', '0', 'g', '{}')", "Index Scan using build_queue_claim on build_queue"));
  assert_true(plan_has("lowest_key", "('{}')", "Index Scan using build_queue_claim on build_queue"));
  static const char *const reads[][2] = {{"claim", "('" NODE "', '10', '0', 'g', '{}')"}, {"statistics", ""}, {"metrics", ""},
                                         {"watch_customer", "('c1', null)"}, {"watch_customer", "('c1', '10')"},
                                         {"takeover", ""}, {"retention", "('30', '100')"}, {"mine", "('" NODE "')"}};
  for (size_t i = 0; i < sizeof reads / sizeof reads[0]; i++) {
    if (plan_has(reads[i][0], reads[i][1], "Seq Scan on build_queue")) fail_msg("%s reads all rows", reads[i][0]);
  }
  // What a list reads is hidden in its function: so by the pages it touches. The table has many hundreds.
  static const char *const lists[] = {"null, null", "'failed', null", "null, 'nobody'", "'pending', 'c1'",
                                      "null, 'c1'"};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
    char *sql = bq_format("create temp table if not exists plan (line jsonb); truncate plan; do $do$ declare p jsonb;"
                          " begin execute $q$explain (analyze, buffers, format json)"
                          " select * from buildq_list(%s, 51, null, null, null)$q$ into p;"
                          " insert into plan values (p); end $do$", lists[i]);
    sql_do(pg, sql);
    sql_do(pg, sql); // the catalogue is read once
    EXPECT_SQL("select (line -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::int"
               " + (line -> 0 -> 'Plan' ->> 'Shared Read Blocks')::int < 300 from plan", "t");
    bq_free(sql);
  }
}

static void a_stream_of_a_customer_sees_changes_only(void **state) {
  (void)state;
  set_clock("2026-01-01T00:00:00Z");
  insert(BUILD(1), ", updated_at", ", '2026-01-01T00:00:00Z'");
  insert(BUILD(2), ", status, updated_at, completed_at", ", 'success', '2025-01-01', '2025-01-01'");
  PGresult *rows = CALL("watch_customer", "acme", NULL);
  assert_int_equal(PQntuples(rows), 1);
  PQclear(rows);
  set_clock("2026-01-01T00:01:00Z");
  EXPECT("", "watch_customer", "acme", "10");
  RUN("cancel", BUILD(1), NULL);
  rows = CALL("watch_customer", "acme", "10");
  assert_int_equal(PQntuples(rows), 1);
  assert_non_null(strstr(PQgetvalue(rows, 0, 0), "\"status\": \"cancelled\""));
  PQclear(rows);
  EXPECT("", "watch_customer", "other", "10");
}

// Nodes ------------------------------------------------------------------------------------------------------------

// Heartbeats of both every 10 seconds, the lease's third, from..to (seconds after noon).
static void beat(const char *id, int from, int to) {
  for (int s = from; s <= to; s += 10) {
    char time[40];
    (void)snprintf(time, sizeof time, "2026-01-01T12:%02d:%02dZ", s / 60, s % 60);
    set_clock(time);
    RUN("node_heartbeat", id);
  }
}

static void a_silent_node_is_declared_dead_by_a_steady_one(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  sql_do(pg, "delete from nodes");
  join(NODE);
  join(OTHER);
  beat(NODE, 10, 30);
  EXPECT("", "nodes_expire", NODE); // the lease of 30 s has just not run out
  beat(NODE, 40, 40);
  EXPECT(OTHER "|node", "nodes_expire", NODE);
  EXPECT("", "node_heartbeat", OTHER); // it learns so
  set_clock("2026-01-01T12:10:00Z");
  EXPECT("", "nodes_expire", OTHER); // and judges nobody, who ever is silent now
  EXPECT_SQL("select string_agg(state, ' ' order by id) from nodes", "live dead");
}

static void after_an_outage_nobody_is_robbed(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  sql_do(pg, "delete from nodes");
  join(NODE);
  join(OTHER);
  beat(NODE, 10, 50);
  beat(OTHER, 10, 50);
  beat(NODE, 90, 90); // the database was away for 40 s; this node is back first
  EXPECT("", "nodes_expire", NODE);
  beat(OTHER, 100, 100);
  EXPECT("", "nodes_expire", NODE);
  // An outage a little shorter than the lease: OTHER's last heartbeat was 9 s before NODE's.
  beat(NODE, 100, 120);
  sql_do(pg, "update nodes set heartbeat_at = '2026-01-01T12:01:51Z', unbroken_since = '2026-01-01T12:00:00Z'"
             " where id = '" OTHER "'; update nodes set unbroken_since = '2026-01-01T12:00:00Z' where id = '" NODE "'");
  beat(NODE, 145, 145);
  EXPECT("", "nodes_expire", NODE);
  beat(OTHER, 146, 146);
  EXPECT_SQL("select string_agg(state, ' ') from nodes", "live live");
}

static void builds_of_a_lost_node_run_again(void **state) {
  (void)state;
  insert(BUILD(1), "", "");
  for (int lost = 1; lost <= 4; lost++) {
    char node[40];
    (void)snprintf(node, sizeof node, "22222222-0000-7000-8000-00000000000%d", lost);
    join(node);
    PQclear(CALL("claim", node, "1", "0", lost == 1 ? "gen-1" : "gen-2", "{}"));
    EXPECT("", "takeover", NULL); // while it lives, it keeps its builds
    RUN("node_bury", node);
    char number[8];
    (void)snprintf(number, sizeof number, "%d", lost);
    char *expected = bq_format(BUILD(1) "|%d|%s", lost, lost < 4 ? "pending" : "failed");
    EXPECT(expected, "takeover", NULL);
    bq_free(expected);
    EXPECT("stale", "finish_success", SUCCESS(BUILD(1), number, node, "/o", NULL, "[]", "")); // too late
  }
  EXPECT_SQL("select (status, retry_count, lost_nodes, generation, completed_at is not null) from build_queue",
             "(failed,0,4,gen-1,t)");
  EXPECT_SQL("select position('more than three times' in error_message) > 0 from build_queue", "t");
  EXPECT_SQL("select string_agg(outcome, ' ') from build_attempts", "lost lost lost lost");
}

static void only_nodes_lost_in_a_row_count(void **state) {
  (void)state;
  insert(BUILD(1), ", lost_nodes", ", 3");
  claim(NODE, BUILD(1));
  fail_attempt(BUILD(1), "1", "300", "recorded|pending");
  sql_do(pg, "update build_queue set run_after = null");
  claim(NODE, BUILD(1));
  RUN("node_leave", NODE);
  EXPECT(BUILD(1) "|2|pending", "takeover", NULL);
  EXPECT_SQL("select (lost_nodes, retry_count) from build_queue", "(1,1)");
}

// Housekeeping -----------------------------------------------------------------------------------------------------

static void retention_removes_in_batches_what_is_old(void **state) {
  (void)state;
  set_clock("2026-03-01T00:00:00Z");
  insert(BUILD(1), ", status, completed_at", ", 'success', '2026-01-01'");
  insert(BUILD(2), ", status, completed_at", ", 'failed', '2026-01-02'");
  insert(BUILD(3), ", status, completed_at", ", 'failed', '2026-02-28'");
  insert(BUILD(4), ", enqueued_at", ", '2020-01-01'");
  sql_do(pg, "insert into build_attempts (build_id, attempt, node_id, started_at) values ('" BUILD(1) "', 1,"
             " '" NODE "', '2026-01-01'); update queue_control set retention_allowed = false, adopted_builds = 2");
  EXPECT("", "retention", "30", "10"); // an adopted table waits
  EXPECT("{\"due\": 2, \"allowed\": false, \"adoptedBuilds\": 2}", "retention_state", "30");
  EXPECT("", "retention_confirm", "3");
  EXPECT("", "retention", "30", "10");
  EXPECT("2", "retention_confirm", "2");
  EXPECT(BUILD(1) "|{" NODE "}", "retention", "30", "1");
  EXPECT(BUILD(2) "|{}", "retention", "30", "10");
  EXPECT("", "retention", "30", "10");
  EXPECT(BUILD(1), "unknown_builds", "{" BUILD(1) "," BUILD(3) "}");
  EXPECT_SQL("select count(*) from build_events where build_id = '" BUILD(1) "'", "1"); // history outlives it
  set_clock("2027-03-01T00:00:00Z");
  RUN("purge_history", "300", "2");
  EXPECT_SQL("select count(*) from build_events", "2");
  RUN("purge_history", "300", "10");
  EXPECT_SQL("select count(*) from build_events", "0");
}

static void join_with(const char *id, const char *labels) {
  RUN("node_join", id, "node", "http://127.0.0.1:8080", "1.0", "4", "30", labels, "false");
}

static void builds_go_to_nodes_that_offer_what_they_need(void **state) {
  (void)state;
  set_clock("2026-03-01T00:00:00Z");
  insert(BUILD(1), ", needs", ", '{dotnet,gpu}'");
  insert(BUILD(2), ", needs", ", '{gpu}'");
  insert(BUILD(3), "", "");
  EXPECT("[\"gpu\"]", "unmet_needs", "{gpu}"); // node 1 (sql_test.h) offers nothing
  EXPECT_SQL("select buildq_unmet('{}') is null", "t");
  EXPECT("dotnet, gpu|dotnet, gpu|1|" BUILD(1) " gpu|gpu|1|" BUILD(2), "homeless_builds", NULL);
  join_with(OTHER, "[\"os=linux\",\"gpu\"]");
  EXPECT("null", "unmet_needs", "{gpu}");
  EXPECT("[\"dotnet\"]", "unmet_needs", "{dotnet,gpu}"); // what the best one lacks
  EXPECT("dotnet, gpu|dotnet|1|" BUILD(1), "homeless_builds", NULL);
  EXPECT_SQL("select claim_key = (select min(claim_key) from build_queue) from build_queue where id = '" BUILD(1) "'", "t");
  // The lower bound passes over what this node can't take.
  PGresult *key = CALL("lowest_key", "{}");
  sql_do(pg, "create table seen (key bigint)");
  char *keep = bq_format("insert into seen values (%s)", PQgetvalue(key, 0, 0));
  sql_do(pg, keep);
  bq_free(keep);
  PQclear(key);
  EXPECT_SQL("select claim_key = key from build_queue, seen where id = '" BUILD(3) "'", "t");
  PQclear(CALL("claim", NODE, "5", "0", "gen-1", "{git}"));
  PQclear(CALL("claim", OTHER, "5", "0", "gen-1", "{os=linux,gpu}"));
  EXPECT_SQL("select string_agg(right(id::text, 1) || coalesce(right(node_id::text, 1), '-'), ' ' order by id)"
             " from build_queue", "1- 22 31");
  // Drained: live for its builds, not for new ones.
  EXPECT_SQL("select count(*) from nodes where state = 'live'", "2");
  PQclear(CALL("node_set_drained", OTHER, "true"));
  EXPECT("[\"gpu\"]", "unmet_needs", "{gpu}");
  EXPECT_SQL("select state || (drained_at is not null) from nodes where id = '" OTHER "'", "drainingtrue");
  PQclear(CALL("node_set_drained", OTHER, "false"));
  EXPECT("null", "unmet_needs", "{gpu}");
  RUN("node_drain", OTHER); // it stops: no operator brings that back
  EXPECT("", "node_set_drained", OTHER, "false");
  EXPECT("", "node_set_drained", OTHER, "true");
}

static void what_dead_attempts_left_is_told_from_what_is_needed(void **state) {
  (void)state;
  set_clock("2026-03-01T00:00:00Z");
  insert(BUILD(1), ", status, attempt, updated_at", ", 'success', 2, buildq_now()");
  insert(BUILD(2), ", status, attempt, updated_at", ", 'building', 2, buildq_now()");
  insert(BUILD(3), ", status, attempt, updated_at", ", 'failed', 1, buildq_now()");
  insert(BUILD(4), ", status, attempt, updated_at", ", 'pending', 1, buildq_now()");
  static const char ids[] =
      "{" BUILD(1) "," BUILD(1) "," BUILD(2) "," BUILD(2) "," BUILD(3) "," BUILD(4) "," BUILD(5) "}";
  static const char attempts[] = "{1,2,1,2,1,1,1}";
  // What has just ended may be retried while somebody looks.
  EXPECT(BUILD(1) "/attempt-1 " BUILD(2) "/attempt-1", "dead_outputs", ids, attempts);
  EXPECT(BUILD(1) "/attempt-1 " BUILD(2) "/attempt-1", "dead_workspaces", ids, attempts);
  set_clock("2026-03-01T00:01:01Z");
  EXPECT(BUILD(1) "/attempt-1 " BUILD(2) "/attempt-1 " BUILD(3) "/attempt-1 " BUILD(4) "/attempt-1", "dead_outputs",
         ids, attempts);
  EXPECT(BUILD(1) "/attempt-1 " BUILD(1) "/attempt-2 " BUILD(2) "/attempt-1 " BUILD(3) "/attempt-1 " BUILD(4)
         "/attempt-1", "dead_workspaces", ids, attempts);
}

static void copies_stay_while_something_needs_them(void **state) {
  (void)state;
  set_clock("2026-01-01T00:00:00Z");
  expect_enqueued(BUILD(1), NULL, NULL, BUILD(1), "false");
  set_clock("2026-02-01T00:00:00Z");
  RUN("purge_manifests", "10");
  EXPECT_SQL("select count(*) from build_manifests", "1");
  sql_do(pg, "delete from build_queue");
  expect_enqueued(BUILD(2), NULL, NULL, BUILD(2), "false"); // renews it
  sql_do(pg, "delete from build_queue");
  RUN("purge_manifests", "10");
  EXPECT_SQL("select count(*) from build_manifests", "1"); // somebody may be enqueuing with it just now
  set_clock("2026-02-04T00:00:00Z");
  RUN("purge_manifests", "10");
  EXPECT_SQL("select count(*) from build_manifests", "0");

  set_clock("2026-01-01T00:00:00Z");
  RUN("store_generation", "gen-1", "[{\"path\": \"a.lua\", \"hash\": \"h1\", \"content\": \"x\"},"
                                   " {\"path\": \"b.lua\", \"hash\": \"h1\", \"content\": \"x\"}]");
  RUN("store_generation", "gen-2", "[{\"path\": \"a.lua\", \"hash\": \"h2\", \"content\": \"y\"}]");
  EXPECT("[{\"path\": \"a.lua\", \"content\": \"x\"}, {\"path\": \"b.lua\", \"content\": \"x\"}]",
         "load_generation", "gen-1");
  EXPECT("", "load_generation", "gen-9");
  EXPECT_SQL("select count(*) from script_sources", "2");
  insert(BUILD(3), ", generation", ", 'gen-1'");
  set_clock("2026-03-01T00:00:00Z");
  EXPECT("1", "purge_generations", "30", "10");
  RUN("purge_sources", "10");
  EXPECT_SQL("select string_agg(hash, ' ') from script_sources", "h1"); // a pending build's generation stays
  sql_do(pg, "delete from build_queue");
  claim(NODE, ""); // a server runs gen-1 still
  EXPECT("0", "purge_generations", "30", "10");
  set_clock("2026-06-01T00:00:00Z");
  EXPECT("1", "purge_generations", "30", "10");
  RUN("node_leave", NODE);
  set_clock("2026-09-01T00:00:00Z");
  RUN("purge_nodes", "31", "10");
  EXPECT_SQL("select count(*) from nodes", "0");
}

int main(void) {
  sql_prepare(&fixture);
  bq_log_setup(BQ_ERROR, BQ_LOG_TEXT);
  const struct CMUnitTest tests[] = {
      TEST(two_hundred_builds_start_once_each),
      TEST(claims_go_by_priority_then_time),
      TEST(some_builds_are_not_claimed),
      TEST(what_was_chosen_is_claimed_if_it_is_still_due),
      TEST(a_chosen_build_is_started_as_any_other),
      TEST(candidates_are_what_is_due_in_order),
      TEST(a_claim_has_all_that_an_attempt_needs),
      TEST(a_failure_waits_longer_each_time_and_then_ends),
      TEST(a_retry_keeps_its_generation_only_when_told_to),
      TEST(writes_name_the_attempt_and_the_node),
      TEST(a_finish_waits_for_a_progress_write),
      TEST(ends_may_be_sent_twice),
      TEST(a_success_carries_no_error_of_an_earlier_attempt),
      TEST(a_requeue_is_not_charged_and_keeps_its_scripts),
      TEST(a_cancel_wins_in_each_state),
      TEST(an_ended_build_may_be_retried),
      TEST(plain_sql_is_served_too),
      TEST(what_the_table_must_not_hold_is_refused),
      TEST(history_has_one_row_for_each_change),
      TEST(nothing_is_owed_without_notifications),
      TEST(servers_are_told_what_is_due),
      TEST(a_request_is_accepted_once),
      TEST(builds_are_shown_as_the_api_says),
      TEST(lists_have_pages_without_gaps),
      TEST(statistics_count_right),
      TEST(a_large_table_costs_nothing),
      TEST(a_stream_of_a_customer_sees_changes_only),
      TEST(a_silent_node_is_declared_dead_by_a_steady_one),
      TEST(after_an_outage_nobody_is_robbed),
      TEST(builds_of_a_lost_node_run_again),
      TEST(only_nodes_lost_in_a_row_count),
      TEST(retention_removes_in_batches_what_is_old),
      TEST(builds_go_to_nodes_that_offer_what_they_need),
      TEST(what_dead_attempts_left_is_told_from_what_is_needed),
      TEST(copies_stay_while_something_needs_them),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
