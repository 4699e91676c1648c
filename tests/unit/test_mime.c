// Mails as bytes: nothing that is put into a header gets out of it, lines stay short, addresses are judged.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/memory.h"
#include "io/mime.h"

static const bq_mime_mail plain = {.from_name = "Honua",
                                   .from_address = "a@b.example",
                                   .to_name = "Ada",
                                   .to_address = "ada@example.org",
                                   .subject = "Queued",
                                   .text = "Hello\n",
                                   .html = "<p>Hello</p>\n",
                                   .message_id = "<1@b.example>",
                                   .date_s = 1700000000};

// The caller's.
static char *write_mail(const bq_mime_mail *mail) {
  char *bytes = NULL;
  size_t length = 0;
  bq_error err;
  if (bq_mime_write(mail, &bytes, &length, &err) < 0) fail_msg("%s", err.message);
  assert_int_equal(strlen(bytes), length);
  return bytes;
}

static void expect(const char *bytes, const char *line) {
  if (strstr(bytes, line) == NULL) fail_msg("%s\nis not in\n%s", line, bytes);
}

static void a_mail_has_its_headers_and_both_parts(void **state) {
  (void)state;
  bq_mime_mail mail = plain;
  mail.reply_to = "help@b.example";
  mail.in_reply_to = "<0@b.example>";
  char *bytes = write_mail(&mail);
  expect(bytes, "Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n");
  expect(bytes, "From: Honua <a@b.example>\r\n");
  expect(bytes, "To: Ada <ada@example.org>\r\n");
  expect(bytes, "Reply-To: help@b.example\r\n");
  expect(bytes, "Message-Id: <1@b.example>\r\n");
  expect(bytes, "In-Reply-To: <0@b.example>\r\n");
  expect(bytes, "References: <0@b.example>\r\n");
  expect(bytes, "Auto-Submitted: auto-generated\r\n");
  expect(bytes, "Content-Type: multipart/alternative;");
  expect(bytes, "Content-Type: text/plain; charset=utf-8\r\n");
  expect(bytes, "Content-Type: text/html; charset=utf-8\r\n");
  assert_null(strstr(bytes, "List-Unsubscribe"));
  bq_free(bytes);
}

static void no_value_gets_out_of_its_header(void **state) {
  (void)state;
  bq_mime_mail mail = plain;
  mail.from_name = "x\r\nBcc: all@example.org";
  mail.to_name = "y\n\nbody";
  mail.subject = "z\r\n\r\n<script>";
  char *bytes = write_mail(&mail);
  assert_null(strstr(bytes, "\nBcc:"));
  assert_null(strstr(bytes, "\nbody"));
  assert_null(strstr(bytes, "\n<script>"));
  for (const char *c = bytes; *c != '\0'; c++) assert_true(*c != '\n' || (c > bytes && c[-1] == '\r'));
  bq_free(bytes);
}

static void lines_stay_short_whatever_is_long(void **state) {
  (void)state;
  char name[4001];
  char url[901];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  memset(url, 'u', sizeof url - 1);
  memcpy(url, "https://", 8);
  url[sizeof url - 1] = '\0';
  bq_mime_mail mail = plain;
  mail.to_name = mail.subject = mail.text = mail.html = name;
  mail.unsubscribe_url = url;
  char *bytes = write_mail(&mail);
  for (const char *line = bytes; line != NULL && *line != '\0';) {
    const char *end = strchr(line, '\n');
    assert_true((end != NULL ? end - line : (ptrdiff_t)strlen(line)) <= 1000);
    line = end != NULL ? end + 1 : NULL;
  }
  expect(bytes, "List-Unsubscribe: <https://uuu"); // not encoded, not folded
  expect(bytes, "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
  bq_free(bytes);
}

static void what_looks_encoded_is_not_decoded(void **state) {
  (void)state;
  bq_mime_mail mail = plain;
  mail.subject = "=?utf-8?q?=0D=0A?=";
  char *bytes = write_mail(&mail);
  assert_null(strstr(bytes, "Subject: =?utf-8?q?=0D"));
  bq_free(bytes);
}

static void addresses_are_judged(void **state) {
  (void)state;
  static const char *const good[] = {"a@b", "a.b+c@example.org", "jörg@exämple.org", "o'neil@example.org"};
  static const char *const bad[] = {"",     "a",     "@b",      "a@",    "a b@c", "a@b\r\nx",
                                    "a@b>", "<a@b>", "a@b,c@d", "a@b@c", "a@-b"};
  char *bytes;
  size_t length;
  bq_error err;
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) assert_true(bq_mime_is_address(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    if (bq_mime_is_address(bad[i])) fail_msg("%s passes for an address", bad[i]);
    bq_mime_mail mail = plain;
    mail.to_address = bad[i];
    assert_int_equal(bq_mime_write(&mail, &bytes, &length, &err), BQ_EINVAL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_mail_has_its_headers_and_both_parts),
      cmocka_unit_test(no_value_gets_out_of_its_header),
      cmocka_unit_test(lines_stay_short_whatever_is_long),
      cmocka_unit_test(what_looks_encoded_is_not_decoded),
      cmocka_unit_test(addresses_are_judged),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
