// table.sort: quicksort over a list of ranges, as a machine that can be left at any comparison. So an order function
// may take its time (it is interrupted like any other code, and may even wait), and a sort without one gives up its
// thread between two comparisons. The steps are those of Lua's own sort, and so is the outcome, for elements that are
// equal to the order function too; only where that one goes by chance, this one always does the same.
#include <lauxlib.h>

#include "lua/stdlib_parts.h"
#include "lua/vm_state.h"

enum {
  SMALL_COUNT = 128,   // elements: without an order function they are sorted in microseconds
  SMALL_RANGES = 8,    // log2 of it, and one more
  LARGE_RANGE = 100,   // elements: from here on the pivot may be another than the middle
  UNBALANCED = 128     // how many times smaller one part may be than the other before pivots are taken from anywhere
};

// On the stack from the beginning to the end; what is compared lies above.
enum { TABLE = 1, ORDER, STATE, FIXED = STATE };

// Which comparison is under way. "a<b" are elements; P is the pivot's value.
typedef enum step {
  NEXT_RANGE, // none: a range begins
  ENDS,       // last < first
  LOW,        // middle < first
  HIGH,       // last < middle
  UPWARDS,    // a[i] < P
  DOWNWARDS   // P < a[j]
} step;

typedef struct range {
  lua_Integer first, last;
} range;

typedef struct sort {
  bq_vm *vm;
  step step;
  int raw;               // no metatable: elements are read and written directly
  int ordered;           // by an order function
  int small;             // this lies on the C stack: the sort can't be left
  int compared;          // the continuation: the order function's answer is on top
  lua_Unsigned chance;   // 0 while parts are of similar size
  lua_Integer first, last; // the range at hand
  lua_Integer middle;    // where the pivot is taken from
  lua_Integer i, j;      // of UPWARDS and DOWNWARDS
  int left_count;
  range left[];          // to be sorted yet: each the larger part of what was split, so log2(count) of them at most
} sort;

static void get(lua_State *L, const sort *s, lua_Integer at) {
  if (s->raw) (void)lua_rawgeti(L, TABLE, at);
  else (void)lua_geti(L, TABLE, at);
}

// Pops the value.
static void set(lua_State *L, const sort *s, lua_Integer at) {
  if (s->raw) lua_rawseti(L, TABLE, at);
  else lua_seti(L, TABLE, at);
}

// The two elements are on top: a[low] below a[high]. Pops them.
static void exchange(lua_State *L, const sort *s, lua_Integer low, lua_Integer high) {
  set(L, s, low);
  set(L, s, high);
}

static void end_range(sort *s) {
  s->first = s->last;
  s->step = NEXT_RANGE;
}

static lua_Integer choose_middle(const sort *s) {
  lua_Unsigned size = (lua_Unsigned)s->last - (lua_Unsigned)s->first;
  if (size < LARGE_RANGE || s->chance == 0) return s->first + (lua_Integer)(size / 2);
  lua_Unsigned quarter = size / 4; // from the two quarters in the middle
  return s->first + (lua_Integer)(quarter + s->chance % (quarter * 2));
}

// Takes the pivot out of the way, to the place before the last.
static void begin_partition(lua_State *L, sort *s) {
  if (s->last - s->first == 2) {
    end_range(s);
    return;
  }
  get(L, s, s->middle); // stays on the stack: P
  lua_pushvalue(L, -1);
  get(L, s, s->last - 1);
  exchange(L, s, s->middle, s->last - 1);
  s->i = s->first;
  s->j = s->last - 1;
  s->step = UPWARDS;
  get(L, s, ++s->i);
}

// The pivot's place is i: what lies before it and what lies behind it is sorted next, the smaller part first.
static void split(sort *s) {
  range smaller = {s->first, s->i - 1};
  range larger = {s->i + 1, s->last};
  if (s->i - s->first >= s->last - s->i) {
    range other = smaller;
    smaller = larger;
    larger = other;
  }
  lua_Unsigned small_size = (lua_Unsigned)smaller.last - (lua_Unsigned)smaller.first + 1;
  if (((lua_Unsigned)larger.last - (lua_Unsigned)larger.first) / UNBALANCED > small_size) {
    s->chance = s->chance * 6364136223846793005u + 1442695040888963407u;
  }
  s->left[s->left_count++] = larger;
  s->first = smaller.first;
  s->last = smaller.last;
  s->step = NEXT_RANGE;
}

static int invalid_order(lua_State *L) {
  return luaL_error(L, "invalid order function for sorting");
}

