// One row after the other: y = norm(a + (b + add_bias)), the same code for every instruction set and
// type. Rows of few vectors are in narrow.h.
//
// T is the type of the tensors, P that of scale and bias, F what is computed in: float32, and
// float64 for float64.
//
//   gather      h = a + (b + add_bias) in F, kept for the second pass; its sum, or that of squares
//   spread      LayerNorm only: of d = h - m, the sum and that of squares
//   normalize   y = (h - m) / s * scale + bias
//
// The mean m is rounded to F, so d has a mean of its own, which is small and known well: it is
// taken off twice, from the variance and from each element. Means of 1e4 standard deviations then
// cost no digits. Sums go over several lanes and are cut into blocks, which are added with
// compensation: a long sum of equal numbers does not drift. Squares that leave F's range are
// noticed, and the row is done again in float64, scaled. Which thread computes a row changes nothing
// in it.

#pragma once

#include <cstdlib>

#include "rows.h"
#include "vectors.h"

namespace {

using graphfuse::Call;
using graphfuse::Operand;

constexpr int kUnroll = 4;
constexpr int kBlock = 32;  // unrolled steps that go into one partial sum

// Beyond these the squares, or their sum, are not what they should be. The lower one is where
// squares that underflow are no longer small beside the sum.
template <class F>
constexpr double kLeast = sizeof(F) == 4 ? 0x1p-100 : 0x1p-960;
template <class F>
constexpr double kMost = sizeof(F) == 4 ? 0x1p120 : 0x1p1000;

template <class F>
struct Sum {
  Vec<F> parts[kUnroll] = {};
  Vec<F> whole = {};
  Vec<F> lost = {};  // what rounding took from `whole`

