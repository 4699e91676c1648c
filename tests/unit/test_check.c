// The check of a generation: each wrong shape is named with its file, all of them at once.
#include "lua/check.h"
#include "script_test.h"

static const bq_lua_module modules[] = {{NULL, NULL}};

// Runs the check over the files; the faults, one a line, are the caller's. `again`: as if they had passed one already.
static char *check_after(int again, const char *const (*files)[2], char **pipelines, size_t *routes) {
  bench b;
  bq_check c;
  bq_error err;
  script s = {0};
  bench_open(&b, modules, files);
  assert_int_equal(bq_check_init(&c, b.generation, again ? b.generation : NULL, &err), 0);
  bq_vm *vm = bench_vm(&b);
  lua_State *L = bq_vm_state(vm);
  s.w = &b.w;
  b.w.running++;
  lua_pushcfunction(L, bq_check_run);
  lua_pushlightuserdata(L, &c);
  assert_int_equal(bq_fiber_start(&s.fiber, vm, L, 1, script_ended, &s, &err), 0);
  world_run(&b.w);
  bq_vm_free(vm);
  if (s.end != BQ_END_RETURNED) fail_msg("%s", s.line);
  char *faults = bq_strdup(c.faults.data != NULL ? c.faults.data : "");
  if (pipelines != NULL) *pipelines = json_dumps(c.pipelines, JSON_COMPACT | JSON_SORT_KEYS);
  if (routes != NULL) *routes = c.route_count;
  bq_check_free(&c);
  bench_close(&b);
  return faults;
}

static char *check(const char *const (*files)[2], char **pipelines, size_t *routes) {
  return check_after(0, files, pipelines, routes);
}

// Rendering takes its time; the rest is checked whenever something changes.
static void renders_mails_only_when_they_may_differ(void **state) {
  (void)state;
  static const char *const mails[][2] = {{"scripts/lib/notify.lua", "return {check = function() error 'mails' end}"},
                                         {NULL, NULL}};
  static const char *const routes[][2] = {
      {"scripts/routes/a.lua", "return {method = 'GET', path = '/a', handle = print, check = function() error 'a' end}"},
      {NULL, NULL}};
  char *faults = check_after(0, mails, NULL, NULL);
  assert_non_null(strstr(faults, "mails"));
  bq_free(faults);
  faults = check_after(1, mails, NULL, NULL);
  assert_string_equal(faults, "");
  bq_free(faults);
  faults = check_after(1, routes, NULL, NULL);
  assert_non_null(strstr(faults, "scripts/routes/a.lua:1: a"));
  bq_free(faults);
}

static void takes_what_is_right(void **state) {
  (void)state;
  static const char *const files[][2] = {
      {"scripts/pipelines/one.lua", "return {run = function() end, check = function() end}"},
      {"scripts/pipelines/two-2.lua", "return {run = function() end, pin = 'build', needs = {secrets = {'A', 'B'}, "
                                      "labels = {'gpu'}}}"},
      {"scripts/routes/a.lua", "return {method = 'GET', path = '/a', handle = function() end}"},
      {"scripts/routes/b.lua", "local h = function() end return {{method = 'GET', path = '/b', handle = h}, "
                               "{method = 'POST', path = '/b/{id}', handle = h}}"},
      {"scripts/policies/p.lua", "return {priority = function() end}"},
      {"scripts/notifications/n.lua", "return {events = {'failed'}, deliver = function() end}"},
      {"scripts/lib/any.lua", "return 7"},
      {"templates/x.html", "return 7"},
      {NULL, NULL}};
  char *pipelines;
  size_t routes;
  char *faults = check(files, &pipelines, &routes);
  assert_string_equal(faults, "");
  assert_string_equal(pipelines,
                      "{\"one\":{\"labels\":[],\"pin\":false,\"secrets\":[]},"
                      "\"two-2\":{\"labels\":[\"gpu\"],\"pin\":true,\"secrets\":[\"A\",\"B\"]}}");
  assert_int_equal(routes, 3);
  free(pipelines);
  bq_free(faults);
}

