// Lines to and from the spec, and its answers to questions.
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "queue/trial_internal.h"

enum { MAX_LINE_BYTES = 64 * 1024 * 1024, READ_BYTES = 64 * 1024 };

// The spec's end is closed: the process is about to end.
static void hang_up(bq_trial *trial) {
  if (trial->ended) return;
  trial->ended = 1;
  (void)event_del(trial->readable);
  if (trial->whole) (void)raise(SIGTERM); // its own way to end
  else bq_loop_stop(trial->server->loop);
}

void bq_trial_write(bq_trial *trial, json_t *line) {
  char *text = line != NULL ? bq_json_dumps(line, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
  json_decref(line);
  bq_buf out = {0};
  bq_buf_adds(&out, text != NULL ? text : "{\"error\":{\"kind\":\"out_of_memory\",\"message\":\"out of memory\"}}");
  bq_buf_addc(&out, '\n');
  bq_free(text);
  for (size_t sent = 0; sent < out.length;) {
    ssize_t put = write(trial->options->out, out.data + sent, out.length - sent);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      hang_up(trial);
      break;
    }
    sent += (size_t)put;
  }
  bq_buf_free(&out);
}

void bq_trial_reply(bq_trial *trial, json_t *result) {
  int64_t id = trial->call;
  trial->call = 0;
  trial->wait = BQ_TRIAL_NOTHING;
  bq_trial_write(trial, json_pack("{s:I, s:o}", "id", (json_int_t)id, "result", result != NULL ? result : json_null()));
}

void bq_trial_refuse(bq_trial *trial, const bq_error *error) {
  int64_t id = trial->call;
  trial->call = 0;
  trial->wait = BQ_TRIAL_NOTHING;
  bq_trial_write(trial, json_pack("{s:I, s:{s:s, s:s}}", "id", (json_int_t)id, "error", "kind",
                                  bq_err_name(error->code), "message", error->message));
}

void bq_trial_wait_for(bq_trial *trial, bq_trial_wait wait) {
  trial->wait = wait;
  trial->quiet = 0;
  bq_timer_set(trial->pump, 1);
}

// Questions ---------------------------------------------------------------------------------------------------------

static void ask(bq_stand_in *stand_in, bq_ask *question, const char *what, const json_t *request) {
  bq_trial *trial = (bq_trial *)stand_in;
  question->number = ++trial->last_ask;
  question->next = trial->asks;
  trial->asks = question;
  bq_trial_write(trial, json_pack("{s:I, s:s, s:O}", "ask", (json_int_t)question->number, "what", what, "request",
                                  (json_t *)(uintptr_t)request));
}

static int unlink_ask(bq_trial *trial, const bq_ask *question) {
  for (bq_ask **link = &trial->asks; *link != NULL; link = &(*link)->next) {
    if (*link != question) continue;
    *link = question->next;
    return 1;
  }
  return 0;
}

static void forget(bq_stand_in *stand_in, bq_ask *question) {
  bq_trial *trial = (bq_trial *)stand_in;
  if (unlink_ask(trial, question)) {
    bq_trial_write(trial, json_pack("{s:I}", "forget", (json_int_t)question->number));
  }
}

static void tell(bq_stand_in *stand_in, const bq_ask *question, const json_t *result) {
  bq_trial *trial = (bq_trial *)stand_in;
  if (question->counted) trial->real--;
  trial->quiet = 0;
  if (result == NULL) return;
  bq_trial_write(trial, json_pack("{s:I, s:O}", "tell", (json_int_t)question->number, "result",
                                  (json_t *)(uintptr_t)result));
}

void bq_trial_init_stand_in(bq_trial *trial) {
  trial->stand_in = (bq_stand_in){.ask = ask, .forget = forget, .tell = tell};
}

static void take_answer(bq_trial *trial, int64_t number, const json_t *result) {
  bq_ask *question = trial->asks;
  while (question != NULL && question->number != number) question = question->next;
  if (question == NULL) return; // forgotten meanwhile
  (void)unlink_ask(trial, question);
  trial->quiet = 0;
  // A request to this server's own routes is no work of the world's: the clock may jump for a route that sleeps.
  question->counted = bq_answer_is(result, "real") && !bq_answer_is(result, "own");
  if (question->counted) trial->real++;
  question->answered(question, result);
}

// Lines -------------------------------------------------------------------------------------------------------------

static void take_line(bq_trial *trial, const char *text, size_t length) {
  json_t *line = NULL;
  bq_error err;
  if (bq_json_parse(text, length, BQ_JSON_STRICT, &line, &err) < 0) {
    bq_trial_refuse(trial, &err);
    return;
  }
  const json_t *answer = json_object_get(line, "answer");
  const char *call = json_string_value(json_object_get(line, "call"));
  if (json_is_integer(answer)) {
    take_answer(trial, json_integer_value(answer), json_object_get(line, "result"));
  } else if (call != NULL) {
    trial->call = json_integer_value(json_object_get(line, "id"));
    bq_trial_call(trial, call, line);
  }
  json_decref(line);
}

void bq_trial_on_readable(int fd, short what, void *arg) {
  (void)what;
  bq_trial *trial = arg;
  char piece[READ_BYTES];
  ssize_t got = read(fd, piece, sizeof piece);
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (got <= 0 || trial->input.length > MAX_LINE_BYTES) {
    hang_up(trial);
    return;
  }
  bq_buf_add(&trial->input, piece, (size_t)got);
  while (trial->input.length > 0 && !trial->want_database) {
    const char *end = memchr(trial->input.data, '\n', trial->input.length);
    if (end == NULL) break;
    size_t length = (size_t)(end - trial->input.data);
    take_line(trial, trial->input.data, length);
    bq_buf_consume(&trial->input, length + 1);
  }
}
