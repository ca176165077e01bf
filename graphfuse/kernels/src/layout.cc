#include "layout.h"

#include <algorithm>

namespace graphfuse {

namespace {

// The strides of an operand in the output's dimensions.
void strides_in(const Shape& operand, const Shape& output, int64_t* strides) {
  int64_t stride = 1;
  for (int k = output.rank - 1; k >= 0; --k) {
    const int own = k - (output.rank - operand.rank);
    const int64_t dim = own < 0 ? 1 : operand.dims[own];
    strides[k] = dim == 1 ? 0 : stride;
    stride *= dim;
  }
}

// Whether the elements of the dimensions [first, rank) lie side by side, in order.
bool contiguous(const Shape& output, const int64_t* strides, int first) {
  int64_t expected = 1;
  for (int k = output.rank - 1; k >= first; --k) {
    if (output.dims[k] != 1 && strides[k] != expected) return false;
    expected *= output.dims[k];
  }
  return true;
}

}  // namespace

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int k = 0; k < rank; ++k) product *= dims[k];
  return product;
}

std::string Shape::text() const {
  std::string text = "(";
  for (int k = 0; k < rank; ++k) text += (k ? ", " : "") + std::to_string(dims[k]);
  return text + ")";
}

bool broadcast(const Shape& a, const Shape& b, Shape& result) {
  result.rank = std::max(a.rank, b.rank);
  for (int k = 0; k < result.rank; ++k) {
    const int in_a = k - (result.rank - a.rank);
    const int in_b = k - (result.rank - b.rank);
    const int64_t from_a = in_a < 0 ? 1 : a.dims[in_a];
    const int64_t from_b = in_b < 0 ? 1 : b.dims[in_b];
    if (from_a != from_b && from_a != 1 && from_b != 1) return false;
    result.dims[k] = from_a == 1 ? from_b : from_a;
  }
  return true;
}

std::string Layout::set(const Shape& a, const Shape& b, int64_t axis) {
  if (!broadcast(a, b, output)) {
    return "A of shape " + a.text() + " and B of shape " + b.text() + " do not broadcast";
  }
  if (axis < -output.rank || axis >= output.rank) {
    return "axis " + std::to_string(axis) + " is not one of a sum of shape " + output.text();
  }
  const int first = static_cast<int>(axis < 0 ? axis + output.rank : axis);
  int64_t full_a[kMaxRank], full_b[kMaxRank];
  strides_in(a, output, full_a);
  strides_in(b, output, full_b);

  rows = 1;
  rank = 0;
  for (int k = 0; k < first; ++k) {
    const int64_t dim = output.dims[k];
    rows *= dim;
    if (dim == 1) continue;
    const bool merges = rank > 0 && a_strides[rank - 1] == full_a[k] * dim &&
                        b_strides[rank - 1] == full_b[k] * dim;
    if (merges) {
      dims[rank - 1] *= dim;
    } else {
      dims[rank++] = dim;
    }
    a_strides[rank - 1] = full_a[k];
    b_strides[rank - 1] = full_b[k];
  }

  extent = 1;
  inner_rank = output.rank - first;
  for (int k = first; k < output.rank; ++k) {
    extent *= output.dims[k];
    inner_dims[k - first] = output.dims[k];
    a_inner[k - first] = full_a[k];
    b_inner[k - first] = full_b[k];
  }
  a_contiguous = contiguous(output, full_a, first);
  b_contiguous = contiguous(output, full_b, first);
  return "";
}

Shape Layout::normalized() const {
  Shape shape;
  shape.rank = inner_rank;
  std::copy(inner_dims, inner_dims + inner_rank, shape.dims);
  return shape;
}

}  // namespace graphfuse
