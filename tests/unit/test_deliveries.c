// What is owed and what became of it, in SQL: events are expanded once, deliveries are sent by one server at a time.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "query_test.h"

#define MAIL(n) "22222222-0000-7000-8000-00000000000" #n
#define GONE_NODE "11111111-0000-7000-8000-000000000003"

static const char *const one_mail =
    "{\"deliveries\": [{\"id\": \"" MAIL(1) "\", \"channel\": \"email\", \"recipient\": \"a@acme.example\"}]}";

// The column of all rows of a table, split by spaces.
#define COLUMN(expression, table, expected) \
  EXPECT_SQL("select coalesce(string_agg((" expression ")::text, ' ' order by id), '') from " table, expected)

static void expand(const char *expected, const char *event, const char *made, const char *generation,
                   const char *again_s) {
  char *list = bq_format("[{\"event\": %s, \"made\": %s, \"generation\": \"%s\", \"again\": %s}]", event, made, generation,
                         again_s);
  EXPECT(expected, "outbox_expand", list);
  bq_free(list);
}

// A build with one mail that waits.
static void owe_one(void) {
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("1", "1", one_mail, "g1", "3600");
}

static void claim_mail(const char *node, const char *generation, const char *states) {
  PGresult *rows = CALL("deliveries_claim", node, "10", generation, "3", "30", "x.example");
  bq_buf got = {0};
  bq_buf_adds(&got, "");
  for (int i = 0; i < PQntuples(rows); i++) bq_buf_addf(&got, "%s%s", i > 0 ? " " : "", PQgetvalue(rows, i, 0));
  assert_string_equal(got.data, states);
  bq_buf_free(&got);
  PQclear(rows);
}

// One item of delivery_outcomes; `code` and `retry_s` may be "null".
static char *item(const char *id, const char *node, const char *claim, const char *outcome, const char *code,
                  const char *retry_s) {
  char *text = bq_format("{\"id\": \"%s\", \"node\": \"%s\", \"claim\": %s, \"outcome\": \"%s\", \"code\": %s,"
                         " \"reply\": \"said so\", \"retry\": %s, \"window\": 86400, \"messageId\": \"<m@x>\","
                         " \"generation\": \"g1\"}", id, node, claim, outcome, code, retry_s);
  assert_non_null(text);
  return text;
}

static void record_by(const char *node, const char *claim, const char *outcome, const char *code, const char *retry_s,
                      const char *expected) {
  char *one = item(MAIL(1), node, claim, outcome, code != NULL ? code : "null", retry_s != NULL ? retry_s : "null");
  char *list = bq_format("[%s]", one);
  EXPECT(expected, "delivery_outcomes", list);
  bq_free(list);
  bq_free(one);
}

static void record(const char *claim, const char *outcome, const char *code, const char *retry_s,
                   const char *expected) {
  record_by(NODE, claim, outcome, code, retry_s, expected);
}

static void an_event_is_expanded_once(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  PGresult *rows = CALL("outbox_take", "10", "g1", "3", "30");
  assert_int_equal(PQntuples(rows), 1);
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"event\": \"queued\""));
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"round\": 1"));
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"email\": \"a@acme.example\""));
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"maxRetries\": 3"));
  PQclear(rows);
  EXPECT("", "outbox_take", "10", "g1", "3", "30"); // it is being expanded
  set_clock("2026-01-01T12:01:01Z");                // the taker is gone
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("1", "1", one_mail, "g1", "3600");
  expand("null", "1", one_mail, "g1", "3600"); // the first taker is back
  COLUMN("state", "outbox", "expanded");
  COLUMN("state || event || template || customer_id", "deliveries", "waitingqueuedqueuedacme");
}

