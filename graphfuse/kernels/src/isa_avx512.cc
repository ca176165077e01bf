// AVX-512 F, BW, DQ and VL.

#define GRAPHFUSE_VECTOR_BYTES 64
// There are masks for elements of so many bytes, and wider ones.
#define GRAPHFUSE_MASKED_BYTES 2

#if !defined(__clang__)
// GCC 12 to 14 warn about their own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "isa_begin.h"

namespace {

using FloatVector = float __attribute__((vector_size(64)));
using DoubleVector = double __attribute__((vector_size(64)));
using ShortVector = unsigned short __attribute__((vector_size(32)));

// Memory behind the first `count` elements is not touched.
GRAPHFUSE_INLINE unsigned mask_of(int64_t count) { return (1u << count) - 1; }
GRAPHFUSE_INLINE void load_first(const void* from, int64_t count, FloatVector& v) {
  v = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask_of(count)), from);
}
GRAPHFUSE_INLINE void load_first(const void* from, int64_t count, DoubleVector& v) {
  v = _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask_of(count)), from);
}
GRAPHFUSE_INLINE void load_first(const void* from, int64_t count, ShortVector& v) {
  v = as<ShortVector>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask_of(count)), from));
}

GRAPHFUSE_INLINE void stream_raw(void* to, FloatVector v) {
  _mm512_stream_ps(static_cast<float*>(to), v);
}
GRAPHFUSE_INLINE void stream_raw(void* to, ShortVector v) {
  _mm256_stream_si256(static_cast<__m256i*>(to), as<__m256i>(v));
}
GRAPHFUSE_INLINE void stream_fence() { _mm_sfence(); }

#define GRAPHFUSE_HARDWARE_HALF
GRAPHFUSE_INLINE FloatVector half_to_float(ShortVector raw) {
  return _mm512_cvtph_ps(as<__m256i>(raw));
}
GRAPHFUSE_INLINE ShortVector float_to_half(FloatVector v) {
  return as<ShortVector>(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

}  // namespace

#include "select.h"

namespace graphfuse {

const InstructionSet kAvx512 = {"avx512", find_any};

}  // namespace graphfuse
