// Rows of few vectors, as many at once as a vector has lanes: a block.
//
//   gather    h = a + (b + add_bias), kept; the vectors of each row added up to one
//   moments   the lanes of these vectors added up for all rows at once (lanes.h), so that a vector
//             holds a number of each row
//   spread    LayerNorm only, as for wide rows; then moments again
//   finish    y and sum are written
//
// The steps are those of normalize.h, but what a wide row does once (its lanes' sum, the root, the
// division) is here done once for a block; it took most of a narrow row's time. Which rows come
// together changes no bit: lanes know nothing of each other.

#pragma once

#include "lanes.h"
#include "normalize.h"

namespace {

// Rows of at most so many elements are narrow. Measured with `python -m graphfuse.bench.kernel_timing`:
// beyond, a row's lanes and its root are a small part of its time, and a block is not read and
// written as evenly as one row after the other.
template <bool kCentred, class T, class F>
constexpr int64_t most_narrow() {
  if (kLanes<F> < 4) return 0;
  const int64_t by_bytes = (kCentred ? 256 : 192) / sizeof(T);
  if (sizeof(T) < sizeof(F)) return by_bytes;
  const int64_t by_vectors = (kCentred ? 6 : 4) * kLanes<F>;
  return by_bytes < by_vectors ? by_bytes : by_vectors;
}
template <bool kCentred, class T, class F>
constexpr int64_t kNarrow = most_narrow<kCentred, T, F>();

// The most of any type that is computed in F.
template <class F>
constexpr int64_t kMostNarrow = sizeof(F) == 4 ? kNarrow<true, Half, float>
                                               : kNarrow<true, double, double>;

// With so few rows their lanes are added one row after the other.
constexpr int kFewRows = 3;

template <class F>
constexpr int kBlockRows = kLanes<F>;
template <class F>
constexpr int64_t kRowVectors = (kMostNarrow<F> + kLanes<F> - 1) / kLanes<F>;

// What is the same for all rows. Vectors are padded with 0.
template <class F>
struct Width {
  int64_t extent;
  int64_t vectors;  // of a row
  int64_t last;     // elements of the last one
  Vec<F> scale[kRowVectors<F>];
  Vec<F> bias[kRowVectors<F>];
  Vec<F> add_bias[kRowVectors<F>];

  // So many of `rows` rows that lie side by side have whole vectors up to the end of the last row.
  GRAPHFUSE_INLINE int whole(int rows) const {
    const int64_t behind = vectors * kLanes<F> - extent;
    const int64_t others = (behind + extent - 1) / extent;
    return rows > others ? rows - static_cast<int>(others) : 0;
  }
};

template <class F>
struct Block {
  int rows;
  Vec<F> h[kBlockRows<F> * kRowVectors<F>];
  Vec<F> sums[kBlockRows<F>];
  Vec<F> squares[kBlockRows<F>];
  // One number of each row.
  alignas(GRAPHFUSE_VECTOR_BYTES) F mean[kBlockRows<F>];
  alignas(GRAPHFUSE_VECTOR_BYTES) F rest[kBlockRows<F>];
  alignas(GRAPHFUSE_VECTOR_BYTES) F inverse[kBlockRows<F>];
  alignas(GRAPHFUSE_VECTOR_BYTES) Number<F> sound[kBlockRows<F>];  // else it has to be done again
};

template <bool kWrite = false, class T>
GRAPHFUSE_INLINE void prefetch_row(const T* row, int64_t extent) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < extent; i += kLine) __builtin_prefetch(row + i, kWrite);
}

// For rows that are not contiguous. It is no part of Rows: what others may write to is read again after
// each store.
template <class T, class F>
struct Rooms {
  T a[kMostNarrow<F>], b[kMostNarrow<F>];
};

// Rows of both operands, one after the other: it divides only where a leading dimension ends.
template <class T, class F>
class Rows {
 public:
  Rows(const Call& call, int64_t index, Rooms<T, F>& rooms)
      : call_(&call), rooms_(&rooms), index_(index), step_a_(step(call.a)), step_b_(step(call.b)) {
    seek();
  }

