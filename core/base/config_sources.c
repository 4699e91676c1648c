// Reading: files and the environment become raw values in the input's slots, one a row of the table.
//
// As in .NET, a place is a path of names with colons ("BuildQueue:AllowedHosts:0"): nested objects in a file, a key
// with colons in a file, or a variable with __ (or colons) in the environment. Later layers win, place by place.
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/config_internal.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/nearest.h"
#include "base/secret.h"

enum { MAX_NAME = 512 }; // bytes of a place; longer ones are no option of ours

typedef struct place {
  char text[MAX_NAME]; // "BuildQueue:AllowedHosts:0"
  const char *section; // the spelling of `sections`
  char *name;          // in text; the first name behind the section, NULL when there is none
  char *rest;          // in text; what follows it, NULL when nothing does
} place;

static const char *const sections[] = {"BuildQueue", "Email", "Notifications", "ConnectionStrings", NULL};

// Takes "Section:Name:rest" apart. 0 when the section is not ours.
static int place_parse(place *p, const char *text) {
  *p = (place){0};
  size_t length = strlen(text);
  if (length >= sizeof p->text) return 0;
  memcpy(p->text, text, length + 1);
  char *colon = strchr(p->text, ':');
  if (colon != NULL) {
    *colon = '\0';
    p->name = colon + 1;
    colon = strchr(p->name, ':');
    if (colon != NULL) {
      *colon = '\0';
      p->rest = colon + 1;
    }
  }
  for (size_t i = 0; sections[i] != NULL; i++) {
    if (strcasecmp(p->text, sections[i]) == 0) p->section = sections[i];
  }
  return p->section != NULL;
}

// A name that sounds like a secret's: its value is not shown even though no option has that name.
static int sounds_secret(const char *name) {
  static const char *const words[] = {"pass", "pwd", "secret", "token", "key", "cred", "connection", "auth", NULL};
  for (size_t i = 0; words[i] != NULL; i++) {
    if (strcasestr(name, words[i]) != NULL) return 1;
  }
  return 0;
}

// The right name for an unknown one: that of another section when it has exactly it, else the nearest of this one.
static const bq_config_option *guess(const char *section, const char *name) {
  bool misspelt;
  const bq_config_option *found = NULL;
  for (size_t i = 0; found == NULL && sections[i] != NULL; i++) found = bq_config_find(sections[i], name, &misspelt);
  if (found != NULL) return found;
  const char **names = bq_alloc_array(bq_config_option_count + 1, sizeof *names);
  if (names == NULL) return NULL;
  size_t count = 0;
  for (size_t i = 0; i < bq_config_option_count; i++) {
    if (strcmp(bq_config_options[i].section, section) == 0) names[count++] = bq_config_options[i].name;
  }
  const char *nearest = bq_nearest(name, names);
  if (nearest != NULL) found = bq_config_find(section, nearest, &misspelt);
  bq_free(names);
  return found;
}

static void unknown_name(bq_config_input *input, const place *p, const char *value, const char *where) {
  char *name = bq_format("%s.%s%s%s", p->section, p->name, p->rest != NULL ? "." : "", p->rest != NULL ? p->rest : "");
  if (name == NULL) {
    input->no_memory = true;
    return;
  }
  const bq_config_option *meant = guess(p->section, p->name);
  int hidden = (meant != NULL && bq_config_is_secret(meant)) || sounds_secret(name);
  const char *shown = hidden && *value != '\0' ? "***" : value;
  if (meant != NULL) {
    bq_config_fault_add(input, false, name, shown, where, "is not an option; did you mean %s.%s?", meant->section,
                        meant->name);
  } else {
    bq_config_fault_add(input, false, name, shown, where, "is not an option; take it out");
  }
  bq_free(name);
}

