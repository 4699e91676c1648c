// The blocking file work of an attempt: directories before, artifacts at success, removal afterwards.
// Everything here runs on a blocking thread while the loop leaves the attempt alone.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/secret.h"
#include "io/hash.h"
#include "io/tree.h"
#include "queue/attempt_internal.h"

enum { MAX_LEFTOVERS = 100 }; // earlier attempts of a build that are looked at; each has looked at those before it

static bq_attempt *attempt_of(bq_task *task) {
  return (bq_attempt *)((char *)task - offsetof(bq_attempt, task));
}

int bq_attempt_make_paths(bq_attempt *attempt, bq_error *err) {
  const bq_config *config = attempt->env->config;
  attempt->workspace = bq_format("%s/%s/attempt-%d", config->workspace_directory, attempt->id, attempt->number);
  attempt->partial = bq_format("%s/%s/.attempt-%d.partial", config->output_directory, attempt->id, attempt->number);
  attempt->output = bq_format("%s/%s/attempt-%d", config->output_directory, attempt->id, attempt->number);
  attempt->log_path = bq_format("%s/logs/%s/attempt-%d.log", config->state_directory, attempt->id, attempt->number);
  if (attempt->workspace == NULL || attempt->partial == NULL || attempt->output == NULL || attempt->log_path == NULL) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for a build's paths");
  }
  return 0;
}

// Removes `path`, which lies below `root`, without following a link below it.
static int remove_path(const char *root, const char *path, bq_error *err) {
  int result = bq_tree_remove(root, path + strlen(root) + 1, err);
  return result == BQ_ENOTFOUND ? 0 : result; // its parent is not there either
}

// An earlier attempt of the same build may be removing its last directory, and the parent with it, at this moment.
static int make_directory(const char *path, bq_error *err) {
  int result = BQ_ENOTFOUND;
  for (int tries = 0; tries < 10 && result == BQ_ENOTFOUND; tries++) result = bq_tree_make_path(path, err);
  return result;
}

// One that is missing is the pipeline's business, when it asks for it.
static int read_secret(bq_attempt *attempt, const char *name, bq_error *err) {
  char *value = NULL;
  const char *directory = attempt->env->config->secrets_directory;
  int result = bq_secret_from_directory(directory, name, &(bq_secret_source){0}, &value, err);
  if (result == 0 && value != NULL) {
    // What can't be masked must not be handed out.
    result = bq_mask_set_add(attempt->secrets, value, strlen(value), err);
    if (result == 0 && json_object_set_new(attempt->secret_values, name, json_string(value)) < 0) {
      result = bq_fail(err, BQ_EINVAL, "the secret is no UTF-8 text");
    }
  }
  bq_free(value);
  return result < 0 ? bq_fail_in(err, "the secret %s", name) : 0;
}

static int read_secrets(bq_attempt *attempt, bq_error *err) {
  size_t index;
  json_t *name;
  json_array_foreach(attempt->secret_names, index, name) {
    int result = read_secret(attempt, json_string_value(name), err);
    if (result < 0) return result;
  }
  return 0;
}

// What a killed server left half-written is never shown, and would take its room until retention. Not worth a build.
static void remove_leftovers(const bq_attempt *attempt) {
  int first = attempt->number > MAX_LEFTOVERS ? attempt->number - MAX_LEFTOVERS : 1;
  for (int number = first; number < attempt->number; number++) {
    bq_error err;
    char *path = bq_format("%s/.attempt-%d.partial", attempt->id, number);
    if (path != NULL && bq_tree_remove(attempt->env->config->output_directory, path, &err) < 0 &&
        err.code != BQ_ENOTFOUND) {
      bq_log(BQ_WARN, "what an earlier attempt left could not be removed", "build", attempt->id, "error", err.message,
             NULL);
    }
    bq_free(path);
  }
}

int bq_attempt_make_dirs(bq_attempt *attempt, bq_error *err) {
  const bq_config *config = attempt->env->config;
  if (attempt->dirs == BQ_DIRS_READY) return 0;
  attempt->dirs = BQ_DIRS_BEGUN;
  // A number is claimed once: what lies here already is the rest of a start that never reached the database.
  int result = remove_path(config->workspace_directory, attempt->workspace, err);
  if (result == 0) result = remove_path(config->output_directory, attempt->partial, err);
  if (result == 0) result = make_directory(attempt->workspace, err);
  if (result == 0) result = bq_tree_make(attempt->workspace, ".tmp", err);
  if (result == 0) result = make_directory(attempt->partial, err);
  if (result == 0) attempt->dirs = BQ_DIRS_READY;
  return result;
}

static int prepare(bq_attempt *attempt, bq_error *err) {
  int result = read_secrets(attempt, err);
  if (result == 0) result = bq_attempt_read_credentials(attempt, err);
  if (result == 0) remove_leftovers(attempt);
  if (result < 0 || !attempt->env->files_at_once) return result;
  result = bq_attempt_log_keep(attempt->log, err);
  return result == 0 ? bq_attempt_make_dirs(attempt, err) : result;
}

