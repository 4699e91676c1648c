// The .NET connection string (DbConnectionStringBuilder's grammar, Npgsql's names) into libpq keywords.
#include "base/connection_string.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/connection_internal.h"
#include "base/memory.h"

enum { MAX_HOSTS = 16, MAX_NUMBER = 9 };

typedef enum net_kind {
  NET_COPY,       // the value as it is
  NET_HOST,       // may hold ports: "a:5433,b"
  NET_PASSWORD,   // may be a reference
  NET_SECONDS,    // a whole number
  NET_BOOL,       // true or false into 1 or 0
  NET_SSL_MODE,   // a word of Npgsql's into one of libpq's
  NET_SESSION,    // likewise
  NET_LOWER,      // a word that libpq has in lower-case
  NET_SEARCH_PATH, // into options
  NET_IGNORED     // means nothing here; noted
} net_kind;

typedef struct net_key {
  const char *name; // without blanks, lower-case: "SSL Mode" and "SslMode" are the same
  const char *keyword;
  net_kind kind;
} net_key;

static const net_key net_keys[] = {
  {"host", "host", NET_HOST}, {"server", "host", NET_HOST},
  {"port", "port", NET_SECONDS},
  {"database", "dbname", NET_COPY}, {"db", "dbname", NET_COPY},
  {"username", "user", NET_COPY}, {"userid", "user", NET_COPY}, {"uid", "user", NET_COPY},
  {"user", "user", NET_COPY},
  {"password", "password", NET_PASSWORD}, {"pwd", "password", NET_PASSWORD}, {"psw", "password", NET_PASSWORD},
  {"passfile", "passfile", NET_COPY},
  {"sslmode", "sslmode", NET_SSL_MODE},
  {"sslcertificate", "sslcert", NET_COPY}, {"sslkey", "sslkey", NET_COPY},
  {"sslpassword", "sslpassword", NET_PASSWORD}, {"rootcertificate", "sslrootcert", NET_COPY},
  {"channelbinding", "channel_binding", NET_LOWER},
  {"kerberosservicename", "krbsrvname", NET_COPY},
  {"timeout", "connect_timeout", NET_SECONDS}, {"connectiontimeout", "connect_timeout", NET_SECONDS},
  {"applicationname", "application_name", NET_COPY},
  {"targetsessionattributes", "target_session_attrs", NET_SESSION},
  {"tcpkeepalive", "keepalives", NET_BOOL}, {"tcpkeepalivetime", "keepalives_idle", NET_SECONDS},
  {"tcpkeepaliveinterval", "keepalives_interval", NET_SECONDS},
  {"options", "options", NET_COPY}, {"searchpath", "options", NET_SEARCH_PATH},
  {"commandtimeout", NULL, NET_IGNORED}, {"internalcommandtimeout", NULL, NET_IGNORED},
  {"cancellationtimeout", NULL, NET_IGNORED}, {"keepalive", NULL, NET_IGNORED},
  {"pooling", NULL, NET_IGNORED}, {"minimumpoolsize", NULL, NET_IGNORED}, {"minpoolsize", NULL, NET_IGNORED},
  {"maximumpoolsize", NULL, NET_IGNORED}, {"maxpoolsize", NULL, NET_IGNORED},
  {"connectionidlelifetime", NULL, NET_IGNORED}, {"connectionpruninginterval", NULL, NET_IGNORED},
  {"connectionlifetime", NULL, NET_IGNORED}, {"loadbalancetimeout", NULL, NET_IGNORED},
  {"loadbalancehosts", NULL, NET_IGNORED}, {"hostrecheckseconds", NULL, NET_IGNORED},
  {"noresetonclose", NULL, NET_IGNORED}, {"maxautoprepare", NULL, NET_IGNORED},
  {"autoprepareminusages", NULL, NET_IGNORED}, {"readbuffersize", NULL, NET_IGNORED},
  {"writebuffersize", NULL, NET_IGNORED}, {"socketreceivebuffersize", NULL, NET_IGNORED},
  {"socketsendbuffersize", NULL, NET_IGNORED}, {"enlist", NULL, NET_IGNORED}, {"encoding", NULL, NET_IGNORED},
  {"clientencoding", NULL, NET_IGNORED}, {"timezone", NULL, NET_IGNORED},
  {"includeerrordetail", NULL, NET_IGNORED}, {"includeerrordetails", NULL, NET_IGNORED},
  {"logparameters", NULL, NET_IGNORED}, {"persistsecurityinfo", NULL, NET_IGNORED},
  {"trustservercertificate", NULL, NET_IGNORED}, {"checkcertificaterevocation", NULL, NET_IGNORED},
  {"integratedsecurity", NULL, NET_IGNORED}, {"includerealm", NULL, NET_IGNORED},
  {"multiplexing", NULL, NET_IGNORED}, {"writecoalescingbufferthresholdbytes", NULL, NET_IGNORED},
  {"loadtablecomposites", NULL, NET_IGNORED}, {"arraynullabilitymode", NULL, NET_IGNORED},
  {"servercompatibilitymode", NULL, NET_IGNORED}, {"entitytemplatedatabase", NULL, NET_IGNORED},
  {"entityadmindatabase", NULL, NET_IGNORED}, {"useperfcounters", NULL, NET_IGNORED},
  {"convertinfinitydatetime", NULL, NET_IGNORED},
};

