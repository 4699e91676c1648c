// Masking: whole, split at every place, in base64 at every alignment, overlapping; and nothing else is touched.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "io/mask.h"

static bq_mask_set *make(const char *const *secrets) {
  bq_mask_set *set;
  bq_error err;
  assert_int_equal(bq_mask_set_new(&set, NULL, &err), 0);
  for (; *secrets != NULL; secrets++) assert_int_equal(bq_mask_set_add(set, *secrets, strlen(*secrets), &err), 0);
  return set;
}

// Masks `text` in pieces of `piece` bytes and compares.
static void check(const bq_mask_set *set, const char *text, size_t piece, const char *expected) {
  bq_mask mask = {.set = set};
  bq_buf out = {0};
  size_t length = strlen(text);
  for (size_t i = 0; i < length; i += piece) {
    bq_mask_feed(&mask, text + i, length - i < piece ? length - i : piece, &out);
  }
  bq_mask_end(&mask, &out);
  assert_string_equal(out.data == NULL ? "" : out.data, expected);
  bq_buf_free(&out);
}

static void secrets_are_masked_however_split(void **state) {
  (void)state;
  bq_mask_set *set = make((const char *const[]){"hunter22", "correct horse", NULL});
  for (size_t piece = 1; piece < 40; piece++) {
    check(set, "say hunter22 and correct horse!", piece, "say *** and ***!");
    check(set, "hunter2 hunter hunthunter22", piece, "hunter2 hunter hunt***");
    check(set, "hunter22hunter22.", piece, "******.");
    check(set, "ends with hunter2", piece, "ends with hunter2");
    check(set, "", piece, "");
  }
  bq_mask_set_free(set);
}

static void overlaps_leave_nothing(void **state) {
  (void)state;
  bq_mask_set *set = make((const char *const[]){"abcdefgh", "efghijkl", "abcdef", "abcdefghijklmnop", NULL});
  for (size_t piece = 1; piece < 20; piece++) {
    check(set, "<abcdefghijkl>", piece, "<***>");
    check(set, "<abcdefghij>", piece, "<***ij>");
    check(set, "<abcdefg>", piece, "<***g>");
    check(set, "<abcdefghijklmnop>", piece, "<***>");
  }
  bq_mask_set_free(set);
}

// A plain encoder, to hold the set's own against.
static void base64(const char *in, size_t n, char *out) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < n; i += 3) {
    unsigned v = (unsigned)(unsigned char)in[i] << 16;
    if (i + 1 < n) v |= (unsigned)(unsigned char)in[i + 1] << 8;
    if (i + 2 < n) v |= (unsigned char)in[i + 2];
    *out++ = alphabet[v >> 18];
    *out++ = alphabet[v >> 12 & 63];
    *out++ = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
    *out++ = i + 2 < n ? alphabet[v & 63] : '=';
  }
  *out = '\0';
}

static void base64_is_masked_at_every_alignment(void **state) {
  (void)state;
  static const char *const secrets[] = {"hunter", "hunter2", "hunter22", "s3cr?t>>~~", NULL};
  for (int s = 0; secrets[s] != NULL; s++) {
    bq_mask_set *set = make((const char *const[]){secrets[s], NULL});
    for (size_t before = 0; before < 7; before++) {
      for (size_t after = 0; after < 4; after++) {
        char plain[64], text[128];
        (void)snprintf(plain, sizeof plain, "%.*s%s%.*s", (int)before, "user:pa", secrets[s], (int)after, "@xyz");
        base64(plain, strlen(plain), text);
        bq_buf out = {0};
        bq_mask_text(set, text, strlen(text), &out);
        assert_non_null(strstr(out.data, "***"));
        // What is left are the neighbours' characters and at most two that hold bits of both.
        size_t left = out.length - 3;
        assert_true(left <= (before + 2) / 3 * 4 + 1 + (after + 2) / 3 * 4 + 3);
        // … and it still holds no four characters of the secret's own middle.
        assert_true(strlen(text) - left >= strlen(secrets[s]) * 8 / 6 - 2);
        bq_buf_free(&out);
        for (char *c = text; *c != '\0'; c++) *c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
        bq_mask_text(set, text, strlen(text), &out);
        assert_non_null(strstr(out.data, "***"));
        bq_buf_free(&out);
      }
    }
    bq_mask_set_free(set);
  }
}

static void only_what_may_be_a_secret_is_held(void **state) {
  (void)state;
  bq_mask_set *set = make((const char *const[]){"hunter22", NULL});
  bq_mask mask = {.set = set};
  bq_buf out = {0};
  bq_mask_feed(&mask, "Password: ", 10, &out);
  assert_string_equal(out.data, "Password: ");
  bq_mask_feed(&mask, "hunter", 6, &out);
  assert_string_equal(out.data, "Password: ");
  bq_mask_feed(&mask, "!", 1, &out);
  assert_string_equal(out.data, "Password: hunter!");
  bq_mask_end(&mask, &out);
  bq_buf_free(&out);
  bq_mask_set_free(set);
}

