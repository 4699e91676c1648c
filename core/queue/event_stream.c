// Server-sent events (WHATWG HTML, section 9.2): of one build, with ids that can be replayed, and of one customer.
//
// A hub looks up what has changed for all streams of single builds in one statement, at once after a change on this
// server and twice a second otherwise, since builds also change on other servers and by plain SQL.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/uuid.h"
#include "queue/streams.h"

enum {
  POLL_MS = 500,           // between two looks without a change of our own
  SOON_MS = 10,            // a look after one: several changes are one look
  HEARTBEAT_MS = 15000,    // comments that keep proxies from closing a quiet stream
  MAX_STREAMS = 1000,      // of one server: 503 beyond
  OVERLAP_S = 10           // a customer's look goes back so far behind the one before
};

typedef struct event_stream {
  bq_event_hub *hub;
  bq_http_exchange *x;       // NULL once the peer is gone
  char build[BQ_UUID_SIZE];  // "" for a customer's stream
  int64_t after;             // number of the last event sent
  int percent;               // last progress sent; -1: none
  char step[256];
  char text[256];            // what it said within the step
  char *customer;            // owned; NULL for a build's stream
  json_t *seen;              // owned; id → updated_at of what a customer's stream was told
  int64_t looked_us;         // bq_clock_mono_us of the last look of a customer's stream; 0: never
  int looking;               // its look is under way
  int full;                  // the peer is slow: no looks until it has taken what is queued
  int64_t spoke_us;          // when something was last sent
  struct event_stream *next;
  struct event_stream *previous;
} event_stream;

struct bq_event_hub {
  bq_server *server;
  bq_timer *timer;     // owned
  event_stream *first;
  size_t count;
  int looking;         // watch_builds is under way
  int again;           // something changed meanwhile
};

static void look(void *arg);

