// One delivery on its way.
//
//   WAITING (claimed, until there is a place)
//        ↓
//   RENDERING (notify.message in the routes' vm) → SENDING (a carrier has it) → RECORDING (delivery_outcomes)
//        ↓ a fault, no carrier                         ↓ not accepted                ↑
//        └─────────────────────────────────────────────┴────────────────────────────┘
//
// A place is taken while it is rendered and sent. Records of many are one statement, which is sent again until
// PostgreSQL has answered.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "base/uuid.h"
#include "queue/sender_internal.h"
#include "queue/server_metrics.h"

enum {
  FAULT_AGAIN_S = 3600,       // until a template that failed is tried again with the same scripts
  MAX_RETRY_AFTER_S = 86400   // of what a server asks for
};

typedef enum delivery_state { WAITING, RENDERING, SENDING, RECORDING } delivery_state;

struct bq_delivery {
  bq_sender_call call;       // first; while RENDERING
  bq_sender *sender;
  delivery_state state;
  json_t *facts;             // owned; as claimed
  const char *id;            // in facts
  char node_id[BQ_UUID_SIZE]; // that claimed it …
  unsigned term;             // … and in which term (node.h)
  char *message_id;          // owned; NULL before it is known
  char outcome[8];           // that is being recorded
  char reply[1001];          // that goes with it
  bq_delivery *next;
  bq_delivery *previous;
  bq_delivery *behind;       // the next one that waits
};

static void begin_next(bq_sender *sender);

static const char *fact(const bq_delivery *d, const char *name) {
  return json_string_value(json_object_get(d->facts, name));
}

static int64_t number(const bq_delivery *d, const char *name) {
  return json_integer_value(json_object_get(d->facts, name));
}

static void end_delivery(bq_delivery *d) {
  bq_sender *sender = d->sender;
  if (d->previous != NULL) d->previous->next = d->next;
  else sender->deliveries = d->next;
  if (d->next != NULL) d->next->previous = d->previous;
  sender->delivery_count--;
  sender->ended++;
  json_decref(d->facts);
  bq_free(d->message_id);
  bq_free(d);
  bq_sender_turn(sender);
}

// Recording -----------------------------------------------------------------------------------------------------------

int64_t bq_delivery_backoff_s(const bq_config *config, int64_t tries) {
  int64_t delay_s = config->delivery_retry_seconds;
  for (int64_t i = 0; i < tries && delay_s < config->delivery_retry_max_seconds; i++) delay_s *= 2;
  return delay_s < config->delivery_retry_max_seconds ? delay_s : config->delivery_retry_max_seconds;
}

static void tell(const bq_delivery *d, const char *state) {
  const char *build = json_string_value(json_object_get(json_object_get(d->facts, "build"), "id"));
  const char *message = "a notification could not be sent and is tried again";
  bq_log_level level = BQ_WARN;
  if (strcmp(state, "sent") == 0) {
    message = "notification sent";
    level = BQ_INFO;
  } else if (strcmp(state, "dead") == 0) {
    message = "a notification can't be delivered";
    level = BQ_ERROR;
  } else if (strcmp(state, "faulty") == 0) {
    message = "a template fails: the notification waits until that is mended";
    level = BQ_ERROR;
  } else if (strcmp(state, "stale") == 0) {
    message = strcmp(d->outcome, "back") == 0 ? "another server has the notification: it was not sent here"
                                              : "another server has the notification that was sent here";
  }
  bq_log(level, message, "delivery", d->id, "channel", fact(d, "channel"), "event", fact(d, "event"), "build", build,
         "recipient", strcmp(fact(d, "channel"), "email") == 0 ? fact(d, "recipient") : NULL, "reply", d->reply, NULL);
}

// The state that an outcome leads to.
static const char *state_of(const char *outcome) {
  static const char *const states[][2] = {{"retry", "waiting"}, {"back", "waiting"}, {"gone", "dead"}, {"fault", "faulty"}};
  for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
    if (strcmp(outcome, states[i][0]) == 0) return states[i][1];
  }
  return outcome; // sent, dead
}