void bq_attempt_prepare(bq_task *task) {
  bq_attempt *attempt = attempt_of(task);
  attempt->task_result = prepare(attempt, &attempt->task_error);
}

// Writes `directory`/`name` and syncs it.
static int write_file(const char *directory, const char *name, const char *text, size_t length, bq_error *err) {
  char *path = bq_format("%s/%s", directory, name);
  if (path == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for an artifact");
  int result = 0;
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
  if (fd < 0) {
    result = bq_fail_errno(err, errno, "can't write the artifact %s", name);
    goto cleanup;
  }
  for (size_t done = 0; done < length;) {
    ssize_t wrote = write(fd, text + done, length - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      result = bq_fail_errno(err, errno, "can't write the artifact %s", name);
      goto cleanup;
    }
    done += (size_t)wrote;
  }
  if (fsync(fd) < 0) result = bq_fail_errno(err, errno, "can't write the artifact %s to the disk", name);
cleanup:
  if (fd >= 0 && close(fd) < 0 && result == 0) result = bq_fail_errno(err, errno, "can't write the artifact %s", name);
  bq_free(path);
  return result;
}

static int has_artifact(const json_t *artifacts, const char *name) {
  size_t index;
  json_t *artifact;
  json_array_foreach(artifacts, index, artifact) {
    const char *there = json_string_value(json_object_get(artifact, "name"));
    if (there != NULL && strcmp(there, name) == 0) return 1;
  }
  return 0;
}

// Adds a file of our own, unless the pipeline made one of that name.
static int add_own(bq_attempt *attempt, const char *name, const char *kind, const char *text, size_t length,
                   bq_error *err) {
  if (has_artifact(attempt->artifacts, name)) return 0;
  int result = write_file(attempt->partial, name, text, length, err);
  if (result < 0) return result;
  char hash[BQ_HASH_TEXT_SIZE];
  result = bq_hash_bytes(text, length, hash, err);
  if (result < 0) return result;
  json_t *entry = json_pack("{s:s, s:s, s:I, s:s}", "name", name, "kind", kind, "size", (json_int_t)length, "sha256",
                            hash);
  if (entry == NULL || json_array_append_new(attempt->artifacts, entry) < 0) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for an artifact");
  }
  return 0;
}

