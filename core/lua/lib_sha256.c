// sha256(text): 64 hexadecimal digits.
#include <lauxlib.h>
#include <openssl/evp.h>

#include "lua/errors.h"
#include "lua/fiber.h"
#include "lua/libs.h"

int bq_lua_sha256(lua_State *L) {
  static const char digits[] = "0123456789abcdef";
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(text, length, digest, &size, EVP_sha256(), NULL) != 1 || size != 32) {
    return bq_lua_raise(L, BQ_ENOMEM, "can't compute a SHA-256");
  }
  char hex[64];
  for (unsigned int i = 0; i < 32; i++) {
    hex[2 * i] = digits[digest[i] >> 4];
    hex[2 * i + 1] = digits[digest[i] & 15];
  }
  lua_pushlstring(L, hex, sizeof hex);
  bq_vm_tick(L);
  return 1;
}
