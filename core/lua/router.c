#include "lua/router.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

typedef struct segment {
  const char *text; // inside the route's pattern: the word, or the parameter's name
  size_t length;
  int is_param;
} segment;

typedef struct route {
  char *pattern; // owned
  char method[16];
  segment segments[BQ_ROUTE_MAX_SEGMENTS];
  size_t segment_count;
  int handler;
} route;

struct bq_router {
  route *routes; // owned, `count` in use; the order never matters for a match
  size_t count;
  size_t capacity;
};

int bq_router_new(bq_router **out, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for the router");
}

void bq_router_free(bq_router *router) {
  if (router == NULL) return;
  for (size_t i = 0; i < router->count; i++) bq_free(router->routes[i].pattern);
  bq_free(router->routes);
  bq_free(router);
}

static int is_name_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static int read_param(segment *s, const char *pattern, bq_error *err) {
  if (s->text[s->length - 1] != '}' || s->length < 3) {
    return bq_fail(err, BQ_EINVAL, "route %s: a parameter is written {name}, alone between slashes", pattern);
  }
  s->text++;
  s->length -= 2;
  s->is_param = 1;
  for (size_t i = 0; i < s->length; i++) {
    if (is_name_byte(s->text[i])) continue;
    return bq_fail(err, BQ_EINVAL, "route %s: a parameter's name has letters, digits and _ only", pattern);
  }
  return 0;
}

static int read_pattern(route *r, bq_error *err) {
  const char *pattern = r->pattern;
  if (pattern[0] != '/') return bq_fail(err, BQ_EINVAL, "route %s: a path begins with a slash", pattern);
  const char *at = pattern + 1;
  while (*at != '\0') {
    if (r->segment_count == BQ_ROUTE_MAX_SEGMENTS) {
      return bq_fail(err, BQ_ELIMIT, "route %s: more than %d segments", pattern, BQ_ROUTE_MAX_SEGMENTS);
    }
    segment *s = &r->segments[r->segment_count++];
    *s = (segment){.text = at, .length = strcspn(at, "/")};
    at += s->length;
    if (s->length == 0) return bq_fail(err, BQ_EINVAL, "route %s: an empty segment", pattern);
    if (*s->text == '{') {
      int result = read_param(s, pattern, err);
      if (result < 0) return result;
    }
    if (*at == '/') {
      at++;
      if (*at == '\0') return bq_fail(err, BQ_EINVAL, "route %s: no slash at the end", pattern);
    }
  }
  return 0;
}

static int same_shape(const route *a, const route *b) {
  if (strcmp(a->method, b->method) != 0 || a->segment_count != b->segment_count) return 0;
  for (size_t i = 0; i < a->segment_count; i++) {
    const segment *x = &a->segments[i];
    const segment *y = &b->segments[i];
    if (x->is_param != y->is_param) return 0;
    if (!x->is_param && (x->length != y->length || memcmp(x->text, y->text, x->length) != 0)) return 0;
  }
  return 1;
}

