// The codec's second half: paths, and bodies in chunks.
#include <string.h>

#include "io/http_parser.h"

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
      int high = length - i > 2 ? bq_http_hex(path[i + 1]) : -1;
      int low = high >= 0 ? bq_http_hex(path[i + 2]) : -1;
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

static int is_of(char c, unsigned char class) {
  return (bq_http_classes[(unsigned char)c] & class) != 0;
}

// The size is whole: what comes next is decided by the byte behind it.
static int end_size(bq_dechunk *d, uint64_t max_body, char c) {
  if (d->digits == 0 || (d->state == BQ_DECHUNK_SPACE && c == '\r')) return -400;
  if (d->left > max_body || d->total > max_body - d->left) return -413;
  d->last = d->left == 0;
  if (c == '\r') d->state = BQ_DECHUNK_SIZE_LF;
  else if (c == ';') d->state = BQ_DECHUNK_EXTENSION;
  else if (c == ' ' || c == '\t') d->state = BQ_DECHUNK_SPACE;
  else return -400;
  return 0;
}

static int step_size(bq_dechunk *d, uint64_t max_body, char c) {
  enum { MAX_DIGITS = 15 };
  int value = d->state == BQ_DECHUNK_SIZE ? bq_http_hex(c) : -1;
  if (value < 0) {
    if (d->state == BQ_DECHUNK_SPACE && ++d->extension > BQ_HTTP_MAX_EXTENSION_BYTES) return -431;
    return end_size(d, max_body, c);
  }
  if (++d->digits > MAX_DIGITS) return -400;
  d->left = d->left * 16 + (unsigned)value;
  return 0;
}

static int step_extension(bq_dechunk *d, char c) {
  if (++d->extension > BQ_HTTP_MAX_EXTENSION_BYTES) return -431;
  if (d->state == BQ_DECHUNK_QUOTED) {
    if (!is_of(c, BQ_HTTP_VALUE)) return -400;
    if (d->escaped) d->escaped = 0;
    else if (c == '\\') d->escaped = 1;
    else if (c == '"') d->state = BQ_DECHUNK_EXTENSION;
  } else if (c == '\r') {
    d->state = BQ_DECHUNK_SIZE_LF;
  } else if (c == '"') {
    d->state = BQ_DECHUNK_QUOTED;
  } else if (!is_of(c, BQ_HTTP_TOKEN) && c != ';' && c != '=' && c != ' ' && c != '\t') {
    return -400;
  }
  return 0;
}

static int step_trailer(bq_dechunk *d, char c) {
  if (++d->trailer > BQ_HTTP_MAX_TRAILER_BYTES) return -431;
  if (c == '\r') {
    if (d->trailer_name > 0 && !d->trailer_value) return -400; // a line without a colon
    d->state = BQ_DECHUNK_TRAILER_LF;
  } else if (d->trailer_value) {
    return is_of(c, BQ_HTTP_VALUE) ? 0 : -400;
  } else if (c == ':') {
    if (d->trailer_name == 0) return -400;
    d->trailer_value = 1;
  } else {
    d->trailer_name++;
    return is_of(c, BQ_HTTP_TOKEN) ? 0 : -400;
  }
  return 0;
}

// One byte of the framing. Returns 0 or a negative status.
static int step_framing(bq_dechunk *d, uint64_t max_body, char c) {
  switch (d->state) {
  case BQ_DECHUNK_SIZE:
  case BQ_DECHUNK_SPACE: return step_size(d, max_body, c);
  case BQ_DECHUNK_EXTENSION:
  case BQ_DECHUNK_QUOTED: return step_extension(d, c);
  case BQ_DECHUNK_SIZE_LF:
    if (c != '\n') return -400;
    d->total += d->left;
    d->state = d->last ? BQ_DECHUNK_TRAILER : BQ_DECHUNK_DATA;
    d->digits = 0;
    return 0;
  case BQ_DECHUNK_DATA_CR:
    d->state = BQ_DECHUNK_DATA_LF;
    return c == '\r' ? 0 : -400;
  case BQ_DECHUNK_DATA_LF:
    d->state = BQ_DECHUNK_SIZE;
    return c == '\n' ? 0 : -400;
  case BQ_DECHUNK_TRAILER: return step_trailer(d, c);
  case BQ_DECHUNK_TRAILER_LF:
    if (c != '\n') return -400;
    d->state = d->trailer_name == 0 ? BQ_DECHUNK_DONE : BQ_DECHUNK_TRAILER;
    d->trailer_name = 0;
    d->trailer_value = 0;
    return 0;
  case BQ_DECHUNK_DATA: // read in pieces by bq_http_dechunk
  case BQ_DECHUNK_DONE: return 0;
  }
  return 0;
}

int bq_http_dechunk(bq_dechunk *d, uint64_t max_body, const char *bytes, size_t length, size_t *consumed,
                    const char **data, size_t *data_length) {
  size_t at = 0;
  int status = 0;
  *data = bytes;
  *data_length = 0;
  while (at < length && status == 0 && d->state != BQ_DECHUNK_DONE) {
    if (d->state == BQ_DECHUNK_DATA) {
      size_t piece = length - at < d->left ? length - at : (size_t)d->left;
      *data = bytes + at;
      *data_length = piece;
      at += piece;
      d->left -= piece;
      if (d->left == 0) d->state = BQ_DECHUNK_DATA_CR;
      break; // one piece of data a call
    }
    status = step_framing(d, max_body, bytes[at++]);
  }
  *consumed = at;
  return status < 0 ? status : d->state == BQ_DECHUNK_DONE;
}
