// The demonstration build of `make run`: submitted, followed, and explained, beside the running server.
#ifndef BQ_CLI_DEMONSTRATE_H
#define BQ_CLI_DEMONSTRATE_H

// Submits the manifests (files in ManifestDirectory; ended by NULL), one after the other, to the server at `address`,
// follows each build on standard output, and prints what can be tried in a second terminal. On a thread of its own;
// blocks until the end.
void bq_demonstrate(const char *address, const char *const *manifests);

#endif
