// The inside of a rehearsal, shared by rehearse.c (time, and what becomes of builds) and rehearse_choose.c (claims by a
// policy's choice). Nobody else includes this.
#ifndef BQ_QUEUE_REHEARSE_INTERNAL_H
#define BQ_QUEUE_REHEARSE_INTERNAL_H

#include "queue/rehearse.h"
#include "queue/rehearse_facts.h"
#include "queue/rehearse_heap.h"

// COMING → PENDING ⇄ RUNNING → ENDED; COMING → ENDED when it is refused; ENDED → PENDING by a manual retry.
typedef enum build_state { BUILD_COMING, BUILD_PENDING, BUILD_RUNNING, BUILD_ENDED } build_state;

enum { NO_BUILD = UINT32_MAX };

// A build on its way.
typedef struct build {
  build_state state;
  int priority;       // as the policies decided
  uint32_t ticket;    // rises with each change of state: older entries of heaps don't mean it any more
  uint32_t attempt;   // so far, in all
  uint32_t round;     // of its rounds, from 0
  uint32_t used;      // attempts in this round
  uint32_t retry_count;
  int64_t key;
  int64_t came_us;    // in this round
  int64_t started_us; // the attempt that runs
  int64_t ran_us;     // all attempts together
  uint32_t previous;  // of those that run, in the order of their starts; NO_BUILD: none
  uint32_t next;      // likewise
  json_t *candidate;  // owned; what a choose policy is told of it while it is pending, or NULL
} build;

typedef struct simulation {
  const bq_past *past;               // borrowed
  const bq_rehearse_options *options; // borrowed
  bq_decider decider;
  bq_replay *replay;   // borrowed; filled
  build *builds;       // owned; one for each of the past's
  bq_heap events;      // value: event_kind; item: build and ticket (or round)
  bq_due due;
  bq_census census;
  int64_t now_us;
  int64_t free_slots;
  uint32_t oldest;     // of those that run: the one that started first; NO_BUILD: none runs
  uint32_t newest;     // likewise, last
  int held_back;       // 1: a choose policy has left what is due waiting, until something happens
  json_t *args;        // owned; what priority and admission see of a build, filled anew each time
  json_t *priceless;   // owned; kinds of builds that have no price
} simulation;

// rehearse.c
int bq_sim_is_pending(void *arg, uint64_t item); // a bq_is_pending; `arg` is the simulation
// Sets what policies see of a build. 0, or not for want of memory.
int bq_sim_describe(const simulation *s, const bq_past_build *from, int priority, json_t *out);
// Its next attempt begins now, in a free slot.
int bq_sim_start(simulation *s, size_t index, bq_error *err) BQ_MUSTCHECK;

// rehearse_choose.c
// Lets the choose policy claim for the free slots. 1: it has decided; 0: the keys are to decide.
int bq_sim_choose(simulation *s, bq_error *err) BQ_MUSTCHECK;

#endif
