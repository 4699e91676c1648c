// Sources and generations: what belongs to one, what its name depends on, and what can't be compiled.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "script_test.h"

static void put(const char *root, const char *path, const char *text) {
  bq_error err;
  char *parent = bq_format("%s/%s", root, path);
  *strrchr(parent, '/') = '\0';
  assert_int_equal(bq_tree_make_path(parent, &err), 0);
  bq_free(parent);
  char *whole = bq_format("%s/%s", root, path);
  int fd = open(whole, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  (void)close(fd);
  bq_free(whole);
}

static void reads_two_layers(void **state) {
  (void)state;
  bq_error err;
  bq_sources *sources;
  char *directory = support_make_directory();
  char *scripts = bq_format("%s/team", directory);
  put(directory, "scripts/pipelines/a.lua", "shipped a");
  put(directory, "scripts/pipelines/b.lua", "shipped b");
  put(directory, "scripts/lib/buildq.d.lua", "---@meta");
  put(directory, "scripts/README.md", "read me");
  put(directory, "scripts/notes.txt", "no script");
  put(directory, "scripts/.hidden.lua", "hidden");
  put(directory, "scripts/.git/x.lua", "hidden");
  put(directory, "scripts/pipelines/a.lua~", "left over");
  put(directory, "scripts/pipelines/#a.lua", "left over");
  put(directory, "templates/email/x.html", "<html>");
  put(directory, "templates/README.md", "read me");
  put(directory, "team/pipelines/b.lua", "team b");
  put(directory, "team/policies/c.lua", "team c");
  const bq_source_directories directories = {.share = directory, .scripts = scripts};
  if (bq_sources_read(&sources, &directories, &err) < 0) fail_msg("%s", err.message);
  static const struct {
    const char *path;
    const char *text;
    int overlaid;
  } expected[] = {{"scripts/pipelines/a.lua", "shipped a", 0},
                  {"scripts/pipelines/b.lua", "team b", 1},
                  {"scripts/policies/c.lua", "team c", 1},
                  {"templates/email/x.html", "<html>", 0}};
  assert_int_equal(bq_sources_count(sources), 4);
  for (size_t i = 0; i < 4; i++) {
    const bq_source *source = bq_sources_at(sources, i);
    assert_string_equal(source->path, expected[i].path);
    assert_string_equal(source->text, expected[i].text);
    assert_int_equal(source->overlaid, expected[i].overlaid);
    assert_ptr_equal(bq_sources_find(sources, expected[i].path), source);
  }
  assert_null(bq_sources_find(sources, "scripts/README.md"));
  bq_sources_free(sources);
  const bq_source_directories missing = {.share = directory, .scripts = "/nonexistent/scripts"};
  assert_int_equal(bq_sources_read(&sources, &missing, &err), BQ_EIO);
  assert_contains(err.message, "can't read the scripts directory /nonexistent/scripts");
  assert_null(sources);
  bq_free(scripts);
  support_remove_directory(directory);
}

static void bounds_depth_and_size(void **state) {
  (void)state;
  bq_error err;
  bq_sources *sources;
  char *directory = support_make_directory();
  put(directory, "templates/x", "");
  put(directory, "scripts/1/2/3/4/5/6/7/8/f.lua", "");
  const bq_source_directories directories = {.share = directory};
  assert_int_equal(bq_sources_read(&sources, &directories, &err), 0);
  assert_int_equal(bq_sources_count(sources), 2);
  bq_sources_free(sources);
  put(directory, "scripts/1/2/3/4/5/6/7/8/9/f.lua", "");
  assert_int_equal(bq_sources_read(&sources, &directories, &err), BQ_ELIMIT);
  assert_contains(err.message, "scripts/1/2/3/4/5/6/7/8/9");
  support_remove_directory(directory);
  char *large = bq_alloc(BQ_SOURCES_MAX_FILE_BYTES + 1);
  assert_int_equal(bq_sources_new(&sources, &err), 0);
  assert_int_equal(bq_sources_add(sources, "scripts/l.lua", large, BQ_SOURCES_MAX_FILE_BYTES + 1, 0, &err), BQ_ELIMIT);
  for (int i = 0; i < BQ_SOURCES_MAX_BYTES / BQ_SOURCES_MAX_FILE_BYTES; i++) {
    char path[40];
    (void)snprintf(path, sizeof path, "templates/%d", i);
    assert_int_equal(bq_sources_add(sources, path, large, BQ_SOURCES_MAX_FILE_BYTES, 0, &err), 0);
  }
  // What is replaced does not count.
  assert_int_equal(bq_sources_add(sources, "templates/0", large, BQ_SOURCES_MAX_FILE_BYTES, 1, &err), 0);
  assert_int_equal(bq_sources_add(sources, "templates/more", large, 1, 0, &err), BQ_ELIMIT);
  bq_free(large);
  bq_sources_free(sources);
  assert_int_equal(bq_sources_new(&sources, &err), 0);
  for (int i = 0; i <= BQ_SOURCES_MAX_FILES; i++) {
    char path[40];
    (void)snprintf(path, sizeof path, "templates/%d", i);
    assert_int_equal(bq_sources_add(sources, path, "", 0, 0, &err), i < BQ_SOURCES_MAX_FILES ? 0 : BQ_ELIMIT);
  }
  bq_sources_free(sources);
}

static void hash_of(char out[BQ_HASH_SIZE], size_t count, const char *const (*files)[2]) {
  bq_sources *sources;
  bq_error err;
  assert_int_equal(bq_sources_new(&sources, &err), 0);
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(bq_sources_add(sources, files[i][0], files[i][1], strlen(files[i][1]), 0, &err), 0);
  }
  assert_int_equal(bq_sources_seal(sources, &err), 0);
  memcpy(out, bq_sources_hash(sources), BQ_HASH_SIZE);
  bq_sources_free(sources);
}

