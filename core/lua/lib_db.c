#include "lua/lib_db.h"

#include <jansson.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "lua/libs.h"
#include "lua/modules.h"
#include "lua/errors.h"

enum { MAX_PARAMS = 100, MAX_ROWS = 10000, MAX_RESULT_BYTES = 8 * 1024 * 1024 };

// PostgreSQL's type numbers (src/include/catalog/pg_type.dat): fixed since the types exist.
enum { BOOL_TYPE = 16, INT8_TYPE = 20, INT2_TYPE = 21, INT4_TYPE = 23, JSON_TYPE = 114, FLOAT4_TYPE = 700,
       FLOAT8_TYPE = 701, JSONB_TYPE = 3802 };

typedef struct query_op {
  bq_op op;
  bq_pg *db;              // borrowed
  bq_pg_request *request; // borrowed while the query is under way
  char *sql;              // owned
  char *params[MAX_PARAMS]; // owned; NULL is SQL's NULL
  int param_count;
  PGresult *rows;         // owned copy; NULL on failure
  bq_error error;         // code 0: none
  char sqlstate[6];
} query_op;

static size_t result_bytes(const PGresult *rows) {
  size_t bytes = 0;
  for (int row = 0; row < PQntuples(rows); row++) {
    for (int column = 0; column < PQnfields(rows); column++) bytes += (size_t)PQgetlength(rows, row, column);
  }
  return bytes;
}

static void on_result(void *arg, const bq_pg_result *result) {
  query_op *query = arg;
  query->request = NULL;
  if (result->error != NULL) {
    query->error = *result->error;
    memcpy(query->sqlstate, result->sqlstate, sizeof query->sqlstate);
  } else if (PQntuples(result->rows) > MAX_ROWS || result_bytes(result->rows) > MAX_RESULT_BYTES) {
    (void)bq_fail(&query->error, BQ_ELIMIT, "db.query: more than %d rows or %d bytes: add a LIMIT", MAX_ROWS,
                  MAX_RESULT_BYTES);
  } else {
    query->rows = PQcopyResult(result->rows, PG_COPYRES_ATTRS | PG_COPYRES_TUPLES);
    if (query->rows == NULL) (void)bq_fail(&query->error, BQ_ENOMEM, "out of memory for a query's rows");
    // The copy has no command tag: the count is kept where an error would be.
    (void)snprintf(query->error.message, sizeof query->error.message, "%s", PQcmdTuples(result->rows));
  }
  bq_op_complete(&query->op);
}

static void query_start(bq_op *op) {
  query_op *query = (query_op *)op;
  const char *const *params = (const char *const *)(void *)query->params;
  if (bq_pg_query_text(query->db, query->sql, query->param_count, params, on_result, query, &query->request,
                       &query->error) < 0) {
    bq_op_complete(op);
  }
}

static void query_cancel(bq_op *op) {
  query_op *query = (query_op *)op;
  if (query->request != NULL) bq_pg_cancel(query->request);
}

static void push_value(lua_State *L, const PGresult *rows, int row, int column) {
  if (PQgetisnull(rows, row, column)) {
    lua_pushlightuserdata(L, NULL); // json.null
    return;
  }
  const char *text = PQgetvalue(rows, row, column);
  size_t length = (size_t)PQgetlength(rows, row, column);
  json_t *value = NULL;
  int result;
  switch (PQftype(rows, column)) {
  case BOOL_TYPE: lua_pushboolean(L, text[0] == 't'); return;
  case INT2_TYPE:
  case INT4_TYPE:
  case INT8_TYPE: lua_pushinteger(L, strtoll(text, NULL, 10)); return;
  case FLOAT4_TYPE:
  case FLOAT8_TYPE: lua_pushnumber(L, strtod(text, NULL)); return;
  case JSON_TYPE:
  case JSONB_TYPE:
    result = bq_json_parse(text, length, BQ_JSON_STRICT, &value, NULL);
    if (result == BQ_ENOMEM) (void)bq_lua_raise(L, result, "out of memory for a query's rows");
    if (result == 0) {
      bq_lua_give_json(L, value);
      return;
    }
    break; // what our JSON can't hold stays text
  default: break;
  }
  lua_pushlstring(L, text, length);
}