static void raw_set(bq_config_input *input, bq_config_raw *raw, const bq_config_option *option, bq_raw_kind kind,
                    const char *text, const char *where) {
  const char *shown = bq_config_is_secret(option) ? "***" : text;
  char name[MAX_NAME];
  (void)snprintf(name, sizeof name, "%s.%s", option->section, option->name);
  if (strlen(text) > BQ_CONFIG_MAX_VALUE) {
    bq_config_fault_add(input, false, name, shown, where, "must be at most %d bytes long", BQ_CONFIG_MAX_VALUE);
    return;
  }
  if (raw->layer == input->layer && strcmp(raw->text, text) != 0) {
    bq_config_fault_add(input, false, name, shown, where,
                        "is given twice with different values (names are the same in any case)");
    return;
  }
  char *text_copy = bq_strdup(text);
  char *where_copy = bq_strdup(where);
  if (text_copy == NULL || where_copy == NULL) {
    input->no_memory = true;
    bq_free(text_copy);
    bq_free(where_copy);
    return;
  }
  bq_free(raw->text);
  bq_free(raw->where);
  *raw = (bq_config_raw){.kind = kind, .layer = input->layer, .text = text_copy, .where = where_copy};
}

static void put_item(bq_config_input *input, const bq_config_option *option, const char *index, bq_raw_kind kind,
                     const char *text, const char *where) {
  size_t digits = strspn(index, "0123456789");
  long at = digits > 0 && digits <= 4 && index[digits] == '\0' ? strtol(index, NULL, 10) : -1;
  const char *shown = bq_config_is_secret(option) ? "***" : text;
  char name[MAX_NAME];
  (void)snprintf(name, sizeof name, "%s.%s[%.32s]", option->section, option->name, index);
  if (at < 0 || at >= BQ_CONFIG_MAX_ITEMS) {
    bq_config_fault_add(input, false, name, shown, where, "must have an index from 0 to %d", BQ_CONFIG_MAX_ITEMS - 1);
    return;
  }
  raw_set(input, &input->slots[option - bq_config_options].items[at], option, kind, text, where);
}

// Puts one value at its place. `text` is what a person would recognise, also for kinds that fit no option.
static void put(bq_config_input *input, const char *path, bq_raw_kind kind, const char *text, const char *where) {
  place p;
  if (!place_parse(&p, path)) return;
  if (strcmp(p.section, "ConnectionStrings") == 0) {
    if (p.name == NULL || *text == '\0' || kind == BQ_RAW_NONE || kind == BQ_RAW_OTHER) return;
    bq_free(input->connection_strings_where);
    input->connection_strings_where = bq_strdup(where);
    if (input->connection_strings_where == NULL) input->no_memory = true;
    return;
  }
  if (p.name == NULL) {
    if (kind == BQ_RAW_NONE) return;
    bq_config_fault_add(input, false, p.section, sounds_secret(text) ? "***" : text, where,
                        "must be an object with options in it");
    return;
  }
  bool misspelt = false;
  const bq_config_option *option = bq_config_find(p.section, p.name, &misspelt);
  if (option == NULL) {
    unknown_name(input, &p, text, where);
    return;
  }
  if (kind == BQ_RAW_NONE) return; // null: as if it were not there
  const char *shown = bq_config_is_secret(option) ? "***" : text;
  char name[MAX_NAME];
  (void)snprintf(name, sizeof name, "%s.%s", option->section, option->name);
  if (option->kind == BQ_OPTION_LIST || option->kind == BQ_OPTION_SECRETS) {
    if (p.rest != NULL) put_item(input, option, p.rest, kind, text, where);
    else if (strcmp(text, "[]") != 0 || kind != BQ_RAW_OTHER) {
      bq_config_fault_add(input, false, name, shown, where, "must be a list of texts, such as [\"a\", \"b\"] in a file or "
                          "%s__%s__0=a in the environment", option->section, option->name);
    }
    return;
  }
  if (p.rest != NULL && option->kind == BQ_OPTION_OBJECT) {
    bq_config_fault_add(input, false, name, "", where, "must be given whole: an object in a file, or its JSON as the text "
                        "of %s__%s in the environment", option->section, option->name);
    return;
  }
  if (p.rest != NULL) {
    bq_config_fault_add(input, false, name, shown, where, "must be a single value, not a list or an object");
    return;
  }
  bq_config_slot *slot = &input->slots[option - bq_config_options];
  raw_set(input, misspelt ? &slot->by_misspelt : &slot->by_name, option, kind, text, where);
}

static void put_json(bq_config_input *input, const char *path, json_t *value, const char *where, int depth);