  const T* a() const { return row(call_->a, at_a_, rooms_->a); }
  const T* b() const { return row(call_->b, at_b_, rooms_->b); }

  void next() {
    ++index_;
    at_a_ += step_a_;
    at_b_ += step_b_;
    if (--left_ == 0) seek();
  }

  // Asks for the row that comes `ahead` rows behind this one.
  void prefetch(int ahead) const {
    prefetch_row(static_cast<const T*>(call_->a.data) + at_a_ + ahead * step_a_, call_->extent);
    prefetch_row(static_cast<const T*>(call_->b.data) + at_b_ + ahead * step_b_, call_->extent);
  }

  // Whether the next `rows` rows of an operand lie side by side.
  bool side_by_side(const Operand& operand, int rows) const {
    return operand.inner_strides == nullptr && step(operand) == call_->extent && left_ >= rows;
  }

 private:
  void seek() {
    left_ = call_->rank > 0 ? call_->dims[call_->rank - 1] : 1;
    if (call_->rank > 1) left_ -= index_ % left_;
    if (call_->rank == 1) left_ -= index_;
    at_a_ = row_offset(*call_, call_->a, index_);
    at_b_ = row_offset(*call_, call_->b, index_);
  }
  int64_t step(const Operand& operand) const {
    return call_->rank > 0 ? operand.row_strides[call_->rank - 1] : 0;
  }
  const T* row(const Operand& operand, int64_t offset, T* room) const {
    const T* const from = static_cast<const T*>(operand.data) + offset;
    if (operand.inner_strides == nullptr) return from;
    spread_out(from, *call_, operand, room);
    return room;
  }

  const Call* call_;
  Rooms<T, F>* rooms_;
  int64_t index_;
  int64_t left_;  // rows until a leading dimension ends
  int64_t at_a_, at_b_;
  int64_t step_a_, step_b_;
};

// The last vector of a row; the lanes behind `count` are 0. `whole`: what is behind can be read.
template <class T, class F>
GRAPHFUSE_INLINE Vec<F> load_last(const T* from, int64_t count, bool whole) {
  if constexpr (sizeof(T) < GRAPHFUSE_MASKED_BYTES) {
    return whole ? keep<F>(load_full<T, F>(from), count) : load<T, F>(from, count);
  } else if constexpr (sizeof(T) == sizeof(F)) {
    Vec<F> v;
    load_first(from, count, v);
    return v;
  } else {
    Shorts raw;
    load_first(from, count, raw);
    return widen(raw, T{});
  }
}

// kVectors is the number of vectors of a row, or 0: any number.
template <bool kCentred, bool kBiased, int kVectors, class T, class F>
GRAPHFUSE_ALONE void gather_block(Rows<T, F>& from, const Call& call, const Width<F>& width,
                                  const T* y, const T* sum, Block<F>& block) {
  Rows<T, F> rows = from;  // in registers
  const int64_t vectors = kVectors ? kVectors : width.vectors;
  const int whole = width.whole(block.rows);
  const int whole_a = rows.side_by_side(call.a, block.rows) ? whole : 0;
  const int whole_b = rows.side_by_side(call.b, block.rows) ? whole : 0;
  const bool prefetch = call.prefetch;
  const int count = block.rows;
  Vec<F>* h = block.h;
  for (int r = 0; r < count; ++r, h += vectors, rows.next()) {
    if (prefetch) {
      prefetch_row<true>(y + r * width.extent, width.extent);
      if (sum != nullptr) prefetch_row<true>(sum + r * width.extent, width.extent);
    }
    const T* const a = rows.a();
    const T* const b = rows.b();
    Vec<F> whole_row = {};
    GRAPHFUSE_UNROLL(kVectors)
    for (int64_t k = 0; k < vectors; ++k) {
      const int64_t i = k * kLanes<F>;
      const bool last = k == vectors - 1;
      Vec<F> second = last ? load_last<T, F>(b + i, width.last, r < whole_b)
                           : load_full<T, F>(b + i);
      if constexpr (kBiased) second += width.add_bias[k];
      const Vec<F> first = last ? load_last<T, F>(a + i, width.last, r < whole_a)
                                : load_full<T, F>(a + i);
      h[k] = first + second;
      whole_row += kCentred ? h[k] : h[k] * h[k];
    }
    (kCentred ? block.sums : block.squares)[r] = whole_row;
  }
  from = rows;
}

