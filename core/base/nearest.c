#include "base/nearest.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

enum { MAX_WORD = 64 };

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

size_t bq_nearest_distance(const char *a, const char *b) {
  size_t rows = strlen(a);
  size_t columns = strlen(b);
  if (rows > MAX_WORD || columns > MAX_WORD) return SIZE_MAX;
  size_t cost[MAX_WORD + 1][MAX_WORD + 1];
  for (size_t i = 0; i <= rows; i++) cost[i][0] = i;
  for (size_t j = 0; j <= columns; j++) cost[0][j] = j;
  for (size_t i = 1; i <= rows; i++) {
    for (size_t j = 1; j <= columns; j++) {
      int here = tolower((unsigned char)a[i - 1]);
      int there = tolower((unsigned char)b[j - 1]);
      size_t replaced = cost[i - 1][j - 1] + (here == there ? 0 : 1);
      cost[i][j] = least(replaced, least(cost[i - 1][j], cost[i][j - 1]) + 1);
      int swapped = i > 1 && j > 1 && here == tolower((unsigned char)b[j - 2]) &&
                    there == tolower((unsigned char)a[i - 2]);
      if (swapped) cost[i][j] = least(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[rows][columns];
}

const char *bq_nearest(const char *word, const char *const *known) {
  const char *best = NULL;
  size_t best_distance = SIZE_MAX;
  for (; *known != NULL; known++) {
    size_t longer = strlen(word) > strlen(*known) ? strlen(word) : strlen(*known);
    size_t distance = bq_nearest_distance(word, *known);
    if (distance < best_distance && distance <= longer / 3 + 1) {
      best = *known;
      best_distance = distance;
    }
  }
  return best;
}
