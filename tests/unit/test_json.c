// JSON: what strict mode refuses, what relaxed mode takes, and that places in errors are true.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/memory.h"

static json_t *good(const char *text, unsigned flags) {
  json_t *value = NULL;
  bq_error err = {0};
  if (bq_json_parse(text, strlen(text), flags, &value, &err) < 0) fail_msg("%s: %s", text, err.message);
  assert_non_null(value);
  return value;
}

// Parses what must be refused and gives the message.
static const char *bad(const char *text, size_t length, unsigned flags, int code) {
  static bq_error err;
  json_t *value = NULL;
  err = (bq_error){0};
  assert_int_equal(bq_json_parse(text, length, flags, &value, &err), code);
  assert_null(value);
  assert_int_equal(err.code, code);
  return err.message;
}

static void starts_with(const char *text, const char *prefix) {
  if (strncmp(text, prefix, strlen(prefix)) != 0) fail_msg("\"%s\" does not begin with \"%s\"", text, prefix);
}

static void round_trip(const char *text) {
  json_t *value = good(text, BQ_JSON_STRICT);
  char *dumped = NULL;
  bq_error err;
  assert_int_equal(bq_json_dump(value, &dumped, &err), 0);
  assert_string_equal(dumped, text);
  bq_free(dumped);
  json_decref(value);
}

static void survives_a_round_trip(void **state) {
  (void)state;
  round_trip("{\"a\":[],\"b\":{},\"c\":9223372036854775807,\"d\":-9223372036854775808}");
  round_trip("[1764000000123456,\"2026-11-23T21:36:17.123456Z\",true,false,null]");
  round_trip("{\"z\":1,\"a\":2}");
  round_trip("\"text\"");
  round_trip("7");
  round_trip("[1.1,0.848,34.328635,0.1]"); // with the fewest digits
  round_trip("[0.30000000000000004]");     // that name the number
}

static void strict_refuses(void **state) {
  (void)state;
  static const char *const texts[] = {
    "", " ", "{", "[1,]", "{\"a\":1,}", "// c\n1", "/* c */1", "\xef\xbb\xbf{}", "NaN", "[Infinity]", "'a'", "{a:1}",
    "{\"a\":1,\"a\":1}", "9223372036854775808", "\"\\u0000\"", "{} {}", "\"\x80\"", "01", "1e999", "\"\n\"", "\"\\ud800\"",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) bad(texts[i], strlen(texts[i]), BQ_JSON_STRICT, BQ_EINVAL);
  bad("[1]\0", 4, BQ_JSON_STRICT, BQ_EINVAL);
}

static void relaxed_takes(void **state) {
  (void)state;
  json_t *value = good("\xef\xbb\xbf// first\n{ /* a, */ \"url\": \"http://x/*y*/,]\", // \"no\": 1,\n"
                       "\"list\": [1, 2 , /* last */ ], \"q\": \"\\\"//\", }\n// end", BQ_JSON_RELAXED);
  assert_string_equal(json_string_value(json_object_get(value, "url")), "http://x/*y*/,]");
  assert_string_equal(json_string_value(json_object_get(value, "q")), "\"//");
  assert_int_equal(json_array_size(json_object_get(value, "list")), 2);
  assert_int_equal(json_object_size(value), 3);
  json_decref(value);
}

static void relaxed_refuses(void **state) {
  (void)state;
  static const char *const texts[] = {"[,]", "{,}", "[1,,]", "{\"a\":,}", "/* open", "[1 / 2]", "{\"a\":1,\"a\":2}", "{} }"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) bad(texts[i], strlen(texts[i]), BQ_JSON_RELAXED, BQ_EINVAL);
}

static void errors_name_the_place(void **state) {
  (void)state;
  starts_with(bad("{\n  \"a\": x\n}", 12, BQ_JSON_STRICT, BQ_EINVAL), "line 2, column ");
  // Behind a comment with letters of several bytes, columns still count characters.
  const char *text = "/* \xc3\xa9\xc3\xa9\xc3\xa9 */ [1 2]";
  const char *plain = "/* eee */ [1 2]";
  char expected[200];
  strcpy(expected, bad(plain, strlen(plain), BQ_JSON_RELAXED, BQ_EINVAL));
  assert_string_equal(bad(text, strlen(text), BQ_JSON_RELAXED, BQ_EINVAL), expected);
  starts_with(expected, "line 1, column ");
  starts_with(bad("1 \n /* open", 11, BQ_JSON_RELAXED, BQ_EINVAL), "line 2, column 2:");
}

