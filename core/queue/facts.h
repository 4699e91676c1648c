// What policies are told: of the build, of its customer and tier, of the queue and the machine.
//
// Counts (customer, customerUsage, tierUsage, tags of the customer) are compared again when a decision made on them is
// written; surroundings (queue, tags of the queue, disk, now) are only looked at. See sql/migrations/0009_placement.sql.
// Thread rule: loop thread only.
#ifndef BQ_QUEUE_FACTS_H
#define BQ_QUEUE_FACTS_H

#include <jansson.h>

#include "lua/policies.h"
#include "queue/store.h"

// The build as policies see it, of EnqueueFields or of a row in the API's names: without mail addresses and manifest.
// enqueuedAt is 0 unless it is there as a number. The caller's reference; NULL for want of memory.
json_t *bq_facts_build(const json_t *fields);

// The names that the active priority and admission policies ask for. The caller's reference; NULL for want of memory.
json_t *bq_facts_wanted(const bq_policies *policies);

// Asks the database for them, of a build as of bq_facts_build; rows for bq_facts_read. `fingerprint` "" is the built-in
// rule.
int bq_facts_ask(bq_store *store, const json_t *wanted, const json_t *build, const char *fingerprint, bq_pg_done done,
                 void *arg, bq_error *err) BQ_MUSTCHECK;
int bq_facts_read(const PGresult *rows, json_t **counts, json_t **surroundings) BQ_MUSTCHECK; // the caller's references

// One object of both (either may be NULL), in the names of the hooks' documentation; `disk` may be NULL. The caller's.
json_t *bq_facts_join(const json_t *counts, const json_t *surroundings, json_t *(*disk)(void *arg), void *arg);

#endif