static void events_are_expanded_together(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  insert(BUILD(2), "", "");
  insert(BUILD(3), "", "");
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("1", "2", "{\"deliveries\": [{\"id\": \"" MAIL(2) "\", \"channel\": \"email\", \"recipient\": \"b@x\"}]}", "g1", "60");
  RUN("suppress", "email", "", "d@x", "", NULL, "command");
  PGresult *rows = CALL("outbox_expand",
      "[{\"event\": 3, \"made\": {\"deliveries\": ["
      "   {\"id\": \"" MAIL(3) "\", \"channel\": \"email\", \"recipient\": \"c@x\", \"data\": {\"a\": 1}},"
      "   {\"id\": \"" MAIL(4) "\", \"channel\": \"email\", \"recipient\": \"d@x\"}]}, \"generation\": \"g1\", \"again\": 60},"
      " {\"event\": 2, \"made\": {\"deliveries\": []}, \"generation\": \"g1\", \"again\": 60},"
      " {\"event\": 1, \"made\": {\"fault\": \"x.lua:1: oops\"}, \"generation\": \"g1\", \"again\": 60}]");
  assert_int_equal(PQntuples(rows), 3);
  assert_string_equal(PQgetvalue(rows, 0, 0), "2");
  assert_true(PQgetisnull(rows, 1, 0)); // another server was first
  assert_string_equal(PQgetvalue(rows, 2, 0), "0");
  PQclear(rows);
  COLUMN("state || coalesce(fault, '')", "outbox", "pendingx.lua:1: oops expanded expanded");
  COLUMN("recipient || state || data", "deliveries", "b@xwaiting{} c@xwaiting{\"a\": 1} d@xskipped{}");
}

static void a_rule_that_fails_is_tried_again_by_other_scripts(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("0", "1", "{\"fault\": \"email.lua:3: oops\"}", "g1", "3600");
  set_clock("2026-01-01T12:59:00Z");
  EXPECT("", "outbox_take", "10", "g1", "3", "30");
  PGresult *rows = CALL("outbox_take", "10", "g2", "3", "30");
  assert_int_equal(PQntuples(rows), 1);
  PQclear(rows);
  expand("0", "1", "{\"fault\": \"email.lua:3: oops\"}", "g2", "3600");
  EXPECT("", "outbox_take", "10", "g1", "3", "30"); // two servers with other scripts don't take turns
  set_clock("2026-01-01T14:00:00Z");                // what it failed on may have changed
  rows = CALL("outbox_take", "10", "g1", "3", "30");
  assert_int_equal(PQntuples(rows), 1);
  PQclear(rows);
  COLUMN("fault", "outbox", "email.lua:3: oops");
}

static void a_mail_is_sent_once(void **state) {
  (void)state;
  owe_one();
  join(OTHER);
  claim_mail(GONE_NODE, "g1", ""); // it has never joined
  claim_mail(NODE, "g1", "sending");
  claim_mail(OTHER, "g1", "");
  record_by(OTHER, "1", "sent", "250", NULL, "stale");
  record("2", "sent", "250", NULL, "stale");
  record("1", "sent", "250", NULL, "sent");
  record("1", "sent", "250", NULL, "repeated"); // the answer was lost
  record("1", "dead", "550", NULL, "stale");
  claim_mail(NODE, "g1", "");
  COLUMN("state || tries || last_code || message_id || jsonb_array_length(attempts)", "deliveries", "sent1250<m@x>1");
}

static void outcomes_of_many_are_one_statement(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  insert(BUILD(2), "", "");
  insert(BUILD(3), "", "");
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("1", "1", one_mail, "g1", "3600");
  expand("1", "2",
         "{\"deliveries\": [{\"id\": \"" MAIL(2) "\", \"channel\": \"email\", \"recipient\": \"b@acme.example\"}]}",
         "g1", "3600");
  expand("1", "3",
         "{\"deliveries\": [{\"id\": \"" MAIL(3) "\", \"channel\": \"hook\", \"recipient\": \"main\"}]}", "g1", "3600");
  claim_mail(NODE, "g1", "sending sending sending");
  char *items[] = {item(MAIL(3), NODE, "1", "gone", "410", "60"), item(MAIL(1), NODE, "1", "retry", "451", "60"),
                   item(MAIL(9), NODE, "1", "sent", "250", "null"), item(MAIL(2), NODE, "1", "back", "null", "0")};
  char *list = bq_format("[%s,%s,%s,%s]", items[0], items[1], items[2], items[3]);
  PGresult *rows = CALL("delivery_outcomes", list);
  static const char *const expected[] = {"dead", "waiting", "stale", "waiting"}; // in their order
  assert_int_equal(PQntuples(rows), 4);
  for (int i = 0; i < 4; i++) assert_string_equal(PQgetvalue(rows, i, 0), expected[i]);
  PQclear(rows);
  COLUMN("state || tries || jsonb_array_length(attempts)", "deliveries", "waiting11 waiting00 dead11");
  COLUMN("buildq_time(run_after)", "deliveries",
         "2026-01-01T12:01:00.000000Z 2026-01-01T12:00:00.000000Z 2026-01-01T12:01:00.000000Z");
  EXPECT_SQL("select channel || ' ' || recipient from disabled_recipients", "hook main");
  claim_mail(NODE, "g1", "sending"); // what was given back
  for (size_t i = 0; i < 4; i++) bq_free(items[i]);
  bq_free(list);
}

