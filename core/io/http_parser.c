#include "io/http_parser.h"

#include <string.h>
#include <strings.h>

const unsigned char bq_http_classes[256] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  8,  0,  0,  0,  0,  0,  0,  // controls; tab
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  //
    8,  15, 12, 9,  15, 15, 15, 15, 14, 14, 15, 15, 14, 15, 15, 12, // space to slash
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 14, 14, 12, 14, 12, 12, // digits to question mark
    12, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, // @, A to O
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 14, 12, 14, 13, 15, // P to underscore
    13, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, // `, a to o
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 12, 13, 12, 15, 0,  // p to DEL
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  // obs-text from here
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
    8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  //
};

static int is_digit(char c) {
  return c >= '0' && c <= '9';
}

int bq_http_hex(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Whether all bytes are of the class.
static int is_all(const char *text, size_t length, unsigned char class) {
  for (size_t i = 0; i < length; i++) {
    if ((bq_http_classes[(unsigned char)text[i]] & class) == 0) return 0;
  }
  return 1;
}

static int is_word(const char *text, size_t length, const char *word) {
  return length == strlen(word) && strncasecmp(text, word, length) == 0;
}

static bq_http_slice slice(size_t at, size_t end) {
  return (bq_http_slice){(uint32_t)at, (uint32_t)(end - at)}; // heads are far below 4 GiB, see bq_http_limits
}

static int is_authority(const char *text, size_t length) {
  return length > 0 && length <= 255 && is_all(text, length, BQ_HTTP_AUTHORITY);
}

static int parse_target(bq_http_parser *p, const char *bytes, size_t at, size_t end) {
  bq_http_head *head = &p->head;
  if (at == end || !is_all(bytes + at, end - at, BQ_HTTP_TARGET)) return -400;
  if (bytes[at] != '/') {
    if (end - at == 1 && bytes[at] == '*' && is_word(bytes + head->method.at, head->method.length, "OPTIONS")) {
      head->path = slice(at, end);
      return 0;
    }
    static const char scheme[] = "http://"; // absolute-form (section 3.2.2)
    if (end - at < sizeof scheme || strncasecmp(bytes + at, scheme, sizeof scheme - 1) != 0) return -400;
    at += sizeof scheme - 1;
    size_t authority_at = at;
    while (at < end && bytes[at] != '/' && bytes[at] != '?') at++;
    if (!is_authority(bytes + authority_at, at - authority_at)) return -400;
    p->authority = slice(authority_at, at);
  }
  const char *question = memchr(bytes + at, '?', end - at);
  size_t path_end = question != NULL ? (size_t)(question - bytes) : end;
  head->path = slice(at, path_end);
  if (question != NULL) head->query = slice(path_end + 1, end);
  return 0;
}

static int parse_request_line(bq_http_parser *p, const char *bytes, size_t at, size_t end) {
  enum { MAX_METHOD = 32, VERSION_BYTES = 8 };
  const char *space = memchr(bytes + at, ' ', end - at);
  if (space == NULL) return -400;
  size_t method_end = (size_t)(space - bytes);
  if (method_end == at || method_end - at > MAX_METHOD || !is_all(bytes + at, method_end - at, BQ_HTTP_TOKEN)) {
    return -400;
  }
  p->head.method = slice(at, method_end);
  size_t target_at = method_end + 1;
  space = memchr(bytes + target_at, ' ', end - target_at);
  if (space == NULL) return -400;
  size_t target_end = (size_t)(space - bytes);
  const char *version = bytes + target_end + 1;
  if (end - target_end - 1 != VERSION_BYTES || memcmp(version, "HTTP/", 5) != 0) return -400;
  if (!is_digit(version[5]) || version[6] != '.' || !is_digit(version[7])) return -400;
  if (version[5] != '1') return -505;
  p->head.minor = version[7] == '0' ? 0 : 1;
  p->head.keep_alive = p->head.minor >= 1;
  return parse_target(p, bytes, target_at, target_end);
}

// Digits only: a sign, a list or a number beyond 18 digits is refused; a repeated one must say the same.
static int parse_length(bq_http_head *head, const char *value, size_t length) {
  enum { MAX_DIGITS = 18 };
  if (length == 0 || length > MAX_DIGITS) return -400;
  int64_t number = 0;
  for (size_t i = 0; i < length; i++) {
    if (!is_digit(value[i])) return -400;
    number = number * 10 + (value[i] - '0');
  }
  if (head->content_length >= 0 && head->content_length != number) return -400;
  head->content_length = number;
  return 0;
}

// Only `chunked` alone is understood. Other codings, before it or without it, are 501; chunked twice or not last leaves
// the body's end uncertain (section 6.3).
static int parse_coding(bq_http_parser *p, const char *value, size_t length) {
  if (p->codings++ > 0) return -400;
  int chunked = 0;
  int last = 0;
  int others = 0;
  for (size_t at = 0; at <= length;) {
    const char *comma = memchr(value + at, ',', length - at);
    size_t end = comma != NULL ? (size_t)(comma - value) : length;
    size_t from = at;
    at = end + 1;
    while (from < end && (value[from] == ' ' || value[from] == '\t')) from++;
    while (end > from && (value[end - 1] == ' ' || value[end - 1] == '\t')) end--;
    if (from == end) return -400;
    last = is_word(value + from, end - from, "chunked");
    chunked += last;
    others += !last;
  }
  if (chunked > 1 || (chunked == 1 && !last)) return -400;
  p->head.chunked = others == 0;
  return others > 0 ? -501 : 0;
}

// Connection is a list of tokens, any case (RFC 9110, section 7.6.1).
static void parse_connection(bq_http_head *head, const char *value, size_t length) {
  size_t at = 0;
  while (at < length) {
    while (at < length && (value[at] == ',' || value[at] == ' ' || value[at] == '\t')) at++;
    size_t start = at;
    while (at < length && (bq_http_classes[(unsigned char)value[at]] & BQ_HTTP_TOKEN) != 0) at++;
    if (at == start) return;
    if (is_word(value + start, at - start, "close")) head->keep_alive = -1; // close wins, wherever it stands
    else if (is_word(value + start, at - start, "keep-alive") && head->keep_alive == 0) head->keep_alive = 1;
  }
}

static int apply_field(bq_http_parser *p, const char *bytes, const bq_http_field *field) {
  const char *name = bytes + field->name.at;
  const char *value = bytes + field->value.at;
  size_t length = field->value.length;
  switch (field->name.length) {
  case 4:
    if (strncasecmp(name, "host", 4) != 0) return 0;
    p->host_index = p->head.field_count - 1;
    // An http URI has a host that is not empty (RFC 9110, section 4.2.1), so the header has one, too.
    return p->hosts++ > 0 || !is_authority(value, length) ? -400 : 0;
  case 6:
    if (strncasecmp(name, "expect", 6) != 0) return 0;
    if (!is_word(value, length, "100-continue")) return -417;
    p->head.expect_continue = p->head.minor >= 1;
    return 0;
  case 10:
    if (strncasecmp(name, "connection", 10) == 0) parse_connection(&p->head, value, length);
    return 0;
  case 14: return strncasecmp(name, "content-length", 14) == 0 ? parse_length(&p->head, value, length) : 0;
  case 17: return strncasecmp(name, "transfer-encoding", 17) == 0 ? parse_coding(p, value, length) : 0;
  default: return 0;
  }
}

static int parse_field_line(bq_http_parser *p, const char *bytes, size_t at, size_t end,
                            const bq_http_limits *limits) {
  const char *colon = memchr(bytes + at, ':', end - at);
  if (colon == NULL) return -400;
  size_t name_end = (size_t)(colon - bytes);
  // A line that begins with white space is a folded one, and white space before the colon hides a name (section 5.1).
  if (name_end == at || !is_all(bytes + at, name_end - at, BQ_HTTP_TOKEN)) return -400;
  size_t from = name_end + 1;
  if (!is_all(bytes + from, end - from, BQ_HTTP_VALUE)) return -400;
  while (from < end && (bytes[from] == ' ' || bytes[from] == '\t')) from++;
  while (end > from && (bytes[end - 1] == ' ' || bytes[end - 1] == '\t')) end--;
  if (p->head.field_count >= limits->max_headers || p->head.field_count >= BQ_HTTP_MAX_HEADERS) return -431;
  bq_http_field *field = &p->fields[p->head.field_count++];
  field->name = slice(at, name_end);
  field->value = slice(from, end);
  return apply_field(p, bytes, field);
}

// An absolute target names the host a second time: another name could be read by somebody else.
static int hosts_agree(const bq_http_parser *p, const char *bytes) {
  if (p->authority.length == 0 || p->hosts == 0) return 1;
  bq_http_slice host = p->fields[p->host_index].value;
  return host.length == p->authority.length &&
         strncasecmp(bytes + host.at, bytes + p->authority.at, host.length) == 0;
}

static int check_whole(bq_http_parser *p, const char *bytes, const bq_http_limits *limits) {
  bq_http_head *head = &p->head;
  if ((head->minor >= 1 && p->hosts == 0) || !hosts_agree(p, bytes)) return -400;
  // Both lengths, or a chunked body of an HTTP/1.0 request: the classic ways to smuggle (section 6.1).
  if (head->chunked && (head->content_length >= 0 || head->minor == 0)) return -400;
  if (head->content_length >= 0 && (uint64_t)head->content_length > limits->max_body) return -413;
  if (head->keep_alive < 0) head->keep_alive = 0;
  return 0;
}

void bq_http_parser_reset(bq_http_parser *p) {
  memset(p, 0, offsetof(bq_http_parser, fields));
}

// Skips the one empty line that may stand before a request (section 2.2). Returns 0 when that can't be told yet.
static int begin(bq_http_parser *p, const char *bytes, size_t length) {
  if (length == 0 || (bytes[0] == '\r' && length < 2)) return 0;
  p->line_at = bytes[0] == '\r' && bytes[1] == '\n' ? 2 : 0;
  return length > p->line_at;
}

int64_t bq_http_parse(bq_http_parser *p, const char *bytes, size_t length, const bq_http_limits *limits) {
  if (p->scanned == 0) {
    if (!begin(p, bytes, length)) return 0;
    // What is no HTTP at all (TLS, say) may never send a line's end: its first byte gives it away.
    if ((bq_http_classes[(unsigned char)bytes[p->line_at]] & BQ_HTTP_TOKEN) == 0) return -400;
    p->scanned = p->line_at;
    p->head.content_length = -1;
  }
  for (;;) {
    const char *lf = memchr(bytes + p->scanned, '\n', length - p->scanned);
    size_t end = lf != NULL ? (size_t)(lf - bytes) + 1 : length; // of the line, or of what there is of it
    if (p->headers_at == 0 && end - p->line_at > limits->max_line + 2) return -414;
    if (p->headers_at > 0 && end - p->headers_at > limits->max_header_bytes) return -431;
    p->scanned = end;
    if (lf == NULL) return 0;
    size_t at = p->line_at;
    if (end - at < 2 || bytes[end - 2] != '\r') return -400; // a bare LF
    p->line_at = end;
    int status;
    if (p->headers_at == 0) {
      p->headers_at = end;
      status = parse_request_line(p, bytes, at, end - 2);
    } else if (end - at > 2) {
      status = parse_field_line(p, bytes, at, end - 2, limits);
    } else {
      status = check_whole(p, bytes, limits);
      return status < 0 ? status : (int64_t)end;
    }
    if (status < 0) return status;
  }
}
