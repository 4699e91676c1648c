// Inside of the configuration: the table's rows, and the raw values between reading and checking. Only for
// core/base/config*.c and their tests.
#ifndef BQ_BASE_CONFIG_INTERNAL_H
#define BQ_BASE_CONFIG_INTERNAL_H

#include <jansson.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/config.h"

typedef enum bq_config_kind {
  BQ_OPTION_BOOL,    // bool
  BQ_OPTION_INTEGER, // int, min to max
  BQ_OPTION_WORD,    // int: the index in `words`
  BQ_OPTION_STRING,  // char *
  BQ_OPTION_PATH,    // char *, made absolute from the current directory
  BQ_OPTION_SECRET,  // char *, resolved by secret.h, never shown
  BQ_OPTION_LIST,    // char **, NULL-terminated
  BQ_OPTION_SECRETS, // likewise, each item resolved by secret.h, never shown
  BQ_OPTION_OBJECT   // char *, a JSON object as text; a later source replaces it whole
} bq_config_kind;

typedef struct bq_config_option {
  const char *section;      // "BuildQueue", "Email" or "Notifications"
  const char *name;
  const char *misspelt;     // how the old service's example file spells it; NULL for most
  bq_config_kind kind;
  size_t offset;            // of the value in struct bq_config
  const char *standard;     // the default as text; NULL: it depends on the machine (see standard_help)
  const char *standard_help; // what the default is, in words; NULL: `standard` says it
  int min, max;             // integers: both included
  const char *unit;         // "minutes", "MB", ...; NULL when it counts things
  const char *const *words; // of BQ_OPTION_WORD, NULL-terminated
  const char *(*check)(const char *text); // of a text, secret or item: NULL, or what would be right
  bool reload;              // applies to a running server
  const char *help;         // one sentence
} bq_config_option;

extern const bq_config_option bq_config_options[];
extern const size_t bq_config_option_count;

// 1 when values of the row are not to be shown.
int bq_config_is_secret(const bq_config_option *option);

// The row of that name, any case, in that section (any case). `*misspelt` tells which of the
// two spellings it was. NULL when there is none.
const bq_config_option *bq_config_find(const char *section, const char *name, bool *misspelt);

// What values the row takes: "a whole number from 1 to 10000", "true or false", … The caller's.
char *bq_config_range_text(const bq_config_option *option);

// One value as it was given, before it is checked.
typedef enum bq_raw_kind { BQ_RAW_NONE, BQ_RAW_TEXT, BQ_RAW_INTEGER, BQ_RAW_BOOL, BQ_RAW_OTHER } bq_raw_kind;

typedef struct bq_config_raw {
  bq_raw_kind kind; // TEXT may still stand for a number: the environment knows nothing else. OTHER fits no option
  int layer;        // which source gave it, rising with precedence
  char *text;       // owned
  char *where;      // owned
} bq_config_raw;

typedef struct bq_config_slot {
  bq_config_raw by_name;
  bq_config_raw by_misspelt;
  bq_config_raw items[BQ_CONFIG_MAX_ITEMS]; // of lists
} bq_config_slot;

typedef struct bq_config_input {
  bq_config_slot *slots;           // owned; one a row of the table
  char *connection_strings_where;  // owned; the source that fills ConnectionStrings, NULL when none does
  bq_config_faults *faults;        // borrowed
  const bq_config_source *source;  // borrowed
  const char *const *environment;  // borrowed; never NULL
  int layer;                       // of the source being read
  bool no_memory;                  // a value or a fault was lost
} bq_config_input;

// Reads all sources into `input`. Faults go to its list; an error is returned for BQ_ENOMEM only.
int bq_config_read_sources(bq_config_input *input, bq_error *err);

// Turns the raw values into the fields of `config` (whose strings and lists are there and empty) and finds all faults.
// `origins` gets one text a row, borrowed from the input or constant.
void bq_config_check(bq_config_input *input, bq_config *config, const char **origins);
void bq_config_input_clear(bq_config_input *input);

// $XDG_STATE_HOME/buildq, else ~/.local/state/buildq; /var/lib/buildq for root; "" for a user without a home. The
// caller's.
char *bq_config_standard_state(uid_t uid, const char *const *environment);

// Adds a fault (texts are copied; NULL counts as ""). Without memory it sets *no_memory, so that nothing passes as right.
void bq_config_fault_add(bq_config_input *input, bool warning, const char *name, const char *value, const char *where,
                         const char *right_fmt, ...) BQ_PRINTF(6, 7);

// Checks of object options (config_objects.c): NULL, or what would be right.
const char *bq_config_check_credentials(const char *text);
const char *bq_config_check_base_images(const char *text);

// The value of one row as text: what print, diff and the log show. Secrets are "***", or "" when empty.
void bq_config_value_text(const bq_config *config, const bq_config_option *option, bq_buf *out);

// Where the value of row `index` came from. Borrowed.
const char *bq_config_origin(const bq_config *config, size_t index);

#endif
