// Vectors of one instruction set, with the operations that a row needs.
//
// Included by one translation unit per instruction set, after GRAPHFUSE_VECTOR_BYTES and the few
// operations that need intrinsics. Arithmetic is the compiler's vector extension, so this is the
// same code for SSE2, AVX2, AVX-512 and NEON. Everything is in an unnamed namespace: the linker must
// not merge functions compiled for different instruction sets.

#pragma once

#include <cstdint>
#include <type_traits>

#include "isa_begin.h"

#if !defined(__GNUC__)
#error "graphfuse's kernels need GCC or Clang (vector extensions); on Windows use clang-cl"
#endif

namespace {

// float16 and bfloat16 as they lie in memory.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class F>
constexpr int kLanes = GRAPHFUSE_VECTOR_BYTES / sizeof(F);

// F is what is computed in: float, or double for double.
template <class F>
using Vec = typename Sized<F, GRAPHFUSE_VECTOR_BYTES>::Type;
template <class F>
using Number = std::conditional_t<sizeof(F) == 4, int32_t, int64_t>;
template <class F>
using Lanes = typename Sized<Number<F>, GRAPHFUSE_VECTOR_BYTES>::Type;
using Bits = typename Sized<uint32_t, GRAPHFUSE_VECTOR_BYTES>::Type;
using Shorts = typename Sized<uint16_t, GRAPHFUSE_VECTOR_BYTES / 2>::Type;

// One element, at any address.
template <class T>
GRAPHFUSE_INLINE T peek(const T* from, int64_t index) {
  T value;
  __builtin_memcpy(&value, reinterpret_cast<const char*>(from) + index * sizeof(T), sizeof(T));
  return value;
}

template <class T>
GRAPHFUSE_INLINE void poke(T* to, int64_t index, T value) {
  __builtin_memcpy(reinterpret_cast<char*>(to) + index * sizeof(T), &value, sizeof(T));
}

template <class V>
GRAPHFUSE_INLINE V load_raw(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
GRAPHFUSE_INLINE void store_raw(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

GRAPHFUSE_INLINE Vec<float> choose(Bits mask, Vec<float> yes, Vec<float> no) {
  return as<Vec<float>>((as<Bits>(yes) & mask) | (as<Bits>(no) & ~mask));
}

// bfloat16 is the upper half of a float32. Rounding is to nearest, ties to even; a NaN stays one
// though its lower half is cut. AVX512-BF16 has an instruction for it, which is not used: it takes
// every subnormal for zero.
GRAPHFUSE_INLINE Vec<float> widen(Shorts raw, BFloat16) {
  return as<Vec<float>>(__builtin_convertvector(raw, Bits) << 16);
}

GRAPHFUSE_INLINE Shorts narrow(Vec<float> v, BFloat16) {
  const Bits bits = as<Bits>(v);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  const Bits is_nan = as<Bits>((bits & 0x7fffffff) > 0x7f800000);
  return __builtin_convertvector((quiet & is_nan) | (rounded & ~is_nan), Shorts);
}

#if defined(GRAPHFUSE_HARDWARE_HALF)
GRAPHFUSE_INLINE Vec<float> widen(Shorts raw, Half) { return half_to_float(raw); }
GRAPHFUSE_INLINE Shorts narrow(Vec<float> v, Half) { return float_to_half(v); }
#else
// float16 without instructions for it. The exponents' biases differ by 112.
GRAPHFUSE_INLINE Vec<float> widen(Shorts raw, Half) {
  const Bits bits = __builtin_convertvector(raw, Bits);
  const Bits sign = (bits & 0x8000) << 16;
  const Bits magnitude = (bits & 0x7fff) << 13;
  // Multiplied, not added to the exponent: subnormals become normal on the way.
  const Vec<float> scaled = as<Vec<float>>(magnitude) * 0x1p112f;
  const Bits special = as<Bits>(magnitude >= 0x0f800000);  // infinities and NaN
  const Bits wide = (as<Bits>(scaled) & ~special) | ((magnitude | 0x7f800000) & special);
  return as<Vec<float>>(wide | sign);
}

GRAPHFUSE_INLINE Shorts narrow(Vec<float> v, Half) {
  const Bits bits = as<Bits>(v);
  const Bits sign = (bits >> 16) & 0x8000;
  const Bits magnitude = bits & 0x7fffffff;
  const Bits normal = ((magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13) - (112 << 10);
  // Added to 0.5, whose last place is float16's least subnormal, the hardware rounds.
  const Bits subnormal = as<Bits>(as<Vec<float>>(magnitude) + 0.5f) - 0x3f000000;
  const Bits is_subnormal = as<Bits>(magnitude < 0x38800000);
  const Bits too_large = as<Bits>(magnitude >= 0x477ff000);
  const Bits is_nan = as<Bits>(magnitude > 0x7f800000);
  const Bits nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  Bits result = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  result = (0x7c00 & too_large) | (result & ~too_large);
  result = (nan & is_nan) | (result & ~is_nan);
  return __builtin_convertvector(result | sign, Shorts);
}
#endif

// Loads and stores of full vectors.
template <class T, class F>
GRAPHFUSE_INLINE Vec<F> load_full(const T* from) {
  if constexpr (sizeof(T) == sizeof(F)) {
    return load_raw<Vec<F>>(from);
  } else {
    return widen(load_raw<Shorts>(from), T{});
  }
}

template <class T, class F>
GRAPHFUSE_INLINE void store_full(T* to, Vec<F> v) {
  if constexpr (sizeof(T) == sizeof(F)) {
    store_raw(to, v);
  } else {
    store_raw(to, narrow(v, T{}));
  }
}

template <class T, class F>
GRAPHFUSE_INLINE void stream_full(T* to, Vec<F> v) {
  if constexpr (sizeof(T) == sizeof(F)) {
    stream_raw(to, as<Vec<float>>(v));
  } else {
    stream_raw(to, narrow(v, T{}));
  }
}

// The first `count` elements into the first lanes of `v`, one after the other in registers: a row's
// end that goes through memory waits for its stores. An instruction set that has masks has overloads
// for its own vectors.
template <int kLane = 0, class V>
GRAPHFUSE_INLINE void load_first(const void* from, int64_t count, V& v) {
  using Element = std::decay_t<decltype(v[0])>;
  if constexpr ((kLane + 1) * sizeof(Element) < sizeof(V)) {
    if (count <= kLane) return;
    v[kLane] = peek(static_cast<const Element*>(from), kLane);
    load_first<kLane + 1>(from, count, v);
  }
}

// The first `count` lanes of `v`, in halves, quarters and so on. Masks would be shorter, but a masked
// store holds up loads of the next row where that lies in the lanes that it leaves out: an output
// may have the memory of an input.
template <class Element, int kBytes>
GRAPHFUSE_INLINE void store_first(Element* to, int64_t count,
                                  typename Sized<Element, kBytes>::Type v) {
  if constexpr (kBytes == 2 * sizeof(Element)) {
    if (count & 1) poke(to, 0, static_cast<Element>(v[0]));
  } else {
    using Part = typename Sized<Element, kBytes / 2>::Type;
    constexpr int64_t kCount = kBytes / 2 / sizeof(Element);
    Part halves[2];
    __builtin_memcpy(&halves, &v, sizeof v);
    if (count & kCount) {
      store_raw(to, halves[0]);
      store_first<Element, kBytes / 2>(to + kCount, count, halves[1]);
    } else {
      store_first<Element, kBytes / 2>(to, count, halves[0]);
    }
  }
}

// The first `count` lanes; the others are 0. `count` is a constant wherever it is kLanes.
template <class T, class F>
GRAPHFUSE_INLINE Vec<F> load(const T* from, int64_t count) {
  if (count == kLanes<F>) return load_full<T, F>(from);
  if constexpr (sizeof(T) == sizeof(F)) {
    Vec<F> v = {};
    load_first(from, count, v);
    return v;
  } else {
    Shorts raw = {};
    load_first(from, count, raw);
    return widen(raw, T{});
  }
}

template <bool kStream, class T, class F>
GRAPHFUSE_INLINE void store(T* to, Vec<F> v, int64_t count) {
  if (count < kLanes<F>) {
    if constexpr (sizeof(T) == sizeof(F)) {
      store_first<F, GRAPHFUSE_VECTOR_BYTES>(reinterpret_cast<F*>(to), count, v);
    } else {
      store_first<uint16_t, GRAPHFUSE_VECTOR_BYTES / 2>(reinterpret_cast<uint16_t*>(to), count,
                                                        narrow(v, T{}));
    }
  } else if constexpr (kStream) {
    stream_full<T, F>(to, v);
  } else {
    store_full<T, F>(to, v);
  }
}

// Lanes from `count` on become 0.
template <class F>
GRAPHFUSE_INLINE Vec<F> keep(Vec<F> v, int64_t count) {
  if (count == kLanes<F>) return v;
  return as<Vec<F>>(as<Lanes<F>>(v) & first<GRAPHFUSE_VECTOR_BYTES, Number<F>>(count));
}

// The lanes' sum, in pairs.
template <class F, int kBytes>
GRAPHFUSE_INLINE F add_lanes(typename Sized<F, kBytes>::Type v) {
  if constexpr (kBytes == 2 * sizeof(F)) {
    return v[0] + v[1];
  } else {
    using Part = typename Sized<F, kBytes / 2>::Type;
    Part halves[2];
    __builtin_memcpy(halves, &v, sizeof v);
    return add_lanes<F, kBytes / 2>(halves[0] + halves[1]);
  }
}

}  // namespace
