// Child processes: what a sandboxed command sees, and that nothing of it outlives it.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/memory.h"
#include "event/loop.h"
#include "io/cgroup.h"
#include "io/process.h"

enum { GUARD_MS = 30000, NOBODY = 65534 };

typedef struct run {
  bq_loop *loop;
  bq_process *process;
  bq_process_spec spec;
  bq_buf out[2];
  bq_process_exit exit;
  int ended;
  const char *act_on;   // when stream 1 has said this …
  void (*act)(struct run *run); // … this is done, once
  int64_t acted_us;
  int slow_ms;          // how long each on_output takes
  size_t counted;       // bytes of output, also those not kept
} run;

static char base[64]; // a directory of this test's own; workspaces are in it
static const char *env[] = {"PATH=/usr/bin:/bin", "HOME=/nowhere", "LANG=C.UTF-8", NULL};

static void on_output(void *arg, int stream, const char *bytes, size_t length) {
  run *r = arg;
  r->counted += length;
  if (r->slow_ms > 0) usleep((useconds_t)r->slow_ms * 1000); // a consumer that takes its time
  if (r->counted < 1 << 20) bq_buf_add(&r->out[stream - 1], bytes, length);
  if (r->act != NULL && r->out[0].data != NULL && strstr(r->out[0].data, r->act_on) != NULL) {
    void (*act)(run *) = r->act;
    r->act = NULL;
    r->acted_us = bq_clock_mono_us();
    act(r);
  }
}

static void on_exit_of_command(void *arg, const bq_process_exit *result) {
  run *r = arg;
  r->exit = *result;
  r->ended++;
  bq_loop_stop(r->loop);
}

static void on_guard(void *arg) {
  bq_loop_stop(arg);
}

static void begin(run *r, bq_sandbox_kind kind, const char *const *argv) {
  bq_error err;
  memset(r, 0, sizeof *r);
  assert_int_equal(bq_loop_new(&r->loop, &err), 0);
  r->spec.argv = argv;
  r->spec.env = env;
  r->spec.workspace = r->spec.cwd = base;
  r->spec.sandbox.kind = kind;
  r->spec.sandbox.bwrap_path = "/usr/bin/bwrap";
  r->spec.grace_ms = 10000;
}

static int start(run *r, bq_error *err) {
  bq_process_events events = {.on_output = on_output, .on_exit = on_exit_of_command, .arg = r};
  return bq_process_start(&r->process, r->loop, &r->spec, &events, err);
}

static void watch(run *r) {
  bq_error err;
  bq_timer *guard;
  assert_int_equal(bq_timer_new(&guard, r->loop, on_guard, r->loop, &err), 0);
  bq_timer_set(guard, GUARD_MS);
  assert_int_equal(bq_loop_run(r->loop, &err), 0);
  bq_timer_free(guard);
  assert_int_equal(r->ended, 1);
}

static void finish(run *r) {
  bq_buf_free(&r->out[0]);
  bq_buf_free(&r->out[1]);
  bq_loop_free(r->loop);
}

static void go(run *r) {
  bq_error err = {0};
  if (start(r, &err) < 0) fail_msg("%s", err.message);
  watch(r);
}

static const char *text(const run *r, int stream) {
  const char *data = r->out[stream - 1].data;
  return data == NULL ? "" : data;
}

static void shell(run *r, bq_sandbox_kind kind, const char *script) {
  static const char *argv[4];
  argv[0] = "/bin/sh";
  argv[1] = "-c";
  argv[2] = script;
  argv[3] = NULL;
  begin(r, kind, argv);
}

static const bq_sandbox_kind kinds[] = {BQ_SANDBOX_BWRAP, BQ_SANDBOX_NONE};

static void output_and_code_arrive(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "echo to out; echo to err >&2; cat; pwd; exit 3");
    r.spec.input = "from input\n";
    r.spec.input_length = strlen(r.spec.input);
    go(&r);
    char expected[200];
    (void)snprintf(expected, sizeof expected, "to out\nfrom input\n%s\n", base);
    assert_string_equal(text(&r, 1), expected);
    assert_string_equal(text(&r, 2), "to err\n");
    assert_int_equal(r.exit.code, 3);
    assert_int_equal(r.exit.signal, 0);
    assert_true(r.exit.duration_us > 0);
    assert_true(r.exit.max_rss_kb > 0);
    finish(&r);
  }
}

