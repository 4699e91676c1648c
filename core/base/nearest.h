// The known word that a misspelt one most likely means.
#ifndef BQ_BASE_NEAREST_H
#define BQ_BASE_NEAREST_H

#include <stddef.h>

// How many letters must be put in, taken out, replaced or swapped with their neighbour to make `b` of `a`, in any case
// (optimal string alignment). Words longer than 64 bytes count as unlike everything: SIZE_MAX.
size_t bq_nearest_distance(const char *a, const char *b);

// The word of `known` (NULL-terminated) with the smallest distance, the first of several; NULL when none is nearer than
// a third of the longer one's letters plus one: then a guess would only mislead.
const char *bq_nearest(const char *word, const char *const *known);

#endif