static void errors_never_quote_the_text(void **state) {
  (void)state;
  static const char *const texts[] = {"{\"p\": \"hunter2\" x}", "{\"p\": \"hunter2\n\"}", "{\"p\": hunter2}",
                                      "{\"hunter2\":1,\"hunter2\":2}"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    assert_null(strstr(bad(texts[i], strlen(texts[i]), BQ_JSON_RELAXED, BQ_EINVAL), "hunter2"));
  }
}

static void depth_is_bounded(void **state) {
  (void)state;
  char text[2 * (BQ_JSON_MAX_DEPTH + 1) + 1];
  for (int depth = BQ_JSON_MAX_DEPTH; depth <= BQ_JSON_MAX_DEPTH + 1; depth++) {
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    text[2 * depth] = '\0';
    if (depth > BQ_JSON_MAX_DEPTH) bad(text, strlen(text), BQ_JSON_STRICT, BQ_ELIMIT);
    else json_decref(good(text, BQ_JSON_STRICT));
  }
}

static void finds_names_in_any_case(void **state) {
  (void)state;
  json_t *value = good("{\"jobid\":1,\"JobId\":2,\"tier\":3}", BQ_JSON_STRICT);
  assert_int_equal(json_integer_value(bq_json_get_ci(value, "JobId")), 2);
  assert_int_equal(json_integer_value(bq_json_get_ci(value, "JOBID")), 1);
  assert_int_equal(json_integer_value(bq_json_get_ci(value, "Tier")), 3);
  assert_null(bq_json_get_ci(value, "ti"));
  assert_null(bq_json_get_ci(json_object_get(value, "tier"), "x"));
  json_decref(value);
}

static int calls_left;
static void *fail_later(void *old, size_t size) {
  return calls_left-- > 0 ? realloc(old, size) : NULL;
}

static void memory_can_run_out(void **state) {
  (void)state;
  json_t *value = NULL;
  bq_error err;
  calls_left = 0;
  bq_memory_replace(fail_later);
  int code = bq_json_parse("[1]", 3, BQ_JSON_STRICT, &value, &err);
  bq_memory_replace(NULL);
  assert_int_equal(code, BQ_ENOMEM);
  value = good("[1]", BQ_JSON_STRICT);
  char *text = NULL;
  bq_memory_replace(fail_later);
  code = bq_json_dump(value, &text, &err);
  bq_memory_replace(NULL);
  assert_int_equal(code, BQ_ENOMEM);
  assert_null(text);
  json_decref(value);
}

static void *allocate_later(size_t size) {
  return calls_left-- > 0 ? malloc(size) : NULL;
}

// Also jansson's: whichever allocation fails, it is not the text that is wrong.
static void memory_can_run_out_anywhere(void **state) {
  (void)state;
  static const char text[] = "{\"name\": [1, 2.5, \"text\", {\"deep\": [true, null, \"more\"]}]}";
  json_t *value = NULL;
  bq_error err;
  int code = BQ_ENOMEM;
  int fails = 0;
  for (; code < 0; fails++) {
    calls_left = fails;
    json_set_alloc_funcs(allocate_later, free);
    code = bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &value, &err);
    json_set_alloc_funcs(malloc, free);
    if (code < 0) assert_int_equal(code, BQ_ENOMEM);
    if (code < 0) assert_non_null(strstr(err.message, "out of memory"));
  }
  assert_true(fails > 10);
  json_decref(value);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(survives_a_round_trip),   cmocka_unit_test(strict_refuses),
    cmocka_unit_test(relaxed_takes),           cmocka_unit_test(relaxed_refuses),
    cmocka_unit_test(errors_name_the_place),   cmocka_unit_test(errors_never_quote_the_text),
    cmocka_unit_test(depth_is_bounded),        cmocka_unit_test(finds_names_in_any_case),
    cmocka_unit_test(memory_can_run_out),      cmocka_unit_test(memory_can_run_out_anywhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