static void usage_of_the_tree_is_counted(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; true");
    go(&r);
    assert_true(r.exit.cpu_us > 20000);
    finish(&r);
  }
}

static void unknown_programs_are_127(void **state) {
  (void)state;
  static const char *const missing[] = {"no-such-program", NULL};
  static const char *const builtin[] = {"exit", "3", NULL}; // a word of the shell, not a program
  for (int k = 0; k < 2; k++) {
    run r;
    begin(&r, kinds[k], missing);
    go(&r);
    assert_int_equal(r.exit.code, 127);
    assert_non_null(strstr(text(&r, 2), "no-such-program"));
    finish(&r);
    begin(&r, kinds[k], builtin);
    go(&r);
    assert_int_equal(r.exit.code, 127);
    finish(&r);
  }
}

static void signals_are_told_from_codes(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "kill -SEGV $$");
    go(&r);
    assert_int_equal(r.exit.code, -1);
    assert_int_equal(r.exit.signal, SIGSEGV);
    finish(&r);
    shell(&r, kinds[k], "exit 129"); // what git says to a wrong command line
    go(&r);
    assert_int_equal(r.exit.code, 129);
    assert_int_equal(r.exit.signal, 0);
    finish(&r);
  }
}

static void nothing_outside_is_seen(void **state) {
  (void)state;
  char other[128], script[1000];
  (void)snprintf(other, sizeof other, "%s-secret", base);
  FILE *file = fopen(other, "w");
  assert_non_null(file);
  fputs("secret\n", file);
  assert_int_equal(fclose(file), 0);
  (void)snprintf(script, sizeof script,
                 "for f in %s /home /root /var/lib /run /etc/shadow /etc/ssl/private /sys /proc/%ld; do [ -e $f ] && echo "
                 "sees $f; done; touch /x /usr/x /etc/x 2>/dev/null && echo writes; ls /proc | grep -c '^[0-9]'; "
                 "touch inside && echo done",
                 other, (long)getpid());
  run r;
  shell(&r, BQ_SANDBOX_BWRAP, script);
  go(&r);
  assert_null(strstr(text(&r, 1), "sees"));
  assert_null(strstr(text(&r, 1), "writes"));
  assert_non_null(strstr(text(&r, 1), "done"));
  finish(&r);
  const char *paths[] = {other, NULL};
  (void)snprintf(script, sizeof script, "cat %s; (echo more >> %s) 2>/dev/null || echo refused", other, other);
  shell(&r, BQ_SANDBOX_BWRAP, script);
  r.spec.sandbox.read_only_paths = paths;
  go(&r);
  assert_string_equal(text(&r, 1), "secret\nrefused\n");
  finish(&r);
  assert_int_equal(unlink(other), 0);
  (void)snprintf(other, sizeof other, "%s/inside", base);
  assert_int_equal(unlink(other), 0);
}

static void no_power_is_left_inside(void **state) {
  (void)state;
  run r;
  shell(&r, BQ_SANDBOX_BWRAP, "id -u; id -un; grep -E 'Cap(Eff|Bnd|Prm)' /proc/self/status; mount -t tmpfs x /tmp");
  go(&r);
  assert_null(strstr(text(&r, 1), "root"));
  assert_true(strncmp(text(&r, 1), "0\n", 2) != 0);
  assert_non_null(strstr(text(&r, 1), "build\n"));
  assert_non_null(strstr(text(&r, 1), "CapEff:\t0000000000000000"));
  assert_non_null(strstr(text(&r, 1), "CapBnd:\t0000000000000000"));
  assert_int_not_equal(r.exit.code, 0);
  finish(&r);
}

static void network_is_an_option(void **state) {
  (void)state;
  run r;
  shell(&r, BQ_SANDBOX_BWRAP, "readlink /proc/self/ns/net");
  go(&r);
  char own[64];
  ssize_t length = readlink("/proc/self/ns/net", own, sizeof own - 1);
  assert_true(length > 0);
  own[length] = '\0';
  assert_int_not_equal(strncmp(text(&r, 1), own, (size_t)length), 0);
  finish(&r);
  shell(&r, BQ_SANDBOX_BWRAP, "readlink /proc/self/ns/net");
  r.spec.sandbox.network = 1;
  go(&r);
  assert_int_equal(strncmp(text(&r, 1), own, (size_t)length), 0);
  finish(&r);
}

static int lines(const char *t) {
  int count = 0;
  for (; *t != '\0'; t++) count += *t == '\n';
  return count;
}

