// The router: exact words before parameters, HEAD as GET, 405 with the right Allow.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lua/router.h"

static bq_router *make(void) {
  bq_router *router;
  bq_error err;
  assert_int_equal(bq_router_new(&router, &err), 0);
  assert_int_equal(bq_router_add(router, "GET", "/builds/{id}", 1, &err), 0);
  assert_int_equal(bq_router_add(router, "PATCH", "/builds/{id}", 2, &err), 0);
  assert_int_equal(bq_router_add(router, "GET", "/builds/statistics", 3, &err), 0);
  assert_int_equal(bq_router_add(router, "GET", "/downloads/{id}/{name}", 4, &err), 0);
  assert_int_equal(bq_router_add(router, "POST", "/builds", 5, &err), 0);
  assert_int_equal(bq_router_add(router, "GET", "/", 6, &err), 0);
  return router;
}

static void finds_words_before_parameters(void **state) {
  (void)state;
  bq_router *router = make();
  bq_route_match match;
  assert_int_equal(bq_router_match(router, "GET", "/builds/statistics", &match), BQ_ROUTE_FOUND);
  assert_int_equal(match.handler, 3);
  assert_int_equal(match.param_count, 0);
  assert_int_equal(bq_router_match(router, "GET", "/builds/abc", &match), BQ_ROUTE_FOUND);
  assert_int_equal(match.handler, 1);
  assert_int_equal(bq_router_match(router, "GET", "/", &match), BQ_ROUTE_FOUND);
  assert_int_equal(match.handler, 6);
  bq_router_free(router);
}

static void gives_parameters(void **state) {
  (void)state;
  bq_router *router = make();
  bq_route_match match;
  assert_int_equal(bq_router_match(router, "GET", "/downloads/7/a.tar", &match), BQ_ROUTE_FOUND);
  assert_int_equal(match.param_count, 2);
  assert_memory_equal(match.params[0].name, "id", 2);
  assert_memory_equal(match.params[1].value, "a.tar", 5);
  assert_int_equal(match.params[1].value_length, 5);
  bq_router_free(router);
}

static void head_is_get(void **state) {
  (void)state;
  bq_router *router = make();
  bq_route_match match;
  assert_int_equal(bq_router_match(router, "HEAD", "/builds/abc", &match), BQ_ROUTE_FOUND);
  assert_int_equal(match.handler, 1);
  bq_router_free(router);
}

static void names_the_allowed_methods(void **state) {
  (void)state;
  bq_router *router = make();
  bq_route_match match;
  assert_int_equal(bq_router_match(router, "DELETE", "/builds/abc", &match), BQ_ROUTE_NO_METHOD);
  assert_string_equal(match.allow, "GET, HEAD, PATCH");
  assert_int_equal(bq_router_match(router, "PATCH", "/builds/statistics", &match), BQ_ROUTE_NO_METHOD);
  assert_string_equal(match.allow, "GET, HEAD");
  bq_router_free(router);
}

static void refuses_unknown_paths(void **state) {
  (void)state;
  bq_router *router = make();
  bq_route_match match;
  const char *paths[] = {"/nothing", "/builds/", "/builds//log", "builds", "/downloads/1/2/3", "*"};
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    assert_int_equal(bq_router_match(router, "GET", paths[i], &match), BQ_ROUTE_NO_PATH);
  }
  bq_router_free(router);
}

static void refuses_bad_and_doubled_patterns(void **state) {
  (void)state;
  bq_router *router = make();
  bq_error err;
  assert_int_equal(bq_router_add(router, "GET", "/builds/{other}", 9, &err), BQ_ECONFLICT);
  assert_int_equal(bq_router_add(router, "GET", "builds", 9, &err), BQ_EINVAL);
  assert_int_equal(bq_router_add(router, "GET", "/a//b", 9, &err), BQ_EINVAL);
  assert_int_equal(bq_router_add(router, "GET", "/a/", 9, &err), BQ_EINVAL);
  assert_int_equal(bq_router_add(router, "GET", "/{}", 9, &err), BQ_EINVAL);
  assert_int_equal(bq_router_add(router, "GET", "/x/{i-d}", 9, &err), BQ_EINVAL);
  assert_int_equal(bq_router_add(router, "get", "/x", 9, &err), BQ_EINVAL);
  bq_router_free(router);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(finds_words_before_parameters), cmocka_unit_test(gives_parameters),
      cmocka_unit_test(head_is_get),                   cmocka_unit_test(names_the_allowed_methods),
      cmocka_unit_test(refuses_unknown_paths),         cmocka_unit_test(refuses_bad_and_doubled_patterns),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
