#include "lua/sources.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

struct bq_sources {
  bq_source *files; // owned, `count` in use
  size_t count;
  size_t capacity;
  size_t bytes;            // of all texts
  char hash[BQ_HASH_SIZE]; // set by bq_sources_seal
};

// One directory being read, and how its files are named.
typedef struct walk {
  bq_sources *sources;
  int overlaid;
  int lua_only; // below scripts
} walk;

static int hash_bytes(const void *bytes, size_t length, char out[BQ_HASH_SIZE], bq_error *err) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(bytes, length, digest, &size, EVP_sha256(), NULL) != 1 || size != 32) {
    return bq_fail(err, BQ_ENOMEM, "can't compute a SHA-256");
  }
  for (unsigned int i = 0; i < size; i++) (void)snprintf(out + 2 * (size_t)i, 3, "%02x", digest[i]);
  return 0;
}

int bq_sources_new(bq_sources **out, bq_error *err) {
  *out = bq_alloc(sizeof **out);
  return *out != NULL ? 0 : bq_fail(err, BQ_ENOMEM, "out of memory for scripts");
}

void bq_sources_free(bq_sources *sources) {
  if (sources == NULL) return;
  for (size_t i = 0; i < sources->count; i++) {
    bq_free(sources->files[i].path);
    bq_free(sources->files[i].text);
  }
  bq_free(sources->files);
  bq_free(sources);
}

static bq_source *find_unsorted(bq_sources *sources, const char *path) {
  for (size_t i = 0; i < sources->count; i++) {
    if (strcmp(sources->files[i].path, path) == 0) return &sources->files[i];
  }
  return NULL;
}

static int grow(bq_sources *sources, bq_error *err) {
  if (sources->count == BQ_SOURCES_MAX_FILES) {
    return bq_fail(err, BQ_ELIMIT, "more than %d scripts and templates: remove files that are no part of them",
                   BQ_SOURCES_MAX_FILES);
  }
  if (sources->count < sources->capacity) return 0;
  size_t capacity = sources->capacity > 0 ? 2 * sources->capacity : 32;
  bq_source *files = bq_realloc(sources->files, capacity * sizeof *files);
  if (files == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for scripts");
  sources->files = files;
  sources->capacity = capacity;
  return 0;
}

int bq_sources_add(bq_sources *sources, const char *path, const char *text, size_t length, int overlaid,
                   bq_error *err) {
  if (length > BQ_SOURCES_MAX_FILE_BYTES) {
    return bq_fail(err, BQ_ELIMIT, "%s is larger than %d bytes", path, BQ_SOURCES_MAX_FILE_BYTES);
  }
  bq_source *place = find_unsorted(sources, path);
  size_t others = sources->bytes - (place != NULL ? place->length : 0);
  if (others + length > BQ_SOURCES_MAX_BYTES) {
    return bq_fail(err, BQ_ELIMIT, "scripts and templates are larger than %d bytes together (at %s)",
                   BQ_SOURCES_MAX_BYTES, path);
  }
  bq_source file = {.path = bq_strdup(path), .text = bq_strndup(text, length), .length = length, .overlaid = overlaid};
  int result = 0;
  if (file.path == NULL || file.text == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for %s", path);
    goto cleanup;
  }
  result = hash_bytes(text, length, file.hash, err);
  if (result < 0) goto cleanup;
  if (place != NULL) { // an overlay wins over the shipped file of the same path
    bq_source old = *place;
    *place = file;
    file = old;
  } else {
    result = grow(sources, err);
    if (result < 0) goto cleanup;
    sources->files[sources->count++] = file;
    file = (bq_source){0};
  }
  sources->bytes = others + length;
cleanup:
  bq_free(file.path);
  bq_free(file.text);
  return result;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const bq_source *)a)->path, ((const bq_source *)b)->path);
}