static void environment_and_descriptors_are_clean(void **state) {
  (void)state;
  assert_int_equal(setenv("SERVER_SECRET", "hunter22", 1), 0);
  int leak = open("/dev/null", O_RDONLY); // on purpose without O_CLOEXEC
  assert_true(leak >= 0);
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "env; tr '\\0' '\\n' < /proc/1/environ 2>/dev/null");
    go(&r);
    assert_null(strstr(text(&r, 1), "hunter22"));
    assert_non_null(strstr(text(&r, 1), "HOME=/nowhere\n"));
    finish(&r);
    shell(&r, kinds[k], "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=");
    go(&r);
    assert_int_equal(lines(text(&r, 1)), 3);
    finish(&r);
    shell(&r, kinds[k], "i=0; while [ $i -lt 300 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done");
    go(&r);
    assert_string_equal(text(&r, 1), "0\n1\n2\n");
    finish(&r);
    // 32 and 33 are glibc's own: its posix_spawn (make uses it) leaves them ignored, and nobody can change that.
    shell(&r, kinds[k], "sed -nE '/^Sig(Ign|Blk)/{s/0000000[01][08]0000000$/0000000000000000/;p}' /proc/self/status");
    go(&r);
    assert_string_equal(text(&r, 1), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    finish(&r);
  }
  close(leak);
}

static void odd_environment_names_are_refused(void **state) {
  (void)state;
  static const char *const argv[] = {"true", NULL};
  static const char *const odd[] = {"A.B=1", NULL};
  run r;
  bq_error err;
  begin(&r, BQ_SANDBOX_BWRAP, argv);
  r.spec.env = odd;
  assert_int_equal(start(&r, &err), BQ_EINVAL);
  assert_non_null(strstr(err.message, "A.B"));
  finish(&r);
}

// The daemon's pid as the host sees it can't be known inside: it is found by the sentinel file it keeps touching.
static int grows(const char *path) {
  struct stat before, after;
  if (stat(path, &before) < 0) return 0;
  for (int i = 0; i < 10; i++) { // a live writer writes every 10 ms
    usleep(20000);
    if (stat(path, &after) < 0) return 0;
    if (after.st_size != before.st_size) return 1;
  }
  return 0;
}

static const char daemon_script[] =
    "setsid sh -c 'setsid sh -c \"while :; do echo x >> beat; sleep 0.01; done\" & exit 0' </dev/null >/dev/null 2>&1 & "
    "while [ ! -s beat ]; do sleep 0.01; done; echo ready; ";

static void check_daemon_dies(bq_sandbox_kind kind, const char *then, void (*act)(run *)) {
  char script[600], beat[128];
  (void)snprintf(script, sizeof script, "%s %s", daemon_script, then);
  (void)snprintf(beat, sizeof beat, "%s/beat", base);
  run r;
  shell(&r, kind, script);
  r.act_on = "ready";
  r.act = act;
  go(&r);
  assert_non_null(strstr(text(&r, 1), "ready"));
  assert_false(grows(beat));
  assert_int_equal(unlink(beat), 0);
  finish(&r);
}

static void kill_it(run *r) {
  bq_process_kill(r->process);
}

static void stop_it(run *r) {
  bq_process_stop(r->process);
  bq_process_stop(r->process); // no harm
}

static void daemons_end_with_the_command(void **state) {
  (void)state;
  check_daemon_dies(BQ_SANDBOX_BWRAP, "exit 0", NULL);
  check_daemon_dies(BQ_SANDBOX_BWRAP, "exec sleep 1000", kill_it);
  check_daemon_dies(BQ_SANDBOX_BWRAP, "exec sleep 1000", stop_it);
  char *cgroup = NULL;
  int fd = -1;
  bq_error err;
  assert_int_equal(bq_cgroup_new(&cgroup, &fd, &err), 0);
  if (cgroup == NULL) return; // without a cgroup nobody can find a daemon again
  close(fd);
  assert_int_equal(bq_cgroup_remove(cgroup), 1);
  bq_free(cgroup);
  check_daemon_dies(BQ_SANDBOX_NONE, "exit 0", NULL);
  check_daemon_dies(BQ_SANDBOX_NONE, "exec sleep 1000", kill_it);
}

