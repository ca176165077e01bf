// The fused operators as onnxruntime's custom ops.

#pragma once

#include <array>
#include <string>

#include "ort_abi.h"

namespace graphfuse {

// One operator for one pair of types. onnxruntime takes all those of a name for one operator.
struct Operator : OrtCustomOp {
  const Api* api;
  const char* name;
  bool centred;  // LayerNorm: has a Bias
  bool biased;   // has an AddBias
  ElementType type;
  ElementType parameters;

  int inputs() const { return 3 + centred + biased; }
  int bias_index() const { return centred ? 3 : -1; }
  int add_bias_index() const { return biased ? 3 + centred : -1; }
  ElementType input_type(size_t index) const;
};

constexpr size_t kOperators = 24;  // four names, six pairs of types
using Operators = std::array<Operator, kOperators>;

// All operators, for a running onnxruntime of API `version`.
Operators make_operators(const Api& api, uint32_t version);

}  // namespace graphfuse
