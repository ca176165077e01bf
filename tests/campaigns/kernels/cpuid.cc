// What processor.cc makes of this processor, and what the compiler's own builtins say of it.

#include <cstdio>
#include <string>

#include "processor.h"

namespace graphfuse {
const InstructionSet kAvx512 = {"avx512", nullptr};
const InstructionSet kAvx2 = {"avx2", nullptr};
const InstructionSet kPortable = {"portable", nullptr};
}  // namespace graphfuse

int main() {
  std::string said;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    said += "avx512, ";
  }
  if (avx2) said += "avx2, ";
#endif
  std::printf("%s\n%sportable\n", graphfuse::wrong_instruction_set().c_str(), said.c_str());
}