static void on_recorded(void *arg, const bq_pg_result *result, int row) {
  bq_delivery *d = arg;
  const char *state = result->error == NULL ? PQgetvalue(result->rows, row, 0) : "";
  if (strcmp(state, "repeated") == 0) state = state_of(d->outcome);
  if (result->error != NULL && result->error->code != BQ_ECANCELED) {
    bq_log_error("what became of a notification can't be recorded", result->error);
    d->sender->uncertain = 1; // the database still thinks that it is being sent
  }
  if (*state != '\0' && d->reply[0] == '\0' && strcmp(d->outcome, "back") == 0) {
    // It was claimed and not begun: nothing has happened.
  } else if (*state != '\0') {
    const char *labels[] = {fact(d, "channel"), strcmp(state, "waiting") == 0 ? "retry" : state};
    bq_metrics_add(d->sender->server->metrics, BQ_M_DELIVERIES, labels, 1);
    if (strcmp(state, "faulty") == 0) bq_metrics_add(d->sender->server->metrics, BQ_M_DELIVERY_FAULTS, NULL, 1);
    tell(d, state);
  }
  end_delivery(d);
}

// Seconds until the next try. `retry_after_s`: what the server asked for.
static double wait_of(const bq_delivery *d, const char *outcome, int64_t retry_after_s) {
  if (strcmp(outcome, "back") == 0 && d->state != RENDERING) return 0; // it has not begun, or may not go from here
  const bq_config *config = d->sender->server->config;
  int64_t wait_s = strcmp(outcome, "fault") == 0 ? FAULT_AGAIN_S : bq_delivery_backoff_s(config, number(d, "tries"));
  if (retry_after_s > MAX_RETRY_AFTER_S) retry_after_s = MAX_RETRY_AFTER_S;
  double jitter = 0.8 + 0.4 * (double)(random() % 1000) / 1000.0; // so that not all come back at once
  double wait = (double)wait_s * jitter;
  return wait < (double)retry_after_s ? (double)retry_after_s : wait;
}

// `code` 0: none.
static void record(bq_delivery *d, const char *outcome, int code, const char *reply, int64_t retry_after_s) {
  bq_sender *sender = d->sender;
  bq_error err;
  double wait = wait_of(d, outcome, retry_after_s);
  if (d->state != WAITING) sender->place_count--;
  d->state = RECORDING;
  begin_next(sender);
  if (sender->state == BQ_SENDER_CLOSING) { // whoever takes it over decides
    end_delivery(d);
    return;
  }
  (void)snprintf(d->outcome, sizeof d->outcome, "%s", outcome);
  (void)snprintf(d->reply, sizeof d->reply, "%s", reply != NULL ? reply : "");
  bq_utf8_clean(d->reply);
  json_t *item = json_pack("{s:s, s:s, s:I, s:s, s:o, s:s, s:f, s:I, s:s?, s:s}", "id", d->id, "node", d->node_id,
                           "claim", (json_int_t)number(d, "claim"), "outcome", outcome, "code",
                           code != 0 ? json_integer(code) : json_null(), "reply", d->reply, "retry", wait, "window",
                           (json_int_t)sender->server->config->delivery_give_up_hours * 3600, "messageId",
                           d->message_id, "generation", d->call.generation);
  int result = item != NULL ? bq_batch_add(sender->outcomes, item, on_recorded, d, &err)
                            : bq_fail(&err, BQ_ENOMEM, "out of memory for an outcome");
  json_decref(item);
  if (result == 0) return;
  bq_log_error("what became of a notification can't be recorded", &err);
  sender->uncertain = 1;
  end_delivery(d);
}

// Sending -------------------------------------------------------------------------------------------------------------

// This server was frozen, or cut off: another one may be sending it.
static void give_back(bq_delivery *d) {
  record(d, "back", 0, "the lease was over before it was sent", 0);
}

static void on_sent(void *arg, const bq_transport_result *result) {
  bq_delivery *d = arg;
  const char *outcome = "retry";
  switch (result->outcome) {
  case BQ_TRANSPORT_SENT: outcome = "sent"; break;
  case BQ_TRANSPORT_RETRY: outcome = "retry"; break;
  case BQ_TRANSPORT_DEAD: outcome = "dead"; break;
  case BQ_TRANSPORT_GONE: outcome = "gone"; break;
  case BQ_TRANSPORT_BACK: give_back(d); return;
  }
  record(d, outcome, result->code, result->reply, result->retry_after_s);
}

static const bq_carrier *carrier_of(const json_t *message) {
  for (const bq_carrier *carrier = bq_carriers; carrier->kind != NULL; carrier++) {
    if (json_object_get(message, carrier->kind) != NULL) return carrier;
  }
  return NULL;
}

