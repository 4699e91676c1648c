// The sender: owed events become deliveries, deliveries are claimed like builds and sent, several at a time.
//
// A look asks for events to expand and, with free places, for deliveries that are due. It comes at once after a change
// on this server or a notification, when something under way has ended, and every PollIntervalSeconds. What dead
// servers were sending is taken over in the same rhythm.
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "queue/sender_internal.h"

enum {
  EVENTS_AT_ONCE = 50,    // expanded side by side
  MOST_AHEAD = 250,       // deliveries claimed beyond those that are rendered and sent
  STOP_PATIENCE_MS = 5000 // how long a stop waits for what is under way
};

static void on_timer(void *arg);
static void on_patience(void *arg);

int bq_sender_new(bq_sender **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_sender *sender = bq_alloc(sizeof *sender);
  if (sender == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the sender");
  sender->server = server;
  int result = bq_timer_new(&sender->timer, server->loop, on_timer, sender, err);
  if (result == 0) result = bq_timer_new(&sender->patience, server->loop, on_patience, sender, err);
  if (result == 0) {
    result = bq_batch_new(&sender->expansions, server->loop, server->store, "outbox_expand", BQ_BATCH_WRITE, err);
  }
  if (result == 0) {
    result = bq_batch_new(&sender->outcomes, server->loop, server->store, "delivery_outcomes", BQ_BATCH_WRITE, err);
  }
  if (result < 0) bq_sender_free(sender);
  else *out = sender;
  return result;
}

void bq_sender_free(bq_sender *sender) {
  if (sender == NULL) return;
  bq_batch_free(sender->expansions);
  bq_batch_free(sender->outcomes);
  bq_timer_free(sender->timer);
  bq_timer_free(sender->patience);
  bq_free(sender);
}

void bq_sender_wake(bq_sender *sender) {
  if (sender == NULL || sender->state != BQ_SENDER_RUNNING) return;
  sender->owed = 1;
  sender->due = 1;
  if (sender->looking == 0) bq_timer_set(sender->timer, 0);
}

// Twice as many as are sent at a time: one is rendered while another is on its way.
int bq_sender_places(const bq_sender *sender) {
  return 2 * sender->server->config->max_concurrent_deliveries;
}

// Claimed ahead is what ends in half a second, so that sending doesn't wait for the database and a slow mail server
// doesn't keep from other servers what these could send. When half of all has ended it is asked again.
static int room_for_deliveries(const bq_sender *sender) {
  int rate = sender->rate > sender->ended ? sender->rate : sender->ended;
  int ahead = rate / 2 < MOST_AHEAD ? rate / 2 : MOST_AHEAD;
  int all = bq_sender_places(sender) + ahead;
  return sender->delivery_count <= all / 2 ? all - sender->delivery_count : 0;
}

static void count_ended(bq_sender *sender) {
  int64_t now_us = bq_clock_mono_us();
  int64_t passed_us = now_us - sender->counted_us;
  if (passed_us < 1000000) return;
  sender->rate = passed_us < 2000000 ? sender->ended : 0;
  sender->ended = 0;
  sender->counted_us = now_us;
}

static int has_work(const bq_sender *sender) {
  return (sender->owed && sender->event_count == 0) || (sender->due && room_for_deliveries(sender) > 0);
}

static void wait_for_more(bq_sender *sender) {
  int64_t poll_ms = (int64_t)sender->server->config->poll_interval_seconds * 1000;
  bq_timer_set(sender->timer, has_work(sender) ? 0 : poll_ms);
}

// The look ------------------------------------------------------------------------------------------------------------

// The database's absence has a line of its own elsewhere.
static void tell_failure(const char *what, const bq_error *err) {
  if (err->code != BQ_EUNAVAIL && err->code != BQ_EUNKNOWN && err->code != BQ_ECANCELED) bq_log_error(what, err);
}

static void end_look(bq_sender *sender) {
  if (--sender->looking > 0 || sender->state != BQ_SENDER_RUNNING) {
    bq_sender_turn(sender);
    return;
  }
  wait_for_more(sender);
}

static void on_events(void *arg, const bq_pg_result *result) {
  bq_sender *sender = arg;
  int count = result->error == NULL ? PQntuples(result->rows) : 0;
  if (result->error != NULL) tell_failure("owed notifications can't be looked for", result->error);
  for (int i = 0; i < count && sender->state == BQ_SENDER_RUNNING; i++) {
    json_t *event = NULL;
    bq_error err;
    if (bq_json_parse(PQgetvalue(result->rows, i, 1), (size_t)PQgetlength(result->rows, i, 1), 0, &event, &err) == 0) {
      bq_owed_event_begin(sender, PQgetvalue(result->rows, i, 0), event);
    } else {
      bq_log_error("an owed event can't be read", &err);
    }
  }
  if (count == EVENTS_AT_ONCE) sender->owed = 1; // there may be more
  end_look(sender);
}

typedef struct claim {
  bq_sender *sender;
  int limit;
  unsigned term;
  char node_id[BQ_UUID_SIZE];
} claim;

static void on_claimed(void *arg, const bq_pg_result *result) {
  claim *c = arg;
  bq_sender *sender = c->sender;
  int count = result->error == NULL ? PQntuples(result->rows) : 0;
  if (result->error != NULL) {
    tell_failure("deliveries can't be claimed", result->error);
    if (result->error->code == BQ_EUNKNOWN) sender->uncertain = 1;
  }
  for (int i = 0; i < count; i++) {
    json_t *facts = NULL;
    bq_error err;
    if (PQgetvalue(result->rows, i, 0)[1] == 'k') continue; // skipped
    if (bq_json_parse(PQgetvalue(result->rows, i, 1), (size_t)PQgetlength(result->rows, i, 1), 0, &facts, &err) == 0) {
      bq_delivery_begin(sender, c->node_id, c->term, facts);
    } else {
      bq_log_error("a delivery can't be read", &err);
      sender->uncertain = 1;
    }
  }
  if (count == c->limit) sender->due = 1; // there may be more
  bq_free(c);
  end_look(sender);
}

static void on_swept(void *arg, const bq_pg_result *result);

// What this server was thought to be sending is given back, or that is asked again: nobody else gives it back.
static void on_released(void *arg, const bq_pg_result *result) {
  bq_sender *sender = arg;
  if (result->error != NULL) sender->uncertain = 1;
  on_swept(arg, result);
}

static void on_swept(void *arg, const bq_pg_result *result) {
  bq_sender *sender = arg;
  if (result->error != NULL) {
    tell_failure("deliveries of lost servers can't be looked for", result->error);
    sender->swept_us = 0;
  } else if (PQntuples(result->rows) > 0) {
    char count[16];
    (void)snprintf(count, sizeof count, "%d", PQntuples(result->rows));
    bq_log(BQ_WARN, "deliveries are sent again: whether a lost server has sent them is not known", "deliveries", count,
           NULL);
    sender->due = 1;
  }
  end_look(sender);
}

// 1 when it is under way.
static int ask(bq_sender *sender, const char *statement, int count, const char *const *params, bq_pg_done done) {
  bq_error err;
  int asked = bq_store_query(sender->server->store, statement, count, params, done, sender, &err) == 0;
  if (asked) sender->looking++;
  else tell_failure("deliveries can't be looked for", &err);
  return asked;
}

// What dead servers were sending, and what this one is thought to be sending: 1 when that is given back now, so that
// nothing may be claimed meanwhile.
static int sweep(bq_sender *sender, const char *node_id) {
  int releasing = sender->uncertain;
  int64_t now_us = bq_clock_mono_us();
  int64_t period_us = (int64_t)sender->server->config->poll_interval_seconds * 1000000;
  if (sender->uncertain) {
    bq_buf known = {0};
    bq_deliveries_list(sender, &known);
    const char *params[] = {node_id, known.data};
    if (known.failed == 0 && known.data != NULL && ask(sender, "deliveries_release", 2, params, on_released)) {
      sender->uncertain = 0;
    }
    bq_buf_free(&known);
  }
  if (sender->swept_us != 0 && now_us - sender->swept_us < period_us) return releasing;
  sender->swept_us = ask(sender, "deliveries_takeover", 0, NULL, on_swept) ? now_us : 0;
  return releasing;
}

static void number(char out[16], int value) {
  (void)snprintf(out, 16, "%d", value);
}

static void look(bq_sender *sender, const char *hash) {
  const bq_config *config = sender->server->config;
  const char *node_id = sender->server->env.node_id;
  char limit[16];
  char retries[16];
  char days[16];
  number(retries, config->max_retry_attempts);
  number(days, config->completed_build_retention_days);
  int releasing = sweep(sender, node_id);
  if (sender->owed && sender->event_count == 0) {
    sender->owed = 0;
    number(limit, EVENTS_AT_ONCE);
    const char *params[] = {limit, hash, retries, days};
    ask(sender, "outbox_take", 4, params, on_events);
  }
  int room = room_for_deliveries(sender);
  if (!sender->due || room == 0 || releasing) return;
  sender->due = 0;
  unsigned term = bq_node_term(sender->server->node);
  if (!bq_node_holds(sender->server->node, term)) return; // all of it would be given back; the poll looks again
  bq_error err;
  claim *c = bq_alloc(sizeof *c);
  if (c == NULL) return; // the next look tries again
  *c = (claim){.sender = sender, .limit = room, .term = term};
  (void)snprintf(c->node_id, sizeof c->node_id, "%s", node_id);
  number(limit, room);
  const char *params[] = {c->node_id, limit, hash, retries, days, bq_message_domain(sender->server)};
  if (bq_store_query(sender->server->store, "deliveries_claim", 6, params, on_claimed, c, &err) == 0) {
    sender->looking++;
    return;
  }
  bq_free(c);
  tell_failure("deliveries can't be claimed", &err);
}

static void on_timer(void *arg) {
  bq_sender *sender = arg;
  bq_server *server = sender->server;
  bq_handlers *handlers = bq_script_host_handlers(server->host);
  bq_error err;
  if (sender->state != BQ_SENDER_RUNNING || sender->looking > 0) return; // its end looks again
  if (!has_work(sender)) sender->owed = sender->due = 1; // that was the poll
  if (handlers != NULL && server->env.node_id[0] != '\0' && server->config->enable_notifications &&
      bq_queue_may_ask(server, &err)) {
    look(sender, bq_generation_hash(bq_handlers_generation(handlers)));
  }
  if (sender->looking > 0) return;
  sender->owed = sender->due = 0; // whatever it is that is away: the next poll tries
  wait_for_more(sender);
}

void bq_sender_turn(bq_sender *sender) {
  if (sender->state == BQ_SENDER_RUNNING) {
    count_ended(sender);
    sender->due = 1; // what it made, or what waited for it
    if (sender->looking == 0 && has_work(sender)) bq_timer_set(sender->timer, 0);
    return;
  }
  if (bq_sender_busy(sender) || sender->idle == NULL) return;
  void (*idle)(void *) = sender->idle;
  sender->idle = NULL;
  bq_timer_clear(sender->patience);
  idle(sender->arg);
}

// The end -------------------------------------------------------------------------------------------------------------

int bq_sender_busy(const bq_sender *sender) {
  int deliveries = sender->state == BQ_SENDER_CLOSING ? bq_deliveries_in_lua(sender) : sender->delivery_count;
  return sender->looking > 0 || sender->event_count > 0 || deliveries > 0;
}

static void on_patience(void *arg) {
  bq_sender *sender = arg;
  char count[16];
  number(count, sender->delivery_count);
  if (bq_sender_busy(sender)) {
    bq_log(BQ_WARN, "stopping while notifications are being sent: another server, or the next start, sends them",
           "deliveries", count, NULL);
  }
  sender->state = BQ_SENDER_CLOSING;
  bq_owed_events_kill(sender);
  bq_deliveries_kill(sender);
  if (sender->idle == NULL) return;
  void (*idle)(void *) = sender->idle;
  sender->idle = NULL;
  idle(sender->arg);
}

void bq_sender_stop(bq_sender *sender, void (*idle)(void *arg), void *arg) {
  sender->state = BQ_SENDER_STOPPING;
  bq_timer_clear(sender->timer);
  bq_deliveries_give_back(sender);
  sender->idle = idle;
  sender->arg = arg;
  bq_timer_set(sender->patience, bq_sender_busy(sender) ? STOP_PATIENCE_MS : 0);
}