static void names_each_wrong_shape(void **state) {
  (void)state;
  static const struct {
    const char *path;
    const char *text;
    const char *fault;
  } rows[] = {
      {"scripts/pipelines/p.lua", "return {}", "scripts/pipelines/p.lua: run must be a function, it is nil"},
      {"scripts/pipelines/p.lua", "return {run = 1}", "scripts/pipelines/p.lua: run must be a function, it is number"},
      {"scripts/pipelines/p.lua", "return 7", "scripts/pipelines/p.lua: must return a table, it returns number"},
      {"scripts/pipelines/p.lua", "", "scripts/pipelines/p.lua: must return a table, it returns nil"},
      {"scripts/pipelines/p.lua", "\nerror('no')", "scripts/pipelines/p.lua:2: no"},
      {"scripts/pipelines/p.lua", "local x\nreturn x.y",
       "scripts/pipelines/p.lua:2: attempt to index a nil value (local 'x')"},
      {"scripts/pipelines/p.lua", "return require 'none'", "there is no module none"},
      {"scripts/pipelines/P.lua", "return {run = print}", "scripts/pipelines/P.lua: a pipeline's file name has"},
      {"scripts/pipelines/p.lua", "return {run = print, pin = true}", "scripts/pipelines/p.lua: pin must be \"build\""},
      {"scripts/pipelines/p.lua", "return {run = print, needs = 'A'}",
       "scripts/pipelines/p.lua: needs must be a table"},
      {"scripts/pipelines/p.lua", "return {run = print, needs = {secrets = 'A'}}",
       "scripts/pipelines/p.lua: needs.secrets must be a list of names"},
      {"scripts/pipelines/p.lua", "return {run = print, needs = {labels = {'a b'}}}",
       "scripts/pipelines/p.lua: needs.labels must be a list of labels, each 1 to 64 letters, digits and . _ + = / -, a "
       "letter or a digit first"},
      {"scripts/pipelines/p.lua", "return {run = print, check = 1}",
       "scripts/pipelines/p.lua: check must be a function, it is number"},
      {"scripts/pipelines/p.lua", "return {run = print, check = function()\n error('wrong') end}",
       "scripts/pipelines/p.lua:2: wrong"},
      {"scripts/routes/r.lua", "return {}", "scripts/routes/r.lua: a route file returns a route"},
      {"scripts/routes/r.lua", "return {1}", "scripts/routes/r.lua: an entry of the list is no route"},
      {"scripts/routes/r.lua", "return {handle = print, path = '/'}",
       "scripts/routes/r.lua: a route has method and path"},
      {"scripts/routes/r.lua", "return {{method = 'GET', path = '/'}}",
       "scripts/routes/r.lua: handle must be a function, it is nil"},
      {"scripts/routes/r.lua", "return {handle = print, method = 'GET', path = 'x'}", "a path begins with a slash"},
      {"scripts/routes/r.lua", "return {handle = print, method = 'get', path = '/'}", "not a word in capitals"},
      {"scripts/routes/r.lua", "local r = {handle = print, method = 'GET', path = '/x'} return {r, r}",
       "scripts/routes/r.lua: route GET /x is there already"},
      {"scripts/policies/p.lua", "return {a = 1}",
       "scripts/policies/p.lua: a policy returns a table with at least one"},
      {"scripts/notifications/n.lua", "return {events = {}}",
       "scripts/notifications/n.lua: deliver must be a function, it is nil"},
      {"scripts/notifications/n.lua", "return {deliver = print}",
       "scripts/notifications/n.lua: events must be a list of event names"},
      {"scripts/jobs/j.lua", "return 1", "scripts/jobs/j.lua: must return a table, it returns number"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const char *const files[][2] = {{rows[i].path, rows[i].text}, {NULL, NULL}};
    char *faults = check(files, NULL, NULL);
    if (strstr(faults, rows[i].fault) == NULL) fail_msg("%s: \"%s\"", rows[i].text, faults);
    if (strchr(faults, '\n') != NULL) fail_msg("%s: more than one fault: \"%s\"", rows[i].text, faults);
    bq_free(faults);
  }
}

static void finds_all_faults(void **state) {
  (void)state;
  static const char *const files[][2] = {
      {"scripts/pipelines/a.lua", "return {pin = 1}"},
      {"scripts/pipelines/b.lua", "error({})"},
      {"scripts/routes/a.lua", "return {method = 'GET', path = '/x/{a}', handle = print}"},
      {"scripts/routes/b.lua", "return {method = 'GET', path = '/x/{b}', handle = print}"},
      {NULL, NULL}};
  char *faults = check(files, NULL, NULL);
  size_t lines = 1;
  for (const char *c = faults; *c != '\0'; c++) lines += *c == '\n';
  if (lines != 4) fail_msg("%s", faults);
  assert_contains(faults, "scripts/pipelines/a.lua: run must be");
  assert_contains(faults, "scripts/pipelines/a.lua: pin must be");
  assert_contains(faults, "\nscripts/pipelines/b.lua");
  assert_contains(faults, "scripts/routes/b.lua: route GET /x/{b} is there already, claimed by scripts/routes/a.lua");
  bq_free(faults);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(renders_mails_only_when_they_may_differ),
                                     cmocka_unit_test(takes_what_is_right), cmocka_unit_test(names_each_wrong_shape),
                                     cmocka_unit_test(finds_all_faults)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