// The server is killed: on_exit is never called, nobody cleans up, and still nothing runs on.
static void all_ends_with_the_server(void **state) {
  (void)state;
  char beat[128];
  (void)snprintf(beat, sizeof beat, "%s/beat", base);
  static char script[600];
  (void)snprintf(script, sizeof script, "%s exec sleep 1000", daemon_script);
  pid_t server = fork();
  assert_true(server >= 0);
  if (server == 0) {
    run r;
    bq_error err;
    shell(&r, BQ_SANDBOX_BWRAP, script);
    if (start(&r, &err) < 0) _exit(1);
    _exit(bq_loop_run(r.loop, &err) == 0 ? 2 : 3); // neither: it is killed
  }
  int64_t until_us = bq_clock_mono_us() + GUARD_MS * 1000;
  while (!grows(beat) && bq_clock_mono_us() < until_us) usleep(10000);
  assert_true(grows(beat));
  assert_int_equal(kill(server, SIGKILL), 0);
  assert_int_equal(waitpid(server, NULL, 0), server);
  while (grows(beat) && bq_clock_mono_us() < until_us) {}
  assert_false(grows(beat));
  assert_int_equal(unlink(beat), 0);
}

static void group_members_end_without_a_sandbox(void **state) {
  (void)state;
  char beat[128];
  (void)snprintf(beat, sizeof beat, "%s/beat", base);
  run r;
  // A child in the background holds the pipe: it gets its second, then it is ended.
  shell(&r, BQ_SANDBOX_NONE, "sh -c 'while :; do echo x >> beat; sleep 0.01; done' & echo ready; exit 5");
  go(&r);
  assert_int_equal(r.exit.code, 5);
  assert_string_equal(text(&r, 1), "ready\n");
  assert_false(grows(beat));
  (void)unlink(beat);
  finish(&r);
}

static void stop_goes_to_the_command(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "trap 'echo got term; exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    r.act_on = "ready";
    r.act = stop_it;
    go(&r);
    assert_string_equal(text(&r, 1), "ready\ngot term\n");
    assert_int_equal(r.exit.code, 7);
    finish(&r);
  }
}

static void stop_is_followed_by_kill(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "trap '' TERM; echo ready; while :; do sleep 0.01; done");
    r.spec.grace_ms = 300;
    r.act_on = "ready";
    r.act = stop_it;
    go(&r);
    assert_int_equal(r.exit.code, -1);
    assert_int_equal(r.exit.signal, SIGKILL);
    int64_t took_us = bq_clock_mono_us() - r.acted_us;
    assert_true(took_us >= 290000);
    finish(&r);
  }
}

static void stop_and_kill_work_from_the_first_moment(void **state) {
  (void)state;
  static const char *const argv[] = {"sleep", "1000", NULL};
  for (int i = 0; i < 20; i++) {
    run r;
    bq_error err;
    begin(&r, kinds[i % 2], argv);
    assert_int_equal(start(&r, &err), 0);
    if (i / 2 % 2 == 0) bq_process_stop(r.process);
    else bq_process_kill(r.process);
    watch(&r);
    assert_int_equal(r.exit.code, -1);
    assert_true(r.exit.signal == SIGKILL || r.exit.signal == SIGTERM);
    assert_true(r.exit.duration_us < 10000000);
    finish(&r);
  }
}

static void much_output_is_whole_for_a_slow_consumer(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "head -c 8000000 /dev/zero; echo end >&2");
    r.slow_ms = 2;
    go(&r);
    assert_int_equal(r.exit.code, 0);
    assert_int_equal(r.counted, 8000004);
    finish(&r);
  }
}

// The command is long gone when the last bytes are taken.
static void the_last_bytes_are_not_cut(void **state) {
  (void)state;
  run r;
  shell(&r, BQ_SANDBOX_BWRAP, "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2");
  r.slow_ms = 700;
  go(&r);
  assert_int_equal(r.counted, 120000);
  finish(&r);
}