static void on_rendered(bq_sender_call *call, const json_t *result, const char *fault) {
  bq_delivery *d = (bq_delivery *)call;
  bq_server *server = d->sender->server;
  bq_error err;
  const bq_carrier *carrier = result != NULL ? carrier_of(result) : NULL;
  if (carrier == NULL) {
    const char *outcome = call->scarce ? "retry" : "fault";
    record(d, outcome, 0, result == NULL ? fault : "notify.message gave neither mail nor http", 0);
    return;
  }
  if (d->sender->state == BQ_SENDER_CLOSING) {
    record(d, "back", 0, NULL, 0);
    return;
  }
  d->state = SENDING;
  if (!bq_node_holds(server->node, d->term)) {
    give_back(d);
    return;
  }
  int sent = bq_message_id(&d->message_id, server, d->facts, &err);
  if (sent == 0) {
    const bq_outgoing what = {.delivery = d->facts, .message = json_object_get(result, carrier->kind),
                              .message_id = d->message_id,
                              .term = d->term};
    sent = carrier->send(server, &what, on_sent, d, &err);
  }
  if (sent < 0) {
    record(d, err.code == BQ_EINVAL ? "dead" : err.code == BQ_ESCRIPT ? "fault" : "retry", 0, err.message, 0);
  }
}

// The beginning -------------------------------------------------------------------------------------------------------

static bq_delivery *take_waiting(bq_sender *sender) {
  bq_delivery *d = sender->waiting;
  sender->waiting = d->behind;
  if (sender->waiting == NULL) sender->last = NULL;
  return d;
}

static void begin(bq_delivery *d) {
  bq_sender *sender = d->sender;
  bq_error err;
  d->state = RENDERING;
  sender->place_count++;
  if (bq_sender_call_start(&d->call, sender->server, "message", d->facts, on_rendered, &err) < 0) {
    record(d, "back", 0, err.message, 0);
  }
}

static void on_turn(bq_post *post) {
  bq_sender *sender = (bq_sender *)((char *)post - offsetof(bq_sender, post));
  sender->posted = 0;
  if (sender->waiting == NULL || sender->place_count >= bq_sender_places(sender)) return;
  begin(take_waiting(sender));
  begin_next(sender);
}

// One on each turn of the loop: rendering is computing, and others want their turn too.
static void begin_next(bq_sender *sender) {
  if (sender->posted || sender->waiting == NULL || sender->place_count >= bq_sender_places(sender)) return;
  sender->posted = 1;
  sender->post.run = on_turn;
  bq_loop_post(sender->server->loop, &sender->post);
}

void bq_delivery_begin(bq_sender *sender, const char *node_id, unsigned term, json_t *facts) {
  const char *id = json_string_value(json_object_get(facts, "id"));
  bq_delivery *d = id != NULL ? bq_alloc(sizeof *d) : NULL;
  if (d == NULL) {
    sender->uncertain = 1; // it is claimed, and nobody sends it
    json_decref(facts);
    return;
  }
  d->sender = sender;
  d->facts = facts;
  d->id = id;
  d->term = term;
  (void)snprintf(d->node_id, sizeof d->node_id, "%s", node_id);
  d->next = sender->deliveries;
  if (d->next != NULL) d->next->previous = d;
  sender->deliveries = d;
  sender->delivery_count++;
  if (sender->last != NULL) sender->last->behind = d;
  else sender->waiting = d;
  sender->last = d;
  if (sender->state == BQ_SENDER_RUNNING) begin_next(sender);
  else bq_deliveries_give_back(sender);
}

void bq_deliveries_give_back(bq_sender *sender) {
  while (sender->waiting != NULL) record(take_waiting(sender), "back", 0, NULL, 0);
}

void bq_deliveries_kill(bq_sender *sender) {
  for (bq_delivery *d = sender->deliveries; d != NULL; d = d->next) {
    if (d->state == RENDERING) bq_sender_call_kill(&d->call);
  }
}

int bq_deliveries_in_lua(const bq_sender *sender) {
  int count = 0;
  for (const bq_delivery *d = sender->deliveries; d != NULL; d = d->next) count += d->state == RENDERING;
  return count;
}

void bq_deliveries_list(const bq_sender *sender, bq_buf *out) {
  bq_buf_addc(out, '{');
  for (const bq_delivery *d = sender->deliveries; d != NULL; d = d->next) {
    bq_buf_addf(out, "%s%s", d != sender->deliveries ? "," : "", d->id);
  }
  bq_buf_addc(out, '}');
}
