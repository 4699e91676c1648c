#include "io/mask.h"

#include <stdint.h>
#include <string.h>

#include "base/memory.h"

// A secret itself, and base64 at three alignments in two alphabets.
enum { FORMS = 7, MAX_PATTERNS = BQ_MASK_MAX_SECRETS * FORMS, NO_PATTERN = -1, SKIP_BYTES = 64 };

typedef struct pattern {
  char *bytes; // owned
  size_t length;
  int next; // index of the next pattern with the same first byte, or NO_PATTERN
} pattern;

// Most builds have no secrets of their own: their set has no such table, which is large.
typedef struct table {
  pattern patterns[MAX_PATTERNS];
  int first[256];       // index of the first pattern that begins with this byte, or NO_PATTERN
  uint8_t pairs[65536]; // 1: some pattern begins with these two bytes
} table;

struct bq_mask_set {
  const bq_mask_set *base; // borrowed; NULL: none
  table *table;            // owned; from the first secret on
  int count;               // patterns in use
  int secrets;             // secrets they stand for
};

static const char standard[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char for_urls[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

int bq_mask_set_new(bq_mask_set **out, const bq_mask_set *base, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  if (*out == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the secrets of a build");
  (*out)->base = base;
  return 0;
}

void bq_mask_set_free(bq_mask_set *set) {
  if (set == NULL) return;
  for (int i = 0; i < set->count; i++) {
    explicit_bzero(set->table->patterns[i].bytes, set->table->patterns[i].length);
    bq_free(set->table->patterns[i].bytes);
  }
  bq_free(set->table);
  bq_free(set);
}

int bq_mask_set_count(const bq_mask_set *set) {
  return set->secrets;
}

const bq_mask_set *bq_mask_set_base(const bq_mask_set *set) {
  return set->base;
}

static int has(const bq_mask_set *set, const char *bytes, size_t length) {
  if (set->base != NULL && has(set->base, bytes, length)) return 1;
  for (int i = 0; i < set->count; i++) {
    const pattern *p = &set->table->patterns[i];
    if (p->length == length && memcmp(p->bytes, bytes, length) == 0) return 1;
  }
  return 0;
}

static int make_table(bq_mask_set *set, bq_error *err) {
  if (set->table != NULL) return 0;
  table *made = bq_alloc(sizeof *made);
  if (made == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the secrets of a build");
  for (size_t i = 0; i < 256; i++) made->first[i] = NO_PATTERN;
  set->table = made;
  return 0;
}

static int add_pattern(bq_mask_set *set, const char *bytes, size_t length, bq_error *err) {
  if (has(set, bytes, length)) return 0;
  char *copy = bq_strndup(bytes, length);
  if (copy == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a secret");
  const unsigned char *u = (const unsigned char *)bytes;
  table *t = set->table;
  t->patterns[set->count] = (pattern){.bytes = copy, .length = length, .next = t->first[u[0]]};
  t->first[u[0]] = set->count++;
  t->pairs[u[0] << 8 | u[1]] = 1;
  return 0;
}

// What stands in base64 text for `bytes` that begin `before` (0, 1, 2) bytes into a group of three, without the
// characters that also depend on its neighbours.
static size_t encode(const char *bytes, size_t length, size_t before, const char *alphabet, char *out) {
  size_t bits = (before + length) * 8;
  size_t written = 0;
  for (size_t bit = before == 0 ? 0 : (before * 8 + 5) / 6 * 6; bit + 6 <= bits; bit += 6) {
    size_t index = bit / 8 - before;
    unsigned pair = (unsigned)(unsigned char)bytes[index] << 8;
    if (index + 1 < length) pair |= (unsigned char)bytes[index + 1];
    out[written++] = alphabet[pair >> (10 - bit % 8) & 63];
  }
  return written;
}

int bq_mask_set_add(bq_mask_set *set, const char *secret, size_t length, bq_error *err) {
  while (length > 0 && (secret[length - 1] == '\n' || secret[length - 1] == '\r')) length--;
  if (length < BQ_MASK_MIN_BYTES || length > BQ_MASK_MAX_BYTES) {
    return bq_fail(err, BQ_EINVAL, "a secret of %zu bytes can't be masked in logs; it must have %d to %d bytes", length,
                   BQ_MASK_MIN_BYTES, BQ_MASK_MAX_BYTES);
  }
  if (has(set, secret, length)) return 0;
  if (set->secrets == BQ_MASK_MAX_SECRETS) {
    return bq_fail(err, BQ_ELIMIT, "a build can't use more than %d secrets", BQ_MASK_MAX_SECRETS);
  }
  int result = make_table(set, err);
  if (result < 0) return result;
  set->secrets++;
  result = add_pattern(set, secret, length, err);
  if (result < 0) return result;
  size_t room = length / 3 * 4 + 8;
  char *text = bq_alloc(room);
  if (text == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a secret");
  for (size_t before = 0; result == 0 && before < 3; before++) {
    size_t n = encode(secret, length, before, standard, text);
    result = add_pattern(set, text, n, err);
    n = encode(secret, length, before, for_urls, text);
    if (result == 0) result = add_pattern(set, text, n, err);
  }
  explicit_bzero(text, room);
  bq_free(text);
  return result;
}

// The length of the longest pattern at `bytes`, 0 for none. `*may_go_on` is 1 when a longer one could follow with more
// bytes than there are.
static size_t match(const bq_mask_set *set, const char *bytes, size_t length, int *may_go_on) {
  size_t longest = 0;
  *may_go_on = 0;
  for (; set != NULL; set = set->base) {
    const table *t = set->table;
    if (t == NULL) continue;
    for (int i = t->first[(unsigned char)bytes[0]]; i != NO_PATTERN; i = t->patterns[i].next) {
      const pattern *p = &t->patterns[i];
      size_t compare = p->length < length ? p->length : length;
      if (memcmp(p->bytes, bytes, compare) != 0) continue;
      if (p->length > length) *may_go_on = 1;
      else if (p->length > longest) longest = p->length;
    }
  }
  return longest;
}

static int may_begin(const bq_mask_set *set, const char *bytes, size_t length) {
  const unsigned char *u = (const unsigned char *)bytes;
  for (; set != NULL; set = set->base) {
    const table *t = set->table;
    if (t == NULL) continue;
    if (length == 1 ? t->first[u[0]] != NO_PATTERN : t->pairs[u[0] << 8 | u[1]]) return 1;
  }
  return 0;
}

// Where to look next from `i` on: before it, no secret begins. A short way at a time, so that a set whose bytes are rare
// is not walked again and again for the sake of another.
static size_t skip(const bq_mask_set *set, const char *bytes, size_t i, size_t length) {
  const unsigned char *u = (const unsigned char *)bytes;
  size_t end = length - i > SKIP_BYTES ? i + SKIP_BYTES : length - 1; // the last byte has no pair
  for (; set != NULL; set = set->base) {
    const table *t = set->table;
    if (t == NULL) continue;
    for (size_t at = i; at < end; at++) {
      if (t->pairs[u[at] << 8 | u[at + 1]]) end = at;
    }
  }
  return end;
}

static int is_empty(const bq_mask_set *set) {
  while (set != NULL && set->count == 0) set = set->base;
  return set == NULL;
}

// Returns how many bytes are dealt with; the rest may begin a secret. Overlapping secrets are masked as one.
static size_t run(bq_mask *mask, const char *bytes, size_t length, int last, bq_buf *out) {
  size_t shown = 0; // bytes before this are in `out`, or masked
  size_t i = 0;
  while (i < length) {
    size_t found = 0;
    if (mask->masked_left == 0) i = skip(mask->set, bytes, i, length);
    if (may_begin(mask->set, bytes + i, length - i)) {
      int may_go_on;
      found = match(mask->set, bytes + i, length - i, &may_go_on);
      if (may_go_on && !last) break;
    }
    if (found > 0 && mask->masked_left == 0) {
      bq_buf_add(out, bytes + shown, i - shown);
      bq_buf_adds(out, "***");
    }
    if (found > mask->masked_left) mask->masked_left = found;
    i++;
    if (mask->masked_left > 0) {
      mask->masked_left--;
      shown = i;
    }
  }
  bq_buf_add(out, bytes + shown, i - shown);
  return i;
}

void bq_mask_feed(bq_mask *mask, const char *bytes, size_t length, bq_buf *out) {
  if (length == 0) return;
  if (is_empty(mask->set)) {
    bq_buf_add(out, bytes, length);
  } else if (mask->held.length == 0) {
    size_t done = run(mask, bytes, length, 0, out);
    if (done < length) bq_buf_add(&mask->held, bytes + done, length - done);
  } else {
    bq_buf_add(&mask->held, bytes, length);
    if (!mask->held.failed) bq_buf_consume(&mask->held, run(mask, mask->held.data, mask->held.length, 0, out));
  }
  if (mask->held.failed) {
    out->failed = 1;
    bq_buf_free(&mask->held);
  }
}

void bq_mask_end(bq_mask *mask, bq_buf *out) {
  if (mask->held.length > 0) (void)run(mask, mask->held.data, mask->held.length, 1, out);
  bq_buf_free(&mask->held);
  mask->masked_left = 0;
}

void bq_mask_text(const bq_mask_set *set, const char *bytes, size_t length, bq_buf *out) {
  bq_mask mask = {.set = set};
  bq_mask_feed(&mask, bytes, length, out);
  bq_mask_end(&mask, out);
}
