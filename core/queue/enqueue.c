#include "queue/enqueue.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "queue/facts.h"

// What was counted may change between the question and the write as often as others enqueue for the same customer or tier.
enum { MAX_ROUNDS = 50, LANES = 64 };

typedef struct enqueue enqueue;

struct bq_enqueue_lanes {
  enqueue *first[LANES]; // the one under way, then those that wait
  enqueue *last[LANES];
};

struct enqueue {
  bq_enqueue_env env;
  json_t *fields;       // owned
  json_t *build;        // owned; as policies see it
  json_t *counts;       // owned; what is compared at the write, or NULL
  json_t *surroundings; // owned; what is only looked at, or NULL
  json_t *wanted;       // owned; names of facts, empty for none
  bq_placement placement;
  char fingerprint[BQ_FINGERPRINT_SIZE]; // of the policy that decided
  bq_admission admission;
  int rounds;
  int lane;             // -1: it counts nothing
  enqueue *next;        // in its lane
  bq_enqueue_done done;
  void *arg;
};

static void release(enqueue *e) {
  json_decref(e->fields);
  json_decref(e->build);
  json_decref(e->counts);
  json_decref(e->surroundings);
  json_decref(e->wanted);
  bq_free(e);
}

int bq_enqueue_lanes_new(bq_enqueue_lanes **out, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for enqueueing");
}

void bq_enqueue_lanes_free(bq_enqueue_lanes *lanes) {
  for (int i = 0; lanes != NULL && i < LANES; i++) {
    while (lanes->first[i] != NULL) {
      enqueue *e = lanes->first[i];
      lanes->first[i] = e->next;
      release(e);
    }
  }
  bq_free(lanes);
}

static void ask_facts(enqueue *e);

static void finish(enqueue *e, const bq_enqueue_result *result) {
  enqueue *next = e->next;
  if (e->lane >= 0) {
    e->env.lanes->first[e->lane] = next;
    if (next == NULL) e->env.lanes->last[e->lane] = NULL;
  }
  int canceled = result->outcome == BQ_ENQUEUE_FAILED && result->error->code == BQ_ECANCELED;
  e->done(e->arg, result);
  if (next != NULL && canceled) finish(next, result); // the connections are being closed
  else if (next != NULL) ask_facts(next);
  release(e);
}

// The first of a lane begins at once.
static void take_turn(enqueue *e) {
  bq_enqueue_lanes *lanes = e->env.lanes;
  const char *customer = json_string_value(json_object_get(e->fields, "customerId"));
  unsigned hash = 0;
  int tiers = bq_policies_wants(e->env.decider->policies, BQ_HOOK_ADMISSION, "tierUsage") ||
              bq_policies_wants(e->env.decider->policies, BQ_HOOK_PRIORITY, "tierUsage");
  for (const char *c = customer; c != NULL && *c != '\0' && !tiers; c++) hash = hash * 31 + (unsigned char)*c;
  e->lane = (int)(hash % LANES);
  if (lanes->last[e->lane] == NULL) lanes->first[e->lane] = e;
  else lanes->last[e->lane]->next = e;
  lanes->last[e->lane] = e;
  if (lanes->first[e->lane] == e) ask_facts(e);
}

static void fail(enqueue *e, const bq_error *error, const char *sqlstate) {
  finish(e, &(bq_enqueue_result){.outcome = BQ_ENQUEUE_FAILED, .error = error, .sqlstate = sqlstate});
}

static void fail_here(enqueue *e, int code, const char *why) {
  bq_error err;
  (void)bq_fail(&err, code, "%s", why);
  fail(e, &err, "");
}

static void decide(enqueue *e);

static void on_row_written(void *arg, const bq_pg_result *result, int row) {
  enqueue *e = arg;
  if (result->error != NULL) {
    fail(e, result->error, result->sqlstate);
    return;
  }
  json_t *answer = bq_store_json(result->rows, row);
  const json_t *changed = json_object_get(answer, "changed");
  if (answer == NULL) {
    fail_here(e, BQ_ENOMEM, "the answer to an enqueue could not be read");
  } else if (changed == NULL) {
    finish(e, &(bq_enqueue_result){.outcome = BQ_ENQUEUED, .answer = answer, .sqlstate = ""});
  } else if (++e->rounds >= MAX_ROUNDS) {
    fail_here(e, BQ_EUNAVAIL, "too many builds are being enqueued for this customer or tier at the same moment");
  } else {
    json_decref(e->counts);
    e->counts = json_deep_copy(changed);
    decide(e);
  }
  json_decref(answer);
}

static void on_written(void *arg, const bq_pg_result *result) {
  on_row_written(arg, result, 0);
}

// The key of the built-in rule is the trigger's: it goes by the time at which the row is written.
static int add_placement(enqueue *e) {
  const bq_placement *p = &e->placement;
  int failed = json_object_set_new(e->fields, "priority", json_integer(p->priority));
  if (e->fingerprint[0] != '\0') {
    int64_t asked = json_integer_value(json_object_get(e->build, "priority"));
    failed |= json_object_set_new(e->fields, "claimKey", json_integer(p->key));
    failed |= json_object_set_new(e->fields, "keyedBy", json_string(e->fingerprint));
    failed |= json_object_set(e->fields, "enqueuedAt", json_object_get(e->build, "enqueuedAt"));
    if (asked != p->priority) failed |= json_object_set_new(e->fields, "askedPriority", json_integer(asked));
    failed |= json_object_set_new(e->fields, "tag", p->has_tag ? json_integer(p->tag) : json_null());
  }
  if (p->reason[0] != '\0') failed |= json_object_set_new(e->fields, "policyReason", json_string(p->reason));
  failed |= json_object_set(e->fields, "wanted", e->wanted);
  if (e->counts != NULL) failed |= json_object_set(e->fields, "counts", e->counts);
  return failed;
}

