#include "queue/facts.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"

json_t *bq_facts_build(const json_t *fields) {
  static const char *const names[] = {"id",            "customerId", "customerName", "tier",     "architecture",
                                      "cloudProvider", "pipeline",   "priority",     "metadata", "configurationName"};
  json_t *build = json_object();
  int failed = build == NULL;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    json_t *value = json_object_get(fields, names[i]);
    failed |= json_object_set_new(build, names[i], value != NULL ? json_incref(value) : json_null());
  }
  json_t *at = json_object_get(fields, "enqueuedAt");
  failed |= json_object_set_new(build, "enqueuedAt", json_is_integer(at) ? json_incref(at) : json_integer(0));
  if (!json_is_object(json_object_get(build, "metadata"))) {
    failed |= json_object_set_new(build, "metadata", json_object());
  }
  if (!failed) return build;
  json_decref(build);
  return NULL;
}

static const char *const database_facts[] = {"customer", "customerUsage", "tierUsage", "tags", "queue", "disk", NULL};

json_t *bq_facts_wanted(const bq_policies *policies) {
  json_t *wanted = json_array();
  int failed = wanted == NULL;
  for (size_t i = 0; database_facts[i] != NULL; i++) {
    if (bq_policies_wants(policies, BQ_HOOK_PRIORITY, database_facts[i]) ||
        bq_policies_wants(policies, BQ_HOOK_ADMISSION, database_facts[i])) {
      failed |= json_array_append_new(wanted, json_string(database_facts[i]));
    }
  }
  if (!failed) return wanted;
  json_decref(wanted);
  return NULL;
}

int bq_facts_ask(bq_store *store, const json_t *wanted, const json_t *build, const char *fingerprint, bq_pg_done done,
                 void *arg, bq_error *err) {
  char *names = bq_json_dumps(wanted, JSON_COMPACT);
  const char *params[] = {names, json_string_value(json_object_get(build, "customerId")),
                          json_string_value(json_object_get(build, "tier")), fingerprint[0] != '\0' ? fingerprint : NULL,
                          json_string_value(json_object_get(build, "pipeline"))};
  int result = names != NULL ? bq_store_query(store, "facts", 5, params, done, arg, err)
                             : bq_fail(err, BQ_ENOMEM, "out of memory for a build");
  bq_free(names);
  return result;
}

int bq_facts_read(const PGresult *rows, json_t **counts, json_t **surroundings) {
  *counts = json_loads(PQgetvalue(rows, 0, 0), 0, NULL);
  *surroundings = json_loads(PQgetvalue(rows, 0, 1), 0, NULL);
  if (*counts != NULL && *surroundings != NULL) return 0;
  json_decref(*counts);
  json_decref(*surroundings);
  *counts = NULL;
  *surroundings = NULL;
  return BQ_ENOMEM;
}

static int copy_fact(json_t *facts, const json_t *from, const char *name, const char *as) {
  json_t *value = json_object_get(from, name);
  return value != NULL ? json_object_set(facts, as, value) : 0;
}

json_t *bq_facts_join(const json_t *counts, const json_t *surroundings, json_t *(*disk)(void *arg), void *arg) {
  json_t *facts = json_object();
  int failed = facts == NULL;
  failed |= copy_fact(facts, counts, "customer", "customer");
  failed |= copy_fact(facts, counts, "customerUsage", "customerUsage");
  failed |= copy_fact(facts, counts, "tierUsage", "tierUsage");
  failed |= copy_fact(facts, surroundings, "queue", "queue");
  failed |= copy_fact(facts, surroundings, "now", "now");
  json_t *customer_tags = json_object_get(counts, "customerTags");
  json_t *queue_tags = json_object_get(surroundings, "queueTags");
  if (customer_tags != NULL && queue_tags != NULL) {
    failed |= json_object_set_new(facts, "tags", json_pack("{s:O, s:O}", "customer", customer_tags, "queue", queue_tags));
  }
  json_t *space = disk != NULL ? disk(arg) : NULL;
  if (space != NULL) {
    failed |= copy_fact(space, surroundings, "predictedMegabytes", "predictedMegabytes");
    failed |= json_object_set_new(facts, "disk", space);
  }
  if (!failed) return facts;
  json_decref(facts);
  return NULL;
}
