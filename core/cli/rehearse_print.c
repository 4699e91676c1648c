#include "cli/rehearse_print.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/table.h"
#include "cli/text.h"
#include "lua/policies.h"

enum { MAX_ROWS = 10, CELL = 40 };

static const json_t *member(const json_t *figures, const char *side, const char *name) {
  return json_object_get(json_object_get(figures, side), name);
}

// 3.2s, 4m05s, 2h03m, 5d07h.
static void write_duration(const json_t *value, char out[CELL]) {
  if (!json_is_number(value)) {
    (void)snprintf(out, CELL, "-");
    return;
  }
  double seconds = json_number_value(value);
  const char *sign = seconds < 0 ? "-" : "";
  double s = fabs(seconds);
  long long whole = llround(s);
  if (s < 59.95) (void)snprintf(out, CELL, "%s%.1fs", sign, s);
  else if (whole < 3600) (void)snprintf(out, CELL, "%s%lldm%02llds", sign, whole / 60, whole % 60);
  else if (whole < 86400) (void)snprintf(out, CELL, "%s%lldh%02lldm", sign, whole / 3600, whole / 60 % 60);
  else (void)snprintf(out, CELL, "%s%lldd%02lldh", sign, whole / 86400, whole / 3600 % 24);
}

static int print_table(const bq_table *table, bq_error *err) {
  char *text;
  int result = bq_table_text(table, bq_text_terminal(stdout), &text, err);
  if (result < 0) return result;
  (void)fputs(text, stdout);
  (void)putchar('\n');
  bq_free(text);
  return 0;
}

// Waiting times ------------------------------------------------------------------------------------------------------

static int add_wait(bq_table *table, const char *who, json_int_t builds, const json_t *old, const json_t *new,
                    bq_error *err) {
  static const char *const names[] = {"p50", "p95", "p99", "longest"};
  char count[CELL];
  char cells[8][CELL];
  const char *row[10] = {who, count};
  (void)snprintf(count, sizeof count, "%lld", (long long)builds);
  for (size_t i = 0; i < 4; i++) {
    write_duration(json_object_get(old, names[i]), cells[2 * i]);
    write_duration(json_object_get(new, names[i]), cells[2 * i + 1]);
  }
  for (size_t i = 0; i < 8; i++) row[i + 2] = cells[i];
  return bq_table_add(table, row, err);
}

static int by_builds(const void *a, const void *b) {
  json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "builds"));
  json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "builds"));
  if (x != y) return x > y ? -1 : 1;
  return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "customerId")),
                json_string_value(json_object_get(*(json_t *const *)b, "customerId")));
}

static int by_change(const void *a, const void *b) {
  double x = json_number_value(json_object_get(*(json_t *const *)a, "meanChange"));
  double y = json_number_value(json_object_get(*(json_t *const *)b, "meanChange"));
  if (x < y || x > y) return x < y ? -1 : 1;
  return by_builds(a, b);
}

// The elements in another order, borrowed; NULL: out of memory.
static json_t **sorted(const json_t *list, int (*order)(const void *, const void *)) {
  size_t count = json_array_size(list);
  json_t **all = bq_alloc_array(count + 1, sizeof *all);
  if (all == NULL) return NULL;
  for (size_t i = 0; i < count; i++) all[i] = json_array_get(list, i);
  qsort(all, count, sizeof *all, order);
  return all;
}

