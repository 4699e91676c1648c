// Mails without a mail server: files in StateDirectory/outbox, bounded by the janitor.
#ifndef BQ_QUEUE_MAIL_FILES_H
#define BQ_QUEUE_MAIL_FILES_H

enum { BQ_MAIL_FILES_MAX = 1000 }; // kept; the oldest go first

// Removes what is older than `days`, the oldest beyond BQ_MAIL_FILES_MAX, and what a server left half-written more than
// an hour ago. Blocks; any thread. A directory that isn't there is fine.
void bq_mail_files_clean(const char *state_directory, int days);

#endif
