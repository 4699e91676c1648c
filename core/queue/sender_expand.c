// An owed event becomes deliveries: the rules say which, each gets an id, and one statement stores those of many events.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "queue/sender_internal.h"
#include "queue/server_metrics.h"

enum { FAULT_AGAIN_S = 3600 }; // until a rule that failed is tried again with the same scripts

struct bq_owed_event {
  bq_sender_call call; // first; while the rules are asked
  bq_sender *sender;
  char id[24];         // of the outbox row
  json_t *event;       // owned
  bq_owed_event *next;
  bq_owed_event *previous;
};

static void end_event(bq_owed_event *e) {
  bq_sender *sender = e->sender;
  if (e->previous != NULL) e->previous->next = e->next;
  else sender->events = e->next;
  if (e->next != NULL) e->next->previous = e->previous;
  sender->event_count--;
  json_decref(e->event);
  bq_free(e);
  bq_sender_turn(sender);
}

static void on_stored(void *arg, const bq_pg_result *result, int row) {
  bq_owed_event *e = arg;
  (void)row;
  if (result->error != NULL && result->error->code == BQ_EDATABASE) {
    bq_log_error("deliveries of an event can't be stored", result->error);
  }
  end_event(e);
}

static void store(bq_owed_event *e, json_t *made) {
  bq_error err;
  json_t *item = json_pack("{s:I, s:O, s:s, s:i}", "event", (json_int_t)strtoll(e->id, NULL, 10), "made", made,
                           "generation", e->call.generation, "again", FAULT_AGAIN_S);
  int result = item != NULL ? bq_batch_add(e->sender->expansions, item, on_stored, e, &err)
                            : bq_fail(&err, BQ_ENOMEM, "out of memory for deliveries");
  json_decref(item);
  if (result == 0) return;
  bq_log_error("deliveries of an event can't be stored", &err); // it is taken again
  end_event(e);
}

static void store_fault(bq_owed_event *e, const char *fault) {
  const char *event = json_string_value(json_object_get(e->event, "event"));
  const char *build = json_string_value(json_object_get(json_object_get(e->event, "build"), "id"));
  bq_log(BQ_ERROR, "no script can say who is told: the event waits until that is mended", "build", build, "event",
         event, "error", fault, NULL);
  bq_metrics_add(e->sender->server->metrics, BQ_M_DELIVERY_FAULTS, NULL, 1);
  json_t *made = json_pack("{s:s%}", "fault", fault, strlen(fault));
  store(e, made);
  json_decref(made);
}

static int give_ids(json_t *deliveries, bq_error *err) {
  size_t index;
  json_t *delivery;
  json_array_foreach(deliveries, index, delivery) {
    char id[BQ_UUID_SIZE];
    int result = bq_uuid_new(id, err);
    if (result < 0) return result;
    if (json_object_set_new(delivery, "id", json_string(id)) < 0) {
      return bq_fail(err, BQ_ENOMEM, "out of memory for deliveries");
    }
  }
  return 0;
}

// notify.expand answers a list with one entry: it was asked about one event, so that no other suffers from its fault.
static void on_expanded(bq_sender_call *call, const json_t *result, const char *fault) {
  bq_owed_event *e = (bq_owed_event *)call;
  bq_error err;
  if (e->sender->state == BQ_SENDER_CLOSING) {
    end_event(e);
    return;
  }
  if (call->scarce) {
    bq_log(BQ_ERROR, "deliveries of an event can't be made now", "error", fault, NULL); // it is taken again
    end_event(e);
    return;
  }
  json_t *made = json_array_get(result, 0);
  json_t *deliveries = json_object_get(made, "deliveries");
  if (made != NULL && deliveries == NULL) fault = json_string_value(json_object_get(made, "fault"));
  if (deliveries == NULL) {
    store_fault(e, fault != NULL && *fault != '\0' ? fault : "notify.expand has no answer");
  } else if (give_ids(deliveries, &err) < 0) {
    bq_log_error("deliveries of an event can't be stored", &err);
    end_event(e);
  } else {
    store(e, made);
  }
}

void bq_owed_event_begin(bq_sender *sender, const char *id, json_t *event) {
  bq_error err;
  bq_owed_event *e = bq_alloc(sizeof *e);
  json_t *list = json_pack("[O]", event);
  if (e == NULL || list == NULL) {
    json_decref(event); // it is taken again
    json_decref(list);
    bq_free(e);
    return;
  }
  e->sender = sender;
  e->event = event;
  (void)snprintf(e->id, sizeof e->id, "%s", id);
  e->next = sender->events;
  if (e->next != NULL) e->next->previous = e;
  sender->events = e;
  sender->event_count++;
  int result = bq_sender_call_start(&e->call, sender->server, "expand", list, on_expanded, &err);
  json_decref(list);
  if (result < 0) {
    bq_log_error("an owed event can't be looked at", &err);
    end_event(e);
  }
}

void bq_owed_events_kill(bq_sender *sender) {
  for (bq_owed_event *e = sender->events; e != NULL; e = e->next) bq_sender_call_kill(&e->call);
}
