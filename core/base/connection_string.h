// PostgreSQL connection strings: what people write, what libpq takes, and what may be shown.
//
// Three forms are taken: the .NET one of Npgsql (`Host=db;Port=5432;Username=u;Password="a;b"`), a libpq URI
// (`postgresql://…`) and libpq keywords (`host=db user=u`). A text with `;` between pairs is .NET's; so is one whose
// keys libpq does not know. Thread rule: any thread.
#ifndef BQ_BASE_CONNECTION_STRING_H
#define BQ_BASE_CONNECTION_STRING_H

#include "base/error.h"
#include "base/secret.h"

enum { BQ_CONNECTION_STRING_MAX = 8192 }; // bytes of one connection string; BQ_ELIMIT beyond

// The libpq form of `text`. .NET's is rewritten into keywords; the other two are checked (libpq's own complaints quote
// pieces of the text, ours never do) and copied. `*out` is the caller's (bq_free).
//
// `*notes` is NULL, or lists the .NET keys that have no meaning here ("Pooling, Command Timeout"); the caller's. When
// `secrets` is given, a .NET Password that is a reference (secret.h) is looked up.
int bq_connection_string_translate(const char *text, const bq_secret_source *secrets, char **out, char **notes,
                                   bq_error *err) BQ_MUSTCHECK;

// A libpq form for people: all of it, with *** in place of each password. `*out` is the caller's.
int bq_connection_string_printable(const char *libpq_text, char **out, bq_error *err) BQ_MUSTCHECK;

// Makes the passwords in a libpq form known to the log, as they are written and as they are meant (bq_log_hide).
int bq_connection_string_hide(const char *libpq_text, bq_error *err) BQ_MUSTCHECK;

#endif