static int add_groups(bq_table *table, const json_t *list, const char *word, const char *id, bq_error *err) {
  size_t count = json_array_size(list);
  json_t **all = bq_alloc_array(count + 1, sizeof *all);
  if (all == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a table");
  for (size_t i = 0; i < count; i++) all[i] = json_array_get(list, i);
  if (strcmp(id, "customerId") == 0) qsort(all, count, sizeof *all, by_builds);
  int result = 0;
  for (size_t i = 0; i < count && i < MAX_ROWS && result == 0; i++) {
    char *who = bq_format("%s %s", word, json_string_value(json_object_get(all[i], id)));
    result = who == NULL ? bq_fail(err, BQ_ENOMEM, "out of memory for a table")
                         : add_wait(table, who, json_integer_value(json_object_get(all[i], "builds")),
                                    json_object_get(all[i], "old"), json_object_get(all[i], "new"), err);
    bq_free(who);
  }
  bq_free(all);
  return result;
}

static int print_waits(const json_t *figures, bq_error *err) {
  static const bq_table_column columns[] = {{"WAITING", 0, 1}, {"BUILDS", 1, 0},   {"P50 OLD", 1, 0}, {"NEW", 1, 0},
                                            {"P95 OLD", 1, 0}, {"NEW", 1, 0},      {"P99 OLD", 1, 0}, {"NEW", 1, 0},
                                            {"LONGEST OLD", 1, 0}, {"NEW", 1, 0}};
  bq_table *table;
  int result = bq_table_new(&table, columns, 10, err);
  if (result < 0) return result;
  result = add_wait(table, "all", json_integer_value(json_object_get(figures, "builds")),
                    member(figures, "old", "wait"), member(figures, "new", "wait"), err);
  if (result == 0) result = add_groups(table, json_object_get(figures, "tiers"), "tier", "tier", err);
  if (result == 0) result = add_groups(table, json_object_get(figures, "customers"), "customer", "customerId", err);
  if (result == 0) result = print_table(table, err);
  bq_table_free(table);
  size_t customers = json_array_size(json_object_get(figures, "customers"));
  if (result == 0 && customers > MAX_ROWS) {
    (void)printf("%zu more customers: --json has them all\n\n", customers - MAX_ROWS);
  }
  return result;
}

// Totals -------------------------------------------------------------------------------------------------------------

static void write_costs(const json_t *costs, char *out, size_t size) {
  const char *currency;
  json_t *cost;
  size_t length = 0;
  (void)snprintf(out, size, "-");
  json_object_foreach((json_t *)(uintptr_t)costs, currency, cost) {
    int written = snprintf(out + length, size - length, "%s%.2f %s", length > 0 ? ", " : "", json_number_value(cost),
                           currency);
    if (written < 0 || (size_t)written >= size - length) return;
    length += (size_t)written;
  }
}

static void write_total(const json_t *value, const char *name, char out[CELL]) {
  size_t length = strlen(name);
  if (json_is_object(value)) write_costs(value, out, CELL);
  else if (length > 7 && strcmp(name + length - 7, "Seconds") == 0) write_duration(value, out);
  else if (strcmp(name, "slotsUsed") == 0) (void)snprintf(out, CELL, "%.1f %%", json_number_value(value) * 100);
  else if (json_is_real(value)) (void)snprintf(out, CELL, "%.1f", json_number_value(value));
  else (void)snprintf(out, CELL, "%lld", (long long)json_integer_value(value));
}

static int print_totals(const json_t *figures, bq_error *err) {
  static const bq_table_column columns[] = {{"", 0, 1}, {"OLD", 1, 0}, {"NEW", 1, 0}};
  static const struct {
    const char *title;
    const char *name;
    int always; // 0: only when it is something
  } rows[] = {{"succeeded", "success", 1},
              {"failed", "failed", 1},
              {"timed out", "timedout", 0},
              {"cancelled", "cancelled", 0},
              {"refused", "refused", 0},
              {"never started", "pending", 0},
              {"other priority", "otherPriority", 0},
              {"attempts", "attempts", 1},
              {"retries", "retries", 1},
              {"given up after many", "cutOff", 0},
              {"builds an hour", "buildsPerHour", 1},
              {"slots used", "slotsUsed", 1},
              {"until the last end", "spanSeconds", 1},
              {"computing", "busySeconds", 1},
              {"cost", "cost", 1}};
  bq_table *table;
  int result = bq_table_new(&table, columns, 3, err);
  if (result < 0) return result;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0] && result == 0; i++) {
    const json_t *old = member(figures, "old", rows[i].name);
    const json_t *new = member(figures, "new", rows[i].name);
    if (!rows[i].always && json_integer_value(old) == 0 && json_integer_value(new) == 0) continue;
    char cells[2][CELL];
    write_total(old, rows[i].name, cells[0]);
    write_total(new, rows[i].name, cells[1]);
    result = bq_table_add(table, (const char *const[]){rows[i].title, cells[0], cells[1]}, err);
  }
  if (result == 0) result = print_table(table, err);
  bq_table_free(table);
  return result;
}