static void of_many_tries_the_last_ones_are_kept(void **state) {
  (void)state;
  owe_one();
  for (int i = 1; i <= 52; i++) {
    char claim[8];
    (void)snprintf(claim, sizeof claim, "%d", i);
    claim_mail(NODE, "g1", "sending");
    record(claim, "retry", "451", "0", "waiting");
  }
  COLUMN("jsonb_array_length(attempts) || ' ' || (attempts -> 0 ->> 'claim') || ' ' || (attempts -> -1 ->> 'claim')",
         "deliveries", "50 3 52");
}

static void a_refused_mail_waits_and_is_given_up_in_the_end(void **state) {
  (void)state;
  owe_one();
  claim_mail(NODE, "g1", "sending");
  record("1", "retry", "451", "60", "waiting");
  claim_mail(NODE, "g1", "");
  set_clock("2026-01-01T12:01:00Z");
  claim_mail(NODE, "g1", "sending");
  record("2", "retry", "451", "86340", "waiting"); // a day after the first try: just in time
  set_clock("2026-01-02T12:00:00Z");
  claim_mail(NODE, "g1", "sending");
  record("3", "retry", "451", "1", "dead");
  COLUMN("state || tries || last_reply", "deliveries", "dead3said so");
  PQclear(CALL("delivery_requeue", MAIL(1), "false"));
  claim_mail(NODE, "g1", "sending");
  record("4", "retry", "451", "60", "waiting"); // it has a day again
  COLUMN("state || tries || resend", "deliveries", "waiting10");
}

static void a_faulty_template_holds_one_mail_only(void **state) {
  (void)state;
  owe_one();
  claim_mail(NODE, "g1", "sending");
  record("1", "fault", NULL, "3600", "faulty");
  claim_mail(NODE, "g1", "");
  COLUMN("tries || fault", "deliveries", "0said so");
  claim_mail(NODE, "g2", "sending"); // at once, with other templates
  record("2", "sent", "250", NULL, "sent");
  COLUMN("state || coalesce(fault, '-')", "deliveries", "sent-");
}

static void expect_domains(const char *domain, const char *expected) {
  PGresult *rows = CALL("deliveries_claim", NODE, "10", "g1", "3", "30", domain);
  assert_int_equal(PQntuples(rows), 1);
  if (strstr(PQgetvalue(rows, 0, 1), expected) == NULL) fail_msg("%s has no %s", PQgetvalue(rows, 0, 1), expected);
  PQclear(rows);
}

static void a_message_id_keeps_its_domain(void **state) {
  (void)state;
  owe_one();
  expect_domains("old.example", "\"messageDomain\" : \"old.example\"");
  record("1", "retry", "451", "0", "waiting");
  expect_domains("new.example", "\"messageDomain\" : \"old.example\"");
  record("2", "sent", "250", NULL, "sent");
  claim(NODE, BUILD(1)); // owes "started", in the same conversation
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("1", "2",
         "{\"deliveries\": [{\"id\": \"" MAIL(2) "\", \"channel\": \"email\", \"recipient\": \"a@acme.example\"}]}",
         "g1", "3600");
  expect_domains("new.example", "\"messageDomain\" : \"new.example\", \"threadDomain\" : \"old.example\"");
  // As a program left them that kept no domain.
  sql_do(pg, "update deliveries set state = 'waiting', message_domain = null, message_id = '<1.queued@old.example>',"
             " run_after = buildq_now() where event = 'queued'");
  expect_domains("new.example", "\"messageDomain\" : \"old.example\"");
}

static void mails_of_a_build_keep_their_order(void **state) {
  (void)state;
  owe_one();
  claim(NODE, BUILD(1)); // owes "started"
  claim_mail(NODE, "g1", "sending");
  PQclear(CALL("outbox_take", "10", "g1", "3", "30"));
  expand("1", "2",
         "{\"deliveries\": [{\"id\": \"" MAIL(2) "\", \"channel\": \"email\", \"recipient\": \"a@acme.example\"}]}",
         "g1", "3600");
  claim_mail(NODE, "g1", ""); // "queued" is on its way
  record("1", "retry", "451", "60", "waiting");
  claim_mail(NODE, "g1", "sending"); // what is refused holds nothing up
  COLUMN("state", "deliveries", "waiting sending");
}