int bq_event_hub_new(bq_event_hub **out, bq_server *server, bq_error *err) {
  *out = NULL;
  bq_event_hub *hub = bq_alloc(sizeof *hub);
  if (hub == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for event streams");
  hub->server = server;
  int result = bq_timer_new(&hub->timer, server->loop, look, hub, err);
  if (result < 0) bq_free(hub);
  else *out = hub;
  return result;
}

void bq_event_hub_free(bq_event_hub *hub) {
  if (hub == NULL) return;
  bq_timer_free(hub->timer);
  bq_free(hub);
}

static void free_stream(event_stream *s) {
  bq_event_hub *hub = s->hub;
  if (s->previous != NULL) s->previous->next = s->next;
  else hub->first = s->next;
  if (s->next != NULL) s->next->previous = s->previous;
  hub->count--;
  bq_free(s->customer);
  json_decref(s->seen);
  bq_free(s);
}

static void on_close(void *context) {
  event_stream *s = context;
  s->x = NULL;
  if (!s->looking) free_stream(s); // else when its answer has come
}

static void end_stream(event_stream *s) {
  bq_http_exchange *x = s->x;
  bq_http_set_context(x, NULL, NULL);
  free_stream(s);
  bq_http_stream_end(x);
}

static void on_drain(void *context) {
  event_stream *s = context;
  if (!s->full) return;
  s->full = 0;
  bq_timer_set(s->hub->timer, SOON_MS);
}

static void send_event(event_stream *s, int64_t id, const char *type, const json_t *data) {
  bq_buf text = {0};
  char *json = bq_json_dumps(data, JSON_COMPACT);
  if (id > 0) bq_buf_addf(&text, "id: %lld\n", (long long)id);
  bq_buf_addf(&text, "event: %s\ndata: %s\n\n", type, json != NULL ? json : "{}");
  if (!text.failed && bq_http_stream_write(s->x, text.data, text.length)) s->full = 1;
  s->spoke_us = bq_clock_mono_us();
  bq_free(json);
  bq_buf_free(&text);
}

static void send_heartbeat(event_stream *s) {
  if (bq_clock_mono_us() - s->spoke_us < (int64_t)HEARTBEAT_MS * 1000) return;
  (void)bq_http_stream_write(s->x, ": alive\n\n", 9);
  s->spoke_us = bq_clock_mono_us();
}

// Streams of one build ------------------------------------------------------------------------------------------------

static int is_final(const char *status) {
  return strcmp(status, "pending") != 0 && strcmp(status, "building") != 0;
}

static void send_progress(event_stream *s, const json_t *state) {
  int percent = (int)json_integer_value(json_object_get(state, "progressPercent"));
  const char *step = bq_json_text(state, "currentStep");
  const char *text = bq_json_text(state, "progressText");
  if (percent == s->percent && strcmp(step, s->step) == 0 && strcmp(text, s->text) == 0) return;
  s->percent = percent;
  (void)snprintf(s->step, sizeof s->step, "%s", step);
  (void)snprintf(s->text, sizeof s->text, "%s", text);
  send_event(s, 0, "progress", state);
}

// What the database knows of the stream's build. Returns 1 when nothing can come any more.
static int tell_build(event_stream *s, const json_t *state, const json_t *events) {
  size_t index;
  json_t *event;
  json_array_foreach(events, index, event) {
    int64_t seq = json_integer_value(json_object_get(event, "seq"));
    if (seq <= s->after) continue;
    send_event(s, seq, bq_json_text(event, "type"), event);
    s->after = seq;
  }
  const char *status = bq_json_text(state, "status");
  // A build that retention has removed is over too.
  int over = json_is_null(json_object_get(state, "status")) || is_final(status);
  if (strcmp(status, "building") == 0) send_progress(s, state);
  return over && json_array_size(events) < 200;
}

static void on_builds(void *arg, const bq_pg_result *result) {
  bq_event_hub *hub = arg;
  hub->looking = 0;
  for (event_stream *s = hub->first; s != NULL;) {
    event_stream *next = s->next;
    int mine = s->looking && s->customer == NULL;
    if (mine) s->looking = 0;
    if (mine && s->x == NULL) free_stream(s);
    s = next;
  }
  if (result->error != NULL) return; // the poll looks again
  for (int row = 0; row < PQntuples(result->rows); row++) {
    json_t *state = json_loads(PQgetvalue(result->rows, row, 1), 0, NULL);
    json_t *events = json_loads(PQgetvalue(result->rows, row, 2), 0, NULL);
    const char *id = PQgetvalue(result->rows, row, 0);
    for (event_stream *s = hub->first; s != NULL;) {
      event_stream *next = s->next;
      if (s->customer == NULL && !s->full && strcmp(s->build, id) == 0 && tell_build(s, state, events)) end_stream(s);
      s = next;
    }
    json_decref(state);
    json_decref(events);
  }
  if (hub->again) bq_timer_set(hub->timer, SOON_MS);
}

// One statement for all builds that somebody watches; the smallest number of each decides where its events begin.
static void look_at_builds(bq_event_hub *hub) {
  bq_buf ids = {0};
  bq_buf afters = {0};
  size_t count = 0;
  for (event_stream *s = hub->first; s != NULL; s = s->next) {
    if (s->customer != NULL || s->full || s->x == NULL) continue;
    bq_buf_addf(&ids, "%s%s", count > 0 ? "," : "{", s->build);
    bq_buf_addf(&afters, "%s%lld", count > 0 ? "," : "{", (long long)s->after);
    s->looking = 1;
    count++;
  }
  bq_buf_addc(&ids, '}');
  bq_buf_addc(&afters, '}');
  bq_error err;
  const char *params[] = {ids.data, afters.data};
  hub->again = 0;
  if (count > 0 && !ids.failed && !afters.failed &&
      bq_store_query(hub->server->store, "watch_builds", 2, params, on_builds, hub, &err) == 0) {
    hub->looking = 1;
  } else {
    for (event_stream *s = hub->first; s != NULL; s = s->next) {
      if (s->customer == NULL) s->looking = 0;
    }
  }
  bq_buf_free(&ids);
  bq_buf_free(&afters);
}

// Streams of one customer ---------------------------------------------------------------------------------------------

static void on_customer(void *arg, const bq_pg_result *result) {
  event_stream *s = arg;
  s->looking = 0;
  if (s->x == NULL) {
    free_stream(s);
    return;
  }
  if (result->error != NULL) return;
  s->looked_us = bq_clock_mono_us();
  for (int row = 0; row < PQntuples(result->rows); row++) {
    json_t *view = bq_store_json(result->rows, row);
    const char *id = bq_json_text(view, "id");
    const char *updated = PQgetvalue(result->rows, row, 1);
    const char *before = json_string_value(json_object_get(s->seen, id));
    if (before == NULL || strcmp(before, updated) != 0) {
      (void)json_object_set_new(s->seen, id, json_string(updated));
      send_event(s, 0, "build", view);
    }
    json_decref(view);
  }
}

static void look_at_customer(event_stream *s) {
  char back[32];
  bq_error err;
  double since_s = (double)(bq_clock_mono_us() - s->looked_us) / 1e6 + OVERLAP_S;
  (void)snprintf(back, sizeof back, "%.3f", since_s);
  const char *params[] = {s->customer, s->looked_us > 0 ? back : NULL};
  // What was told longer ago than the overlap can't come again: the memory of it may go.
  if (json_object_size(s->seen) > 5000) json_object_clear(s->seen);
  if (bq_store_query(s->hub->server->store, "watch_customer", 2, params, on_customer, s, &err) == 0) s->looking = 1;
}

static void look(void *arg) {
  bq_event_hub *hub = arg;
  if (hub->count == 0) return;
  for (event_stream *s = hub->first; s != NULL; s = s->next) {
    if (s->x == NULL) continue;
    send_heartbeat(s);
    if (s->customer != NULL && !s->looking && !s->full) look_at_customer(s);
  }
  if (hub->looking) hub->again = 1;
  else look_at_builds(hub);
  bq_timer_set(hub->timer, POLL_MS);
}

void bq_event_hub_changed(bq_event_hub *hub, const char *build_id) {
  (void)build_id; // one look serves all streams
  if (hub->count > 0) bq_timer_set(hub->timer, SOON_MS);
}

void bq_event_hub_send(bq_event_hub *hub, bq_http_exchange *x, const bq_api_response *response,
                       const bq_http_header *headers, size_t header_count) {
  event_stream *s = hub->count < MAX_STREAMS ? bq_alloc(sizeof *s) : NULL;
  if (s != NULL) {
    *s = (event_stream){.hub = hub, .x = x, .after = response->after, .percent = -1, .spoke_us = bq_clock_mono_us()};
    if (response->build != NULL) (void)snprintf(s->build, sizeof s->build, "%s", response->build);
    s->customer = bq_strdup(response->customer);
    s->seen = json_object();
    s->next = hub->first;
    if (s->next != NULL) s->next->previous = s;
    hub->first = s;
    hub->count++;
  }
  if (s == NULL || s->seen == NULL || (response->customer != NULL && s->customer == NULL)) {
    if (s != NULL) free_stream(s);
    bq_api_problem(x, 503, "this server has as many event streams as it can", NULL, NULL, 0);
    return;
  }
  bq_http_header all[BQ_RESPONSE_MAX_HEADERS + 4];
  size_t count = header_count < BQ_RESPONSE_MAX_HEADERS ? header_count : BQ_RESPONSE_MAX_HEADERS;
  memcpy(all, headers, count * sizeof all[0]);
  if (!response->has_type) all[count++] = (bq_http_header){"Content-Type", "text/event-stream"};
  all[count++] = (bq_http_header){"Cache-Control", "no-store"};
  bq_http_set_context(x, s, on_close);
  bq_http_stream_begin(x, 200, all, count);
  bq_http_stream_on_drain(x, on_drain);
  bq_timer_set(hub->timer, 0);
}