int bq_sources_seal(bq_sources *sources, bq_error *err) {
  if (sources->count > 0) qsort(sources->files, sources->count, sizeof sources->files[0], by_path);
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_MD_CTX *digest = EVP_MD_CTX_new();
  int good = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1;
  for (size_t i = 0; i < sources->count && good; i++) {
    const bq_source *file = &sources->files[i];
    // The NUL behind the path keeps "ab"+"c" apart from "a"+"bc".
    good = EVP_DigestUpdate(digest, file->path, strlen(file->path) + 1) == 1 &&
           EVP_DigestUpdate(digest, file->hash, sizeof file->hash) == 1;
  }
  good = good && EVP_DigestFinal_ex(digest, bytes, &size) == 1;
  EVP_MD_CTX_free(digest);
  if (!good) return bq_fail(err, BQ_ENOMEM, "can't compute the SHA-256 of the scripts");
  for (unsigned int i = 0; i < size; i++) (void)snprintf(sources->hash + 2 * (size_t)i, 3, "%02x", bytes[i]);
  return 0;
}

const char *bq_sources_hash(const bq_sources *sources) {
  return sources->hash;
}

size_t bq_sources_count(const bq_sources *sources) {
  return sources->count;
}

const bq_source *bq_sources_at(const bq_sources *sources, size_t index) {
  return &sources->files[index];
}

const bq_source *bq_sources_find(const bq_sources *sources, const char *path) {
  if (sources->count == 0) return NULL;
  bq_source wanted = {.path = (char *)(uintptr_t)path};
  return bsearch(&wanted, sources->files, sources->count, sizeof wanted, by_path);
}

void bq_sources_compare(const bq_sources *before, const bq_sources *after,
                        void (*each)(void *arg, bq_difference difference, const char *path), void *arg) {
  size_t a = 0;
  size_t b = 0;
  while (a < before->count || b < after->count) {
    const bq_source *old = a < before->count ? &before->files[a] : NULL;
    const bq_source *new = b < after->count ? &after->files[b] : NULL;
    int order = old == NULL ? 1 : new == NULL ? -1 : strcmp(old->path, new->path);
    if (order < 0) each(arg, BQ_REMOVED, old->path);
    else if (order > 0) each(arg, BQ_ADDED, new->path);
    else if (strcmp(old->hash, new->hash) != 0) each(arg, BQ_CHANGED, new->path);
    if (order <= 0) a++;
    if (order >= 0) b++;
  }
}

// The first file at or behind `index` that lies in the room; NULL when there is none.
static const bq_source *next_below(const bq_sources *sources, size_t *index, const char *room) {
  while (*index < sources->count && strncmp(sources->files[*index].path, room, strlen(room)) != 0) (*index)++;
  return *index < sources->count ? &sources->files[(*index)++] : NULL;
}

int bq_sources_are_same(const bq_sources *a, const bq_sources *b, const char *room) {
  size_t i = 0;
  size_t j = 0;
  for (;;) {
    const bq_source *one = next_below(a, &i, room);
    const bq_source *other = next_below(b, &j, room);
    if (one == NULL || other == NULL) return one == other;
    if (strcmp(one->path, other->path) != 0 || strcmp(one->hash, other->hash) != 0) return 0;
  }
}

static int ends_with(const char *name, const char *end) {
  size_t length = strlen(name);
  size_t end_length = strlen(end);
  return length >= end_length && strcmp(name + length - end_length, end) == 0;
}

static int is_part(const char *name, int lua_only) {
  if (name[0] == '.' || name[0] == '#' || ends_with(name, "~") || ends_with(name, ".swp")) return 0;
  if (strcmp(name, "README.md") == 0 || ends_with(name, ".d.lua") || ends_with(name, "_spec.lua")) return 0;
  return !lua_only || ends_with(name, ".lua");
}