// Who gained, who lost -----------------------------------------------------------------------------------------------

static void print_changed(const char *word, json_t *customer) {
  char change[CELL];
  write_duration(json_object_get(customer, "meanChange"), change);
  (void)printf("  %s ", word);
  bq_text_print(stdout, json_string_value(json_object_get(customer, "customerId")));
  (void)printf(": %s%s on average, %lld earlier, %lld later\n", change[0] == '-' ? "" : "+", change,
               (long long)json_integer_value(json_object_get(customer, "earlier")),
               (long long)json_integer_value(json_object_get(customer, "later")));
}

static int print_changes(const json_t *figures, bq_error *err) {
  const json_t *customers = json_object_get(figures, "customers");
  size_t count = json_array_size(customers);
  json_t **all = sorted(customers, by_change);
  if (all == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a table");
  (void)printf("%lld builds start earlier, %lld later, %lld at the same time\n",
               (long long)json_integer_value(json_object_get(figures, "earlier")),
               (long long)json_integer_value(json_object_get(figures, "later")),
               (long long)json_integer_value(json_object_get(figures, "same")));
  for (size_t i = 0; i < count && i < MAX_ROWS; i++) {
    if (json_number_value(json_object_get(all[i], "meanChange")) < 0) print_changed("gains", all[i]);
  }
  for (size_t i = count; i-- > 0 && count - i <= MAX_ROWS;) {
    if (json_number_value(json_object_get(all[i], "meanChange")) > 0) print_changed("loses", all[i]);
  }
  bq_free(all);
  return 0;
}

static void print_fallbacks(const json_t *figures, const char *side) {
  const char *hook;
  json_t *failure;
  json_object_foreach((json_t *)(uintptr_t)member(figures, side, "fallbacks"), hook, failure) {
    (void)printf("\nThe %s policy for %s failed %lld times, and the built-in rule decided; first: ", side, hook,
                 (long long)json_integer_value(json_object_get(failure, "count")));
    bq_text_print(stdout, json_string_value(json_object_get(failure, "first")));
    (void)putchar('\n');
  }
}

static void print_head(const json_t *figures) {
  char from[BQ_CLOCK_TEXT_SIZE];
  char to[BQ_CLOCK_TEXT_SIZE];
  char waited[CELL];
  bq_clock_format(json_integer_value(json_object_get(figures, "firstAt")), from);
  bq_clock_format(json_integer_value(json_object_get(figures, "lastAt")), to);
  write_duration(json_object_get(json_object_get(figures, "recorded"), "p50"), waited);
  long long builds = json_integer_value(json_object_get(figures, "builds"));
  (void)printf("%lld build%s from %s to %s, %lld at a time\n", builds, builds == 1 ? "" : "s", from, to,
               (long long)json_integer_value(json_object_get(figures, "slots")));
  (void)printf("really waited: %s (p50)", waited);
  write_duration(json_object_get(json_object_get(figures, "recorded"), "p95"), waited);
  (void)printf(", %s (p95)\n", waited);
  const json_t *policies = json_object_get(figures, "policies");
  for (int i = 0; i < BQ_HOOK_COUNT; i++) {
    const char *old = json_string_value(member(policies, "old", bq_hook_name((bq_hook)i)));
    const char *new = json_string_value(member(policies, "new", bq_hook_name((bq_hook)i)));
    if (old == NULL || new == NULL || strcmp(old, new) == 0) continue;
    (void)printf("%s: %s → %s\n", bq_hook_name((bq_hook)i), old, new);
  }
  (void)putchar('\n');
}

int bq_rehearse_print(const json_t *figures, bq_error *err) {
  print_head(figures);
  int result = print_waits(figures, err);
  if (result == 0) result = print_totals(figures, err);
  if (result == 0) result = print_changes(figures, err);
  if (result < 0) return result;
  print_fallbacks(figures, "old");
  print_fallbacks(figures, "new");
  return 0;
}
