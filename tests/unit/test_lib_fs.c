// fs and archive: what each call does, what it refuses, and that nothing leads out of the workspace.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lua/lib_archive.h"
#include "lua/lib_fs.h"
#include "script_test.h"

static const bq_lua_module modules[] = {{"fs", bq_lua_open_fs}, {"archive", bq_lua_open_archive}, {NULL, NULL}};

#define PRELUDE                                                                                          \
  "local fs, archive = require('buildq').fs, require('buildq').archive "                                 \
  "local function kind(f, ...) local ok, e = pcall(f, ...) "                                             \
  "  if ok then return 'none' end return type(e) == 'table' and e.kind or e end "

static int setup(void **state) {
  bench *b = bq_alloc(sizeof *b);
  bench_open(b, modules, NULL);
  *state = b;
  return 0;
}

static int teardown(void **state) {
  bench_close(*state);
  bq_free(*state);
  return 0;
}

static char *below(const bench *b, const char *path) {
  return bq_format("%s/%s", b->directory, path);
}

static void put_file(const bench *b, const char *path, const char *text) {
  char *whole = below(b, path);
  int fd = open(whole, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  close(fd);
  bq_free(whole);
}

static void put_link(const bench *b, const char *path, const char *to) {
  char *whole = below(b, path);
  assert_int_equal(symlink(to, whole), 0);
  bq_free(whole);
}

static void writes_and_reads(void **state) {
  assert_bench_returns(*state, PRELUDE
                       "fs.mkdir('a/b') fs.write('a/b/c', 'x\\0y') local text = fs.read('a/b/c') "
                       "fs.write('a/b/c', 'new') fs.append('a/b/c', 'er') fs.append('a/d', 'made') "
                       "return #text .. fs.read('./a//b/c') .. fs.read('a/d') .. #fs.read('a/d', 4)",
                       "3newermade4");
  assert_bench_returns(*state, PRELUDE "return fs.sha256('a/d')",
                       "ea0890697a77af0a2e054cccec587c8a42feb5cf38e778c6c6e2a96bfb945c0b");
}

static void replaces_by_rename(void **state) {
  bench *b = *state;
  struct stat before, after;
  put_file(b, "workspace/f", "old");
  char *path = below(b, "workspace/f");
  assert_int_equal(stat(path, &before), 0);
  assert_bench_returns(b, PRELUDE "fs.write('f', 'new', {mode = 0x1ed}) return #fs.list('.')", "1");
  assert_int_equal(stat(path, &after), 0);
  assert_int_not_equal(before.st_ino, after.st_ino);
  assert_int_equal(after.st_mode & 07777, 0755);
  bq_free(path);
}

static void tells_what_is_there(void **state) {
  bench *b = *state;
  put_file(b, "workspace/f", "12345");
  put_link(b, "workspace/l", "nowhere");
  assert_bench_returns(b, PRELUDE
                       "fs.write('g', '', {mode = 0x100}) local s = fs.stat('f') "
                       "return table.concat({s.type, s.size, fs.stat('.').type, fs.stat('l').type, "
                       "tostring(fs.stat('none')), tostring(fs.stat('f/x')), tostring(fs.exists('f')), "
                       "tostring(fs.exists('f/x')), fs.stat('g').mode, tostring(s.mtime > 1.6e9)}, ' ')",
                       "file 5 directory link nil nil true false 256 true");
}

static void lists_sorted(void **state) {
  assert_bench_returns(*state, PRELUDE
                       "for _, name in ipairs{'b', 'a', '.h', 'B', 'ab'} do fs.write(name, '') end "
                       "return table.concat(fs.list('.'), ' ') .. kind(fs.list, 'none') .. kind(fs.list, 'a')",
                       ".h B a ab bnot_foundnot_found");
  assert_bench_returns(*state, PRELUDE "fs.mkdir('empty') return #fs.list('empty/')", "0");
}

static void bounds_what_it_takes(void **state) {
  bench *b = *state;
  put_file(b, "workspace/f", "12345");
  assert_bench_returns(b, PRELUDE
                       "return kind(fs.read, 'f', 4) .. kind(fs.read, 'f', 5) .. kind(fs.read, '.') "
                       ".. kind(fs.read, 'none') .. kind(fs.sha256, '.')",
                       "limitnoneinvalidnot_foundinvalid");
  for (int i = 0; i < 10001; i++) {
    char name[40];
    (void)snprintf(name, sizeof name, "workspace/many%d", i);
    put_file(b, name, "");
  }
  assert_bench_returns(b, PRELUDE "return kind(fs.list, '.') .. kind(fs.glob, '*') .. #fs.glob('many?" "?')",
                       "limitlimit90");
  script s;
  bench_run(&s, b, PRELUDE "fs.read('f', 64 * 1024 * 1024 + 1)");
  assert_contains(s.line, "bad argument #2 to 'read' (0 to 64 MiB)");
  bench_run(&s, b, PRELUDE "fs.write('f', '', {mode = 4095})");
  assert_contains(s.line, "mode is 0 to 0x1ff");
}

static void does_not_wait_for_a_fifo(void **state) {
  bench *b = *state;
  char *path = below(b, "workspace/fifo");
  assert_int_equal(mkfifo(path, 0600), 0);
  bq_free(path);
  assert_bench_returns(b, PRELUDE
                       "return kind(fs.read, 'fifo') .. kind(fs.sha256, 'fifo') .. kind(fs.append, 'fifo', 'x') "
                       ".. kind(fs.copy, 'fifo', 'x') .. fs.stat('fifo').type",
                       "invalidinvalidioinvalidother");
}

static void makes_and_removes(void **state) {
  assert_bench_returns(*state, PRELUDE
                       "fs.mkdir('a/b/c') fs.mkdir('a/b') fs.write('a/b/f', '') fs.remove('a/b/none') "
                       "local k = kind(fs.mkdir, 'a/b/f') .. kind(fs.mkdir, 'a/b/f/x') .. kind(fs.remove, '.') "
                       "fs.remove('a') fs.remove('a') return k .. tostring(fs.exists('a'))",
                       "conflictconflictinvalidfalse");
}

static void copies_and_moves(void **state) {
  bench *b = *state;
  assert_bench_returns(b, PRELUDE "fs.mkdir('d') fs.write('d/f', 'text', {mode = 0x1ed}) return ''", "");
  put_link(b, "workspace/d/l", "f");
  assert_bench_returns(b, PRELUDE
                       "fs.copy('d', 'x/e') fs.copy('d/f', 'x/g') "
                       "return fs.read('x/e/f') .. fs.stat('x/e/l').type .. fs.stat('x/g').mode "
                       ".. kind(fs.copy, 'd/f', 'x/g') "
                       ".. kind(fs.copy, 'none', 'y')",
                       "textlink488conflictnot_found");
  assert_bench_returns(b, PRELUDE
                       "fs.write('h', 'h') fs.move('h', 'p/q/h') fs.write('h', 'again') fs.move('h', 'p/q/h') "
                       "fs.move('p/q', 'r') fs.mkdir('empty') "
                       "return fs.read('r/h') .. tostring(fs.exists('h')) .. kind(fs.move, 'r', 'empty') "
                       ".. kind(fs.move, 'r/h', 'empty') .. kind(fs.move, 'r', 'd/f') "
                       ".. kind(fs.move, 'none', 'new/z') "
                       ".. kind(fs.move, 'r', 'r/s') .. tostring(fs.exists('new'))",
                       "againfalseconflictconflictconflictnot_foundinvalidfalse");
}

static void globs(void **state) {
  bench *b = *state;
  assert_bench_returns(b, PRELUDE
                       "for _, d in ipairs{'out/a/b', 'out/c', 'other'} do fs.mkdir(d) end "
                       "for _, f in ipairs{'out/x.so', 'out/a/y.so', 'out/a/b/z.so', 'out/a/b/z.txt', 'other/o.so'} do "
                       "fs.write(f, '') end return ''", "");
  assert_bench_returns(b, PRELUDE "return table.concat(fs.glob('out/**/*.so'), ' ')",
                       "out/a/b/z.so out/a/y.so out/x.so");
  assert_bench_returns(b, PRELUDE "return table.concat(fs.glob('*/?.so'), ' ')", "other/o.so out/x.so");
  assert_bench_returns(b, PRELUDE "return table.concat(fs.glob('out/*'), ' ')", "out/a out/c out/x.so");
  assert_bench_returns(b, PRELUDE "return table.concat(fs.glob('**/b/**'), ' ')",
                       "out/a/b out/a/b/z.so out/a/b/z.txt");
  assert_bench_returns(b, PRELUDE "return #fs.glob('none/*') .. #fs.glob('out/x.so') .. #fs.glob('out/x.so/*')", "010");
  assert_bench_returns(b, PRELUDE "return kind(fs.glob, '../*') .. kind(fs.glob, '/*')", "invalidinvalid");
  char *text = bq_format(PRELUDE "return fs.glob('%s/out/?.so')[1] .. fs.read('%s/out/x.so')", b->workspace,
                         b->workspace);
  assert_bench_returns(b, text, "out/x.so");
  bq_free(text);
}

// Every function, on every way out.
static void stays_inside(void **state) {
  bench *b = *state;
  put_file(b, "secret", "secret");
  put_link(b, "workspace/up", "../secret");
  put_link(b, "workspace/out", "..");
  put_link(b, "workspace/root", "/");
  put_file(b, "workspace/f", "");
  char *sibling = below(b, "workspace-other");
  char *text = bq_format(PRELUDE
                         "local wrong = {} "
                         "for _, path in ipairs{'..', '../secret', 'a/../../secret', '/etc/passwd', '%s', "
                         "  '%s/../secret', "
                         "  'out/secret', 'root/etc/passwd', '', 'f\\0g'} do "
                         "  for name, call in pairs{read = {}, write = {'x'}, append = {'x'}, exists = {}, stat = {}, "
                         "    list = {}, mkdir = {}, copy = {'c'}, move = {'c'}, remove = {}, sha256 = {}} do "
                         "    local k = kind(fs[name], path, table.unpack(call)) "
                         "    if k ~= 'invalid' then wrong[#wrong + 1] = name .. ' ' .. path .. ': ' .. k end "
                         "  end "
                         "  for _, name in ipairs{'copy', 'move'} do "
                         "    local k = kind(fs[name], 'f', path) "
                         "    if k ~= 'invalid' then wrong[#wrong + 1] = name .. ' to ' .. path .. ': ' .. k end "
                         "  end "
                         "  local k = kind(archive.pack, {dir = path, to = 'x.tar.gz'}) "
                         "    .. kind(archive.pack, {dir = '.', to = path, format = 'tar.gz'}) "
                         "    .. kind(archive.unpack, {from = path, to = '.'}) "
                         "    .. kind(archive.unpack, {from = 'f', to = path}) "
                         "  if k ~= ('invalid'):rep(4) then wrong[#wrong + 1] = 'archive ' .. path .. ': ' .. k end "
                         "end "
                         "for _, name in ipairs{'read', 'sha256', 'append'} do "
                         "  local k = kind(fs[name], 'up', 'x') "
                         "  if name == 'read' then k = kind(fs.read, 'up') end "
                         "  if k ~= 'invalid' then wrong[#wrong + 1] = name .. ' up: ' .. k end "
                         "end "
                         "fs.write('up', 'replaces the link') fs.remove('out') "
                         "return table.concat(wrong, '; ')",
                         sibling, b->workspace);
  assert_bench_returns(b, text, "");
  bq_free(text);
  bq_free(sibling);
  char *secret = below(b, "secret");
  char content[16] = "";
  int fd = open(secret, O_RDONLY | O_CLOEXEC);
  assert_int_equal(read(fd, content, sizeof content - 1), 6);
  close(fd);
  assert_string_equal(content, "secret");
  bq_free(secret);
}

static void follows_links_inside(void **state) {
  bench *b = *state;
  put_file(b, "workspace/f", "inner");
  put_link(b, "workspace/l", "f");
  assert_bench_returns(b, PRELUDE "fs.append('l', '!') return fs.read('l')", "inner!");
}

static void packs_and_unpacks(void **state) {
  bench *b = *state;
  assert_bench_returns(b, PRELUDE
                       "fs.mkdir('d/e') fs.write('d/e/f', 'text', {mode = 0x1ed}) fs.write('d/g', 'more') "
                       "local p = archive.pack{dir = 'd', to = './p/a.tar.gz', prefix = 'top'} "
                       "local q = archive.pack{dir = 'd', to = 'b', format = 'tar.gz', prefix = 'top'} "
                       "local z = archive.pack{dir = 'd', to = 'c.tar.zst', mtime = 86400} "
                       "local u = archive.unpack{from = 'p/a.tar.gz', to = 'u', strip = 1} "
                       "local v = archive.unpack{from = 'c.tar.zst', to = 'v'} "
                       "archive.pack{dir = 'd', to = 'z.zip'} archive.pack{dir = 'd', to = 't.tar'} "
                       "return table.concat({p.path, p.files, tostring(p.sha256 == q.sha256), "
                       "tostring(p.sha256 == fs.sha256('b')), tostring(p.size == fs.stat('b').size), u.files, u.bytes, "
                       "fs.read('u/e/f'), fs.read('v/g'), v.files, fs.stat('v/g').mtime, "
                       "fs.read('z.zip'):sub(1, 2), fs.read('t.tar'):sub(258, 262)}, ' ')",
                       "./p/a.tar.gz 2 true true true 2 8 text more 2 86400.0 PK ustar");
  assert_bench_returns(b, PRELUDE
                       "return table.concat({kind(archive.pack, {dir = 'none', to = 'x.tar.gz'}), "
                       "kind(archive.pack, {dir = 'd', to = 'x.rar'}), "
                       "kind(archive.pack, {dir = 'd', to = 'x', format = 'rar'}), "
                       "kind(archive.pack, {dir = 'd', to = 'x.tar.gz', prefix = '../x'}), "
                       "kind(archive.unpack, {from = 'b', to = 'w', max_bytes = 7}), "
                       "kind(archive.unpack, {from = 'none', to = 'w'}), tostring(fs.exists('w'))}, ' ')",
                       "not_found invalid invalid invalid limit not_found false");
  script s;
  bench_run(&s, b, PRELUDE "archive.pack{dir = 'd'}");
  assert_contains(s.line, "archive.pack: to must be a string");
  bench_run(&s, b, PRELUDE "archive.unpack{from = 'b', to = 'u', strip = -1}");
  assert_contains(s.line, "archive.unpack: strip must be an integer, 0 to 100");
}

static void is_for_pipelines(void **state) {
  bench *b = *state;
  b->services.workspace = NULL;
  assert_bench_returns(b, PRELUDE "local ok, e = pcall(fs.read, 'f') return e.kind .. ': ' .. e.message",
                       "invalid: fs is for pipelines: there is no workspace here");
}

// The archive's temporary file is there beside d and d/large.
static int is_packing(void *arg) {
  const bench *b = arg;
  uint64_t bytes, entries;
  bq_error err;
  assert_int_equal(bq_tree_size(b->workspace, &bytes, &entries, &err), 0);
  return entries > 2;
}

// A file of 4 GiB without blocks: packing it whole would take far longer than the test may.
static void stops_packing_when_cancelled(void **state) {
  bench *b = *state;
  script s;
  assert_bench_returns(b, PRELUDE "fs.mkdir('d') fs.write('d/large', '') return ''", "");
  char *path = below(b, "workspace/d/large");
  assert_int_equal(truncate(path, 4ll << 30), 0);
  bq_free(path);
  bq_vm *vm = bench_vm(b);
  bench_start(&s, b, vm, PRELUDE "archive.pack{dir = 'd', to = 'x.tar.gz'}");
  assert_true(support_run_until(b->w.loop, is_packing, b, 5000));
  int64_t since = bq_clock_mono_us();
  bq_vm_kill(vm, "cancelled by the test");
  world_run(&b->w);
  bq_vm_free(vm);
  assert_int_equal(s.end, BQ_END_KILLED);
  assert_true(bq_clock_mono_us() - since < 3000000);
  assert_bench_returns(b, PRELUDE "return tostring(fs.exists('x.tar.gz')) .. #fs.list('.')", "false1");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(writes_and_reads, setup, teardown),
      cmocka_unit_test_setup_teardown(replaces_by_rename, setup, teardown),
      cmocka_unit_test_setup_teardown(tells_what_is_there, setup, teardown),
      cmocka_unit_test_setup_teardown(lists_sorted, setup, teardown),
      cmocka_unit_test_setup_teardown(bounds_what_it_takes, setup, teardown),
      cmocka_unit_test_setup_teardown(does_not_wait_for_a_fifo, setup, teardown),
      cmocka_unit_test_setup_teardown(makes_and_removes, setup, teardown),
      cmocka_unit_test_setup_teardown(copies_and_moves, setup, teardown),
      cmocka_unit_test_setup_teardown(globs, setup, teardown),
      cmocka_unit_test_setup_teardown(stays_inside, setup, teardown),
      cmocka_unit_test_setup_teardown(follows_links_inside, setup, teardown),
      cmocka_unit_test_setup_teardown(packs_and_unpacks, setup, teardown),
      cmocka_unit_test_setup_teardown(is_for_pipelines, setup, teardown),
      cmocka_unit_test_setup_teardown(stops_packing_when_cancelled, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