static int add_manifest(bq_attempt *attempt, bq_error *err) {
  json_t *manifest = json_object_get(attempt->row, "manifest");
  if (!json_is_object(manifest)) return 0;
  char *text = bq_json_dumps(manifest, JSON_INDENT(2) | JSON_SORT_KEYS);
  if (text == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the manifest's copy");
  int result = add_own(attempt, "manifest.json", "manifest", text, strlen(text), err);
  bq_free(text);
  return result;
}

// SHA256SUMS in sha256sum's format, for `sha256sum -c`. build.json stands beside the sums, not in them: it holds times.
static int add_sums(bq_attempt *attempt, bq_error *err) {
  bq_buf sums = {0};
  size_t index;
  json_t *artifact;
  json_array_foreach(attempt->artifacts, index, artifact) {
    bq_buf_addf(&sums, "%s  %s\n", json_string_value(json_object_get(artifact, "sha256")),
                json_string_value(json_object_get(artifact, "name")));
  }
  int result = bq_buf_check(&sums, err);
  if (result == 0 && sums.length > 0) result = add_own(attempt, "SHA256SUMS", "checksums", sums.data, sums.length, err);
  bq_buf_free(&sums);
  return result;
}

// A pipeline may have put a secret into what it says of itself.
static int mask_strings(const bq_mask_set *secrets, json_t *value) {
  const char *key;
  void *next;
  json_t *inner;
  size_t index;
  int result = 0;
  if (json_is_string(value)) {
    bq_buf masked = {0};
    bq_mask_text(secrets, json_string_value(value), json_string_length(value), &masked);
    result = json_string_set(value, masked.data != NULL ? masked.data : "");
    bq_buf_free(&masked);
  } else if (json_is_array(value)) {
    json_array_foreach(value, index, inner) result |= mask_strings(secrets, inner);
  } else if (json_is_object(value)) {
    json_object_foreach_safe(value, next, key, inner) result |= mask_strings(secrets, inner);
  }
  return result;
}

static int add_provenance(bq_attempt *attempt, bq_error *err) {
  char started[BQ_CLOCK_TEXT_SIZE];
  char ended[BQ_CLOCK_TEXT_SIZE];
  bq_clock_format(attempt->started_us, started);
  bq_clock_format(bq_clock_wall_us(), ended);
  if (mask_strings(attempt->secrets, attempt->provenance) != 0) {
    return bq_fail(err, BQ_ENOMEM, "out of memory for build.json");
  }
  json_t *document = json_pack(
      "{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:O, s:O, s:I, s:O}", "buildId", attempt->id, "attempt",
      attempt->number, "pipeline", json_string_value(json_object_get(attempt->row, "pipeline")), "generation",
      bq_generation_hash(attempt->generation), "node", attempt->env->node_id, "buildqVersion", attempt->env->version,
      "startedAt", started, "endedAt", ended, "provenance", attempt->provenance, "commands", attempt->commands,
      "commandsLeftOut", (json_int_t)attempt->commands_left_out, "artifacts", attempt->artifacts);
  char *text = document != NULL ? bq_json_dumps(document, JSON_INDENT(2)) : NULL;
  json_decref(document);
  if (text == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for build.json");
  int result = add_own(attempt, "build.json", "provenance", text, strlen(text), err);
  bq_free(text);
  return result;
}

static int sync_directory(const char *path, bq_error *err) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = 0;
  if (fd < 0 || fsync(fd) < 0) result = bq_fail_errno(err, errno, "can't write the directory %s to the disk", path);
  if (fd >= 0) close(fd);
  return result;
}

// What ran no command, made no artifact and says nothing of itself has nothing to vouch for.
int bq_attempt_publishes(const bq_attempt *attempt) {
  return attempt->dirs != BQ_DIRS_NONE || attempt->image_url != NULL || json_array_size(attempt->artifacts) > 0 ||
         json_array_size(attempt->commands) > 0 || json_object_size(attempt->provenance) > 0;
}

static int publish(bq_attempt *attempt, bq_error *err) {
  int result = bq_attempt_make_dirs(attempt, err);
  if (result == 0) result = add_manifest(attempt, err);
  if (result == 0) result = add_sums(attempt, err);
  if (result == 0) result = add_provenance(attempt, err);
  if (result == 0) result = sync_directory(attempt->partial, err);
  // A directory of the final name can only be a leftover of the same attempt, whose number nobody else has.
  if (result == 0) result = remove_path(attempt->env->config->output_directory, attempt->output, err);
  if (result < 0) return result;
  // The one moment at which the artifacts become visible.
  if (rename(attempt->partial, attempt->output) < 0) {
    return bq_fail_errno(err, errno, "can't publish the artifacts in %s", attempt->output);
  }
  char *parent = bq_strndup(attempt->output, (size_t)(strrchr(attempt->output, '/') - attempt->output));
  if (parent == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory while publishing");
  result = sync_directory(parent, err);
  bq_free(parent);
  return result;
}

void bq_attempt_publish(bq_task *task) {
  bq_attempt *attempt = attempt_of(task);
  attempt->task_result = publish(attempt, &attempt->task_error);
}

// Removes the directory that `path` was in when it is empty; one with other attempts in it stays.
static int remove_if_empty(const char *path, bq_error *err) {
  char *parent = bq_strndup(path, (size_t)(strrchr(path, '/') - path));
  if (parent == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory to remove the directory of a build");
  int result = 0;
  if (rmdir(parent) < 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT) {
    result = bq_fail_errno(err, errno, "can't remove %s", parent);
  }
  bq_free(parent);
  return result;
}

// Keeps the first fault; all three removals are tried, whatever becomes of the others.
static void clean_path(bq_attempt *attempt, const char *root, const char *path) {
  bq_error fault;
  int result = remove_path(root, path, &fault);
  if (result == 0) result = remove_if_empty(path, &fault);
  if (result < 0 && attempt->task_result == 0) {
    attempt->task_result = bq_fail(&attempt->task_error, fault.code, "%s", fault.message);
  }
}

// What the build needed at its end, of the disk of workspaces and of artifacts together. What isn't there is nothing.
static uint64_t measure(const bq_attempt *attempt) {
  const char *const paths[] = {attempt->workspace, attempt->partial, attempt->output};
  uint64_t all = 0;
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    uint64_t bytes = 0;
    uint64_t entries = 0;
    bq_error ignored;
    if (bq_tree_size(paths[i], &bytes, &entries, &ignored) == 0) all += bytes;
  }
  return all;
}

void bq_attempt_clean(bq_task *task) {
  bq_attempt *attempt = attempt_of(task);
  const bq_config *config = attempt->env->config;
  attempt->disk_bytes = measure(attempt);
  int keep_output = attempt->recorded && attempt->outcome.kind == BQ_OUTCOME_SUCCESS;
  attempt->task_result = 0;
  if (config->cleanup_workspace_after_build || attempt->outcome.kind == BQ_OUTCOME_SUPERSEDED) {
    clean_path(attempt, config->workspace_directory, attempt->workspace);
  }
  clean_path(attempt, config->output_directory, attempt->partial);
  if (!keep_output) clean_path(attempt, config->output_directory, attempt->output);
}