static void a_lost_server_leaves_its_mails(void **state) {
  (void)state;
  owe_one();
  claim_mail(NODE, "g1", "sending");
  EXPECT("", "deliveries_takeover", NULL);
  EXPECT("", "deliveries_release", NODE, "{" MAIL(1) "}");
  EXPECT(MAIL(1), "deliveries_release", NODE, "{}"); // a claim whose answer was lost
  claim_mail(NODE, "g1", "sending");
  RUN("node_leave", NODE);
  EXPECT(MAIL(1), "deliveries_takeover", NULL);
  join(OTHER);
  claim_mail(OTHER, "g1", "sending");
  record("2", "sent", "250", NULL, "stale");
  COLUMN("state || claim || tries || (attempts -> 0 ->> 'outcome')", "deliveries", "sending30lost");
}

static void who_is_unsubscribed_gets_no_mail(void **state) {
  (void)state;
  owe_one();
  EXPECT_SQL("select 1", "1");
  RUN("suppress", "email", "acme", "", "started", NULL, "command"); // another event
  RUN("suppress", "slack", "acme", "", "", NULL, "command");        // another channel
  COLUMN("state", "deliveries", "waiting");
  RUN("suppress", "email", "", "A@acme.example", "", NULL, "link");
  COLUMN("state || ' ' || reason", "deliveries", "skipped unsubscribed by link");
  RUN("delivery_requeue", MAIL(1), "false");
  claim_mail(NODE, "g1", "skipped"); // it still is
  EXPECT("{\"removed\": 0}", "unsuppress", "email", "", "a@acme.example", "", "command"); // the link has said it
  EXPECT("{\"removed\": 1}", "unsuppress", "email", "", "a@acme.example", "", "link");
  RUN("delivery_requeue", MAIL(1), "false");
  claim_mail(NODE, "g1", "sending");
}

static void a_recipient_that_is_gone_is_disabled(void **state) {
  (void)state;
  owe_one();
  claim_mail(NODE, "g1", "sending");
  record("1", "gone", "410", NULL, "dead");
  EXPECT_SQL("select recipient || ' ' || reason from disabled_recipients", "a@acme.example 410 said so");
  RUN("delivery_requeue", MAIL(1), "false");
  claim_mail(NODE, "g1", "skipped");
  EXPECT("{\"removed\": 1}", "enable_recipient", "email", "a@acme.example");
}

static void people_change_what_waits(void **state) {
  (void)state;
  owe_one();
  claim_mail(NODE, "g1", "sending");
  EXPECT("{\"state\": \"sending\", \"outcome\": \"conflict\"}", "delivery_cancel", MAIL(1));
  EXPECT("{\"state\": \"sending\", \"outcome\": \"conflict\"}", "delivery_requeue", MAIL(1), "true");
  record("1", "retry", "451", "60", "waiting");
  RUN("delivery_cancel", MAIL(1));
  COLUMN("state", "deliveries", "cancelled");
  RUN("delivery_requeue", MAIL(1), "true");
  claim_mail(NODE, "g1", "sending");
  record("2", "sent", "250", NULL, "sent");
  EXPECT("{\"state\": \"sent\", \"outcome\": \"conflict\"}", "delivery_requeue", MAIL(1), "false");
  RUN("delivery_requeue", MAIL(1), "true");
  COLUMN("state || resend", "deliveries", "waiting1"); // another Message-ID
  EXPECT("", "delivery_cancel", MAIL(9));
}

static void a_test_goes_out_as_any_other(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  EXPECT("", "delivery_test", MAIL(2), "email", "me@x.example", "failed", BUILD(9), NULL); // no such build
  RUN("delivery_test", MAIL(1), "email", "me@x.example", "failed", NULL, NULL);
  PGresult *rows = CALL("deliveries_claim", NODE, "10", "g1", "3", "30", "x.example");
  assert_int_equal(PQntuples(rows), 1);
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"build\" : null"));
  assert_non_null(strstr(PQgetvalue(rows, 0, 1), "\"test\" : true"));
  PQclear(rows);
  record("1", "sent", "250", NULL, "sent");
  set_clock("2026-03-01T12:00:00Z");
  RUN("purge_deliveries", "30", "100");
  COLUMN("state", "deliveries", "");
}