enum { NET_KEY_COUNT = sizeof net_keys / sizeof net_keys[0], KEYWORDS = 20 };

static const char *const ssl_modes[][2] = {
  {"disable", "disable"}, {"allow", "allow"}, {"prefer", "prefer"}, {"require", "require"},
  {"verifyca", "verify-ca"}, {"verify-ca", "verify-ca"}, {"verifyfull", "verify-full"}, {"verify-full", "verify-full"},
  {NULL, NULL},
};

static const char *const sessions[][2] = {
  {"any", "any"}, {"primary", "primary"}, {"standby", "standby"}, {"preferstandby", "prefer-standby"},
  {"prefer-standby", "prefer-standby"}, {"readwrite", "read-write"}, {"read-write", "read-write"},
  {"readonly", "read-only"}, {"read-only", "read-only"}, {NULL, NULL},
};

// The row for a key of `length` bytes, any case, blanks left out.
static const net_key *find_key(const char *key, size_t length) {
  char plain[48];
  size_t used = 0;
  for (size_t i = 0; i < length; i++) {
    if (key[i] == ' ') continue;
    if (used + 1 >= sizeof plain) return NULL;
    plain[used++] = (char)tolower((unsigned char)key[i]);
  }
  plain[used] = '\0';
  for (size_t i = 0; i < NET_KEY_COUNT; i++) {
    if (strcmp(net_keys[i].name, plain) == 0) return &net_keys[i];
  }
  return NULL;
}

static int is_space(char c) {
  return isspace((unsigned char)c);
}

static void trim_end(bq_buf *text) {
  while (text->length > 0 && is_space(text->data[text->length - 1])) text->data[--text->length] = '\0';
}

// Reads "key=value" at `*at` and moves behind its semicolon. 1: a pair, 0: the end. A doubled = belongs to the key, a
// value in quotes keeps everything, a doubled quote in it is one quote. Errors name the place, never the text.
static int net_next(const char *start, const char **at, bq_buf *key, bq_buf *value, bq_error *err) {
  const char *c = *at;
  bq_buf_clear(key);
  bq_buf_clear(value);
  while (*c == ';' || is_space(*c)) c++;
  if (*c == '\0') return 0;
  size_t column = (size_t)(c - start) + 1;
  for (; *c != '\0' && *c != ';' && (*c != '=' || c[1] == '='); c++) {
    if (*c == '=') c++;
    bq_buf_addc(key, *c);
  }
  trim_end(key);
  if (*c != '=' || key->length == 0) {
    return bq_fail(err, BQ_EINVAL, "no key=value at character %zu of the connection string (a value with a ; in it must "
                   "stand in quotes)", column);
  }
  c++;
  while (is_space(*c)) c++;
  if (*c == '"' || *c == '\'') {
    char quote = *c++;
    for (; *c != '\0' && (*c != quote || c[1] == quote); c++) {
      if (*c == quote) c++;
      bq_buf_addc(value, *c);
    }
    if (*c != quote) {
      return bq_fail(err, BQ_EINVAL, "the quoted value of the pair at character %zu has no end", column);
    }
    c++;
    while (is_space(*c)) c++;
    if (*c != ';' && *c != '\0') {
      return bq_fail(err, BQ_EINVAL, "text behind the quoted value of the pair at character %zu (a quote in it must be "
                     "doubled)", column);
    }
  } else {
    while (*c != '\0' && *c != ';') bq_buf_addc(value, *c++);
    trim_end(value);
    char last = value->length > 0 ? value->data[value->length - 1] : '\0';
    if (last == '"' || last == '\'') {
      return bq_fail(err, BQ_EINVAL, "the value of the pair at character %zu ends with a quote but does not begin with "
                     "one; put it in quotes", column);
    }
  }
  *at = c;
  bq_buf_adds(value, ""); // an empty value is a text, too
  int code = key->failed ? bq_buf_check(key, err) : bq_buf_check(value, err);
  return code < 0 ? code : 1;
}

