// What an instruction set's translation unit needs before its intrinsics. What is common to all of them is in
// vectors.h.

#pragma once

#include <cstdint>

#define GRAPHFUSE_INLINE inline __attribute__((always_inline))
// Lambdas of inner loops: without it their vectors would be passed through memory.
#define GRAPHFUSE_STEP __attribute__((always_inline))
// A loop of `count` turns, or of any number where that is 0. GCC unrolls short ones by itself; Clang keeps
// those that have branches, which cost a narrow row a quarter of its time.
#if defined(__clang__)
#define GRAPHFUSE_PRAGMA(text) _Pragma(#text)
#define GRAPHFUSE_UNROLL(count) GRAPHFUSE_PRAGMA(clang loop unroll_count(count ? count : 1))
#define GRAPHFUSE_ALONE __attribute__((noinline))
#else
#define GRAPHFUSE_UNROLL(count)
#define GRAPHFUSE_ALONE
#endif

namespace {

template <class To, class From>
GRAPHFUSE_INLINE To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class Element, int kBytes>
struct Sized {
  typedef Element Type __attribute__((vector_size(kBytes)));
};

// All bits of the first `count` lanes.
template <int kBytes, class Number>
GRAPHFUSE_INLINE typename Sized<Number, kBytes>::Type first(int64_t count) {
  constexpr Number kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  typename Sized<Number, kBytes>::Type numbers;
  static_assert(sizeof(numbers) <= sizeof(kNumbers));
  __builtin_memcpy(&numbers, kNumbers, sizeof numbers);
  return numbers < static_cast<Number>(count);
}

}  // namespace