static void names_by_contents(void **state) {
  (void)state;
  char one[BQ_HASH_SIZE], other[BQ_HASH_SIZE];
  hash_of(one, 2, (const char *const[][2]){{"scripts/a.lua", "1"}, {"scripts/b.lua", "2"}});
  assert_int_equal(strlen(one), 64);
  hash_of(other, 2, (const char *const[][2]){{"scripts/b.lua", "2"}, {"scripts/a.lua", "1"}});
  assert_string_equal(one, other); // the order of reading does not count
  hash_of(other, 3, (const char *const[][2]){{"scripts/a.lua", "0"}, {"scripts/b.lua", "2"}, {"scripts/a.lua", "1"}});
  assert_string_equal(one, other); // nor what was laid over
  hash_of(other, 2, (const char *const[][2]){{"scripts/a.lua", "1"}, {"scripts/b.lua", "3"}});
  assert_string_not_equal(one, other);
  hash_of(other, 2, (const char *const[][2]){{"scripts/a.lua", "2"}, {"scripts/b.lua", "1"}});
  assert_string_not_equal(one, other);
  hash_of(other, 2, (const char *const[][2]){{"scripts/a.lua", "1"}, {"scripts/c.lua", "2"}});
  assert_string_not_equal(one, other);
}

static int compile(const char *const (*files)[2], size_t count, bq_generation **out, bq_error *err) {
  bq_sources *sources;
  assert_int_equal(bq_sources_new(&sources, err), 0);
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(bq_sources_add(sources, files[i][0], files[i][1], strlen(files[i][1]), 0, err), 0);
  }
  assert_int_equal(bq_sources_seal(sources, err), 0);
  return bq_generation_compile(out, sources, NULL, err);
}

static void lists_all_faults(void **state) {
  (void)state;
  bq_error err;
  bq_generation *generation;
  static const char *const files[][2] = {{"scripts/a.lua", "return {\n  1 2\n}"},
                                         {"scripts/b.lua", "return {}"},
                                         {"scripts/c.lua", "\x1bLua bytecode"},
                                         {"scripts/d.lua", "\n\nlocal = 1"},
                                         {"templates/t.html", "return {"}};
  assert_int_equal(compile(files, 5, &generation, &err), BQ_ESCRIPT);
  assert_null(generation);
  assert_contains(err.message, "scripts/a.lua:2: '}' expected (to close '{' at line 1) near '2'\n");
  assert_contains(err.message, "\nscripts/c.lua: attempt to load a binary chunk");
  assert_contains(err.message, "\nscripts/d.lua:3: <name> expected");
  assert_null(strstr(err.message, "b.lua"));
  assert_null(strstr(err.message, "t.html"));
}

