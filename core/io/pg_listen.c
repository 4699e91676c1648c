// The listener: one connection whose session setup is the LISTEN commands. A new session therefore listens before
// its owner is told to look up what it missed.
#include "base/buf.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/pg.h"
#include "io/pg_connection.h"

enum { MAX_CHANNELS = 64 };

struct bq_pg_listener {
  bq_pg_target target;          // owned
  bq_pg_connection *connection; // owned
  bq_pg_notify notify;
  void *arg;
};

static void on_ready(void *arg) {
  bq_pg_listener *listener = arg;
  listener->notify(listener->arg, NULL, NULL);
}

static void on_notify(void *arg, const char *channel, const char *payload) {
  bq_pg_listener *listener = arg;
  listener->notify(listener->arg, channel, payload);
}

// The pool on the same database says that it is away; twice would be noise.
static void on_down(void *arg, const bq_error *why) {
  (void)arg;
  bq_log(BQ_DEBUG, "listening for notifications is interrupted", "error", why->message, NULL);
}

static const bq_pg_connection_events events = {.on_ready = on_ready, .on_down = on_down, .on_notify = on_notify};

static void add_identifier(bq_buf *sql, const char *name) {
  bq_buf_addc(sql, '"');
  for (; *name != '\0'; name++) {
    if (*name == '"') bq_buf_addc(sql, '"');
    bq_buf_addc(sql, *name);
  }
  bq_buf_addc(sql, '"');
}

int bq_pg_listen(bq_pg_listener **out, bq_loop *loop, const char *conninfo, const char *const *channels,
                 size_t channel_count, bq_pg_notify notify, void *arg, bq_error *err) {
  *out = NULL;
  if (channel_count > MAX_CHANNELS) return bq_fail(err, BQ_ELIMIT, "at most %d channels can be heard", MAX_CHANNELS);
  int result = 0;
  bq_buf sql = {0};
  bq_pg_listener *listener = bq_alloc(sizeof *listener);
  if (listener == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a database listener");
  listener->notify = notify;
  listener->arg = arg;
  for (size_t i = 0; i < channel_count; i++) {
    bq_buf_adds(&sql, "listen ");
    add_identifier(&sql, channels[i]);
    bq_buf_addc(&sql, ';');
  }
  result = bq_buf_check(&sql, err);
  if (result < 0) goto cleanup;
  result = bq_pg_target_init(&listener->target, conninfo, "buildq listen", "listen", sql.data, err);
  if (result < 0) goto cleanup;
  result = bq_pg_connection_new(&listener->connection, loop, &listener->target, &events, listener, err);
  if (result < 0) goto cleanup;
  bq_pg_connection_open(listener->connection);
  *out = listener;
  listener = NULL;
cleanup:
  bq_buf_free(&sql);
  bq_pg_listener_free(listener);
  return result;
}

void bq_pg_listener_free(bq_pg_listener *listener) {
  if (listener == NULL) return;
  bq_pg_connection_free(listener->connection);
  bq_pg_target_clear(&listener->target);
  bq_free(listener);
}
