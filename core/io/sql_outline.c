#include "io/sql_outline.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

typedef struct outline {
  const char *at; // what is to be read
  bq_buf *out;
  int spaced;     // white space, or a comment, came before what is next
  int begins;     // a statement begins here
  int muted;      // up to the end of this statement: what `set` sets
} outline;

static void put(outline *o, const char *text, size_t length) {
  if (!o->muted) {
    if (o->spaced && o->out->length > 0) bq_buf_addc(o->out, ' ');
    bq_buf_add(o->out, text, length);
  }
  o->spaced = 0;
  o->begins = 0;
}

static int is_word(char c) {
  return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static void skip_comment(outline *o) {
  if (*o->at == '-') {
    o->at += strcspn(o->at, "\n");
  } else {
    int depth = 0;
    do {
      if (strncmp(o->at, "/*", 2) == 0) depth++;
      else if (strncmp(o->at, "*/", 2) == 0) depth--;
      else if (*o->at == '\0') return;
      o->at += strncmp(o->at, "/*", 2) == 0 || strncmp(o->at, "*/", 2) == 0 ? 2 : 1;
    } while (depth > 0);
  }
  o->spaced = 1;
}

// From a quote to behind its end: a doubled one is part of it, and what a backslash precedes, where it escapes.
// `*backslash`: there was one that doesn't.
static void skip_quoted(outline *o, int escapes, int *backslash) {
  char quote = *o->at++;
  while (*o->at != '\0') {
    int escaped = (*o->at == '\\' && escapes && o->at[1] != '\0') || (*o->at == quote && o->at[1] == quote);
    if (*o->at == '\\' && !escapes) *backslash = 1;
    if (*o->at == quote && !escaped) break;
    o->at += escaped ? 2 : 1;
  }
  if (*o->at != '\0') o->at++;
}

static void read_literal(outline *o, int escapes) {
  int backslash = 0;
  skip_quoted(o, escapes, &backslash);
  put(o, "?", 1);
  if (!backslash) return;
  bq_buf_adds(o->out, " ...");
  o->at += strlen(o->at);
}

// The length of $tag$ at `text`, 0 when it is none.
static size_t tag_length(const char *text) {
  size_t length = 1;
  if (isdigit((unsigned char)text[1])) return 0;
  while (is_word(text[length])) length++;
  return text[length] == '$' ? length + 1 : 0;
}

static void read_dollar(outline *o) {
  size_t length = tag_length(o->at);
  if (length == 0) { // a parameter
    for (length = 1; isdigit((unsigned char)o->at[length]); length++) {}
    put(o, o->at, length);
    o->at += length;
    return;
  }
  const char *tag = o->at;
  o->at += length;
  while (*o->at != '\0' && strncmp(o->at, tag, length) != 0) o->at++;
  if (*o->at != '\0') o->at += length;
  put(o, "?", 1);
}

static void read_word(outline *o) {
  const char *word = o->at;
  int first = o->begins;
  while (is_word(*o->at) || *o->at == '$') o->at++;
  size_t length = (size_t)(o->at - word);
  if (*o->at == '\'' && length == 1 && strchr("eEbBxXnN", word[0]) != NULL) {
    read_literal(o, word[0] == 'e' || word[0] == 'E');
    return;
  }
  put(o, word, length);
  if (!first || length != 3 || strncasecmp(word, "set", 3) != 0) return;
  put(o, " ?", 2);
  o->muted = 1;
}

static void read_other(outline *o) {
  if (*o->at == ';') {
    o->muted = 0;
    put(o, ";", 1);
    o->begins = 1;
  } else {
    put(o, *o->at == 0x7f ? "?" : o->at, 1);
  }
  o->at++;
}

static void read_name(outline *o) {
  const char *name = o->at;
  int ignored = 0;
  skip_quoted(o, 0, &ignored);
  put(o, name, (size_t)(o->at - name));
}

void bq_sql_outline(const char *query, bq_buf *out) {
  outline o = {.at = query, .out = out, .begins = 1};
  while (*o.at != '\0') {
    char c = *o.at;
    if ((unsigned char)c <= ' ') {
      o.spaced = 1;
      o.at++;
    } else if (strncmp(o.at, "--", 2) == 0 || strncmp(o.at, "/*", 2) == 0) {
      skip_comment(&o);
    } else if (c == '\'') {
      read_literal(&o, 0);
    } else if (c == '"') {
      read_name(&o);
    } else if (c == '$') {
      read_dollar(&o);
    } else if (isdigit((unsigned char)c)) {
      while (is_word(*o.at) || *o.at == '.') o.at++;
      put(&o, "?", 1);
    } else if (is_word(c)) {
      read_word(&o);
    } else {
      read_other(&o);
    }
  }
}
