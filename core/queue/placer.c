// The placer: gives pending builds the places of the priority policy in force, where they have another's.
//
// When the running policy is another one than the database's, that is told (use_policy), and all that is pending is to be
// placed anew. What came by plain SQL, or had its priority changed by hand, is noted by triggers. Here batches of that are
// read, decided on and written, while claims go on; one node does it at a time, while it keeps asking.
//
// Builds that were being written while the policy changed have noticed nothing and were not noticed: for as long as a
// statement may take, the server that told of the change looks for such whenever nothing else is to be placed.
//
//   TELLING → READING ⇄ WRITING → (FINDING → READING …) → FORGETTING → IDLE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "queue/facts.h"
#include "queue/server_internal.h"

enum {
  BATCH = 200,
  UNSURE_MS = 40000 // after a change: an enqueue that began before it has ended, as statements have 30 s
};

typedef enum placer_state {
  PLACER_IDLE,
  PLACER_TELLING,
  PLACER_READING,
  PLACER_WRITING,
  PLACER_FINDING,
  PLACER_FORGETTING
} placer_state;

struct bq_placer {
  bq_server *server; // borrowed
  bq_timer *timer;   // owned; looks every PollIntervalSeconds
  placer_state state;
  int again;         // a generation went live meanwhile
  int stopped;
  int told;          // the database knows of the running policy
  int64_t unsure_until_us; // bq_clock_mono_us; 0: all builds know of the policy, or are noted
  int searched;      // in this run
  int placed;        // by this run
  char fingerprint[BQ_FINGERPRINT_SIZE]; // of this run's policy
  json_t *tags;      // owned; of the batch: customer → its tags at each priority
};

static void read_batch(bq_placer *placer);
static void begin(bq_placer *placer);

static const char *fingerprint_or_null(const bq_placer *placer) {
  return placer->fingerprint[0] != '\0' ? placer->fingerprint : NULL;
}

static void rest(bq_placer *placer) {
  placer->state = PLACER_IDLE;
  if (placer->placed > 0) {
    char count[24];
    (void)snprintf(count, sizeof count, "%d", placer->placed);
    bq_log(BQ_INFO, "pending builds have the places of the policy in force", "builds", count, "policy",
           bq_policies_file(placer->server->decider.policies, BQ_HOOK_PRIORITY), NULL);
    placer->placed = 0;
  }
  if (placer->stopped) return;
  if (placer->again) begin(placer);
  else bq_timer_set(placer->timer, (int64_t)placer->server->config->poll_interval_seconds * 1000);
}

static void rest_after(bq_placer *placer, const bq_error *error) {
  if (error->code == BQ_EDATABASE) bq_log_error("pending builds could not be placed", error);
  rest(placer); // the next look tries again
}

static void on_forgotten(void *arg, const bq_pg_result *result) {
  bq_placer *placer = arg;
  if (result->error != NULL) rest_after(placer, result->error);
  else rest(placer);
}

static void on_placed(void *arg, const bq_pg_result *result) {
  bq_placer *placer = arg;
  if (result->error != NULL) {
    rest_after(placer, result->error);
    return;
  }
  placer->placed += (int)strtol(PQgetvalue(result->rows, 0, 0), NULL, 10);
  bq_queue_tell_enqueued(placer->server); // keys may be smaller than any before
  if (placer->stopped || placer->again) rest(placer);
  else read_batch(placer);
}

static void write_batch(bq_placer *placer, json_t *places, json_t *tags) {
  bq_error err = {0};
  char *place_text = bq_json_dumps(places, JSON_COMPACT);
  char *tag_text = bq_json_dumps(tags, JSON_COMPACT);
  const char *params[] = {fingerprint_or_null(placer), place_text, tag_text};
  placer->state = PLACER_WRITING;
  if (place_text == NULL || tag_text == NULL) (void)bq_fail(&err, BQ_ENOMEM, "out of memory");
  else if (bq_store_query(placer->server->store, "place", 3, params, on_placed, placer, &err) == 0) err.code = 0;
  bq_free(place_text);
  bq_free(tag_text);
  if (err.code != 0) rest_after(placer, &err);
}

// Within a batch one build's tag counts for the customer's next one, before the database knows it.
static int remember_tag(bq_placer *placer, const char *customer, json_t *counts, const bq_placement *place, json_t *tags) {
  if (!place->has_tag) return 0;
  json_t *known = json_object_get(counts, "customerTags");
  int failed = json_array_set_new(known, (size_t)place->priority, json_integer(place->tag));
  failed |= json_object_set(placer->tags, customer, known);
  failed |= json_array_append_new(tags, json_pack("{s:s, s:i, s:I}", "customer", customer, "priority", place->priority,
                                                  "tag", (json_int_t)place->tag));
  return failed;
}

static int decide_row(bq_placer *placer, json_t *row, json_t *places, json_t *tags) {
  bq_placement place;
  const char *customer = json_string_value(json_object_get(row, "customerId"));
  json_t *counts = json_object_get(row, "counts");
  json_t *known = json_object_get(placer->tags, customer != NULL ? customer : "");
  if (known != NULL && json_object_set(counts, "customerTags", known) < 0) return -1;
  json_t *facts = bq_facts_join(counts, json_object_get(row, "surroundings"), NULL, NULL);
  json_t *build = bq_facts_build(row);
  int failed = facts == NULL || build == NULL || customer == NULL;
  if (!failed) {
    bq_decide_priority(&placer->server->decider, build, facts, &place);
    failed = json_array_append_new(
        places, json_pack("{s:O, s:i, s:I, s:s?}", "id", json_object_get(row, "id"), "priority", place.priority, "key",
                          (json_int_t)place.key, "reason", place.reason[0] != '\0' ? place.reason : NULL));
    failed |= remember_tag(placer, customer, counts, &place, tags);
  }
  json_decref(build);
  json_decref(facts);
  return failed ? -1 : 0;
}

