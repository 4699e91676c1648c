#include "queue/batch.h"

#include <stddef.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

typedef struct item {
  char *text; // owned; JSON
  size_t length;
  bq_batch_done done;
  void *arg;
  struct item *next;
} item;

// Items in a row; the list owns them.
typedef struct item_list {
  item *first;
  item *last;
  size_t count;
} item_list;

// One statement under way.
typedef struct group {
  bq_batch *batch;
  item_list items;
} group;

struct bq_batch {
  bq_loop *loop;
  bq_store *store;
  const char *statement;
  bq_batch_kind kind;
  item_list waiting;
  unsigned under_way; // groups: one, but for the parts of one that was refused
  int posted;         // what waits is sent on the next turn of the loop
  int closed;         // the connections are being closed, or the batch is being freed: nothing is sent any more
  bq_post post;
};

static void push(item_list *list, item *i) {
  i->next = NULL;
  if (list->first == NULL) list->first = i;
  else list->last->next = i;
  list->last = i;
  list->count++;
}

static item *pop(item_list *list) {
  item *i = list->first;
  list->first = i->next;
  if (list->first == NULL) list->last = NULL;
  list->count--;
  return i;
}

// Calls `done` of each; the list is empty afterwards.
static void settle(item_list *list, const bq_pg_result *result) {
  for (int row = 0; list->first != NULL; row++) {
    item *i = pop(list);
    i->done(i->arg, result, result->error == NULL ? row : 0);
    bq_free(i->text);
    bq_free(i);
  }
}

static void settle_failed(item_list *list, const bq_error *why) {
  settle(list, &(bq_pg_result){.error = why});
}

static void send_waiting(bq_batch *batch);
static void send_items(bq_batch *batch, item_list *items);

// Both halves are sent at once: the other one has waited long enough.
static void split(bq_batch *batch, item_list *items) {
  item_list half = {0};
  size_t count = items->count / 2;
  while (half.count < count) push(&half, pop(items));
  send_items(batch, &half);
  send_items(batch, items);
}

static void on_answer(void *arg, const bq_pg_result *result) {
  group *g = arg;
  bq_batch *batch = g->batch;
  item_list items = g->items;
  bq_error err;
  bq_free(g);
  batch->under_way--;
  if (result->error != NULL && result->error->code == BQ_ECANCELED) batch->closed = 1;
  if (result->error != NULL && result->error->code == BQ_EDATABASE && items.count > 1 && !batch->closed) {
    bq_log(BQ_DEBUG, "a batch is split", "statement", batch->statement, "error", result->error->message, NULL);
    split(batch, &items);
  } else if (result->error == NULL && (size_t)PQntuples(result->rows) != items.count) {
    (void)bq_fail(&err, BQ_EDATABASE, "%s answers %d rows for %zu items", batch->statement, PQntuples(result->rows),
                  items.count);
    settle_failed(&items, &err);
  } else {
    settle(&items, result);
  }
  if (batch->closed) settle_failed(&batch->waiting, result->error);
  else if (batch->under_way == 0) send_waiting(batch);
}

static char *join(const item_list *items) {
  bq_buf text = {0};
  bq_buf_addc(&text, '[');
  for (const item *i = items->first; i != NULL; i = i->next) {
    if (i != items->first) bq_buf_addc(&text, ',');
    bq_buf_add(&text, i->text, i->length);
  }
  bq_buf_addc(&text, ']');
  return bq_buf_take(&text);
}

// Takes the items over.
static void send_items(bq_batch *batch, item_list *items) {
  bq_error err;
  char *text = join(items);
  group *g = bq_alloc(sizeof *g);
  int result = text != NULL && g != NULL ? 0 : bq_fail(&err, BQ_ENOMEM, "out of memory for %s", batch->statement);
  if (result == 0) {
    const char *params[] = {text};
    *g = (group){.batch = batch, .items = *items};
    batch->under_way++;
    if (batch->kind == BQ_BATCH_WRITE) {
      result = bq_store_write(batch->store, batch->statement, 1, params, on_answer, g, &err);
    } else {
      result = bq_store_query(batch->store, batch->statement, 1, params, on_answer, g, &err);
    }
    if (result < 0) batch->under_way--;
  }
  bq_free(text);
  if (result == 0) {
    *items = (item_list){0};
    return;
  }
  bq_free(g);
  settle_failed(items, &err);
}

// Until something is under way, whose answer sends the rest: what can't be sent is told at once.
static void send_waiting(bq_batch *batch) {
  while (batch->under_way == 0 && batch->waiting.first != NULL) {
    item_list items = {0};
    size_t bytes = 0;
    while (batch->waiting.first != NULL && items.count < BQ_BATCH_ROWS) {
      bytes += batch->waiting.first->length;
      if (items.count > 0 && bytes > BQ_BATCH_BYTES) break;
      push(&items, pop(&batch->waiting));
    }
    send_items(batch, &items);
  }
}

static void on_turn(bq_post *post) {
  bq_batch *batch = (bq_batch *)((char *)post - offsetof(bq_batch, post));
  batch->posted = 0;
  if (batch->under_way == 0 && !batch->closed) send_waiting(batch);
}

int bq_batch_add(bq_batch *batch, const json_t *value, bq_batch_done done, void *arg, bq_error *err) {
  if (batch->closed) return bq_fail(err, BQ_ECANCELED, "the server ends before the database has answered");
  if (batch->kind == BQ_BATCH_QUERY && batch->waiting.count >= BQ_BATCH_WAITING) {
    return bq_fail(err, BQ_ELIMIT, "%zu requests wait for the database already", batch->waiting.count);
  }
  item *i = bq_alloc(sizeof *i);
  char *text = bq_json_dumps(value, JSON_COMPACT);
  if (i == NULL || text == NULL) {
    bq_free(i);
    bq_free(text);
    return bq_fail(err, BQ_ENOMEM, "out of memory for %s", batch->statement);
  }
  *i = (item){.text = text, .length = strlen(text), .done = done, .arg = arg};
  push(&batch->waiting, i);
  if (batch->under_way > 0 || batch->posted) return 0;
  batch->posted = 1;
  batch->post.run = on_turn;
  bq_loop_post(batch->loop, &batch->post);
  return 0;
}

int bq_batch_new(bq_batch **out, bq_loop *loop, bq_store *store, const char *statement, bq_batch_kind kind,
                 bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for %s", statement);
  **out = (bq_batch){.loop = loop, .store = store, .statement = statement, .kind = kind};
  return 0;
}

void bq_batch_free(bq_batch *batch) {
  bq_error err;
  if (batch == NULL) return;
  batch->closed = 1;
  (void)bq_fail(&err, BQ_ECANCELED, "the server ends before the database has answered");
  settle_failed(&batch->waiting, &err);
  bq_free(batch);
}
