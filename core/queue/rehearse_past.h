// The recorded history that a rehearsal replays, in memory: one build a line of JSON, as the statement `history` and
// `buildq rehearse --export` write them. Pure.
#ifndef BQ_QUEUE_REHEARSE_PAST_H
#define BQ_QUEUE_REHEARSE_PAST_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/uuid.h"

enum {
  BQ_PAST_MAX_BUILDS = 1000 * 1000,
  BQ_PAST_MAX_LINE_BYTES = 1024 * 1024,
  BQ_PAST_MAX_ROUNDS = 1000,   // manual retries of one build that are read
  BQ_PAST_MAX_ATTEMPTS = 1000, // of one round
};

typedef enum bq_past_outcome {
  BQ_PAST_SUCCESS,
  BQ_PAST_FAILED,
  BQ_PAST_TIMEDOUT,
  BQ_PAST_CANCELLED,
  BQ_PAST_GIVEN_BACK // its node stopped or was lost: nothing is charged
} bq_past_outcome;

// An attempt that has ended. Texts are borrowed from the bq_past.
typedef struct bq_past_attempt {
  int64_t took_us;
  bq_past_outcome outcome;
  int retryable;   // 1: the pipeline had nothing against another attempt
  json_t *message; // a string, or NULL
  json_t *kind;    // error_kind: a string, or NULL
  json_t *step;    // a string, or NULL
} bq_past_attempt;

// From being queued (the first time, or by a manual retry) to an end.
typedef struct bq_past_round {
  int64_t at_us;        // since 1970
  int64_t cancelled_us; // when somebody cancelled it before its last attempt had ended by that; -1: nobody did
  int64_t waited_us;    // until its first attempt, as it was; -1: there was none
  int given_up;         // 1: its last node was lost, and it failed for that
  size_t first;         // its first attempt in bq_past.attempts
  size_t count;         // how many of them; 0: history has none that ended
} bq_past_round;

// Strings are borrowed from the bq_past, never NULL.
typedef struct bq_past_build {
  char id[BQ_UUID_SIZE];
  int priority; // as it was asked for, 0 to 3
  int64_t enqueued_us;
  size_t customer; // in bq_past.customers
  size_t tier;     // in bq_past.tiers
  json_t *architecture;
  json_t *cloud;
  json_t *pipeline;
  json_t *configuration;
  json_t *metadata; // an object
  size_t first;     // its first round in bq_past.rounds
  size_t count;     // at least 1
  int64_t usual_us; // how long an attempt takes of which history knows nothing
} bq_past_build;

typedef struct bq_past_group {
  json_t *id;   // a string
  json_t *name; // of a customer, as it was last; else NULL
  size_t builds;
} bq_past_group;

typedef struct bq_past {
  bq_past_build *builds; // all lists are owned; in the order of (enqueued_us, id) after bq_past_finish
  size_t count;
  bq_past_round *rounds;
  size_t round_count;
  bq_past_attempt *attempts;
  size_t attempt_count;
  bq_past_group *customers; // by id after bq_past_finish
  size_t customer_count;
  bq_past_group *tiers; // likewise
  size_t tier_count;
  int64_t slots; // that the cluster had, by the export's first line; 0: not said
  size_t build_capacity, round_capacity, attempt_capacity, customer_capacity, tier_capacity;
  json_t *texts;      // every string once
  json_t *customer_by_id, *tier_by_id; // their places
  json_t *empty;      // {}
  int max_retries;    // MaxRetryAttempts of the configuration
} bq_past;

// Fills the zeroed `past`. `max_retries`: what an attempt without a successor says about its pipeline depends on it.
int bq_past_init(bq_past *past, int max_retries, bq_error *err) BQ_MUSTCHECK;
void bq_past_free(bq_past *past);

// A line: a build, or {format: "buildq history 1", …}. Unknown members are ignored, absent ones get a default;
// without id, enqueuedAt or customerId it is BQ_EINVAL. BQ_ELIMIT: too many builds.
int bq_past_add(bq_past *past, const json_t *line, bq_error *err) BQ_MUSTCHECK;

// After the last line: sorts, and gives attempts that history doesn't know their usual durations.
int bq_past_finish(bq_past *past, bq_error *err) BQ_MUSTCHECK;

#endif