static int query_push(bq_op *op, lua_State *L) {
  query_op *query = (query_op *)op;
  if (query->error.code != 0) {
    bq_lua_push_error(L, &query->error);
    if (query->sqlstate[0] != '\0') {
      lua_pushstring(L, query->sqlstate);
      lua_setfield(L, -2, "sqlstate");
    }
    return -1;
  }
  int count = PQntuples(query->rows);
  lua_createtable(L, count, 0);
  for (int row = 0; row < count; row++) {
    lua_createtable(L, 0, PQnfields(query->rows));
    for (int column = 0; column < PQnfields(query->rows); column++) {
      push_value(L, query->rows, row, column);
      lua_setfield(L, -2, PQfname(query->rows, column));
    }
    lua_rawseti(L, -2, row + 1);
  }
  lua_pushinteger(L, query->error.message[0] != '\0' ? strtoll(query->error.message, NULL, 10) : count);
  return 2;
}

static void query_release(bq_op *op) {
  query_op *query = (query_op *)op;
  PQclear(query->rows);
  for (int i = 0; i < query->param_count; i++) bq_free(query->params[i]);
  bq_free(query->sql);
  bq_free(query);
}

// The parameter at `index` as text. NULL in *out is SQL's NULL. Returns 0 when memory is out or it can't be a
// parameter.
static int read_param(lua_State *L, int index, char **out) {
  json_t *value = NULL;
  bq_error err;
  switch (lua_type(L, index)) {
  case LUA_TNIL:
  case LUA_TLIGHTUSERDATA: *out = NULL; return 1;
  case LUA_TBOOLEAN: *out = bq_strdup(lua_toboolean(L, index) ? "true" : "false"); break;
  case LUA_TSTRING:
    if (strlen(lua_tostring(L, index)) != lua_rawlen(L, index)) return 0; // PostgreSQL's text has no NUL
    *out = bq_strdup(lua_tostring(L, index));
    break;
  case LUA_TNUMBER:
    lua_pushvalue(L, index); // lua_tostring would change the argument in place
    *out = bq_strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
    break;
  case LUA_TTABLE:
    if (bq_lua_to_json(L, index, &value, &err) < 0) return 0;
    *out = bq_json_dumps(value, JSON_COMPACT);
    json_decref(value);
    break;
  default: return 0;
  }
  return *out != NULL;
}

static int db_query(lua_State *L) {
  const char *sql = luaL_checkstring(L, 1);
  int count = lua_gettop(L) - 1;
  bq_services *services = bq_script_services(L);
  if (services->db == NULL) return luaL_error(L, "db.query: there is no database here");
  luaL_argcheck(L, count <= MAX_PARAMS, MAX_PARAMS + 1, "too many parameters");
  query_op *query = bq_alloc(sizeof *query);
  if (query == NULL) return luaL_error(L, "out of memory");
  query->op = (bq_op){.start = query_start, .cancel = query_cancel, .push = query_push, .release = query_release};
  query->db = services->db;
  query->sql = bq_strdup(sql);
  int fits = query->sql != NULL;
  for (int i = 0; i < count && fits; i++) {
    fits = read_param(L, i + 2, &query->params[i]);
    query->param_count = i + 1;
  }
  if (!fits) {
    int at = query->param_count;
    query_release(&query->op);
    return luaL_error(L, "db.query: parameter $%d can't be sent: it is a string without NUL, a number, a boolean, nil, "
                         "json.null or a table that JSON can hold", at);
  }
  return bq_op_yield(L, &query->op);
}

int bq_lua_open_db(lua_State *L) {
  static const luaL_Reg functions[] = {{"query", db_query}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
