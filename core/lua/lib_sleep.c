// sleep(seconds): the smallest operation. A new binding that waits begins as a copy of this file.
#include <lauxlib.h>

#include "base/memory.h"
#include "lua/errors.h"
#include "lua/fiber.h"
#include "lua/libs.h"

enum { MAX_SECONDS = 86400 };

typedef struct sleep_op {
  bq_op op;         // first: a bq_op pointer is a sleep_op pointer
  bq_timer *timer;  // owned, while it runs; the loop's
  int64_t delay_ms;
  bq_error error;   // code 0: none
} sleep_op;

static void end(sleep_op *s) {
  bq_timer_free(s->timer);
  s->timer = NULL;
  bq_op_complete(&s->op);
}

static void wake(void *arg) {
  end(arg);
}

static void start(bq_op *op) {
  sleep_op *s = (sleep_op *)op;
  if (bq_timer_new(&s->timer, bq_vm_loop(bq_op_vm(op)), wake, s, &s->error) < 0) {
    end(s);
    return;
  }
  bq_timer_follow_clock(s->timer);
  bq_timer_set(s->timer, s->delay_ms);
}

static void cancel(bq_op *op) {
  end((sleep_op *)op);
}

static int push(bq_op *op, lua_State *L) {
  const sleep_op *s = (const sleep_op *)op;
  if (s->error.code == 0) return 0;
  bq_lua_push_error(L, &s->error);
  return -1;
}

static void release(bq_op *op) {
  bq_free(op);
}

int bq_lua_sleep(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1);
  luaL_argcheck(L, seconds >= 0 && seconds <= MAX_SECONDS, 1, "0 to 86400 seconds");
  sleep_op *s = bq_alloc(sizeof *s);
  if (s == NULL) return bq_lua_raise(L, BQ_ENOMEM, "out of memory for a sleep");
  s->op = (bq_op){.start = start, .cancel = cancel, .push = push, .release = release};
  s->delay_ms = (int64_t)(seconds * 1000);
  return bq_op_yield(L, &s->op);
}