static int read_file(const walk *w, int dir, const char *name, const char *path, bq_error *err) {
  char *text = NULL;
  int result = 0;
  int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  // A file that went away between the listing and here is a change under way: the watch will say so again.
  if (fd < 0) return errno == ENOENT ? 0 : bq_fail_errno(err, errno, "can't read %s", path);
  struct stat info;
  if (fstat(fd, &info) < 0) {
    result = bq_fail_errno(err, errno, "can't read %s", path);
    goto cleanup;
  }
  if (!S_ISREG(info.st_mode)) goto cleanup;
  if (info.st_size > BQ_SOURCES_MAX_FILE_BYTES) {
    result = bq_fail(err, BQ_ELIMIT, "%s is larger than %d bytes", path, BQ_SOURCES_MAX_FILE_BYTES);
    goto cleanup;
  }
  text = bq_alloc((size_t)info.st_size + 1);
  if (text == NULL) {
    result = bq_fail(err, BQ_ENOMEM, "out of memory for %s", path);
    goto cleanup;
  }
  size_t length = 0;
  while (length < (size_t)info.st_size) {
    ssize_t got = read(fd, text + length, (size_t)info.st_size - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      result = bq_fail_errno(err, errno, "can't read %s", path);
      goto cleanup;
    }
    if (got == 0) break;
    length += (size_t)got;
  }
  result = bq_sources_add(w->sources, path, text, length, w->overlaid, err);
cleanup:
  bq_free(text);
  close(fd);
  return result;
}

// What `buildq test` works with; no server runs it.
static int is_for_tests(const char *path) {
  return strcmp(path, "scripts/testing") == 0 || strcmp(path, "scripts/spec") == 0;
}

// Reads the directory `fd` (consumed), whose files are named "prefix/…".
static int read_tree(const walk *w, int fd, const char *prefix, int depth, bq_error *err) {
  DIR *dir = fdopendir(fd);
  if (dir == NULL) {
    close(fd);
    return bq_fail_errno(err, errno, "can't read the directory %s", prefix);
  }
  int result = 0;
  while (result == 0) {
    errno = 0;
    const struct dirent *entry = readdir(dir);
    if (entry == NULL) {
      if (errno != 0) result = bq_fail_errno(err, errno, "can't read the directory %s", prefix);
      break;
    }
    if (entry->d_name[0] == '.') continue;
    char *path = bq_format("%s/%s", prefix, entry->d_name);
    if (path == NULL) {
      result = bq_fail(err, BQ_ENOMEM, "out of memory for scripts");
      break;
    }
    // Links are followed: a team may switch a whole release by one.
    int sub = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (sub < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EIO)) {
      result = bq_fail_errno(err, errno, "can't read %s", path); // else half of the scripts would be taken for all
    } else if (sub >= 0 && depth >= BQ_SOURCES_MAX_DEPTH) {
      close(sub);
      result = bq_fail(err, BQ_ELIMIT, "%s is nested more than %d directories deep", path, BQ_SOURCES_MAX_DEPTH);
    } else if (sub >= 0 && is_for_tests(path)) {
      close(sub);
    } else if (sub >= 0) {
      result = read_tree(w, sub, path, depth + 1, err);
    } else if (is_part(entry->d_name, w->lua_only)) {
      result = read_file(w, dirfd(dir), entry->d_name, path, err);
    }
    bq_free(path);
  }
  closedir(dir);
  return result;
}

static int read_root(bq_sources *sources, const char *parent, const char *sub, const char *prefix, int overlaid,
                     bq_error *err) {
  char *path = sub != NULL ? bq_format("%s/%s", parent, sub) : bq_strdup(parent);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for scripts");
  int result = 0;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    result = bq_fail_errno(err, errno, "can't read the %s directory %s", prefix, path);
  } else {
    walk w = {.sources = sources, .overlaid = overlaid, .lua_only = strcmp(prefix, "scripts") == 0};
    result = read_tree(&w, fd, prefix, 0, err);
  }
  bq_free(path);
  return result;
}

int bq_sources_read(bq_sources **out, const bq_source_directories *directories, bq_error *err) {
  *out = NULL;
  bq_sources *sources = NULL;
  int result = bq_sources_new(&sources, err);
  if (result < 0) return result;
  result = read_root(sources, directories->share, "scripts", "scripts", 0, err);
  if (result == 0) result = read_root(sources, directories->share, "templates", "templates", 0, err);
  if (result == 0 && directories->scripts != NULL) {
    result = read_root(sources, directories->scripts, NULL, "scripts", 1, err);
  }
  if (result == 0 && directories->templates != NULL) {
    result = read_root(sources, directories->templates, NULL, "templates", 1, err);
  }
  if (result == 0) result = bq_sources_seal(sources, err);
  if (result < 0) bq_sources_free(sources);
  else *out = sources;
  return result;
}