// Puts each member of an object or array at its place below `path` ("" at the top of the file).
static void put_members(bq_config_input *input, const char *path, json_t *value, const char *where, int depth) {
  const char *separator = *path != '\0' ? ":" : "";
  if (json_is_array(value)) {
    for (size_t i = 0; i < json_array_size(value); i++) {
      char *below = bq_format("%s%s%zu", path, separator, i);
      if (below == NULL) input->no_memory = true;
      else put_json(input, below, json_array_get(value, i), where, depth + 1);
      bq_free(below);
    }
    return;
  }
  const char *key;
  json_t *member;
  json_object_foreach(value, key, member) {
    char *below = bq_format("%s%s%s", path, separator, key);
    place p;
    if (below == NULL) input->no_memory = true;
    else if (place_parse(&p, below)) put_json(input, below, member, where, depth + 1);
    bq_free(below);
  }
}

// 1 when the place is that of an object option, whose value is taken as it stands.
static int put_object(bq_config_input *input, const char *path, json_t *value, const char *where) {
  place p;
  bool misspelt;
  if (!json_is_object(value) || !place_parse(&p, path) || p.name == NULL || p.rest != NULL) return 0;
  const bq_config_option *option = bq_config_find(p.section, p.name, &misspelt);
  if (option == NULL || option->kind != BQ_OPTION_OBJECT) return 0;
  char *text = bq_json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS);
  if (text == NULL) input->no_memory = true;
  else put(input, path, BQ_RAW_TEXT, text, where);
  bq_free(text);
  return 1;
}

static void put_json(bq_config_input *input, const char *path, json_t *value, const char *where, int depth) {
  char number[32];
  if (put_object(input, path, value, where)) return;
  switch (json_typeof(value)) {
  case JSON_OBJECT:
    if (json_object_size(value) > 0) put_members(input, path, value, where, depth);
    else if (depth > 1) put(input, path, BQ_RAW_OTHER, "{}", where);
    break;
  case JSON_ARRAY:
    if (json_array_size(value) > 0) put_members(input, path, value, where, depth);
    else put(input, path, BQ_RAW_OTHER, "[]", where);
    break;
  case JSON_STRING: put(input, path, BQ_RAW_TEXT, json_string_value(value), where); break;
  case JSON_INTEGER:
    (void)snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    put(input, path, BQ_RAW_INTEGER, number, where);
    break;
  case JSON_REAL:
    (void)snprintf(number, sizeof number, "%.15g", json_real_value(value));
    put(input, path, BQ_RAW_OTHER, number, where);
    break;
  case JSON_TRUE: put(input, path, BQ_RAW_BOOL, "true", where); break;
  case JSON_FALSE: put(input, path, BQ_RAW_BOOL, "false", where); break;
  case JSON_NULL: put(input, path, BQ_RAW_NONE, "", where); break;
  }
}

// Reads one file as the next layer. A file that can't be read or understood is a fault, so that the rest is checked too.
static int read_file(bq_config_input *input, const char *path, bool must_exist, bool *found, bq_error *err) {
  char *text = NULL;
  size_t length;
  json_t *root = NULL;
  bq_error problem = {0};
  *found = true;
  int code = bq_file_read(path, BQ_CONFIG_MAX_BYTES, &text, &length, &problem);
  if (code == BQ_ENOTFOUND && !must_exist) {
    *found = false;
    return 0;
  }
  if (code == 0) code = bq_json_parse(text, length, BQ_JSON_RELAXED, &root, &problem);
  if (code == BQ_ENOMEM) {
    bq_free(text);
    return bq_fail(err, BQ_ENOMEM, "%s", problem.message);
  }
  input->layer++;
  if (code < 0) bq_config_fault_add(input, false, path, "", "", "%s", problem.message);
  else if (!json_is_object(root)) bq_config_fault_add(input, false, path, "", "", "must hold one JSON object");
  else put_members(input, "", root, path, 0);
  json_decref(root);
  bq_free(text);
  return 0;
}

