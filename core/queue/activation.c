// The activation: which generation the cluster was told to use, and that this server's routes and policies follow.
//
// Its truth is one row of SQL, looked at after each notification and every PollIntervalSeconds. Builds follow by the claim
// itself; here the sources of an activation of 100 % are read and given to the script host, which checks them like any
// other and swaps. An activation of a part of the builds leaves routes and policies alone.
//
//   IDLE → LOOKING → (another one) LOADING → IDLE
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "queue/server_internal.h"

typedef enum activation_state { ACTIVATION_IDLE, ACTIVATION_LOOKING, ACTIVATION_LOADING } activation_state;

struct bq_activation {
  bq_server *server; // borrowed
  bq_timer *timer;   // owned
  activation_state state;
  int again;         // asked to look meanwhile
  int stopped;
  json_t *present;   // owned; see bq_activation_get
  char asked[BQ_HASH_SIZE]; // given to the script host last; "" when it follows the disk
};

const json_t *bq_activation_get(const bq_activation *activation) {
  return activation != NULL ? activation->present : NULL;
}

static void rest(bq_activation *activation) {
  activation->state = ACTIVATION_IDLE;
  if (activation->stopped) return;
  if (activation->again) bq_activation_look(activation);
  else bq_timer_set(activation->timer, (int64_t)activation->server->config->poll_interval_seconds * 1000);
}

static void set_fault(bq_activation *activation, const char *why) {
  if (activation->present == NULL) return;
  if (why == NULL) (void)json_object_del(activation->present, "fault");
  else (void)json_object_set_new(activation->present, "fault", json_string(why));
  if (why != NULL) bq_log(BQ_ERROR, "the activated scripts can't be used here", "error", why, NULL);
}

void bq_activation_loaded(bq_activation *activation, const bq_error *error) {
  bq_script_host *host = activation->server->host;
  if (activation->asked[0] == '\0') return;
  if (bq_script_host_is_held(host) && strcmp(bq_generation_hash(bq_script_host_current(host)), activation->asked) == 0) {
    set_fault(activation, NULL);
  } else if (error != NULL) {
    set_fault(activation, error->message);
  }
}

static int read_sources(bq_sources **out, json_t *files, bq_error *err) {
  size_t index;
  json_t *file;
  int result = bq_sources_new(out, err);
  json_array_foreach(files, index, file) {
    json_t *content = json_object_get(file, "content");
    const char *path = json_string_value(json_object_get(file, "path"));
    if (result < 0) break;
    if (path == NULL || !json_is_string(content)) result = bq_fail(err, BQ_EDATABASE, "a stored file can't be read");
    else result = bq_sources_add(*out, path, json_string_value(content), json_string_length(content), 0, err);
  }
  if (result == 0) result = bq_sources_seal(*out, err);
  if (result < 0) {
    bq_sources_free(*out);
    *out = NULL;
  }
  return result;
}

static void on_sources(void *arg, const bq_pg_result *result) {
  bq_activation *activation = arg;
  bq_sources *sources;
  bq_error err;
  if (result->error != NULL) {
    activation->asked[0] = '\0'; // the next look tries again
    rest(activation);
    return;
  }
  json_t *files = bq_store_json(result->rows, 0);
  if (files == NULL) set_fault(activation, "its files are not in the database");
  else if (read_sources(&sources, files, &err) < 0) set_fault(activation, err.message);
  else if (strcmp(bq_sources_hash(sources), activation->asked) != 0) {
    bq_sources_free(sources);
    set_fault(activation, "its files in the database are not what its name says");
  } else {
    bq_script_host_activate(activation->server->host, sources);
  }
  json_decref(files);
  rest(activation);
}

// What is wanted is another one than the script host was given.
static void follow(bq_activation *activation, const char *hash) {
  bq_error err;
  (void)snprintf(activation->asked, sizeof activation->asked, "%s", hash);
  if (hash[0] == '\0') {
    bq_log(BQ_INFO, "no generation is active for the cluster any more: the disk's is used", NULL);
    bq_script_host_release(activation->server->host);
    rest(activation);
    return;
  }
  bq_log(BQ_INFO, "a generation is active for the cluster", "generation", hash, NULL);
  activation->state = ACTIVATION_LOADING;
  const char *params[] = {hash};
  if (bq_store_query(activation->server->store, "load_generation", 1, params, on_sources, activation, &err) == 0) return;
  activation->asked[0] = '\0';
  rest(activation);
}

static void on_looked(void *arg, const bq_pg_result *result) {
  bq_activation *activation = arg;
  json_t *found = result->error == NULL ? bq_store_json(result->rows, 0) : NULL;
  if (found == NULL) {
    rest(activation);
    return;
  }
  const char *hash = json_string_value(json_object_get(found, "generation"));
  int whole = json_integer_value(json_object_get(found, "share")) == 100;
  json_t *fault = json_object_get(activation->present, "fault");
  const char *wanted = hash != NULL && whole ? hash : "";
  int same = strcmp(wanted, activation->asked) == 0;
  if (fault != NULL && same && hash != NULL) (void)json_object_set(found, "fault", fault);
  json_decref(activation->present);
  activation->present = hash != NULL ? json_incref(found) : NULL;
  json_decref(found);
  if (same) rest(activation);
  else follow(activation, wanted);
}

void bq_activation_look(bq_activation *activation) {
  bq_error err;
  if (activation->stopped) return;
  if (activation->state != ACTIVATION_IDLE) {
    activation->again = 1;
    return;
  }
  activation->again = 0;
  bq_timer_clear(activation->timer);
  activation->state = ACTIVATION_LOOKING;
  if (bq_store_query(activation->server->store, "activation", 0, NULL, on_looked, activation, &err) < 0) rest(activation);
}

static void on_timer(void *arg) {
  bq_activation_look(arg);
}

int bq_activation_new(bq_activation **out, bq_server *server, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for activations");
  (*out)->server = server;
  int result = bq_timer_new(&(*out)->timer, server->loop, on_timer, *out, err);
  if (result < 0) {
    bq_free(*out);
    *out = NULL;
    return result;
  }
  bq_timer_set((*out)->timer, 0);
  return 0;
}

void bq_activation_free(bq_activation *activation) {
  if (activation == NULL) return;
  bq_timer_free(activation->timer);
  json_decref(activation->present);
  bq_free(activation);
}

void bq_activation_stop(bq_activation *activation) {
  activation->stopped = 1;
  bq_timer_clear(activation->timer);
}
