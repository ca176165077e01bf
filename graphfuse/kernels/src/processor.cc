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
// CPUID is read here and not through __builtin_cpu_supports: what that reads is filled by the compiler's own
// runtime, and zig's has a copy that nothing fills, so that every processor looks like an old one.
constexpr unsigned bit(int index) { return 1u << index; }

// What a translation unit's flags let the compiler use; AVX2 brings all that came before it.
constexpr unsigned kLeaf1 = bit(0) /* SSE3 */ | bit(9) /* SSSE3 */ | bit(12) /* FMA */ |
                            bit(19) /* SSE4.1 */ | bit(20) /* SSE4.2 */ | bit(23) /* POPCNT */ |
                            bit(27) /* OSXSAVE */ | bit(28) /* AVX */ | bit(29) /* F16C */;
constexpr unsigned kAvx2Leaf7 = bit(5);
constexpr unsigned kAvx512Leaf7 =
    bit(16) /* F */ | bit(17) /* DQ */ | bit(30) /* BW */ | bit(31) /* VL */;
// What the operating system saves of a thread: XMM and YMM; then masks and both parts of ZMM.
constexpr unsigned kAvxState = 0x06, kAvx512State = 0xe6;

// Whether processor and operating system have these bits of leaf 7's EBX, and this state.
bool has(unsigned leaf7, unsigned state) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & kLeaf1) != kLeaf1) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (ebx & leaf7) != leaf7) return false;
  unsigned saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  return (saved & state) == state;
}

bool has_avx2() { return has(kAvx2Leaf7, kAvxState); }
bool has_avx512() { return has(kAvx2Leaf7 | kAvx512Leaf7, kAvx512State); }

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
