// How two operands broadcast to rows.

#pragma once

#include <cstdint>
#include <string>

namespace graphfuse {

constexpr int kMaxRank = 64;

struct Shape {
  int rank = 0;
  int64_t dims[kMaxRank];  // the first `rank` are set

  int64_t elements() const;
  std::string text() const;  // "(2, 7, 384)"
};

// The rows of a broadcast sum, normalised over the axes from `axis` on.
//
// Leading dimensions that both operands treat alike are merged, so most models have one. Strides are
// in elements, 0 where an operand is broadcast.
struct Layout {
  Shape output;
  int64_t rows = 0;
  int64_t extent = 0;

  int rank = 0;
  int64_t dims[kMaxRank];
  int64_t a_strides[kMaxRank];
  int64_t b_strides[kMaxRank];

  int inner_rank = 0;
  int64_t inner_dims[kMaxRank];
  int64_t a_inner[kMaxRank];
  int64_t b_inner[kMaxRank];
  bool a_contiguous = false;  // the elements of a row lie side by side
  bool b_contiguous = false;

  // Fills this in; gives what is wrong, or an empty string.
  std::string set(const Shape& a, const Shape& b, int64_t axis);

  // The shape of the normalised axes.
  Shape normalized() const;
};

// The shape that two shapes broadcast to; false if they do not.
bool broadcast(const Shape& a, const Shape& b, Shape& result);

}  // namespace graphfuse