// What was decided on counts holds locks until its commit: it is written by itself.
static void write_row(enqueue *e) {
  bq_error err;
  if (add_placement(e) != 0) {
    fail_here(e, BQ_ENOMEM, "out of memory for a build");
    return;
  }
  if (json_array_size(e->wanted) == 0) {
    if (bq_batch_add(e->env.batch, e->fields, on_row_written, e, &err) < 0) fail(e, &err, "");
    return;
  }
  char *text = bq_json_dumps(e->fields, JSON_COMPACT);
  const char *params[] = {text};
  if (text == NULL) fail_here(e, BQ_ENOMEM, "out of memory for a build");
  else if (bq_store_query(e->env.store, "enqueue", 1, params, on_written, e, &err) < 0) fail(e, &err, "");
  bq_free(text);
}

static void take_fingerprint(enqueue *e) {
  const char *fingerprint = bq_policies_fingerprint(e->env.decider->policies, BQ_HOOK_PRIORITY);
  (void)snprintf(e->fingerprint, sizeof e->fingerprint, "%s", fingerprint);
}

static void on_replay(void *arg, const bq_pg_result *result) {
  enqueue *e = arg;
  if (result->error != NULL) {
    fail(e, result->error, result->sqlstate);
    return;
  }
  json_t *answer = PQntuples(result->rows) > 0 ? bq_store_json(result->rows, 0) : NULL;
  bq_enqueue_result end = {.outcome = BQ_ENQUEUE_REFUSED, .admission = &e->admission, .sqlstate = ""};
  if (answer != NULL) end = (bq_enqueue_result){.outcome = BQ_ENQUEUED, .answer = answer, .sqlstate = ""};
  finish(e, &end);
  json_decref(answer);
}

// What was counted may include this very request, accepted a moment ago under the same Idempotency-Key.
static void refuse(enqueue *e) {
  bq_error err;
  const json_t *idempotency = json_object_get(e->fields, "idempotency");
  const char *params[] = {json_string_value(json_object_get(idempotency, "key")),
                          json_string_value(json_object_get(idempotency, "hash"))};
  if (params[0] == NULL) {
    finish(e, &(bq_enqueue_result){.outcome = BQ_ENQUEUE_REFUSED, .admission = &e->admission, .sqlstate = ""});
  } else if (bq_store_query(e->env.store, "replay", 2, params, on_replay, e, &err) < 0) {
    fail(e, &err, "");
  }
}

// The policies may be others than those whose facts were asked for: then a fact is missing, and they fall back.
static void decide(enqueue *e) {
  take_fingerprint(e);
  json_t *facts = bq_facts_join(e->counts, e->surroundings, e->env.disk, e->env.arg);
  if (facts == NULL) {
    fail_here(e, BQ_ENOMEM, "out of memory for a build");
    return;
  }
  bq_decide_admission(e->env.decider, e->build, facts, &e->admission);
  if (e->admission.action == BQ_REFUSE) {
    json_decref(facts);
    refuse(e);
    return;
  }
  json_t *build = json_copy(e->build);
  if (build == NULL) {
    json_decref(facts);
    fail_here(e, BQ_ENOMEM, "out of memory for a build");
    return;
  }
  if (e->admission.action == BQ_ADMIT_LOWER) {
    (void)json_object_set_new(build, "priority", json_integer(e->admission.priority));
  }
  bq_decide_priority(e->env.decider, build, facts, &e->placement);
  if (e->placement.reason[0] == '\0' && e->admission.action == BQ_ADMIT_LOWER) {
    (void)snprintf(e->placement.reason, sizeof e->placement.reason, "%s", e->admission.reason);
  }
  json_decref(build);
  json_decref(facts);
  write_row(e);
}

static void on_facts(void *arg, const bq_pg_result *result) {
  enqueue *e = arg;
  if (result->error != NULL) {
    fail(e, result->error, result->sqlstate);
    return;
  }
  if (bq_facts_read(result->rows, &e->counts, &e->surroundings) < 0) {
    fail_here(e, BQ_ENOMEM, "what a policy counts could not be read");
    return;
  }
  // The database's clock is the queue's.
  (void)json_object_set(e->build, "enqueuedAt", json_object_get(e->surroundings, "now"));
  decide(e);
}

static void ask_facts(enqueue *e) {
  bq_error err;
  if (bq_facts_ask(e->env.store, e->wanted, e->build, e->fingerprint, on_facts, e, &err) < 0) fail(e, &err, "");
}

void bq_enqueue(const bq_enqueue_env *env, const json_t *fields, bq_enqueue_done done, void *arg) {
  bq_error err;
  enqueue *e = bq_alloc(sizeof *e);
  if (e == NULL) {
    (void)bq_fail(&err, BQ_ENOMEM, "out of memory for a build");
    done(arg, &(bq_enqueue_result){.outcome = BQ_ENQUEUE_FAILED, .error = &err, .sqlstate = ""});
    return;
  }
  e->env = *env;
  e->done = done;
  e->arg = arg;
  e->lane = -1;
  e->fields = json_copy((json_t *)(uintptr_t)fields); // jansson counts references in what it copies
  e->build = bq_facts_build(fields);
  e->wanted = bq_facts_wanted(env->decider->policies);
  take_fingerprint(e);
  if (e->fields == NULL || e->build == NULL || e->wanted == NULL) fail_here(e, BQ_ENOMEM, "out of memory for a build");
  else if (json_array_size(e->wanted) > 0) take_turn(e);
  else if (e->fingerprint[0] != '\0') ask_facts(e);
  else decide(e);
}