  GRAPHFUSE_INLINE void add(int slot, Vec<F> v) { parts[slot] += v; }
  GRAPHFUSE_INLINE void close_block() {
    const Vec<F> block = (parts[0] + parts[1]) + (parts[2] + parts[3]) - lost;
    const Vec<F> next = whole + block;
    lost = (next - whole) - block;
    whole = next;
    for (auto& part : parts) part = Vec<F>{};
  }
  GRAPHFUSE_INLINE double total() const { return add_lanes<F, GRAPHFUSE_VECTOR_BYTES>(whole); }
};

// Calls step(i, count, slot) for the vectors of n elements, and close() after each block.
template <class F, class Step, class Close>
GRAPHFUSE_INLINE void sweep(int64_t n, Step step, Close close) {
  constexpr int64_t kWidth = kLanes<F>;
  int64_t i = 0;
  while (n - i >= kUnroll * kWidth) {
    const int64_t left = (n - i) / (kUnroll * kWidth);
    const int64_t last = i + (left < kBlock ? left : kBlock) * kUnroll * kWidth;
    for (; i < last; i += kUnroll * kWidth) {
      for (int slot = 0; slot < kUnroll; ++slot) step(i + slot * kWidth, kWidth, slot);
    }
    close();
  }
  for (; n - i >= kWidth; i += kWidth) step(i, kWidth, 0);
  if (i < n) step(i, n - i, 1);
  close();
}

template <class T, class F>
struct Row {
  int64_t extent;
  const T* a;
  const T* b;
  const T* add_bias;
  T* sum;  // null: not written, or the same memory as h
  F* h;
  Vec<F>* end;  // the lanes of h behind the last full vector
};

// Vectors of h. Its end was just written in part, and a processor cannot pass on what is read
// otherwise than it was written: it is kept in a full vector as well.
template <class F>
GRAPHFUSE_INLINE Vec<F> load_row(const F* h, const Vec<F>& end, int64_t i, int64_t count) {
  return count == kLanes<F> ? load_full<F, F>(h + i) : end;
}

template <bool kSquares, bool kBiased, bool kWrite, bool kStream, class T, class F>
double gather(const Row<T, F>& row) {
  const T* const a = row.a;
  const T* const b = row.b;
  const T* const add_bias = row.add_bias;
  T* const sum = row.sum;
  F* const h = row.h;
  Sum<F> total;
  sweep<F>(
      row.extent,
      [&](int64_t i, int64_t count, int slot) GRAPHFUSE_STEP {
        Vec<F> second = load<T, F>(b + i, count);
        if constexpr (kBiased) second += load<T, F>(add_bias + i, count);
        const Vec<F> v = load<T, F>(a + i, count) + second;
        if constexpr (kWrite) store<kStream, T, F>(sum + i, v, count);
        store<false, F, F>(h + i, v, count);
        if (count < kLanes<F>) *row.end = v;
        total.add(slot, kSquares ? v * v : v);
      },
      [&]() GRAPHFUSE_STEP { total.close_block(); });
  return total.total();
}

template <class F>
struct Spread {
  double sum;
  double squares;
};

template <class F>
Spread<F> spread(const F* h, const Vec<F>& end, int64_t extent, F mean) {
  Sum<F> sum;
  Sum<F> squares;
  sweep<F>(
      extent,
      [&](int64_t i, int64_t count, int slot) GRAPHFUSE_STEP {
        const Vec<F> d = keep<F>(load_row<F>(h, end, i, count) - mean, count);
        sum.add(slot, d);
        squares.add(slot, d * d);
      },
      [&]() GRAPHFUSE_STEP {
        sum.close_block();
        squares.close_block();
      });
  return {sum.total(), squares.total()};
}

// What the second pass subtracts and multiplies with. mean is in two parts.
template <class F>
struct Moments {
  F mean;
  F rest;
  F inverse;
};

template <bool kCentred, bool kStream, class T, class P, class F>
void normalize(const Row<T, F>& row, const Call& call, const Moments<F>& moments, T* y) {
  const P* const scale = static_cast<const P*>(call.scale);
  const P* const bias = static_cast<const P*>(call.bias);
  const F* const h = row.h;
  const Vec<F> end = *row.end;
  const F mean = moments.mean, rest = moments.rest, inverse = moments.inverse;
  sweep<F>(
      call.extent,
      [&](int64_t i, int64_t count, int) GRAPHFUSE_STEP {
        Vec<F> v = load_row<F>(h, end, i, count);
        if constexpr (kCentred) v = (v - mean) - rest;
        v = v * inverse * load<P, F>(scale + i, count);
        if constexpr (kCentred) v += load<P, F>(bias + i, count);
        store<kStream, T, F>(y + i, v, count);
      },
      []() GRAPHFUSE_STEP {});
}

// The row again, in float64 and scaled by a power of two: for what the fast way cannot square, and
// for infinities and NaN, which come out as IEEE arithmetic has them.
template <bool kCentred, class T, class P, class F>
void normalize_carefully(const F* h, const Call& call, T* y) {
  const P* const scale = static_cast<const P*>(call.scale);
  const P* const bias = static_cast<const P*>(call.bias);
  double largest = 0;
  for (int64_t i = 0; i < call.extent; ++i) {
    const double size = __builtin_fabs(static_cast<double>(peek(h, i)));
    if (size > largest) largest = size;
  }
  int exponent = 0;
  if (largest > 0 && largest <= __DBL_MAX__) __builtin_frexp(largest, &exponent);
  // Twice, because 2^-exponent alone can leave the range.
  const double down = __builtin_ldexp(1.0, -(exponent / 2));
  const double further = __builtin_ldexp(1.0, -(exponent - exponent / 2));
  const auto scaled = [&](int64_t i) { return static_cast<double>(peek(h, i)) * down * further; };
  const double n = static_cast<double>(call.extent);
  double mean = 0;
  if constexpr (kCentred) {
    for (int64_t i = 0; i < call.extent; ++i) mean += scaled(i);
    mean /= n;
  }
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < call.extent; ++i) {
    const double d = scaled(i) - mean;
    sum += d;
    squares += d * d;
  }
  const double rest = kCentred ? sum / n : 0;
  double variance = squares / n - rest * rest;
  if (variance < 0) variance = 0;
  const double epsilon = call.epsilon * down * further * down * further;
  // Scaled by as much as 2^-2048, an epsilon can vanish: then a row without variance is 0 over 1.
  const double under_root = variance + epsilon;
  const double root = under_root == 0 ? 1 : __builtin_sqrt(under_root);
  for (int64_t i = 0; i < call.extent; i += kLanes<F>) {
    const int64_t left = call.extent - i;
    const int64_t count = left < kLanes<F> ? left : kLanes<F>;
    const Vec<F> gain = load<P, F>(scale + i, count);
    Vec<F> offset = {};
    if constexpr (kCentred) offset = load<P, F>(bias + i, count);
    Vec<F> v = {};
    for (int64_t k = 0; k < count; ++k) {
      const double z = (scaled(i + k) - mean - rest) / root;
      v[k] = static_cast<F>(z * static_cast<double>(gain[k]) + static_cast<double>(offset[k]));
    }
    store<false, T, F>(y + i, v, count);
  }
}

template <bool kCentred, bool kBiased, class T, class F>
double gather_any(const Row<T, F>& row, bool stream) {
  if (row.sum == nullptr) return gather<!kCentred, kBiased, false, false>(row);
  if (stream) return gather<!kCentred, kBiased, true, true>(row);
  return gather<!kCentred, kBiased, true, false>(row);
}

