#include "queue/labels.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/memory.h"

struct bq_labels {
  json_t *list; // owned
  char *json;   // owned
  char *array;  // owned
};

static const char *const tools[] = {"ant",   "buildah", "bun",    "cargo", "clang", "cmake", "deno", "docker", "dotnet",
                                    "g++",   "gcc",     "git",    "go",    "gradle", "java", "make", "meson",  "mvn",
                                    "ninja", "node",    "npm",    "perl",  "php",   "pnpm",  "podman", "python3", "ruby",
                                    "rustc", "swift",   "yarn",   "zig",   "zstd"};

// PATH of commands in the sandbox (queue/lib_exec.c).
static const char *const places[] = {"/usr/local/bin", "/usr/bin", "/bin"};

static int is_there(const char *directory, const char *name, char *path) {
  struct stat info;
  return snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX && access(path, X_OK) == 0 &&
         stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

// dotnet looks for its SDKs beside itself; a link is followed first.
static int has_sdk(const char *path) {
  char real[PATH_MAX];
  char sdk[PATH_MAX + 8];
  if (realpath(path, real) == NULL) return 0;
  *strrchr(real, '/') = '\0';
  (void)snprintf(sdk, sizeof sdk, "%s/sdk", real);
  DIR *dir = opendir(sdk);
  if (dir == NULL) return 0;
  const struct dirent *entry;
  int found = 0;
  while (!found && (entry = readdir(dir)) != NULL) found = entry->d_name[0] != '.';
  (void)closedir(dir);
  return found;
}

static int works_in(const char *directory, const char *tool) {
  char path[PATH_MAX];
  return is_there(directory, tool, path) && (strcmp(tool, "dotnet") != 0 || has_sdk(path));
}

static int has_tool(const bq_config *config, const char *tool) {
  char bin[PATH_MAX];
  if (strcmp(tool, "dotnet") == 0 && *config->dotnet_directory != '\0') return works_in(config->dotnet_directory, tool);
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    if (works_in(places[i], tool)) return 1;
  }
  for (char *const *path = config->sandbox_read_only_paths; path != NULL && *path != NULL; path++) {
    if (works_in(*path, tool)) return 1;
    if (snprintf(bin, sizeof bin, "%s/bin", *path) < (int)sizeof bin && works_in(bin, tool)) return 1;
  }
  return 0;
}

static int has(const json_t *list, const char *label) {
  size_t index;
  json_t *each;
  json_array_foreach(list, index, each) {
    if (strcmp(json_string_value(each), label) == 0) return 1;
  }
  return 0;
}

static void add(bq_labels *labels, const char *label) {
  if (!has(labels->list, label)) (void)json_array_append_new(labels->list, json_string(label));
}

static void add_system(bq_labels *labels) {
  struct utsname machine = {0};
  char text[sizeof machine.machine + 8];
  (void)uname(&machine);
  const char *arch = strcmp(machine.machine, "x86_64") == 0    ? "x64"
                     : strcmp(machine.machine, "aarch64") == 0 ? "arm64"
                                                               : machine.machine;
  add(labels, "os=linux");
  (void)snprintf(text, sizeof text, "arch=%s", arch);
  add(labels, text);
}

// No label has a character that an array's text would have to escape.
static char *array_text(const json_t *list) {
  bq_buf text = {0};
  size_t index;
  json_t *label;
  bq_buf_addc(&text, '{');
  json_array_foreach(list, index, label) {
    bq_buf_addf(&text, "%s\"%s\"", index > 0 ? "," : "", json_string_value(label));
  }
  bq_buf_addc(&text, '}');
  return bq_buf_take(&text);
}

int bq_labels_find(bq_labels **out, const bq_config *config, bq_error *err) {
  *out = NULL;
  bq_labels *labels = bq_alloc(sizeof *labels);
  if (labels != NULL) labels->list = json_array();
  if (labels == NULL || labels->list == NULL) {
    bq_labels_free(labels);
    return bq_fail(err, BQ_ENOMEM, "out of memory for this server's labels");
  }
  add_system(labels);
  for (size_t i = 0; i < sizeof tools / sizeof tools[0]; i++) {
    if (has_tool(config, tools[i])) add(labels, tools[i]);
  }
  for (char *const *label = config->labels; label != NULL && *label != NULL; label++) add(labels, *label);
  labels->json = bq_json_dumps(labels->list, JSON_COMPACT);
  labels->array = array_text(labels->list);
  if (labels->json == NULL || labels->array == NULL) {
    bq_labels_free(labels);
    return bq_fail(err, BQ_ENOMEM, "out of memory for this server's labels");
  }
  *out = labels;
  return 0;
}

void bq_labels_free(bq_labels *labels) {
  if (labels == NULL) return;
  json_decref(labels->list);
  bq_free(labels->json);
  bq_free(labels->array);
  bq_free(labels);
}

const char *bq_labels_json(const bq_labels *labels) {
  return labels->json;
}

const char *bq_labels_array(const bq_labels *labels) {
  return labels->array;
}

const char *bq_labels_lacks(const bq_labels *labels, const json_t *needs) {
  size_t index;
  json_t *need;
  json_array_foreach(needs, index, need) {
    if (!has(labels->list, json_string_value(need))) return json_string_value(need);
  }
  return NULL;
}