// 1 when a .NET pair begins behind the semicolon at `c`, or nothing more comes behind the only pair.
static int net_goes_on(const char *c, int pairs) {
  const char *name = c + 1;
  while (is_space(*name)) name++;
  const char *equals = strchr(name, '=');
  size_t length = equals != NULL ? (size_t)(equals - name) : 0;
  while (length > 0 && is_space(name[length - 1])) length--;
  return (length > 0 && find_key(name, length) != NULL) || (*name == '\0' && pairs == 1);
}

// 1 when `text` is meant as libpq keywords: it parses so, libpq knows all keys, and no .NET pair hides in a value without
// quotes. 0 when it is .NET's. Without any ; the first key tells the two apart, and what follows may be broken
// (BQ_EINVAL).
static int is_keywords(const char *text, bq_error *err) {
  bq_buf key = {0};
  bq_buf value = {0};
  const char *at = text;
  const char *before = at;
  int pairs = 0;
  int net = 0;
  int code;
  while ((code = bq_libpq_next(&at, &key, &value, err)) > 0 && bq_libpq_knows(key.data)) {
    pairs++;
    const char *raw = strchr(before, '=') + 1;
    while (is_space(*raw)) raw++;
    for (const char *c = raw; *raw != '\'' && c < at; c++) {
      if (*c == ';' && net_goes_on(c, pairs)) net = 1;
    }
    before = at;
  }
  bq_buf_free(&key);
  bq_buf_free(&value);
  if (code == BQ_ENOMEM) return code;
  if (code == 0) return !net;
  if (pairs == 0 || strchr(text, ';') != NULL) return 0;
  if (code < 0) return code;
  return bq_fail(err, BQ_EINVAL, "keyword %d of the connection string is none of libpq's (a value with a blank must "
                 "stand in single quotes)", pairs + 1);
}

typedef struct translation {
  char *values[KEYWORDS];          // owned; one a keyword that was given
  const char *keywords[KEYWORDS];
  size_t count;
  bq_buf notes;
  const bq_secret_source *secrets; // borrowed; may be NULL
} translation;

static int fail_value(const net_key *key, const char *right, bq_error *err) {
  return bq_fail(err, BQ_EINVAL, "%s in the connection string must be %s", key->name, right);
}