static void a_secret_may_come_late(void **state) {
  (void)state;
  bq_mask_set *set = make((const char *const[]){NULL});
  bq_mask mask = {.set = set};
  bq_buf out = {0};
  bq_error err;
  bq_mask_feed(&mask, "hunter22 ", 9, &out);
  assert_int_equal(bq_mask_set_add(set, "hunter22\n", 9, &err), 0); // as read from a file
  assert_int_equal(bq_mask_set_add(set, "hunter22", 8, &err), 0);
  bq_mask_feed(&mask, "hunter22", 8, &out);
  bq_mask_end(&mask, &out);
  assert_string_equal(out.data, "hunter22 ***");
  bq_buf_free(&out);
  bq_mask_set_free(set);
}

static void bounds_hold(void **state) {
  (void)state;
  bq_mask_set *set = make((const char *const[]){NULL});
  bq_error err;
  assert_int_equal(bq_mask_set_add(set, "short", 5, &err), BQ_EINVAL);
  assert_null(strstr(err.message, "short"));
  assert_int_equal(bq_mask_set_add(set, "short\r\n", 7, &err), BQ_EINVAL);
  static char huge[BQ_MASK_MAX_BYTES + 1];
  memset(huge, 'x', sizeof huge);
  assert_int_equal(bq_mask_set_add(set, huge, sizeof huge, &err), BQ_EINVAL);
  for (int i = 0; i < BQ_MASK_MAX_SECRETS; i++) {
    char secret[32];
    int n = snprintf(secret, sizeof secret, "secret number %d", i);
    assert_int_equal(bq_mask_set_add(set, secret, (size_t)n, &err), 0);
  }
  assert_int_equal(bq_mask_set_add(set, "one too many", 12, &err), BQ_ELIMIT);
  check(set, "a secret number 63 b", 3, "a *** b");
  bq_mask_set_free(set);
}

static void without_secrets_all_passes(void **state) {
  (void)state;
  check(NULL, "anything at all", 4, "anything at all");
  bq_mask_set *set = make((const char *const[]){"\xff\xfe\xfd\xfc\xfb\xfa", NULL});
  bq_buf out = {0};
  bq_mask_text(set, "a\0b\xff\xfe\xfd\xfc\xfb\xfa\0c", 11, &out);
  assert_int_equal(out.length, 8);
  assert_memory_equal(out.data, "a\0b***\0c", 8);
  bq_buf_free(&out);
  bq_mask_set_free(set);
}

static void a_set_masks_what_its_base_does(void **state) {
  (void)state;
  bq_mask_set *base = NULL;
  bq_mask_set *set = NULL;
  bq_error err;
  bq_buf out = {0};
  assert_int_equal(bq_mask_set_new(&base, NULL, &err), 0);
  assert_int_equal(bq_mask_set_add(base, "server-secret", 13, &err), 0);
  assert_int_equal(bq_mask_set_new(&set, base, &err), 0);
  bq_mask mask = {.set = set};
  bq_mask_feed(&mask, "a server-sec", 12, &out);
  bq_mask_feed(&mask, "ret b", 5, &out);
  assert_int_equal(bq_mask_set_add(set, "server-secret", 13, &err), 0);
  assert_int_equal(bq_mask_set_count(set), 0); // known already
  assert_int_equal(bq_mask_set_add(set, "own-secret", 10, &err), 0);
  bq_mask_feed(&mask, " own-secretserver-secret c", 26, &out);
  bq_mask_end(&mask, &out);
  assert_string_equal(out.data, "a *** b ****** c");
  bq_buf_free(&out);
  bq_mask_set_free(set);
  bq_mask_set_free(base);
}

// Long texts are walked a stretch at a time, for each set in turn.
static void secrets_are_found_at_every_place(void **state) {
  (void)state;
  bq_mask_set *base = make((const char *const[]){"hunter22", NULL});
  bq_mask_set *set = NULL;
  bq_error err;
  assert_int_equal(bq_mask_set_new(&set, base, &err), 0);
  assert_int_equal(bq_mask_set_add(set, "own-secret", 10, &err), 0);
  for (int at = 0; at < 300; at++) {
    char text[700], expected[700];
    static const char *const secrets[] = {"hunter22", "own-secret"};
    const char *first = secrets[at % 2], *second = secrets[at / 2 % 2];
    (void)snprintf(text, sizeof text, "%0*d%s%0*d%s", at, 0, first, 300 - at, 0, second);
    (void)snprintf(expected, sizeof expected, "%0*d***%0*d***", at, 0, 300 - at, 0);
    check(set, text, sizeof text, expected);
    check(set, text, 130, expected);
  }
  bq_mask_set_free(set);
  bq_mask_set_free(base);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_set_masks_what_its_base_does), cmocka_unit_test(secrets_are_found_at_every_place),
      cmocka_unit_test(secrets_are_masked_however_split), cmocka_unit_test(overlaps_leave_nothing),
      cmocka_unit_test(base64_is_masked_at_every_alignment), cmocka_unit_test(only_what_may_be_a_secret_is_held),
      cmocka_unit_test(a_secret_may_come_late), cmocka_unit_test(bounds_hold),
      cmocka_unit_test(without_secrets_all_passes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
