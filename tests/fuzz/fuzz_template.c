// A template: it renders, or says what is wrong with it and where; what the compiler makes of it Lua takes; and no value
// stands in HTML unescaped. The promises are in template.lua, the language in scripts/lib/template. libFuzzer sees Lua's
// lines through its extra counters: a hook counts them.
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { COUNTERS = 16384, MAX_STEPS = 3000 * 1000, STEP = 1000 };

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];
static int steps;

static void on_hook(lua_State *L, lua_Debug *ar) {
  if (ar->event == LUA_HOOKCOUNT) {
    steps += STEP;
    if (steps > MAX_STEPS) (void)luaL_error(L, "too many steps");
    return;
  }
  // Of the library, not of the template: the address of a chunk's name is good enough for its name.
  (void)lua_getinfo(L, "Sl", ar);
  if (ar->source[0] != '@') return;
  uint32_t hash = ((uint32_t)(uintptr_t)ar->source >> 4) * 2654435761U ^ (uint32_t)ar->currentline * 40503U;
  uint8_t *counter = &counters[(hash >> 8) % COUNTERS];
  if (*counter < UINT8_MAX) (*counter)++;
}

// A state with the promises' function on its stack.
static lua_State *new_state(void) {
  lua_State *L = luaL_newstate();
  if (L == NULL) abort();
  luaL_openlibs(L);
  if (luaL_dostring(L, "package.path = 'scripts/lib/?.lua'") != LUA_OK ||
      luaL_loadfile(L, "tests/fuzz/template.lua") != LUA_OK || lua_pcall(L, 0, 1, 0) != LUA_OK) {
    (void)fprintf(stderr, "%s (run it in the repository's directory)\n", lua_tostring(L, -1));
    abort();
  }
  lua_sethook(L, on_hook, LUA_MASKLINE | LUA_MASKCOUNT, STEP);
  return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static lua_State *L;
  if (L == NULL) L = new_state();
  steps = 0;
  lua_pushvalue(L, -1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    (void)fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  return 0;
}
