#include "io/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "base/memory.h"

enum { READ_BYTES = 128 * 1024 };

struct bq_hash {
  EVP_MD_CTX *context; // owned
};

int bq_hash_new(bq_hash **out, bq_error *err) {
  *out = NULL;
  bq_hash *hash = bq_alloc(sizeof *hash);
  if (hash == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for a checksum");
  hash->context = EVP_MD_CTX_new();
  if (hash->context == NULL || EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) != 1) {
    bq_hash_free(hash);
    return bq_fail(err, BQ_ENOMEM, "libcrypto can't begin a SHA-256 checksum");
  }
  *out = hash;
  return 0;
}

int bq_hash_add(bq_hash *hash, const void *bytes, size_t length, bq_error *err) {
  if (EVP_DigestUpdate(hash->context, bytes, length) == 1) return 0;
  return bq_fail(err, BQ_EIO, "libcrypto can't go on with a SHA-256 checksum");
}

int bq_hash_finish(bq_hash *hash, char out[BQ_HASH_TEXT_SIZE], bq_error *err) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (EVP_DigestFinal_ex(hash->context, digest, &length) != 1 || length * 2 + 1 != BQ_HASH_TEXT_SIZE) {
    return bq_fail(err, BQ_EIO, "libcrypto can't end a SHA-256 checksum");
  }
  static const char digits[] = "0123456789abcdef";
  for (unsigned i = 0; i < length; i++) {
    out[i * 2] = digits[digest[i] >> 4];
    out[i * 2 + 1] = digits[digest[i] & 15];
  }
  out[BQ_HASH_TEXT_SIZE - 1] = '\0';
  return 0;
}

void bq_hash_free(bq_hash *hash) {
  if (hash == NULL) return;
  EVP_MD_CTX_free(hash->context);
  bq_free(hash);
}

int bq_hash_bytes(const void *bytes, size_t length, char out[BQ_HASH_TEXT_SIZE], bq_error *err) {
  bq_hash *hash;
  int result = bq_hash_new(&hash, err);
  if (result == 0) result = bq_hash_add(hash, bytes, length, err);
  if (result == 0) result = bq_hash_finish(hash, out, err);
  bq_hash_free(hash);
  return result;
}

int bq_hash_fd(int fd, char out[BQ_HASH_TEXT_SIZE], bq_error *err) {
  bq_hash *hash;
  int result = bq_hash_new(&hash, err);
  if (result < 0) return result;
  char *buffer = bq_alloc(READ_BYTES);
  if (buffer == NULL) result = bq_fail(err, BQ_ENOMEM, "out of memory for a checksum");
  while (result == 0) {
    ssize_t n = read(fd, buffer, READ_BYTES);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) result = bq_fail_errno(err, errno, "can't read a file for its checksum");
    if (n <= 0) break;
    result = bq_hash_add(hash, buffer, (size_t)n, err);
  }
  if (result == 0) result = bq_hash_finish(hash, out, err);
  bq_free(buffer);
  bq_hash_free(hash);
  return result;
}

int bq_hash_file(const char *path, char out[BQ_HASH_TEXT_SIZE], bq_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return bq_fail(err, BQ_ENOTFOUND, "there is no file %s", path);
    return bq_fail_errno(err, errno, "can't open %s", path);
  }
  int result = bq_hash_fd(fd, out, err);
  close(fd);
  return result < 0 ? bq_fail_in(err, "%s", path) : 0;
}