// Keeps a value for a keyword; the last one of the same keyword counts, as in .NET. Takes `value` over.
static int keep(translation *t, const char *keyword, char *value, bq_error *err) {
  if (value == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a connection string");
  size_t at = 0;
  while (at < t->count && strcmp(t->keywords[at], keyword) != 0) at++;
  if (at == KEYWORDS) {
    bq_free(value);
    return bq_fail(err, BQ_ELIMIT, "the connection string has too many different keys");
  }
  if (at == t->count) t->count++;
  bq_free(t->values[at]);
  t->keywords[at] = keyword;
  t->values[at] = value;
  return 0;
}

static const char *kept(const translation *t, const char *keyword) {
  for (size_t i = 0; i < t->count; i++) {
    if (strcmp(t->keywords[i], keyword) == 0) return t->values[i];
  }
  return NULL;
}

static int is_number(const char *text) {
  size_t digits = strspn(text, "0123456789");
  return digits > 0 && digits <= MAX_NUMBER && text[digits] == '\0';
}

// "a:5433,[::1]:5434,b" into libpq's two lists, hosts and ports; a host without a port leaves its place empty.
static int keep_hosts(translation *t, const net_key *key, const char *value, bq_error *err) {
  bq_buf hosts = {0};
  bq_buf ports = {0};
  int any_port = 0;
  int count = 0;
  int code = 0;
  for (const char *at = value;; at++) {
    size_t length = strcspn(at, ",");
    char host[512];
    if (++count > MAX_HOSTS || length >= sizeof host) {
      code = fail_value(key, "at most 16 hosts", err);
      goto cleanup;
    }
    memcpy(host, at, length);
    host[length] = '\0';
    char *name = host + strspn(host, " ");
    if (strpbrk(name, " =") != NULL) {
      code = fail_value(key, "a host name or address without blanks (pairs are separated by ;)", err);
      goto cleanup;
    }
    char *colon = *name != '/' ? strrchr(name, ':') : NULL;
    char *bracket = strrchr(name, ']');
    // One colon, or one behind the bracket of an IPv6 address, is a port's.
    if (colon != NULL && (bracket != NULL ? colon < bracket : strchr(name, ':') != colon)) colon = NULL;
    if (colon != NULL) *colon = '\0';
    if (colon != NULL && !is_number(colon + 1)) {
      code = fail_value(key, "a host, or hosts with ports such as a:5433,b:5433", err);
      goto cleanup;
    }
    if (*name == '[' && bracket != NULL) {
      name++;
      *bracket = '\0';
    }
    bq_buf_addf(&hosts, "%s%s", count > 1 ? "," : "", name);
    bq_buf_addf(&ports, "%s%s", count > 1 ? "," : "", colon != NULL ? colon + 1 : "");
    any_port |= colon != NULL;
    at += length;
    if (*at == '\0') break;
  }
  code = keep(t, "host", bq_buf_take(&hosts), err);
  if (code == 0 && any_port) code = keep(t, "port of hosts", bq_buf_take(&ports), err);
cleanup:
  bq_buf_free(&hosts);
  bq_buf_free(&ports);
  return code;
}

static int keep_word(translation *t, const net_key *key, const char *value, const char *const words[][2],
                     const char *right, bq_error *err) {
  for (size_t i = 0; words[i][0] != NULL; i++) {
    if (strcasecmp(words[i][0], value) == 0) return keep(t, key->keyword, bq_strdup(words[i][1]), err);
  }
  return fail_value(key, right, err);
}

static int keep_password(translation *t, const net_key *key, const char *value, bq_error *err) {
  char *secret = NULL;
  if (t->secrets == NULL) return keep(t, key->keyword, bq_strdup(value), err);
  int code = bq_secret_resolve(value, t->secrets, &secret, err);
  return code < 0 ? code : keep(t, key->keyword, secret, err);
}

// Adds "-c search_path=…" to the options; a blank or backslash in it is escaped as the server's options want it.
static int keep_search_path(translation *t, const char *value, bq_error *err) {
  bq_buf option = {0};
  bq_buf_adds(&option, "-c search_path=");
  for (; *value != '\0'; value++) {
    if (is_space(*value) || *value == '\\') bq_buf_addc(&option, '\\');
    bq_buf_addc(&option, *value);
  }
  return keep(t, "search path", bq_buf_take(&option), err);
}

static int take_pair(translation *t, const net_key *key, const bq_buf *name, const char *value, bq_error *err) {
  char *lower;
  // As in .NET, an empty value is as good as none.
  if (*value == '\0') return 0;
  switch (key->kind) {
  case NET_COPY: return keep(t, key->keyword, bq_strdup(value), err);
  case NET_HOST: return keep_hosts(t, key, value, err);
  case NET_PASSWORD: return keep_password(t, key, value, err);
  case NET_SECONDS:
    if (!is_number(value)) return fail_value(key, "a whole number", err);
    return keep(t, key->keyword, bq_strdup(value), err);
  case NET_BOOL:
    if (strcasecmp(value, "true") == 0) return keep(t, key->keyword, bq_strdup("1"), err);
    if (strcasecmp(value, "false") == 0) return keep(t, key->keyword, bq_strdup("0"), err);
    return fail_value(key, "true or false", err);
  case NET_SSL_MODE:
    return keep_word(t, key, value, ssl_modes, "Disable, Allow, Prefer, Require, VerifyCA or VerifyFull", err);
  case NET_SESSION:
    return keep_word(t, key, value, sessions, "Any, Primary, Standby, PreferStandby, ReadWrite or ReadOnly", err);
  case NET_LOWER:
    lower = bq_strdup(value);
    for (char *c = lower; c != NULL && *c != '\0'; c++) *c = (char)tolower((unsigned char)*c);
    return keep(t, key->keyword, lower, err);
  case NET_SEARCH_PATH: return keep_search_path(t, value, err);
  case NET_IGNORED: bq_buf_addf(&t->notes, "%s%s", t->notes.length > 0 ? ", " : "", name->data); return 0;
  }
  return 0;
}

// Writes the kept values as libpq keywords. Two of them are only parts: ports given with hosts, and the search path.
static void write_keywords(const translation *t, bq_buf *out) {
  const char *search_path = kept(t, "search path");
  const char *options = kept(t, "options");
  const char *ports = kept(t, "port of hosts");
  const char *port = kept(t, "port");
  bq_buf joined = {0};
  for (size_t i = 0; i < t->count; i++) {
    const char *keyword = t->keywords[i];
    if (strchr(keyword, ' ') != NULL || strcmp(keyword, "options") == 0) continue;
    if (strcmp(keyword, "port") == 0 && ports != NULL) continue;
    bq_libpq_add(out, keyword, t->values[i]);
  }
  if (ports != NULL) {
    // An empty place takes the port of the whole, as Npgsql does.
    for (const char *at = ports;; at++) {
      size_t length = strcspn(at, ",");
      if (length > 0) bq_buf_add(&joined, at, length);
      else if (port != NULL) bq_buf_adds(&joined, port);
      at += length;
      if (*at == '\0') break;
      bq_buf_addc(&joined, ',');
    }
    bq_buf_adds(&joined, "");
    if (joined.failed) out->failed = 1;
    else bq_libpq_add(out, "port", joined.data);
  }
  if (options != NULL || search_path != NULL) {
    bq_buf_clear(&joined);
    bq_buf_addf(&joined, "%s%s%s", options != NULL ? options : "", options != NULL && search_path != NULL ? " " : "",
                search_path != NULL ? search_path : "");
    if (joined.failed) out->failed = 1;
    else bq_libpq_add(out, "options", joined.data);
  }
  bq_buf_free(&joined);
}

static int from_net(const char *text, const bq_secret_source *secrets, char **out, char **notes, bq_error *err) {
  translation t = {.secrets = secrets};
  bq_buf key = {0};
  bq_buf value = {0};
  bq_buf libpq = {0};
  const char *at = text;
  const char *before = at;
  int code;
  while ((code = net_next(text, &at, &key, &value, err)) > 0) {
    const net_key *row = find_key(key.data, key.length);
    if (row == NULL) {
      // The key is not shown: behind an unquoted ; it may be a piece of a password.
      size_t column = (size_t)(before - text) + strspn(before, "; \t") + 1;
      code = bq_fail(err, BQ_EINVAL, "the key at character %zu of the connection string is unknown (known are Host, "
                     "Port, Database, Username, Password, SSL Mode, ...; a value with a ; must stand in quotes)", column);
      goto cleanup;
    }
    code = take_pair(&t, row, &key, value.data, err);
    if (code < 0) goto cleanup;
    before = at;
  }
  if (code < 0) goto cleanup;
  write_keywords(&t, &libpq);
  code = libpq.failed || t.notes.failed ? bq_fail(err, BQ_ENOMEM, "out of memory for a connection string") : 0;
  if (code < 0) goto cleanup;
  *out = bq_buf_take(&libpq);
  if (t.notes.length > 0) *notes = bq_buf_take(&t.notes);
  if (*out == NULL) code = bq_fail(err, BQ_ENOMEM, "out of memory for a connection string");
cleanup:
  for (size_t i = 0; i < t.count; i++) bq_free(t.values[i]);
  bq_buf_free(&t.notes);
  bq_buf_free(&key);
  bq_buf_free(&value);
  bq_buf_free(&libpq);
  return code;
}

int bq_connection_string_translate(const char *text, const bq_secret_source *secrets, char **out, char **notes,
                                   bq_error *err) {
  *out = NULL;
  *notes = NULL;
  text += strspn(text, " \t\r\n");
  if (strlen(text) > BQ_CONNECTION_STRING_MAX) {
    return bq_fail(err, BQ_ELIMIT, "the connection string is longer than %d bytes", BQ_CONNECTION_STRING_MAX);
  }
  int is_uri = bq_libpq_is_uri(text);
  int code = is_uri ? bq_libpq_check_uri(text, err) : is_keywords(text, err);
  if (code < 0) return code;
  if (code == 0 && !is_uri) return from_net(text, secrets, out, notes, err);
  *out = bq_strdup(text);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for a connection string");
}
