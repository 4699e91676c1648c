#include "queue/node.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"

struct bq_node {
  bq_node_options options;
  char id[BQ_UUID_SIZE];       // "" before the first join
  char next_id[BQ_UUID_SIZE];  // of a join under way
  bq_timer *timer;             // owned; the next heartbeat
  atomic_uint term;            // joins so far
  atomic_llong held_until_us;  // bq_clock_boot_us; nobody may take the lease before. 0: somebody has
  int64_t joining_us;          // likewise, when the join under way was sent
  int64_t beating_us;          // and the heartbeat
  int beating;                 // a heartbeat is under way
  int beat_again;              // another one was asked for meanwhile
  int judging;                 // expiry and takeover are under way
  int buried;                  // the predecessor has been declared dead
  int drained;                 // by an operator
  char *pause_reason;          // owned; NULL: the queue is not paused
  int leaving;
  void (*left)(void *arg);
  void *left_arg;
};

static void on_timer(void *arg) {
  bq_node *node = arg;
  if (node->id[0] == '\0') bq_node_join(node); // the first join has failed
  else bq_node_beat(node);
}

int bq_node_new(bq_node **out, const bq_node_options *options, bq_error *err) {
  *out = NULL;
  bq_node *node = bq_alloc(sizeof *node);
  if (node == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the node");
  node->options = *options;
  atomic_init(&node->term, 0);
  atomic_init(&node->held_until_us, 0);
  int result = bq_timer_new(&node->timer, options->loop, on_timer, node, err);
  if (result < 0) bq_free(node);
  else *out = node;
  return result;
}

void bq_node_free(bq_node *node) {
  if (node == NULL) return;
  bq_timer_free(node->timer);
  bq_free(node->pause_reason);
  bq_free(node);
}

const char *bq_node_id(const bq_node *node) {
  return node->id;
}

const char *bq_node_pause_reason(const bq_node *node) {
  return node->pause_reason;
}

int bq_node_is_drained(const bq_node *node) {
  return node->drained;
}

unsigned bq_node_term(const bq_node *node) {
  return atomic_load(&node->term);
}

int bq_node_holds(const bq_node *node, unsigned term) {
  return term == atomic_load(&node->term) && bq_clock_boot_us() < atomic_load(&node->held_until_us);
}

// The lease began after what was answered was sent.
static void renew(bq_node *node, int64_t since_us) {
  atomic_store(&node->held_until_us, since_us + (int64_t)node->options.config->lease_seconds * 1000000);
}

static void schedule(bq_node *node) {
  if (!node->leaving) bq_timer_set(node->timer, (int64_t)node->options.config->lease_seconds * 1000 / 3);
}

// Judging others ----------------------------------------------------------------------------------------------------

static void on_takeover(void *arg, const bq_pg_result *result) {
  bq_node *node = arg;
  node->judging = 0;
  if (result->error != NULL) return; // the next heartbeat tries again
  int count = PQntuples(result->rows);
  for (int i = 0; i < count; i++) {
    bq_log(BQ_WARN, "a build of a lost node was taken over", "build", PQgetvalue(result->rows, i, 0), "status",
           PQgetvalue(result->rows, i, 2), NULL);
  }
  if (count > 0) node->options.taken_over(node->options.arg, (size_t)count);
}

static void take_over(bq_node *node) {
  bq_error err;
  if (bq_store_query(node->options.store, "takeover", 0, NULL, on_takeover, node, &err) < 0) node->judging = 0;
}

static void on_expired(void *arg, const bq_pg_result *result) {
  bq_node *node = arg;
  if (result->error != NULL) {
    node->judging = 0;
    return;
  }
  for (int i = 0; i < PQntuples(result->rows); i++) {
    bq_log(BQ_WARN, "a node was silent for longer than its lease and is declared dead", "node",
           PQgetvalue(result->rows, i, 0), "name", PQgetvalue(result->rows, i, 1), NULL);
  }
  take_over(node);
}

static void judge_others(bq_node *node) {
  const char *params[] = {node->id};
  bq_error err;
  if (node->judging || node->leaving) return;
  if (bq_store_query(node->options.store, "nodes_expire", 1, params, on_expired, node, &err) == 0) node->judging = 1;
}

// Staying alive -----------------------------------------------------------------------------------------------------

static void read_heartbeat(bq_node *node, const PGresult *rows) {
  json_t *state = bq_store_json(rows, 0);
  if (state == NULL) return; // logged; the next one says it again
  json_t *cancel;
  size_t index;
  const char *reason = json_string_value(json_object_get(state, "pauseReason"));
  int drained = json_is_true(json_object_get(state, "drained"));
  if (drained != node->drained) {
    bq_log(BQ_INFO, drained ? "drained: no build starts here any more" : "resumed: builds start here again", NULL);
    node->drained = drained;
    if (!drained) node->options.resumed(node->options.arg);
  }
  bq_free(node->pause_reason);
  node->pause_reason =
      json_is_true(json_object_get(state, "paused")) ? bq_strdup(reason != NULL ? reason : "no reason given") : NULL;
  json_array_foreach(json_object_get(state, "cancels"), index, cancel) {
    node->options.cancel(node->options.arg, json_string_value(json_object_get(cancel, "id")),
                         json_string_value(json_object_get(cancel, "reason")));
  }
  json_decref(state);
}

static void on_heartbeat(void *arg, const bq_pg_result *result) {
  bq_node *node = arg;
  node->beating = 0;
  if (node->leaving) return;
  if (result->error != NULL) {
    bq_log(BQ_WARN, "a heartbeat failed", "error", result->error->message, NULL);
    schedule(node);
  } else if (PQntuples(result->rows) == 0) {
    bq_log(BQ_ERROR, "this server was silent for longer than its lease and was declared dead: it joins anew", "node",
           node->id, NULL);
    atomic_store(&node->held_until_us, 0);
    bq_node_join(node);
  } else {
    renew(node, node->beating_us);
    read_heartbeat(node, result->rows);
    judge_others(node);
    schedule(node);
    if (node->beat_again) bq_node_beat(node);
  }
}

void bq_node_beat(bq_node *node) {
  if (node->id[0] == '\0' || node->leaving) return;
  if (node->beating) {
    node->beat_again = 1;
    return;
  }
  node->beat_again = 0;
  const char *params[] = {node->id};
  bq_error err;
  node->beating_us = bq_clock_boot_us();
  if (bq_store_query(node->options.store, "node_heartbeat", 1, params, on_heartbeat, node, &err) == 0) {
    node->beating = 1;
  } else {
    schedule(node);
  }
}

// Joining and leaving -----------------------------------------------------------------------------------------------

static void on_succeeded(void *arg, const bq_pg_result *result) {
  (void)arg;
  if (result->error != NULL) bq_log_error("other servers may not find the files of this one's predecessor", result->error);
}

// Files stay where they are when a node ends: what asks for them is to come to this one.
static void succeed(const bq_node *node) {
  const char *before = node->id[0] != '\0' ? node->id : node->options.predecessor;
  const char *params[] = {before, node->next_id};
  bq_error err;
  if (before == NULL || bq_store_write(node->options.store, "node_succeed", 2, params, on_succeeded, NULL, &err) == 0) {
    return;
  }
  bq_log_error("other servers may not find the files of this one's predecessor", &err);
}

static void on_joined(void *arg, const bq_pg_result *result) {
  bq_node *node = arg;
  if (result->error != NULL) {
    bq_log_error("this server could not join the cluster", result->error);
    if (result->error->code != BQ_ECANCELED) schedule(node);
    return;
  }
  succeed(node);
  memcpy(node->id, node->next_id, sizeof node->id);
  atomic_fetch_add(&node->term, 1);
  renew(node, node->joining_us);
  bq_log(BQ_INFO, "joined the cluster", "node", node->id, NULL);
  node->options.joined(node->options.arg, node->id);
  bq_node_beat(node);
}

static void register_node(bq_node *node) {
  const bq_node_options *options = &node->options;
  char slots[16];
  char lease[16];
  (void)snprintf(slots, sizeof slots, "%d", options->config->max_concurrent_builds);
  (void)snprintf(lease, sizeof lease, "%d", options->config->lease_seconds);
  const char *params[] = {node->next_id, options->name, *options->url,   options->version,
                          slots,         lease,         options->labels, node->drained ? "true" : "false"};
  bq_error err;
  node->joining_us = bq_clock_boot_us();
  if (bq_store_write(options->store, "node_join", 8, params, on_joined, node, &err) < 0) {
    bq_log_error("this server could not join the cluster", &err);
    schedule(node);
  }
}

static void on_buried(void *arg, const bq_pg_result *result) {
  bq_node *node = arg;
  if (result->error != NULL) bq_log_error("the predecessor could not be declared dead", result->error);
  else node->buried = 1;
  register_node(node);
}

void bq_node_join(bq_node *node) {
  bq_error err;
  if (bq_uuid_new(node->next_id, &err) < 0) {
    bq_log_error("this server could not join the cluster", &err);
    schedule(node);
    return;
  }
  // The lock on the state directory is ours: whoever had it before is gone, and its builds need not wait for the lease.
  const char *params[] = {node->options.predecessor};
  if (params[0] == NULL || node->buried ||
      bq_store_write(node->options.store, "node_bury", 1, params, on_buried, node, &err) < 0) {
    register_node(node);
  }
}

static void on_left(void *arg, const bq_pg_result *result) {
  bq_node *node = arg;
  if (result->error != NULL) bq_log(BQ_WARN, "leaving the cluster failed", "error", result->error->message, NULL);
  node->left(node->left_arg);
}

void bq_node_leave(bq_node *node, void (*done)(void *arg), void *arg) {
  node->leaving = 1;
  node->left = done;
  node->left_arg = arg;
  bq_timer_clear(node->timer);
  const char *params[] = {node->id};
  bq_error err;
  if (node->id[0] == '\0' ||
      bq_store_query(node->options.store, "node_leave", 1, params, on_left, node, &err) < 0) {
    done(arg);
  }
}