template <int kVectors, class F>
GRAPHFUSE_ALONE void spread_block(const Width<F>& width, Block<F>& block) {
  const int64_t vectors = kVectors ? kVectors : width.vectors;
  const Vec<F>* h = block.h;
  const int count = block.rows;
  for (int r = 0; r < count; ++r, h += vectors) {
    Vec<F> sum = {}, squares = {};
    GRAPHFUSE_UNROLL(kVectors)
    for (int64_t k = 0; k < vectors; ++k) {
      Vec<F> d = h[k] - block.mean[r];
      if (k == vectors - 1) d = keep<F>(d, width.last);
      sum += d;
      squares += d * d;
    }
    block.sums[r] = sum;
    block.squares[r] = squares;
  }
}

// Lane r is the sum of the lanes of vectors[r].
template <class F>
Vec<F> row_sums(Vec<F>* vectors, int rows) {
  Vec<F> sums = {};
  if (rows <= kFewRows) {
    for (int r = 0; r < rows; ++r) sums[r] = add_lanes<F, GRAPHFUSE_VECTOR_BYTES>(vectors[r]);
    return sums;
  }
  for (int r = rows; r < kBlockRows<F>; ++r) vectors[r] = sums;
  return add_lanes_of<F>(vectors);
}

GRAPHFUSE_INLINE float root(float v) { return __builtin_sqrtf(v); }
GRAPHFUSE_INLINE double root(double v) { return __builtin_sqrt(v); }

// What finish needs. False: a row is not sound.
template <bool kCentred, class F>
bool find_moments(const Call& call, Block<F>& block) {
  const double n = static_cast<double>(call.extent);
  const F share = static_cast<F>(1 / n);
  Vec<F> variance = row_sums<F>(block.squares, block.rows) * share;
  if constexpr (kCentred) {
    const Vec<F> rest = row_sums<F>(block.sums, block.rows) * share;
    store_raw(block.rest, rest);
    variance -= rest * rest;
    variance = as<Vec<F>>(as<Lanes<F>>(variance) & ~as<Lanes<F>>(variance < Vec<F>{}));
  }
  const Vec<F> under_root = variance + static_cast<F>(call.epsilon);
  // As for wide rows; a NaN is not sound.
  store_raw(block.sound, as<Lanes<F>>(under_root > static_cast<F>(kLeast<F>)) &
                             as<Lanes<F>>(under_root < static_cast<F>(kMost<F> / n)));
  store_raw(block.inverse, under_root);
  for (F& inverse : block.inverse) inverse = 1 / root(inverse);
  Number<F> sound = -1;
  for (int r = 0; r < block.rows; ++r) sound &= block.sound[r];
  return sound != 0;
}

// A row's vectors may be written whole where that spills into rows that are written later.
template <bool kCentred, int kVectors, class T, class F>
GRAPHFUSE_ALONE void finish_block(const Call& call, const Width<F>& width, const Block<F>& block, T* y, T* sum,
                  const Rows<T, F>& next) {
  const int64_t vectors = kVectors ? kVectors : width.vectors;
  const int whole = width.whole(block.rows);
  const bool prefetch = call.prefetch, stream = call.stream;
  const int count = block.rows;
  const int64_t extent = width.extent;
  const Vec<F>* h = block.h;
  for (int r = 0; r < count; ++r, h += vectors, y += extent) {
    if (prefetch) next.prefetch(r);
    const auto write = [&](T* to, Vec<F> v, bool last) GRAPHFUSE_STEP {
      if (stream) {
        stream_full<T, F>(to, v);
      } else if (!last || r < whole) {
        store_full<T, F>(to, v);
      } else {
        store<false, T, F>(to, v, width.last);
      }
    };
    GRAPHFUSE_UNROLL(kVectors)
    for (int64_t k = 0; k < vectors; ++k) {
      const bool last = k == vectors - 1;
      Vec<F> v = h[k];
      if (sum != nullptr) write(sum + k * kLanes<F>, v, last);
      if constexpr (kCentred) v = (v - block.mean[r]) - block.rest[r];
      v = v * block.inverse[r] * width.scale[k];
      if constexpr (kCentred) v += width.bias[k];
      write(y + k * kLanes<F>, v, last);
    }
    if (sum != nullptr) sum += extent;
  }
}