template <bool kCentred, class T, class P, class F>
void normalize_row(const Row<T, F>& row, const Call& call, T* y) {
  const double n = static_cast<double>(row.extent);
  double sum = row.add_bias == nullptr ? gather_any<kCentred, false>(row, call.stream)
                                       : gather_any<kCentred, true>(row, call.stream);
  Moments<F> moments = {};
  double variance = sum / n;
  if constexpr (kCentred) {
    moments.mean = static_cast<F>(sum / n);
    const Spread<F> around = spread<F>(row.h, *row.end, row.extent, moments.mean);
    moments.rest = static_cast<F>(around.sum / n);
    variance = around.squares / n - (around.sum / n) * (around.sum / n);
    if (variance < 0) variance = 0;
  }
  const double under_root = variance + call.epsilon;
  // Written so that a NaN goes the careful way.
  if (!(under_root > kLeast<F> && under_root < kMost<F> / n)) {
    normalize_carefully<kCentred, T, P, F>(row.h, call, y);
    return;
  }
  moments.inverse = static_cast<F>(1.0 / __builtin_sqrt(under_root));
  if (call.stream) {
    normalize<kCentred, true, T, P, F>(row, call, moments, y);
  } else {
    normalize<kCentred, false, T, P, F>(row, call, moments, y);
  }
}

// The element at which row `index` of an operand begins.
GRAPHFUSE_INLINE int64_t row_offset(const Call& call, const Operand& operand, int64_t index) {
  int64_t offset = 0;
  for (int k = call.rank - 1; k > 0; --k) {
    offset += index % call.dims[k] * operand.row_strides[k];
    index /= call.dims[k];
  }
  return call.rank > 0 ? offset + index * operand.row_strides[0] : offset;
}

// A row that is broadcast along normalised axes, written out.
template <class T>
void spread_out(const T* from, const Call& call, const Operand& operand, T* to) {
  for (int64_t i = 0; i < call.extent; ++i) {
    int64_t index = i, offset = 0;
    for (int k = call.inner_rank - 1; k >= 0; --k) {
      offset += index % call.inner_dims[k] * operand.inner_strides[k];
      index /= call.inner_dims[k];
    }
    to[i] = peek(from, offset);
  }
}

template <class T>
const T* row_of(const Call& call, const Operand& operand, int64_t index, T* room) {
  const T* const from = static_cast<const T*>(operand.data) + row_offset(call, operand, index);
  if (operand.inner_strides == nullptr) return from;
  spread_out(from, call, operand, room);
  return room;
}

// Memory for one row: on the stack while that is small.
template <class Element>
class Room {
 public:
  Element* get(int64_t count) {
    if (count <= kOnStack) return reinterpret_cast<Element*>(stack_);
    heap_ = static_cast<Element*>(std::malloc(static_cast<size_t>(count) * sizeof(Element)));
    return heap_;
  }
  ~Room() { std::free(heap_); }

 private:
  static constexpr int64_t kOnStack = 32768 / sizeof(Element);
  alignas(64) unsigned char stack_[kOnStack * sizeof(Element)];
  Element* heap_ = nullptr;
};

template <bool kCentred, class T, class P, class F>
bool run_wide(const Call& call, int64_t begin, int64_t end) {
  Room<F> h_room;
  Room<T> a_room, b_room;
  const bool in_place = sizeof(T) == sizeof(F) && !call.stream;
  F* const own = in_place ? nullptr : h_room.get(call.extent);
  T* const a_row = call.a.inner_strides == nullptr ? nullptr : a_room.get(call.extent);
  T* const b_row = call.b.inner_strides == nullptr ? nullptr : b_room.get(call.extent);
  const bool short_of_memory = (!in_place && own == nullptr) ||
                               (call.a.inner_strides != nullptr && a_row == nullptr) ||
                               (call.b.inner_strides != nullptr && b_row == nullptr);
  if (short_of_memory) return false;
  Vec<F> row_end = {};
  for (int64_t index = begin; index < end; ++index) {
    T* const y = static_cast<T*>(call.y) + index * call.extent;
    T* sum = call.sum == nullptr ? nullptr : static_cast<T*>(call.sum) + index * call.extent;
    Row<T, F> row = {call.extent, row_of<T>(call, call.a, index, a_row),
                     row_of<T>(call, call.b, index, b_row),
                     static_cast<const T*>(call.add_bias), sum, own, &row_end};
    if (in_place) {
      // The sum is kept where it is wanted anyway, or where y will be.
      row.h = reinterpret_cast<F*>(sum == nullptr ? y : sum);
      row.sum = nullptr;
    }
    normalize_row<kCentred, T, P, F>(row, call, y);
  }
  if (call.stream) stream_fence();
  return true;
}

}  // namespace
