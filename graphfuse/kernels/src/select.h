// The kernel for a pair of types, and for rows of a length.

#pragma once

#include "narrow.h"
#include "normalize.h"

namespace {

using graphfuse::ElementType;
using graphfuse::RunRows;

template <bool kCentred, class T, class P, class F>
bool run_rows(const Call& call, int64_t begin, int64_t end) {
  if constexpr (kNarrow<kCentred, T, F> > 0) {
    if (call.extent <= kNarrow<kCentred, T, F>) {
      return run_narrow<kCentred, T, P, F>(call, begin, end);
    }
  }
  return run_wide<kCentred, T, P, F>(call, begin, end);
}

template <bool kCentred>
RunRows find_rows(ElementType type, ElementType parameters) {
  switch (type) {
    case ElementType::kFloat:
      if (parameters != ElementType::kFloat) return nullptr;
      return run_rows<kCentred, float, float, float>;
    case ElementType::kDouble:
      if (parameters != ElementType::kDouble) return nullptr;
      return run_rows<kCentred, double, double, double>;
    case ElementType::kFloat16:
      if (parameters == ElementType::kFloat) return run_rows<kCentred, Half, float, float>;
      if (parameters != ElementType::kFloat16) return nullptr;
      return run_rows<kCentred, Half, Half, float>;
    case ElementType::kBFloat16:
      if (parameters == ElementType::kFloat) return run_rows<kCentred, BFloat16, float, float>;
      if (parameters != ElementType::kBFloat16) return nullptr;
      return run_rows<kCentred, BFloat16, BFloat16, float>;
  }
  return nullptr;
}

RunRows find_any(ElementType type, ElementType parameters, bool centred) {
  return centred ? find_rows<true>(type, parameters) : find_rows<false>(type, parameters);
}

}  // namespace
