// What an instruction set's translation unit needs before its intrinsics. What is common to all of them is in
// vectors.h.

#pragma once

#define GRAPHFUSE_INLINE inline __attribute__((always_inline))
// Lambdas of inner loops: without it their vectors would be passed through memory.
#define GRAPHFUSE_STEP __attribute__((always_inline))

namespace {

template <class To, class From>
GRAPHFUSE_INLINE To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace
