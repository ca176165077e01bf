// SSE2 on x86-64, NEON on AArch64, whatever there is elsewhere: 16-byte vectors, no intrinsics but
// for stores past the caches.

#define GRAPHFUSE_VECTOR_BYTES 16
// Masks for elements of so many bytes and wider ones: none.
#define GRAPHFUSE_MASKED_BYTES 16

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "isa_begin.h"

namespace {

using FloatVector = float __attribute__((vector_size(16)));
using ShortVector = unsigned short __attribute__((vector_size(8)));

#if defined(__SSE2__)
GRAPHFUSE_INLINE void stream_raw(void* to, FloatVector v) {
  _mm_stream_ps(static_cast<float*>(to), v);
}
GRAPHFUSE_INLINE void stream_raw(void* to, ShortVector v) {
  _mm_stream_si64(static_cast<long long*>(to), as<long long>(v));
}
GRAPHFUSE_INLINE void stream_fence() { _mm_sfence(); }
#else
GRAPHFUSE_INLINE void stream_raw(void* to, FloatVector v) { __builtin_memcpy(to, &v, sizeof v); }
GRAPHFUSE_INLINE void stream_raw(void* to, ShortVector v) { __builtin_memcpy(to, &v, sizeof v); }
GRAPHFUSE_INLINE void stream_fence() {}
#endif

}  // namespace

#include "select.h"

namespace graphfuse {

const InstructionSet kPortable = {"portable", find_any};

}  // namespace graphfuse
