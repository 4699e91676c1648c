// Every function of the library, called with what nobody should call it with: huge counts, tables that lie about
// themselves, megabytes, callbacks that give it all back. Whatever it does with them, the thread comes back in time.
#include "lua_test.h"

// What can be interrupted nowhere may take 250 ms, and its closing 100 ms.
enum { CPU_US = 150 * 1000, MARGIN_US = 450 * 1000 };

static const char base_functions[] =
  " assert collectgarbage error getmetatable ipairs load next pairs pcall print rawequal rawget rawlen rawset select "
  "setmetatable tonumber tostring type xpcall json.encode json.decode sha256 ";

static const char list_library[] =
  "local names = {''} for name, value in pairs(%s) do "
  "  if type(value) == 'function' then names[#names + 1] = '%s.' .. name end "
  "end return table.concat(names, ' ') .. ' '";

static const char call_with_all[] =
  "local f = %s "
  "local liar = setmetatable({}, {__len = function() return 1 << 40 end, __index = function(_, k) return k end, "
  "  __newindex = function() end, __lt = function() return true end, "
  "  __tostring = function() return ('x'):rep(1 << 20) end, "
  "  __pairs = function(t) return function() return 1, 1 end end, __concat = function() return 'x' end}) "
  "local arguments = {liar, 1 << 62, -(1 << 62), 9999999, 1e308, ('a'):rep(1 << 20), '.-.-%%s', "
  "  ('%%c'):rep(1 << 21), '', {3, 1, 2}, function() return liar end, true} "
  "for _, a in ipairs(arguments) do for _, b in ipairs(arguments) do for _, c in ipairs(arguments) do "
  "  pcall(f, a, b, c, a, b) "
  "end end end";

static void call_it(world *w, const char *name, size_t length) {
  char function[60];
  char text[2000];
  (void)snprintf(function, sizeof function, "%.*s", (int)length, name);
  (void)snprintf(text, sizeof text, call_with_all, function);
  bq_vm_options options = world_options(w);
  options.cpu_us = CPU_US;
  bq_vm *vm = vm_with(&options);
  script s;
  script_start(&s, w, vm, text);
  world_run(w);
  bq_vm_usage usage;
  bq_vm_get_usage(vm, &usage);
  bq_vm_free(vm);
  if (s.end == BQ_END_ERROR) fail_msg("%s: %s", function, s.line);
#ifndef __SANITIZE_THREAD__ // under which everything is many times slower
  if (usage.cpu_us > CPU_US + MARGIN_US) {
    fail_msg("%s held its thread for %lld ms", function, (long long)usage.cpu_us / 1000);
  }
#endif
}

// `names` have a blank on each side. Returns their count.
static int call_all(world *w, const char *names) {
  int count = 0;
  for (const char *name = names + 1; *name != '\0'; count++) {
    size_t length = strcspn(name, " ");
    call_it(w, name, length);
    name += length + 1;
  }
  return count;
}

static void every_function_gives_its_thread_back(void **state) {
  (void)state;
  static const char *const libraries[] = {"string", "table", "math", "utf8", "os", "coroutine"};
  world w;
  world_open(&w);
  int count = call_all(&w, base_functions);
  for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
    char text[300];
    script s;
    bq_vm_options options = world_options(&w);
    (void)snprintf(text, sizeof text, list_library, libraries[i], libraries[i]);
    run_with(&s, &options, &w, text);
    assert_int_equal(s.end, BQ_END_RETURNED);
    assert_true(strlen(s.line) < sizeof s.line - 1);
    count += call_all(&w, s.line);
  }
  assert_true(count > 80);
  world_close(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_function_gives_its_thread_back)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