static void a_late_mail_shows_the_attempt_it_tells_of(void **state) {
  (void)state;
  set_clock("2026-01-01T12:00:00Z");
  insert(BUILD(1), "", "");
  claim(NODE, BUILD(1));
  fail_attempt(BUILD(1), "1", NULL, "recorded|failed");
  RUN("retry", BUILD(1));
  claim(NODE, BUILD(1));
  PQclear(CALL("finish_success", SUCCESS(BUILD(1), "2", NODE, "out", NULL, "[{\"name\": \"a\"}]", "other tail")));
  PGresult *rows = CALL("outbox_take", "10", "g1", "3", "30");
  assert_int_equal(PQntuples(rows), 6); // queued started failed, queued started completed
  assert_non_null(strstr(PQgetvalue(rows, 2, 1), "\"logTail\": [\"the tail\"]"));
  assert_non_null(strstr(PQgetvalue(rows, 2, 1), "\"artifacts\": []"));
  assert_non_null(strstr(PQgetvalue(rows, 5, 1), "\"artifacts\": [{\"name\": \"a\"}]"));
  assert_non_null(strstr(PQgetvalue(rows, 5, 1), "\"expiresAt\": \"2026-01-31T12:00:00.000000Z\""));
  assert_non_null(strstr(PQgetvalue(rows, 5, 1), "\"round\": 2"));
  PQclear(rows);
}

static void deliveries_are_listed_and_counted(void **state) {
  (void)state;
  owe_one();
  EXPECT("", "deliveries_list", "sent", NULL, NULL, NULL, NULL, NULL, "10", NULL, NULL);
  PGresult *rows = CALL("deliveries_list", "waiting", "email", BUILD(1), "queued", "acme", "A@acme.example", "10",
                        NULL, NULL);
  assert_int_equal(PQntuples(rows), 1);
  const char *cursor[] = {PQgetvalue(rows, 0, 1), PQgetvalue(rows, 0, 2)};
  EXPECT("", "deliveries_list", NULL, NULL, NULL, NULL, NULL, NULL, "10", cursor[0], cursor[1]);
  PQclear(rows);
  set_clock("2026-01-01T12:00:10Z");
  EXPECT("{\"dead\": {}, \"events\": 0, \"faulty\": {}, \"sending\": {}, \"waiting\": {\"email\": 1},"
         " \"faultyEvents\": 0, \"oldestWaitingSeconds\": 10}", "notification_metrics", NULL);
  rows = CALL("delivery_show", MAIL(1));
  assert_non_null(strstr(PQgetvalue(rows, 0, 0), "\"attempts\": []"));
  PQclear(rows);
  rows = CALL("notification_facts", BUILD(1), "failed", "3", "30");
  assert_non_null(strstr(PQgetvalue(rows, 0, 0), "\"event\": \"failed\""));
  PQclear(rows);
  sql_do(pg, "delete from build_queue");
  COLUMN("state", "deliveries", "");
}

int main(void) {
  sql_prepare(&fixture);
  bq_log_setup(BQ_ERROR, BQ_LOG_TEXT);
  const struct CMUnitTest tests[] = {
      TEST(an_event_is_expanded_once),
      TEST(events_are_expanded_together),
      TEST(a_rule_that_fails_is_tried_again_by_other_scripts),
      TEST(a_mail_is_sent_once),
      TEST(outcomes_of_many_are_one_statement),
      TEST(of_many_tries_the_last_ones_are_kept),
      TEST(a_refused_mail_waits_and_is_given_up_in_the_end),
      TEST(a_faulty_template_holds_one_mail_only),
      TEST(a_message_id_keeps_its_domain),
      TEST(mails_of_a_build_keep_their_order),
      TEST(a_lost_server_leaves_its_mails),
      TEST(who_is_unsubscribed_gets_no_mail),
      TEST(a_recipient_that_is_gone_is_disabled),
      TEST(people_change_what_waits),
      TEST(a_test_goes_out_as_any_other),
      TEST(a_late_mail_shows_the_attempt_it_tells_of),
      TEST(deliveries_are_listed_and_counted),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
