// Cron expressions; what must be true of any input is in cron.lua.
#include "fuzz_script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_run("tests/fuzz/cron.lua", data, size);
  return 0;
}
