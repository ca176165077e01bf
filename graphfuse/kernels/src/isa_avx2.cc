// AVX2 with FMA and F16C.

#define GRAPHFUSE_VECTOR_BYTES 32
// There are masks for elements of so many bytes, and wider ones.
#define GRAPHFUSE_MASKED_BYTES 4

#include <immintrin.h>

#include "isa_begin.h"

namespace {

using FloatVector = float __attribute__((vector_size(32)));
using DoubleVector = double __attribute__((vector_size(32)));
using ShortVector = unsigned short __attribute__((vector_size(16)));

// Memory behind the first `count` elements is not touched. There are no masks for 16 bits.
GRAPHFUSE_INLINE void load_first(const void* from, int64_t count, FloatVector& v) {
  const __m256i mask = as<__m256i>(first<32, int32_t>(count));
  v = _mm256_maskload_ps(static_cast<const float*>(from), mask);
}
GRAPHFUSE_INLINE void load_first(const void* from, int64_t count, DoubleVector& v) {
  const __m256i mask = as<__m256i>(first<32, int64_t>(count));
  v = _mm256_maskload_pd(static_cast<const double*>(from), mask);
}

GRAPHFUSE_INLINE void stream_raw(void* to, FloatVector v) {
  _mm256_stream_ps(static_cast<float*>(to), v);
}
GRAPHFUSE_INLINE void stream_raw(void* to, ShortVector v) {
  _mm_stream_si128(static_cast<__m128i*>(to), as<__m128i>(v));
}
GRAPHFUSE_INLINE void stream_fence() { _mm_sfence(); }

#define GRAPHFUSE_HARDWARE_HALF
GRAPHFUSE_INLINE FloatVector half_to_float(ShortVector raw) {
  return _mm256_cvtph_ps(as<__m128i>(raw));
}
GRAPHFUSE_INLINE ShortVector float_to_half(FloatVector v) {
  return as<ShortVector>(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

}  // namespace

#include "select.h"

namespace graphfuse {

const InstructionSet kAvx2 = {"avx2", find_any};

}  // namespace graphfuse