static void lives_as_long_as_it_is_held(void **state) {
  (void)state;
  bq_error err;
  bq_generation *generation;
  bq_generation_set *set;
  static const char *const files[][2] = {{"scripts/a.lua", "x = 7 return x"}, {"templates/t", ""}};
  assert_int_equal(compile(files, 2, &generation, &err), 0);
  assert_int_equal(bq_generation_set_new(&set, &err), 0);
  bq_generation_set_add(set, generation);
  assert_true(bq_generation_bytes(generation) > strlen(files[0][1]));
  assert_ptr_equal(bq_generation_set_find(set, bq_generation_hash(generation)), generation); // a reference
  assert_null(bq_generation_set_find(set, "another"));
  bq_generation_release(generation);
  assert_int_equal(bq_generation_set_count(set), 1);
  lua_State *L = luaL_newstate();
  lua_newtable(L);
  assert_int_equal(bq_generation_push_chunk(generation, L, "scripts/a.lua", -1, &err), 0);
  assert_int_equal(lua_pcall(L, 0, 1, 0), LUA_OK);
  assert_int_equal(lua_tointeger(L, -1), 7);
  assert_int_equal(lua_getfield(L, 1, "x"), LUA_TNUMBER); // globals went to the given environment
  assert_int_equal(lua_getglobal(L, "x"), LUA_TNIL);
  lua_settop(L, 1);
  assert_int_equal(bq_generation_push_chunk(generation, L, "scripts/none.lua", -1, &err), BQ_ENOTFOUND);
  assert_int_equal(bq_generation_push_chunk(generation, L, "templates/t", -1, &err), BQ_ENOTFOUND);
  assert_int_equal(lua_gettop(L), 1);
  lua_close(L);
  bq_generation_release(generation);
  assert_int_equal(bq_generation_set_count(set), 0);
  bq_generation_release(NULL);
  bq_generation_set_free(set);
}

static void make(bq_sources **out, const char *const (*files)[2]) {
  bq_error err;
  assert_int_equal(bq_sources_new(out, &err), 0);
  for (; (*files)[0] != NULL; files++) {
    assert_int_equal(bq_sources_add(*out, (*files)[0], (*files)[1], strlen((*files)[1]), 0, &err), 0);
  }
  assert_int_equal(bq_sources_seal(*out, &err), 0);
}

static void compares_rooms(void **state) {
  (void)state;
  bq_sources *a;
  bq_sources *b;
  make(&a, (const char *const[][2]){{"scripts/lib/x.lua", "1"}, {"scripts/routes/x.lua", "1"}, {"templates/t", "1"},
                                    {NULL, NULL}});
  make(&b, (const char *const[][2]){{"scripts/lib/x.lua", "1"}, {"scripts/routes/x.lua", "2"}, {"templates/t", "1"},
                                    {"templates/u", "1"}, {NULL, NULL}});
  assert_true(bq_sources_are_same(a, b, "scripts/lib/"));
  assert_true(bq_sources_are_same(a, b, "scripts/policies/")); // both have none
  assert_false(bq_sources_are_same(a, b, "scripts/routes/"));
  assert_false(bq_sources_are_same(a, b, "templates/")); // one more
  assert_false(bq_sources_are_same(b, a, "templates/"));
  bq_sources_free(a);
  bq_sources_free(b);
}

// What is taken from another generation is what it was compiled to, and only of the same file.
static void takes_what_is_compiled_already(void **state) {
  (void)state;
  bq_error err;
  bq_generation *before;
  bq_generation *after;
  bq_sources *sources;
  make(&sources, (const char *const[][2]){{"scripts/a.lua", "return 1"}, {"scripts/b.lua", "return 2"}, {NULL, NULL}});
  assert_int_equal(bq_generation_compile(&before, sources, NULL, &err), 0);
  make(&sources, (const char *const[][2]){{"scripts/a.lua", "return 1"}, {"scripts/b.lua", "return 3"},
                                          {"scripts/c.lua", "return 1"}, {NULL, NULL}});
  assert_int_equal(bq_generation_compile(&after, sources, before, &err), 0);
  bq_generation_release(before); // nothing is borrowed of it
  static const struct {
    const char *path;
    int value;
  } rows[] = {{"scripts/a.lua", 1}, {"scripts/b.lua", 3}, {"scripts/c.lua", 1}};
  lua_State *L = luaL_newstate();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    lua_newtable(L);
    assert_int_equal(bq_generation_push_chunk(after, L, rows[i].path, -1, &err), 0);
    assert_int_equal(lua_pcall(L, 0, 1, 0), LUA_OK);
    assert_int_equal(lua_tointeger(L, -1), rows[i].value);
    lua_settop(L, 0);
  }
  lua_close(L);
  bq_generation_release(after);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(compares_rooms), cmocka_unit_test(takes_what_is_compiled_already),
                                     cmocka_unit_test(reads_two_layers), cmocka_unit_test(bounds_depth_and_size),
                                     cmocka_unit_test(names_by_contents), cmocka_unit_test(lists_all_faults),
                                     cmocka_unit_test(lives_as_long_as_it_is_held)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
