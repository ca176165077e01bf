// Which instruction set to run.

#include <cstdlib>
#include <cstring>
#include <string>

#include "processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <unistd.h>
#endif

namespace graphfuse {

namespace {

#if defined(__x86_64__)
bool has_avx2() {
  __builtin_cpu_init();
  // GCC 10 does not know f16c by name; every processor with AVX2 and FMA has it but one VIA.
  unsigned eax, ebx, ecx = 0, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & bit_F16C);
}

// The size of the largest cache that a leaf of CPUID describes; 0 where there is no such leaf.
int64_t largest_cache(unsigned leaf) {
  int64_t largest = 0;
  for (unsigned index = 0; index < 16; ++index) {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(leaf, index, &eax, &ebx, &ecx, &edx)) return largest;
    if ((eax & 0x1f) == 0) return largest;  // no more caches
    const int64_t ways = (ebx >> 22) + 1, partitions = ((ebx >> 12) & 0x3ff) + 1;
    const int64_t line = (ebx & 0xfff) + 1, sets = int64_t{ecx} + 1;
    const int64_t size = ways * partitions * line * sets;
    if (size > largest) largest = size;
  }
  return largest;
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// The instruction sets of this processor, best first, ended by a null.
const InstructionSet* const* available() {
  static const InstructionSet* sets[4] = {};
  static const bool filled = [] {
    int count = 0;
#if defined(__x86_64__)
    if (has_avx512()) sets[count++] = &kAvx512;
    if (has_avx2()) sets[count++] = &kAvx2;
#endif
    sets[count] = &kPortable;
    return true;
  }();
  (void)filled;
  return sets;
}

}  // namespace

const InstructionSet* choose_instruction_set() {
  const InstructionSet* const* sets = available();
  const char* const wanted = std::getenv("GRAPHFUSE_KERNEL_ISA");
  if (wanted == nullptr || *wanted == 0) return sets[0];
  for (; *sets != nullptr; ++sets) {
    if (std::strcmp((*sets)->name, wanted) == 0) return *sets;
  }
  return nullptr;
}

std::string wrong_instruction_set() {
  std::string names;
  for (const InstructionSet* const* set = available(); *set != nullptr; ++set) {
    names += (names.empty() ? "" : ", ") + std::string((*set)->name);
  }
  return "the environment variable GRAPHFUSE_KERNEL_ISA names no instruction set of this processor; "
         "it can be " +
         names;
}

int64_t last_cache_bytes() {
  static const int64_t bytes = [] {
    int64_t found = 0;
#if defined(__x86_64__)
    // Of one cache, as the processor describes it: AMD's leaf first, then Intel's. glibc's sysconf
    // adds up all caches of the machine for AMD.
    found = largest_cache(0x8000001D);
    if (found == 0) found = largest_cache(4);
#elif defined(_SC_LEVEL3_CACHE_SIZE)
    found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return found > 0 ? found : int64_t{16} << 20;
  }();
  return bytes;
}

}  // namespace graphfuse
