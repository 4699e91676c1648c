#include "queue/api_stream.h"

#include <lauxlib.h>

#include "base/memory.h"
#include "lua/errors.h"

typedef struct write_op {
  bq_op op;
  bq_api_stream *stream; // borrowed: the call outlives its fiber
} write_op;

static void write_start(bq_op *op) {
  bq_api_stream *stream = ((write_op *)op)->stream;
  if (stream->full && stream->x != NULL) stream->waiting = op;
  else bq_op_complete(op);
}

static void write_cancel(bq_op *op) {
  bq_api_stream *stream = ((write_op *)op)->stream;
  if (stream->waiting != op) return; // it is complete already
  stream->waiting = NULL;
  bq_op_complete(op);
}

static int raise_gone(lua_State *L) {
  return bq_lua_raise(L, BQ_ECANCELED, "write: the client has gone, or the response has ended");
}

static int write_push(bq_op *op, lua_State *L) {
  return ((write_op *)op)->stream->x != NULL ? 0 : raise_gone(L);
}

static void write_release(bq_op *op) {
  bq_free(op);
}

static int stream_write(lua_State *L) {
  bq_api_stream **slot = lua_touserdata(L, lua_upvalueindex(1));
  bq_api_stream *stream = *slot;
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  if (stream == NULL || stream->x == NULL) return raise_gone(L);
  if (stream->full) return bq_lua_raise(L, BQ_EINVAL, "write: another write of this response is under way");
  write_op *op = bq_alloc(sizeof *op);
  if (op == NULL) return bq_lua_raise(L, BQ_ENOMEM, "out of memory for a write");
  op->op = (bq_op){.start = write_start, .cancel = write_cancel, .push = write_push, .release = write_release};
  op->stream = stream;
  stream->full = bq_http_stream_write(stream->x, text, length);
  return bq_op_yield(L, &op->op); // always: the producer shares its thread
}

void bq_api_stream_push(lua_State *L, bq_api_stream *stream) {
  stream->slot = lua_newuserdatauv(L, sizeof *stream->slot, 0);
  *stream->slot = stream;
  lua_pushvalue(L, -1);
  stream->slot_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushcclosure(L, stream_write, 1);
}

void bq_api_stream_wake(bq_api_stream *stream) {
  stream->full = 0;
  bq_op *op = stream->waiting;
  stream->waiting = NULL;
  if (op != NULL) bq_op_complete(op);
}

void bq_api_stream_close(lua_State *L, bq_api_stream *stream) {
  if (stream->slot == NULL) return;
  *stream->slot = NULL;
  stream->slot = NULL;
  luaL_unref(L, LUA_REGISTRYINDEX, stream->slot_ref);
}