static int grow(bq_router *router, bq_error *err) {
  if (router->count < router->capacity) return 0;
  if (router->count == BQ_ROUTE_MAX) return bq_fail(err, BQ_ELIMIT, "more than %d routes", BQ_ROUTE_MAX);
  size_t capacity = router->capacity > 0 ? 2 * router->capacity : 32;
  route *routes = bq_realloc(router->routes, capacity * sizeof *routes);
  if (routes == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the router");
  router->routes = routes;
  router->capacity = capacity;
  return 0;
}

int bq_router_add(bq_router *router, const char *method, const char *pattern, int handler, bq_error *err) {
  route added = {.handler = handler, .pattern = bq_strdup(pattern)};
  int result = 0;
  if (added.pattern == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the router");
  if (strlen(method) >= sizeof added.method || strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != strlen(method)) {
    result = bq_fail(err, BQ_EINVAL, "route %s: the method %.20s is not a word in capitals", pattern, method);
    goto cleanup;
  }
  memcpy(added.method, method, strlen(method) + 1);
  result = read_pattern(&added, err);
  if (result < 0) goto cleanup;
  for (size_t i = 0; i < router->count; i++) {
    if (!same_shape(&router->routes[i], &added)) continue;
    result = bq_fail(err, BQ_ECONFLICT, "route %s %s is there already", method, pattern);
    goto cleanup;
  }
  result = grow(router, err);
  if (result < 0) goto cleanup;
  router->routes[router->count++] = added;
  added.pattern = NULL;
cleanup:
  bq_free(added.pattern);
  return result;
}

// Splits the path at its slashes. Returns the count, or -1 when it can't match any pattern.
static int split_path(const char *path, segment out[BQ_ROUTE_MAX_SEGMENTS]) {
  if (path[0] != '/') return -1;
  int count = 0;
  const char *at = path + 1;
  while (*at != '\0') {
    if (count == BQ_ROUTE_MAX_SEGMENTS) return -1;
    size_t length = strcspn(at, "/");
    if (length == 0) return -1;
    out[count++] = (segment){.text = at, .length = length};
    at += length;
    if (*at == '/' && *++at == '\0') return -1;
  }
  return count;
}

static int path_fits(const route *r, const segment *path, size_t count) {
  if (r->segment_count != count) return 0;
  for (size_t i = 0; i < count; i++) {
    const segment *s = &r->segments[i];
    if (s->is_param) continue;
    if (s->length != path[i].length || memcmp(s->text, path[i].text, s->length) != 0) return 0;
  }
  return 1;
}

// Whether `a` says more than `b` at the first place where they differ in kind.
static int more_exact(const route *a, const route *b) {
  for (size_t i = 0; i < a->segment_count; i++) {
    if (a->segments[i].is_param != b->segments[i].is_param) return !a->segments[i].is_param;
  }
  return 0;
}

static void allow_method(bq_route_match *out, const char *method) {
  size_t used = strlen(out->allow);
  (void)snprintf(out->allow + used, sizeof out->allow - used, "%s%s", used > 0 ? ", " : "", method);
}

static void fill(bq_route_match *out, const route *r, const segment *path) {
  out->handler = r->handler;
  for (size_t i = 0; i < r->segment_count; i++) {
    if (!r->segments[i].is_param) continue;
    out->params[out->param_count++] = (bq_route_param){.name = r->segments[i].text,
                                                       .name_length = r->segments[i].length,
                                                       .value = path[i].text,
                                                       .value_length = path[i].length};
  }
}

bq_route_outcome bq_router_match(const bq_router *router, const char *method, const char *path, bq_route_match *out) {
  out->param_count = 0;
  out->allow[0] = '\0';
  segment parts[BQ_ROUTE_MAX_SEGMENTS];
  int count = split_path(path, parts);
  if (count < 0) return BQ_ROUTE_NO_PATH;
  if (strcmp(method, "HEAD") == 0) method = "GET";
  const route *best = NULL;  // of the wanted method
  const route *other = NULL; // the most exact of any method
  for (size_t i = 0; i < router->count; i++) {
    const route *r = &router->routes[i];
    if (!path_fits(r, parts, (size_t)count)) continue;
    if (other == NULL || more_exact(r, other)) other = r;
    if (strcmp(r->method, method) == 0 && (best == NULL || more_exact(r, best))) best = r;
  }
  if (other == NULL) return BQ_ROUTE_NO_PATH;
  // A more exact pattern of another method owns the path: POST /builds/statistics is not POST /builds/{id}.
  if (best != NULL && !more_exact(other, best)) {
    fill(out, best, parts);
    return BQ_ROUTE_FOUND;
  }
  for (size_t i = 0; i < router->count; i++) {
    const route *r = &router->routes[i];
    if (!path_fits(r, parts, (size_t)count) || more_exact(other, r)) continue;
    allow_method(out, r->method);
    if (strcmp(r->method, "GET") == 0) allow_method(out, "HEAD");
  }
  return BQ_ROUTE_NO_METHOD;
}
