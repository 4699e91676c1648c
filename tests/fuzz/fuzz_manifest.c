// Manifests of both forms; what must be true of any input is in manifest.lua.
#include "fuzz_script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_run("tests/fuzz/manifest.lua", data, size);
  return 0;
}
