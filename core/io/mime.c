#include "io/mime.h"

#include <gmime/gmime.h>
#include <pthread.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum { MAX_ADDRESS = 254 };

static pthread_once_t begun = PTHREAD_ONCE_INIT;

int bq_mime_is_address(const char *text) {
  const char *at = strrchr(text, '@');
  if (at == NULL || at == text || at[1] == '\0' || strlen(text) > MAX_ADDRESS) return 0;
  for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
    if (*c <= ' ' || *c == 127) return 0;
  }
  return strpbrk(text, "<>\",;:\\[]()") == NULL && strchr(text, '@') == at && at[1] != '.' && at[1] != '-';
}

// One line of valid UTF-8: the caller's; NULL without memory.
static char *header_text(const char *text) {
  char *copy = bq_strdup(text != NULL ? text : "");
  if (copy == NULL) return NULL;
  bq_utf8_clean(copy);
  for (char *c = copy; *c != '\0'; c++) {
    if ((unsigned char)*c < ' ' || *c == 127) *c = ' ';
  }
  for (char *c = strstr(copy, "=?"); c != NULL; c = strstr(c, "=?")) *c = '~'; // it would be read as encoded
  return copy;
}

static int add_address(GMimeMessage *message, GMimeAddressType type, const char *name, const char *address,
                       bq_error *err) {
  if (address == NULL || !bq_mime_is_address(address)) {
    return bq_fail(err, BQ_EINVAL, "\"%s\" is no mail address", address != NULL ? address : "");
  }
  char *line = header_text(name);
  if (line == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  InternetAddress *mailbox = internet_address_mailbox_new(*line != '\0' ? line : NULL, address);
  internet_address_set_charset(mailbox, "utf-8"); // else it picks a smaller one
  internet_address_list_add(g_mime_message_get_addresses(message, type), mailbox);
  g_object_unref(mailbox);
  bq_free(line);
  return 0;
}

static int set_subject(GMimeMessage *message, const char *subject, bq_error *err) {
  char *line = header_text(subject);
  if (line == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  g_mime_message_set_subject(message, line, "utf-8");
  bq_free(line);
  return 0;
}

static GMimeObject *text_part(const char *subtype, const char *text) {
  GMimeTextPart *part = g_mime_text_part_new_with_subtype(subtype);
  GMimeStream *stream = g_mime_stream_mem_new_with_buffer(text, strlen(text));
  GMimeDataWrapper *content = g_mime_data_wrapper_new_with_stream(stream, GMIME_CONTENT_ENCODING_DEFAULT);
  g_mime_part_set_content(GMIME_PART(part), content);
  g_mime_text_part_set_charset(part, "utf-8");
  g_mime_part_set_content_encoding(GMIME_PART(part), GMIME_CONTENT_ENCODING_QUOTEDPRINTABLE);
  g_object_unref(content);
  g_object_unref(stream);
  return GMIME_OBJECT(part);
}

static void set_body(GMimeMessage *message, const bq_mime_mail *mail) {
  GMimeObject *text = text_part("plain", mail->text);
  if (mail->html == NULL || *mail->html == '\0') {
    g_mime_message_set_mime_part(message, text);
    g_object_unref(text);
    return;
  }
  GMimeMultipart *both = g_mime_multipart_new_with_subtype("alternative");
  GMimeObject *html = text_part("html", mail->html);
  g_mime_multipart_add(both, text); // the plainest first (RFC 2046, section 5.1.4)
  g_mime_multipart_add(both, html);
  g_mime_message_set_mime_part(message, GMIME_OBJECT(both));
  g_object_unref(text);
  g_object_unref(html);
  g_object_unref(both);
}

static void set_header(GMimeMessage *message, const char *name, const char *value) {
  g_mime_object_set_header(GMIME_OBJECT(message), name, value, "utf-8");
}

// What may stand between angle brackets in a header: visible ASCII.
static int is_plain(const char *text) {
  for (const char *c = text; *c != '\0'; c++) {
    if (*c <= ' ' || *c >= 127) return 0;
  }
  return *text != '\0';
}

static int set_unsubscribe(GMimeMessage *message, const bq_mime_mail *mail, bq_error *err) {
  // As it is: GMime would encode what is too long to be folded, and nobody decodes that there.
  char *link = bq_format(" <%s>\n", mail->unsubscribe_url);
  if (link == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  set_header(message, "List-Unsubscribe", "");
  g_mime_header_set_raw_value(
      g_mime_header_list_get_header(g_mime_object_get_header_list(GMIME_OBJECT(message)), "List-Unsubscribe"), link);
  // One click takes an https address (RFC 8058, section 3.1).
  if (strncmp(mail->unsubscribe_url, "https://", 8) == 0) {
    set_header(message, "List-Unsubscribe-Post", "List-Unsubscribe=One-Click");
  }
  bq_free(link);
  return 0;
}

static int set_headers(GMimeMessage *message, const bq_mime_mail *mail, bq_error *err) {
  size_t length = strlen(mail->message_id);
  if (!is_plain(mail->message_id) || length < 3) return bq_fail(err, BQ_EINVAL, "a mail's Message-ID is malformed");
  char *id = bq_strndup(mail->message_id + 1, length - 2);
  if (id == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  g_mime_message_set_message_id(message, id);
  bq_free(id);
  GDateTime *date = g_date_time_new_from_unix_utc(mail->date_s);
  g_mime_message_set_date(message, date);
  g_date_time_unref(date);
  if (mail->in_reply_to != NULL && is_plain(mail->in_reply_to)) {
    set_header(message, "In-Reply-To", mail->in_reply_to);
    set_header(message, "References", mail->in_reply_to);
  }
  set_header(message, "Auto-Submitted", "auto-generated"); // RFC 3834
  return mail->unsubscribe_url != NULL && is_plain(mail->unsubscribe_url) ? set_unsubscribe(message, mail, err) : 0;
}

static int write_out(GMimeMessage *message, char **out, size_t *length, bq_error *err) {
  GMimeFormatOptions *format = g_mime_format_options_clone(g_mime_format_options_get_default());
  GMimeStream *stream = g_mime_stream_mem_new();
  g_mime_format_options_set_newline_format(format, GMIME_NEWLINE_FORMAT_DOS);
  int result = 0;
  if (g_mime_object_write_to_stream(GMIME_OBJECT(message), format, stream) < 0) {
    result = bq_fail(err, BQ_EINVAL, "a mail can't be written");
  } else {
    GByteArray *bytes = g_mime_stream_mem_get_byte_array(GMIME_STREAM_MEM(stream));
    *out = bq_strndup((const char *)bytes->data, bytes->len);
    *length = bytes->len;
    if (*out == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for a mail");
  }
  g_object_unref(stream);
  g_mime_format_options_free(format);
  return result;
}

int bq_mime_write(const bq_mime_mail *mail, char **out, size_t *length, bq_error *err) {
  *out = NULL;
  *length = 0;
  (void)pthread_once(&begun, g_mime_init);
  GMimeMessage *message = g_mime_message_new(TRUE);
  int result = add_address(message, GMIME_ADDRESS_TYPE_FROM, mail->from_name, mail->from_address, err);
  if (result == 0) result = add_address(message, GMIME_ADDRESS_TYPE_TO, mail->to_name, mail->to_address, err);
  if (result == 0 && mail->reply_to != NULL && *mail->reply_to != '\0') {
    result = add_address(message, GMIME_ADDRESS_TYPE_REPLY_TO, NULL, mail->reply_to, err);
  }
  if (result == 0) result = set_subject(message, mail->subject, err);
  if (result == 0) result = set_headers(message, mail, err);
  if (result == 0) {
    set_body(message, mail);
    result = write_out(message, out, length, err);
  }
  g_object_unref(message);
  return result;
}
