// The inside of the sender: sender.c (what is looked for and when), sender_expand.c (an event becomes deliveries),
// sender_delivery.c (one delivery as a state machine), sender_script.c (what scripts/lib/notify.lua is asked),
// sender_carriers.c (who takes which kind of message), sender_mail.c, sender_file.c (mails).
#ifndef BQ_QUEUE_SENDER_INTERNAL_H
#define BQ_QUEUE_SENDER_INTERNAL_H

#include <jansson.h>

#include "io/transport.h"
#include "lua/errors.h"
#include "queue/batch.h"
#include "queue/server_internal.h"

typedef struct bq_delivery bq_delivery;
typedef struct bq_owed_event bq_owed_event;

typedef enum bq_sender_state {
  BQ_SENDER_RUNNING,
  BQ_SENDER_STOPPING, // nothing more is claimed; what is under way may end
  BQ_SENDER_CLOSING   // what is under way ends without a record: the next server takes it over
} bq_sender_state;

struct bq_sender {
  bq_server *server;        // borrowed
  bq_timer *timer;          // owned; the next look
  bq_timer *patience;       // owned; how long a stop waits
  bq_batch *expansions;     // owned; what events became
  bq_batch *outcomes;       // owned; what becomes of deliveries
  bq_sender_state state;
  int looking;              // statements of a look that have not been answered
  int owed;                 // there may be events to expand
  int due;                  // there may be deliveries to claim
  int uncertain;            // a claim's answer was lost: rows may be ours that we don't know
  int64_t swept_us;         // bq_clock_mono_us of the last look after what dead servers left
  bq_owed_event *events;    // being expanded
  bq_delivery *deliveries;  // claimed, and not yet ended
  bq_delivery *waiting;     // of these, what has not begun, in the order of the claims …
  bq_delivery *last;        // … and its end
  bq_post post;             // begins one of them
  int posted;
  int event_count;
  int delivery_count;
  int place_count;          // deliveries that are being rendered or sent
  int ended;                // deliveries since `counted_us`
  int rate;                 // that ended in the second before that
  int64_t counted_us;       // bq_clock_mono_us
  void (*idle)(void *arg);  // a stop has ended
  void *arg;
};

// sender.c
void bq_sender_turn(bq_sender *sender); // an event or a delivery has ended: there may be room, or something is due
int bq_sender_places(const bq_sender *sender); // how many deliveries are rendered or sent at a time

// sender_script.c
// One call of scripts/lib/notify.lua, in the routes' vm of the running generation. Embed it.
typedef struct bq_sender_call bq_sender_call;
// Called once, on a later turn: `result` is borrowed, NULL when it failed; then `fault` is the line for people.
typedef void (*bq_sender_answer)(bq_sender_call *call, const json_t *result, const char *fault);
struct bq_sender_call {
  bq_server *server;     // borrowed
  bq_handlers *handlers; // retained while it runs
  bq_fiber *fiber;
  const char *function;  // "expand", "message"
  json_t *argument;      // retained while it runs
  json_t *result;        // owned
  char fault[BQ_LINE_SIZE];
  int scarce;            // with a fault: the system's memory was out, which is none of the scripts
  unsigned long refusals; // bq_memory_refusals at its start
  int tries;             // a call that was ended is made once more: what ended it may have been another's
  bq_sender_answer done;
  char generation[65];   // hash of the scripts that run it
};
// Asks notify[function](argument). BQ_EUNAVAIL when no scripts run yet.
int bq_sender_call_start(bq_sender_call *call, bq_server *server, const char *function, json_t *argument,
                         bq_sender_answer done, bq_error *err) BQ_MUSTCHECK;
void bq_sender_call_kill(bq_sender_call *call); // the server ends: `done` follows, with a fault

// sender_expand.c
// The event of one row of outbox_take; `event` is taken over.
void bq_owed_event_begin(bq_sender *sender, const char *id, json_t *event);
void bq_owed_events_kill(bq_sender *sender); // ends what they wait for

// sender_delivery.c
// The delivery of one row of deliveries_claim, claimed by `node_id` in `term` (node.h); `facts` is taken over. It begins
// when there is a place, one on each turn of the loop.
void bq_delivery_begin(bq_sender *sender, const char *node_id, unsigned term, json_t *facts);
void bq_deliveries_give_back(bq_sender *sender); // those that have not begun
void bq_deliveries_kill(bq_sender *sender);
int bq_deliveries_in_lua(const bq_sender *sender); // how many are being rendered
void bq_deliveries_list(const bq_sender *sender, bq_buf *out); // "{id,id}"
// How long after `tries` failed ones the next comes, without jitter.
int64_t bq_delivery_backoff_s(const bq_config *config, int64_t tries);

// sender_carriers.c
// What is to be sent; borrowed until send() returns.
typedef struct bq_outgoing {
  const json_t *delivery; // as deliveries_claim gave it (sql/README.md)
  const json_t *message;  // the value of "mail" or "http" in what notify.message returned
  const char *message_id; // "<…@…>": the same for each try
  unsigned term;          // in which it was claimed; 0: nothing is sent, it is only shown
} bq_outgoing;

typedef struct bq_carrier {
  const char *kind; // "mail"
  // `done` is called once, on a later turn of the loop, unless it answers negative: BQ_EINVAL ends the delivery as
  // dead, BQ_ESCRIPT lets it wait for other scripts, anything else is tried again.
  int (*send)(bq_server *server, const bq_outgoing *what, bq_transport_done done, void *arg, bq_error *err);
} bq_carrier;

extern const bq_carrier bq_carriers[]; // a NULL kind ends them

// message_id.c
// What stands behind the @ of Message-IDs from now on; a delivery keeps that of its first claim.
const char *bq_message_domain(const bq_server *server);
// "<…@domain>" of the mail that `delivery` is, the caller's. Stable for (build, event, round, attempt, recipient,
// resend).
int bq_message_id(char **out, const bq_server *server, const json_t *delivery, bq_error *err) BQ_MUSTCHECK;
// That of the mail that began the conversation about the delivery's build; NULL when it is that mail, or a sample.
int bq_message_thread(char **out, const bq_server *server, const json_t *delivery, bq_error *err) BQ_MUSTCHECK;

// sender_mail.c, sender_file.c
// A mail as it is sent: `*length` bytes with a NUL behind them, the caller's. Of the server only the configuration is used.
int bq_mail_bytes(char **bytes, size_t *length, const bq_server *server, const bq_outgoing *what,
                  bq_error *err) BQ_MUSTCHECK;
int bq_mail_send(bq_server *server, const bq_outgoing *what, bq_transport_done done, void *arg, bq_error *err);
// Writes StateDirectory/outbox/`name`, on the blocking pool.
int bq_mail_write(bq_server *server, const char *name, const bq_content *content, bq_transport_done done, void *arg,
                  bq_error *err);

#endif
