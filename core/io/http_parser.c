#include "io/http_parser.h"

#include <string.h>
#include <strings.h>

static int is_digit(char c) {
  return c >= '0' && c <= '9';
}

static int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// tchar (RFC 9110, section 5.6.2)
static int is_token_byte(char c) {
  if (is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return 1;
  return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static int is_token(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (!is_token_byte(text[i])) return 0;
  }
  return length > 0;
}

// field-value bytes: visible, obs-text, space and tab (RFC 9110, section 5.5)
static int is_value_byte(char c) {
  unsigned char u = (unsigned char)c;
  return u == '\t' || (u >= ' ' && u != 0x7f);
}

static int is_word(const char *bytes, bq_http_slice slice, const char *word) {
  return slice.length == strlen(word) && strncasecmp(bytes + slice.at, word, slice.length) == 0;
}

// The end of the line that begins at `at`: the offset of its CR. -1: not there yet. -400: a bare LF, or a CR without LF.
// -2: it is longer than `max`. Looks at nothing behind the first byte that decides, so that it never matters how much
// more has come already.
static int64_t find_line_end(const char *bytes, size_t length, size_t at, size_t max) {
  size_t there = length - at;
  size_t window = there <= max ? there : max + 1;
  const char *cr = memchr(bytes + at, '\r', window);
  const char *lf = memchr(bytes + at, '\n', cr != NULL ? (size_t)(cr - bytes) - at : window);
  if (lf != NULL) return -400;
  if (cr == NULL) return there > max ? -2 : -1;
  if ((size_t)(cr - bytes) + 1 == length) return -1;
  return cr[1] == '\n' ? cr - bytes : -400;
}

// authority = host [":" port]: what can stand in a Host header.
static int is_authority(const char *text, size_t length) {
  if (length == 0 || length > 255) return 0;
  for (size_t i = 0; i < length; i++) {
    char c = text[i];
    if (is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("-._~:[]%!$&'()*+,;=", c) != NULL) {
      if (c != '\0') continue;
    }
    return 0;
  }
  return 1;
}

static int parse_target(const char *bytes, bq_http_slice target, bq_http_head *out) {
  size_t at = target.at;
  size_t end = target.at + target.length;
  for (size_t i = at; i < end; i++) {
    unsigned char c = (unsigned char)bytes[i];
    if (c <= ' ' || c >= 0x7f || c == '#') return -400;
  }
  if (bytes[at] != '/') {
    if (is_word(bytes, target, "*") && is_word(bytes, out->method, "OPTIONS")) {
      out->path = target;
      return 0;
    }
    // absolute-form (section 3.2.2): its authority counts, not the Host header.
    static const char scheme[] = "http://";
    if (target.length < sizeof scheme || strncasecmp(bytes + at, scheme, sizeof scheme - 1) != 0) return -400;
    at += sizeof scheme - 1;
    size_t authority = 0;
    while (at + authority < end && bytes[at + authority] != '/' && bytes[at + authority] != '?') authority++;
    if (!is_authority(bytes + at, authority)) return -400;
    out->host = (bq_http_slice){at, authority};
    at += authority;
  }
  const char *question = memchr(bytes + at, '?', end - at);
  size_t path_end = question != NULL ? (size_t)(question - bytes) : end;
  out->path = (bq_http_slice){at, path_end - at};
  if (question != NULL) out->query = (bq_http_slice){path_end + 1, end - path_end - 1};
  // An absolute target without a path names the root; its slice stays empty and decodes to "/".
  return 0;
}

static int parse_request_line(const char *bytes, size_t at, size_t end, bq_http_head *out) {
  const char *space = memchr(bytes + at, ' ', end - at);
  if (space == NULL) return -400;
  out->method = (bq_http_slice){at, (size_t)(space - bytes) - at};
  if (!is_token(bytes + at, out->method.length) || out->method.length > 32) return -400;
  size_t target_at = (size_t)(space - bytes) + 1;
  space = memchr(bytes + target_at, ' ', end - target_at);
  if (space == NULL) return -400;
  bq_http_slice target = {target_at, (size_t)(space - bytes) - target_at};
  size_t version_at = (size_t)(space - bytes) + 1;
  if (target.length == 0 || end - version_at != 8 || memcmp(bytes + version_at, "HTTP/", 5) != 0) return -400;
  const char *version = bytes + version_at + 5;
  if (!is_digit(version[0]) || version[1] != '.' || !is_digit(version[2])) return -400;
  if (version[0] != '1') return -505;
  out->minor = version[2] == '0' ? 0 : 1;
  return parse_target(bytes, target, out);
}

static int parse_length(const char *bytes, bq_http_slice value, bq_http_head *out) {
  if (value.length == 0 || value.length > 18) return -400;
  int64_t number = 0;
  for (size_t i = 0; i < value.length; i++) {
    char c = bytes[value.at + i];
    if (!is_digit(c)) return -400;
    number = number * 10 + (c - '0');
  }
  if (out->content_length >= 0 && out->content_length != number) return -400;
  out->content_length = number;
  return 0;
}

// What the header lines have said so far.
typedef struct seen {
  int host;              // how many Host lines
  bq_http_slice host_value;
  int transfer_encoding; // how many Transfer-Encoding lines
  int close;             // options of Connection
  int keep_alive;
} seen;

// Connection is a list of tokens, any case (RFC 9110, section 7.6.1).
static void parse_connection(const char *bytes, bq_http_slice value, seen *s) {
  size_t at = value.at;
  size_t end = value.at + value.length;
  while (at < end) {
    while (at < end && (bytes[at] == ',' || bytes[at] == ' ' || bytes[at] == '\t')) at++;
    size_t start = at;
    while (at < end && is_token_byte(bytes[at])) at++;
    if (at == start) return;
    bq_http_slice option = {start, at - start};
    if (is_word(bytes, option, "close")) s->close = 1;
    else if (is_word(bytes, option, "keep-alive")) s->keep_alive = 1;
  }
}

// Nothing but "chunked" alone is understood. Other codings before it are 501; chunked twice or not last leaves the
// body without a certain length (RFC 9112, section 6.3).
static int parse_transfer_encoding(const char *bytes, bq_http_slice value, bq_http_head *out) {
  if (is_word(bytes, value, "chunked")) {
    out->chunked = 1;
    return 0;
  }
  int chunked = 0;
  int last = 0;
  size_t end = value.at + value.length;
  for (size_t at = value.at; at < end;) {
    const char *comma = memchr(bytes + at, ',', end - at);
    size_t stop = comma != NULL ? (size_t)(comma - bytes) : end;
    bq_http_slice coding = {at, stop - at};
    while (coding.length > 0 && (bytes[coding.at] == ' ' || bytes[coding.at] == '\t')) {
      coding.at++;
      coding.length--;
    }
    while (coding.length > 0 && (bytes[coding.at + coding.length - 1] == ' ' || bytes[coding.at + coding.length - 1] == '\t')) {
      coding.length--;
    }
    if (coding.length == 0) return -400;
    last = is_word(bytes, coding, "chunked");
    chunked += last;
    at = stop + 1;
  }
  return chunked == 0 || (chunked == 1 && last) ? -501 : -400;
}

static int apply_header(const char *bytes, bq_http_slice name, bq_http_slice value, bq_http_head *out, seen *s) {
  if (is_word(bytes, name, "host")) {
    if (s->host++ > 0 || (value.length > 0 && !is_authority(bytes + value.at, value.length))) return -400;
    s->host_value = value;
  } else if (is_word(bytes, name, "content-length")) {
    return parse_length(bytes, value, out);
  } else if (is_word(bytes, name, "transfer-encoding")) {
    return s->transfer_encoding++ > 0 ? -400 : parse_transfer_encoding(bytes, value, out);
  } else if (is_word(bytes, name, "connection")) {
    parse_connection(bytes, value, s);
  } else if (is_word(bytes, name, "expect")) {
    if (!is_word(bytes, value, "100-continue")) return -417;
    out->expect_continue = out->minor >= 1;
  }
  return 0;
}

static int parse_header_line(const char *bytes, size_t at, size_t end, const bq_http_limits *limits, bq_http_head *out,
                             seen *s) {
  const char *colon = memchr(bytes + at, ':', end - at);
  // A line that begins with white space is a folded one, and white space before the colon hides a name (section 5.1).
  if (colon == NULL || !is_token(bytes + at, (size_t)(colon - bytes) - at)) return -400;
  bq_http_slice name = {at, (size_t)(colon - bytes) - at};
  size_t from = (size_t)(colon - bytes) + 1;
  while (from < end && (bytes[from] == ' ' || bytes[from] == '\t')) from++;
  while (end > from && (bytes[end - 1] == ' ' || bytes[end - 1] == '\t')) end--;
  bq_http_slice value = {from, end - from};
  for (size_t i = from; i < end; i++) {
    if (!is_value_byte(bytes[i])) return -400;
  }
  if (out->header_count >= limits->max_headers || out->header_count >= BQ_HTTP_MAX_HEADERS) return -431;
  out->names[out->header_count] = name;
  out->values[out->header_count] = value;
  out->header_count++;
  return apply_header(bytes, name, value, out, s);
}

static int check_whole(const char *bytes, const bq_http_limits *limits, bq_http_head *out, const seen *s) {
  if (out->minor >= 1 && s->host == 0) return -400;
  if (out->host.length == 0) {
    out->host = s->host_value;
  } else if (s->host > 0 && (s->host_value.length != out->host.length ||
                             strncasecmp(bytes + s->host_value.at, bytes + out->host.at, out->host.length) != 0)) {
    return -400; // an absolute target with another authority: two readers could choose differently
  }
  out->keep_alive = !s->close && (out->minor >= 1 || s->keep_alive);
  // Both lengths, or a chunked body of an HTTP/1.0 request: the classic ways to smuggle (section 6.1).
  if (out->chunked && (out->content_length >= 0 || out->minor == 0)) return -400;
  if (out->content_length >= 0 && (uint64_t)out->content_length > limits->max_body) return -413;
  return 0;
}

int64_t bq_http_parse_head(const char *bytes, size_t length, const bq_http_limits *limits, bq_http_head *out) {
  size_t at = 0;
  // One empty line before a request is ignored (section 2.2).
  if (length >= 1 && bytes[0] == '\r') {
    if (length < 2) return 0;
    if (bytes[1] != '\n') return -400;
    at = 2;
  }
  memset(out, 0, offsetof(bq_http_head, names)); // the slices need no zeros: header_count says how many there are
  out->content_length = -1;
  out->chunked = 0;
  out->expect_continue = 0;
  int64_t end = find_line_end(bytes, length, at, limits->max_line);
  if (end < 0) return end == -1 ? 0 : end == -2 ? -414 : end;
  int status = parse_request_line(bytes, at, (size_t)end, out);
  if (status < 0) return status;
  seen s = {0};
  size_t headers_at = (size_t)end + 2;
  for (at = headers_at;; at = (size_t)end + 2) {
    // What the lines so far have left; the last one's end may be up to two bytes behind.
    size_t used = at - headers_at;
    end = find_line_end(bytes, length, at, used < limits->max_header_bytes ? limits->max_header_bytes - used : 0);
    if (end < 0) return end == -1 ? 0 : end == -2 ? -431 : end;
    if ((size_t)end == at) break;
    status = parse_header_line(bytes, at, (size_t)end, limits, out, &s);
    if (status < 0) return status;
  }
  status = check_whole(bytes, limits, out, &s);
  return status < 0 ? status : end + 2;
}

// Whether the text is well-formed UTF-8 (RFC 3629, section 4).
static int is_utf8(const unsigned char *text, size_t length) {
  size_t i = 0;
  while (i < length) {
    unsigned char c = text[i++];
    if (c < 0x80) continue;
    size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    if (c < 0xc2 || c > 0xf4 || i + more > length) return 0;
    unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (text[i] < low || text[i] > high) return 0;
    for (size_t j = 1; j < more; j++) {
      if (text[i + j] < 0x80 || text[i + j] > 0xbf) return 0;
    }
    i += more;
  }
  return 1;
}

static int has_dot_segment(const char *path) {
  for (const char *at = path; (at = strstr(at, "/.")) != NULL; at++) {
    const char *rest = at + 2;
    if (*rest == '.') rest++;
    if (*rest == '\0' || *rest == '/') return 1;
  }
  return 0;
}

int bq_http_decode_path(const char *path, size_t length, char *out) {
  size_t used = 0;
  for (size_t i = 0; i < length; i++) {
    char c = path[i];
    if (c == '%') {
      int high = i + 2 < length ? hex_value(path[i + 1]) : -1;
      int low = high >= 0 ? hex_value(path[i + 2]) : -1;
      if (low < 0) return BQ_EINVAL;
      c = (char)(high * 16 + low);
      i += 2;
    }
    if ((unsigned char)c < ' ' || c == 0x7f || c == '\\') return BQ_EINVAL;
    out[used++] = c;
  }
  if (used == 0) out[used++] = '/';
  out[used] = '\0';
  if (!is_utf8((const unsigned char *)out, used) || has_dot_segment(out)) return BQ_EINVAL;
  return 0;
}

// One byte of a chunk's framing. Returns 0 or -400, -431.
static int step_framing(bq_dechunk *d, char c) {
  switch (d->state) {
  case BQ_DECHUNK_SIZE: {
    int value = hex_value(c);
    if (value >= 0) {
      if (++d->digits > 15) return -400;
      d->left = d->left * 16 + (unsigned)value;
      return 0;
    }
    if (d->digits == 0) return -400;
    d->last = d->left == 0;
    if (c == '\r') d->state = BQ_DECHUNK_SIZE_LF;
    else if (c == ';') d->state = BQ_DECHUNK_EXTENSION;
    else return -400;
    return 0;
  }
  case BQ_DECHUNK_EXTENSION:
  case BQ_DECHUNK_QUOTED:
    if (++d->extension > BQ_HTTP_MAX_EXTENSION_BYTES) return -400;
    if (d->state == BQ_DECHUNK_QUOTED) {
      if (!is_value_byte(c)) return -400;
      if (d->escaped) d->escaped = 0;
      else if (c == '\\') d->escaped = 1;
      else if (c == '"') d->state = BQ_DECHUNK_EXTENSION;
    } else if (c == '\r') {
      d->state = BQ_DECHUNK_SIZE_LF;
    } else if (c == '"') {
      d->state = BQ_DECHUNK_QUOTED;
    } else if (!is_token_byte(c) && c != ';' && c != '=' && c != ' ' && c != '\t') {
      return -400;
    }
    return 0;
  case BQ_DECHUNK_SIZE_LF:
    if (c != '\n') return -400;
    d->state = d->last ? BQ_DECHUNK_TRAILER : BQ_DECHUNK_DATA;
    d->digits = 0;
    d->extension = 0;
    return 0;
  case BQ_DECHUNK_DATA_CR:
    if (c != '\r') return -400;
    d->state = BQ_DECHUNK_DATA_LF;
    return 0;
  case BQ_DECHUNK_DATA_LF:
    if (c != '\n') return -400;
    d->state = BQ_DECHUNK_SIZE;
    return 0;
  case BQ_DECHUNK_TRAILER: // read and dropped: nothing here asks for trailers
    if (++d->trailer > BQ_HTTP_MAX_TRAILER_BYTES) return -431;
    if (c == '\r') {
      d->state = BQ_DECHUNK_TRAILER_LF;
      return 0;
    }
    d->trailer_line++;
    return is_value_byte(c) ? 0 : -400;
  case BQ_DECHUNK_TRAILER_LF:
    if (c != '\n') return -400;
    d->state = d->trailer_line == 0 ? BQ_DECHUNK_DONE : BQ_DECHUNK_TRAILER;
    d->trailer_line = 0;
    return 0;
  case BQ_DECHUNK_DATA:
  case BQ_DECHUNK_DONE: break;
  }
  return 0;
}

int bq_http_dechunk(bq_dechunk *d, const char *bytes, size_t length, size_t *consumed, const char **data,
                    size_t *data_length) {
  size_t at = 0;
  *data = bytes;
  *data_length = 0;
  while (at < length && d->state != BQ_DECHUNK_DONE) {
    if (d->state == BQ_DECHUNK_DATA) {
      size_t piece = length - at < d->left ? length - at : (size_t)d->left;
      *data = bytes + at;
      *data_length = piece;
      at += piece;
      d->left -= piece;
      if (d->left == 0) d->state = BQ_DECHUNK_DATA_CR;
      break; // one piece of data a call
    }
    int status = step_framing(d, bytes[at++]);
    if (status < 0) {
      *consumed = at;
      return status;
    }
  }
  *consumed = at;
  return d->state == BQ_DECHUNK_DONE;
}