template <bool kCentred, int kVectors, class T, class F>
void run_blocks(const Call& call, const Width<F>& width, int64_t begin, int64_t end) {
  Rooms<T, F> rooms;
  Rows<T, F> rows(call, begin, rooms);
  Block<F> block;
  for (int64_t index = begin; index < end; index += kBlockRows<F>) {
    block.rows = static_cast<int>(end - index < kBlockRows<F> ? end - index : kBlockRows<F>);
    T* const y = static_cast<T*>(call.y) + index * call.extent;
    T* const sum =
        call.sum == nullptr ? nullptr : static_cast<T*>(call.sum) + index * call.extent;
    if (call.add_bias == nullptr) {
      gather_block<kCentred, false, kVectors, T, F>(rows, call, width, y, sum, block);
    } else {
      gather_block<kCentred, true, kVectors, T, F>(rows, call, width, y, sum, block);
    }
    if constexpr (kCentred) {
      store_raw(block.mean,
                row_sums<F>(block.sums, block.rows) / static_cast<F>(call.extent));
      spread_block<kVectors, F>(width, block);
    }
    const bool sound = find_moments<kCentred, F>(call, block);
    finish_block<kCentred, kVectors, T, F>(call, width, block, y, sum, rows);
    if (sound) continue;
    for (int r = 0; r < block.rows; ++r) {
      if (block.sound[r]) continue;
      const F* const h = reinterpret_cast<const F*>(block.h + r * width.vectors);
      normalize_carefully<kCentred, T, F, F>(h, call, y + r * call.extent);
    }
  }
  if (call.stream) stream_fence();
}

template <class P, class F>
void widen_all(const void* from, int64_t extent, Vec<F>* to) {
  for (int64_t i = 0; i < extent; i += kLanes<F>) {
    const int64_t left = extent - i;
    *to++ = load<P, F>(static_cast<const P*>(from) + i, left < kLanes<F> ? left : kLanes<F>);
  }
}

template <bool kCentred, class T, class P, class F>
bool run_narrow(const Call& given, int64_t begin, int64_t end) {
  Call call = given;
  Width<F> width;
  width.extent = call.extent;
  width.vectors = (call.extent + kLanes<F> - 1) / kLanes<F>;
  width.last = call.extent - (width.vectors - 1) * kLanes<F>;
  widen_all<P, F>(call.scale, call.extent, width.scale);
  call.scale = width.scale;
  if constexpr (kCentred) {
    widen_all<P, F>(call.bias, call.extent, width.bias);
    call.bias = width.bias;
  }
  if (call.add_bias != nullptr) widen_all<T, F>(call.add_bias, call.extent, width.add_bias);
  switch (width.vectors) {
    case 1:
      run_blocks<kCentred, 1, T, F>(call, width, begin, end);
      break;
    case 2:
      run_blocks<kCentred, 2, T, F>(call, width, begin, end);
      break;
    case 3:
      run_blocks<kCentred, 3, T, F>(call, width, begin, end);
      break;
    case 4:
      run_blocks<kCentred, 4, T, F>(call, width, begin, end);
      break;
    default:
      run_blocks<kCentred, 0, T, F>(call, width, begin, end);
  }
  return true;
}

}  // namespace