// "dir/appsettings.json" and "Production" make "dir/appsettings.Production.json".
static int read_overlay(bq_config_input *input, const char *path, bq_error *err) {
  const char *environment = bq_environment_get(input->environment, "DOTNET_ENVIRONMENT");
  if (environment == NULL || *environment == '\0') environment = "Production";
  if (strchr(environment, '/') != NULL) {
    bq_config_fault_add(input, false, "DOTNET_ENVIRONMENT", environment, "environment", "must not hold a slash");
    return 0;
  }
  const char *file = strrchr(path, '/');
  file = file != NULL ? file + 1 : path;
  const char *dot = strrchr(file, '.');
  size_t stem = dot != NULL && dot != file ? (size_t)(dot - path) : strlen(path);
  char *overlay = bq_format("%.*s.%s%s", (int)stem, path, environment, path + stem);
  if (overlay == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a path");
  bool found;
  int code = read_file(input, overlay, false, &found, err);
  bq_free(overlay);
  return code;
}

static int read_files(bq_config_input *input, bq_error *err) {
  const bq_config_source *source = input->source;
  const char *candidates[] = {source->local_path != NULL ? source->local_path : "appsettings.json",
                              source->system_path != NULL ? source->system_path : "/etc/buildq/appsettings.json"};
  bool found = false;
  if (source->path != NULL) {
    int code = read_file(input, source->path, true, &found, err);
    return code < 0 ? code : read_overlay(input, source->path, err);
  }
  for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++) {
    int code = read_file(input, candidates[i], false, &found, err);
    if (code < 0) return code;
    if (found) return read_overlay(input, candidates[i], err);
  }
  return 0;
}

// One variable: `__` stands for a colon, as in .NET.
static void read_variable(bq_config_input *input, const char *entry) {
  const char *equals = strchr(entry, '=');
  char name[MAX_NAME];
  if (equals == NULL || (size_t)(equals - entry) >= sizeof name) return;
  size_t length = 0;
  for (const char *c = entry; c < equals; c++) {
    if (c[0] == '_' && c[1] == '_') {
      name[length++] = ':';
      c++;
    } else {
      name[length++] = *c;
    }
  }
  name[length] = '\0';
  // "Email" alone is somebody else's variable.
  if (strchr(name, ':') == NULL) return;
  char where[MAX_NAME + 16];
  (void)snprintf(where, sizeof where, "environment %.*s", (int)(equals - entry), entry);
  put(input, name, BQ_RAW_TEXT, equals + 1, where);
}

int bq_config_read_sources(bq_config_input *input, bq_error *err) {
  int code = read_files(input, err);
  if (code < 0) return code;
  input->layer++;
  for (const char *const *entry = input->environment; *entry != NULL; entry++) read_variable(input, *entry);
  return 0;
}

static void raw_clear(bq_config_raw *raw) {
  bq_free(raw->text);
  bq_free(raw->where);
  *raw = (bq_config_raw){0};
}

void bq_config_input_clear(bq_config_input *input) {
  for (size_t i = 0; input->slots != NULL && i < bq_config_option_count; i++) {
    raw_clear(&input->slots[i].by_name);
    raw_clear(&input->slots[i].by_misspelt);
    for (size_t j = 0; j < BQ_CONFIG_MAX_ITEMS; j++) raw_clear(&input->slots[i].items[j]);
  }
  bq_free(input->slots);
  bq_free(input->connection_strings_where);
  input->slots = NULL;
  input->connection_strings_where = NULL;
}

char *bq_config_standard_state(uid_t uid, const char *const *environment) {
  if (uid == 0) return bq_strdup("/var/lib/buildq");
  const char *state = bq_environment_get(environment, "XDG_STATE_HOME");
  // The XDG specification: a relative path here counts as not set.
  if (state != NULL && *state == '/') return bq_format("%s/buildq", state);
  const char *home = bq_environment_get(environment, "HOME");
  if (home != NULL && *home == '/') return bq_format("%s/.local/state/buildq", home);
  char buffer[4096];
  struct passwd entry;
  struct passwd *user = NULL;
  if (getpwuid_r(uid, &entry, buffer, sizeof buffer, &user) == 0 && user != NULL && *user->pw_dir == '/') {
    return bq_format("%s/.local/state/buildq", user->pw_dir);
  }
  return bq_strdup(""); // nobody's home: the checker asks for the option
}