// What follows from the comparison. Its two values are still on the stack where the step put them.
static void advance(lua_State *L, sort *s, int less) {
  switch (s->step) {
  case NEXT_RANGE: break;
  case ENDS: // first, last
    if (less) exchange(L, s, s->first, s->last);
    else lua_pop(L, 2);
    if (s->last - s->first == 1) {
      end_range(s);
      return;
    }
    s->middle = choose_middle(s);
    get(L, s, s->middle);
    get(L, s, s->first);
    s->step = LOW;
    return;
  case LOW: // middle, first
    if (less) {
      exchange(L, s, s->middle, s->first);
      begin_partition(L, s);
      return;
    }
    lua_pop(L, 1);
    get(L, s, s->last);
    s->step = HIGH;
    return;
  case HIGH: // middle, last
    if (less) exchange(L, s, s->middle, s->last);
    else lua_pop(L, 2);
    begin_partition(L, s);
    return;
  case UPWARDS: // P, a[i]
    if (less) {
      if (s->i == s->last - 1) (void)invalid_order(L);
      lua_pop(L, 1);
      get(L, s, ++s->i);
      return;
    }
    s->step = DOWNWARDS;
    get(L, s, --s->j);
    return;
  case DOWNWARDS: // P, a[i], a[j]
    if (less) {
      if (s->j < s->i) (void)invalid_order(L);
      lua_pop(L, 1);
      get(L, s, --s->j);
      return;
    }
    if (s->j < s->i) {
      lua_pop(L, 1);
      exchange(L, s, s->last - 1, s->i); // the pivot to its place
      split(s);
      return;
    }
    exchange(L, s, s->i, s->j);
    s->step = UPWARDS;
    get(L, s, ++s->i);
  }
}

static int go_on(lua_State *L, int status, lua_KContext context);

// Asks for the comparison of the step; its answer.
static int compare(lua_State *L, sort *s) {
  int a = -1; // is a < b?
  int b = -2;
  if (s->step == LOW) {
    a = -2;
    b = -1;
  } else if (s->step == DOWNWARDS) {
    a = -3;
    b = -1;
  }
  if (!s->ordered) return lua_compare(L, a, b, LUA_OPLT);
  lua_pushvalue(L, ORDER);
  lua_pushvalue(L, a - 1);
  lua_pushvalue(L, b - 2);
  s->compared = 1;
  lua_callk(L, 2, 1, (lua_KContext)s, go_on);
  s->compared = 0;
  int less = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return less;
}

// Returns 0 when nothing is left.
static int begin_range(lua_State *L, sort *s) {
  while (s->first >= s->last) {
    if (s->left_count == 0) return 0;
    range next = s->left[--s->left_count];
    s->first = next.first;
    s->last = next.last;
  }
  get(L, s, s->first);
  get(L, s, s->last);
  s->step = ENDS;
  return 1;
}

static int go_on(lua_State *L, int status, lua_KContext context) {
  sort *s = (sort *)context;
  if (status == LUA_YIELD && s->compared) {
    s->compared = 0;
    int less = lua_toboolean(L, -1);
    lua_pop(L, 1);
    advance(L, s, less);
  }
  for (;;) {
    if (s->step == NEXT_RANGE && !begin_range(L, s)) return 0;
    if (s->vm->look) {
      bq_vm_tick(L);
      if (!s->small && bq_slice_is_over(s->vm) && bq_can_wait(L)) {
        s->vm->yielded = BQ_YIELD_SLICE;
        return lua_yieldk(L, 0, context, go_on);
      }
    }
    advance(L, s, compare(L, s));
  }
}

static void begin(lua_State *L, sort *s, lua_Integer count, int raw) {
  *s = (sort){.vm = bq_vm_of(L), .step = NEXT_RANGE, .raw = raw, .ordered = !lua_isnil(L, ORDER), .first = 1,
              .last = count};
}

int bq_table_sort(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int raw = !lua_getmetatable(L, 1);
  if (!raw) lua_pop(L, 1);
  lua_Integer count = raw ? (lua_Integer)lua_rawlen(L, 1) : luaL_len(L, 1);
  if (count > BQ_TABLE_MAX_COUNT) return luaL_argerror(L, 1, "a table of more than 10 million elements");
  if (count < 2) return 0;
  if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, ORDER);
  if (lua_isnil(L, ORDER) && count <= SMALL_COUNT) {
    union {
      sort s;
      char room[sizeof(sort) + SMALL_RANGES * sizeof(range)];
    } here;
    lua_pushnil(L); // the place of STATE
    begin(L, &here.s, count, raw);
    here.s.small = 1;
    return go_on(L, LUA_OK, (lua_KContext)&here.s);
  }
  size_t ranges = 1;
  for (lua_Integer n = count; n > 1; n /= 2) ranges++;
  sort *s = lua_newuserdatauv(L, sizeof *s + ranges * sizeof s->left[0], 0);
  begin(L, s, count, raw);
  return go_on(L, LUA_OK, (lua_KContext)s);
}