// Decides on each row of a batch and writes what was decided.
static void decide_batch(bq_placer *placer, const PGresult *rows) {
  bq_error err = {0};
  json_t *places = json_array();
  json_t *tags = json_array();
  placer->tags = json_object();
  int failed = placer->tags == NULL || places == NULL || tags == NULL;
  for (int i = 0; i < PQntuples(rows) && !failed; i++) {
    json_t *row = bq_store_json(rows, i);
    failed = row == NULL || decide_row(placer, row, places, tags) < 0;
    json_decref(row);
  }
  json_decref(placer->tags);
  placer->tags = NULL;
  (void)bq_fail(&err, BQ_ENOMEM, "out of memory for placing builds");
  if (failed) rest_after(placer, &err);
  else write_batch(placer, places, tags);
  json_decref(places);
  json_decref(tags);
}

static void on_found(void *arg, const bq_pg_result *result) {
  bq_placer *placer = arg;
  if (result->error != NULL) {
    rest_after(placer, result->error);
    return;
  }
  placer->searched = 1;
  if (bq_clock_mono_us() >= placer->unsure_until_us) placer->unsure_until_us = 0;
  if (placer->stopped || placer->again) rest(placer);
  else read_batch(placer);
}

// Nothing more is noted.
static void end_run(bq_placer *placer) {
  bq_error err = {0};
  int is_unsure = placer->unsure_until_us != 0 && !placer->searched;
  placer->state = is_unsure ? PLACER_FINDING : PLACER_FORGETTING;
  if (bq_store_query(placer->server->store, is_unsure ? "find_unplaced" : "forget_placed", 0, NULL,
                     is_unsure ? on_found : on_forgotten, placer, &err) < 0) {
    rest_after(placer, &err);
  }
}

static void on_batch(void *arg, const bq_pg_result *result) {
  bq_placer *placer = arg;
  if (result->error != NULL) {
    rest_after(placer, result->error);
    return;
  }
  if (PQntuples(result->rows) == 0) {
    end_run(placer);
    return;
  }
  // The policy may be another one by now: what it decides must bear its own name.
  if (strcmp(placer->fingerprint, bq_policies_fingerprint(placer->server->decider.policies, BQ_HOOK_PRIORITY)) != 0) {
    placer->again = 1;
    rest(placer);
    return;
  }
  decide_batch(placer, result->rows);
}

static void read_batch(bq_placer *placer) {
  bq_error err = {0};
  char limit[16];
  (void)snprintf(limit, sizeof limit, "%d", BATCH);
  json_t *names = bq_facts_wanted(placer->server->decider.policies);
  char *wanted = bq_json_dumps(names, JSON_COMPACT);
  json_decref(names);
  const char *params[] = {placer->server->env.node_id, fingerprint_or_null(placer), limit, wanted};
  placer->state = PLACER_READING;
  if (wanted == NULL) (void)bq_fail(&err, BQ_ENOMEM, "out of memory for placing builds");
  else if (bq_store_query(placer->server->store, "builds_to_place", 4, params, on_batch, placer, &err) == 0) err.code = 0;
  bq_free(wanted);
  if (err.code != 0) rest_after(placer, &err);
}

static void on_told(void *arg, const bq_pg_result *result) {
  bq_placer *placer = arg;
  if (result->error != NULL) {
    rest_after(placer, result->error);
    return;
  }
  placer->told = 1;
  if (PQntuples(result->rows) > 0) placer->unsure_until_us = bq_clock_mono_us() + (int64_t)UNSURE_MS * 1000;
  if (placer->again) rest(placer);
  else read_batch(placer);
}

// Nothing to do before this server is a node, or when it stops.
static void begin(bq_placer *placer) {
  bq_error err = {0};
  bq_timer_clear(placer->timer);
  const char *fingerprint = bq_policies_fingerprint(placer->server->decider.policies, BQ_HOOK_PRIORITY);
  if (strcmp(fingerprint, placer->fingerprint) != 0) placer->told = 0;
  (void)snprintf(placer->fingerprint, sizeof placer->fingerprint, "%s", fingerprint);
  placer->again = 0;
  placer->searched = 0;
  if (placer->server->env.node_id[0] == '\0') {
    bq_timer_set(placer->timer, 100);
  } else if (placer->told) {
    read_batch(placer);
  } else {
    const char *params[] = {fingerprint_or_null(placer)};
    placer->state = PLACER_TELLING;
    if (bq_store_query(placer->server->store, "use_policy", 1, params, on_told, placer, &err) < 0) {
      rest_after(placer, &err);
    }
  }
}

static void on_timer(void *arg) {
  begin(arg);
}

int bq_placer_new(bq_placer **out, bq_server *server, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the placer");
  (*out)->server = server;
  int result = bq_timer_new(&(*out)->timer, server->loop, on_timer, *out, err);
  if (result == 0) return 0;
  bq_free(*out);
  *out = NULL;
  return result;
}

void bq_placer_free(bq_placer *placer) {
  if (placer == NULL) return;
  bq_timer_free(placer->timer);
  json_decref(placer->tags);
  bq_free(placer);
}

void bq_placer_wake(bq_placer *placer) {
  if (placer->stopped) return;
  if (placer->state == PLACER_IDLE) begin(placer);
  else placer->again = 1;
}

void bq_placer_stop(bq_placer *placer) {
  placer->stopped = 1;
  bq_timer_clear(placer->timer);
}
