// The form of a label: what a server offers and a build may need, such as "dotnet", "gpu" or "arch=arm64".
//
// Thread rule: any thread.
#ifndef BQ_BASE_LABEL_H
#define BQ_BASE_LABEL_H

#define BQ_LABEL_RULE "1 to 64 letters, digits and . _ + = / -, a letter or a digit first"

enum {
  BQ_LABEL_MAX = 64, // bytes
  BQ_MAX_NEEDS = 32  // labels that a build may need
};

int bq_label_is(const char *text);

#endif