static void limits_hold(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    run r;
    shell(&r, kinds[k], "ulimit -n; ulimit -f; ulimit -v; ulimit -c; head -c 200000 /dev/zero > big");
    r.spec.limits.open_files = 77;
    r.spec.limits.file_size_bytes = 102400;
    r.spec.limits.address_space_bytes = 1 << 30;
    go(&r);
    assert_string_equal(text(&r, 1), "77\n200\n1048576\n0\n");
    assert_true(r.exit.signal == SIGXFSZ || r.exit.code > 0);
    finish(&r);
    char big[128];
    (void)snprintf(big, sizeof big, "%s/big", base);
    struct stat st;
    assert_int_equal(stat(big, &st), 0);
    assert_true(st.st_size <= 102400);
    assert_int_equal(unlink(big), 0);
  }
  run r;
  shell(&r, BQ_SANDBOX_BWRAP, "grep 'Max processes' /proc/self/limits");
  r.spec.limits.processes = 40;
  go(&r);
  int soft = 0;
  assert_int_equal(sscanf(text(&r, 1), "Max processes %d", &soft), 1);
  assert_int_equal(soft, 40);
  finish(&r);
  if (geteuid() == 0) return; // the kernel doesn't count root's processes
  shell(&r, BQ_SANDBOX_BWRAP, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo all");
  r.spec.limits.processes = 8;
  go(&r);
  assert_null(strstr(text(&r, 1), "all"));
  finish(&r);
}

static void what_can_not_start_says_why(void **state) {
  (void)state;
  static const char *const argv[] = {"true", NULL};
  static const char *const none[] = {NULL};
  run r;
  bq_error err;
  begin(&r, BQ_SANDBOX_BWRAP, argv);
  r.spec.sandbox.bwrap_path = "/nonexistent/bwrap";
  assert_int_equal(start(&r, &err), BQ_ENOTFOUND);
  assert_non_null(strstr(err.message, "install bubblewrap"));
  assert_int_equal(bq_sandbox_probe(&r.spec.sandbox, &err), BQ_ENOTFOUND);
  assert_non_null(strstr(err.message, "install bubblewrap"));
  finish(&r);
  begin(&r, BQ_SANDBOX_BWRAP, argv);
  r.spec.cwd = "/nonexistent/directory";
  assert_int_equal(start(&r, &err), BQ_ENOTFOUND);
  assert_non_null(strstr(err.message, "/nonexistent/directory"));
  finish(&r);
  begin(&r, BQ_SANDBOX_BWRAP, none);
  assert_int_equal(start(&r, &err), BQ_EINVAL);
  finish(&r);
}

static void probe_tries_the_sandbox(void **state) {
  (void)state;
  bq_error err = {0};
  bq_sandbox sandbox = {.kind = BQ_SANDBOX_BWRAP, .bwrap_path = "/usr/bin/bwrap"};
  if (bq_sandbox_probe(&sandbox, &err) < 0) fail_msg("%s", err.message);
  sandbox.bwrap_path = "/bin/false";
  assert_int_equal(bq_sandbox_probe(&sandbox, &err), BQ_EIO);
  sandbox.kind = BQ_SANDBOX_NONE;
  assert_int_equal(bq_sandbox_probe(&sandbox, &err), 0);
}

// Started as root the whole of this file runs once more as an ordinary user: the server's usual case.
static void all_holds_for_an_ordinary_user(void **state) {
  (void)state;
  if (geteuid() != 0) return;
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    if (setgid(NOBODY) < 0 || setuid(NOBODY) < 0) _exit(99);
    execl("/proc/self/exe", "test_process", (char *)NULL);
    _exit(98);
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(output_and_code_arrive),
      cmocka_unit_test(usage_of_the_tree_is_counted),
      cmocka_unit_test(unknown_programs_are_127),
      cmocka_unit_test(signals_are_told_from_codes),
      cmocka_unit_test(nothing_outside_is_seen),
      cmocka_unit_test(no_power_is_left_inside),
      cmocka_unit_test(network_is_an_option),
      cmocka_unit_test(environment_and_descriptors_are_clean),
      cmocka_unit_test(odd_environment_names_are_refused),
      cmocka_unit_test(daemons_end_with_the_command),
      cmocka_unit_test(all_ends_with_the_server),
      cmocka_unit_test(group_members_end_without_a_sandbox),
      cmocka_unit_test(stop_goes_to_the_command),
      cmocka_unit_test(stop_is_followed_by_kill),
      cmocka_unit_test(stop_and_kill_work_from_the_first_moment),
      cmocka_unit_test(much_output_is_whole_for_a_slow_consumer),
      cmocka_unit_test(the_last_bytes_are_not_cut),
      cmocka_unit_test(limits_hold),
      cmocka_unit_test(what_can_not_start_says_why),
      cmocka_unit_test(probe_tries_the_sandbox),
      cmocka_unit_test(all_holds_for_an_ordinary_user),
  };
  (void)snprintf(base, sizeof base, "/tmp/bq-process-XXXXXX");
  if (mkdtemp(base) == NULL) return 1;
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  if (rmdir(base) < 0) perror(base);
  return failed;
}
